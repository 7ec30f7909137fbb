"""What a test run could leave behind on a machine: taken before, compared after.

`leftovers.py save FILE` writes the picture; `leftovers.py compare FILE` prints what is new since
and ends with 1 if anything is. Things that a kernel or another program changes by itself (pids,
counters, ages) are left out of the lines.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

MARK = "PLAIT_TEST_RUN"
"""Environment variable that `scripts/test` gives to everything that it starts."""


def _output(*argv: str) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""


def namespaces() -> Iterator[str]:
    """Network namespaces with a name or with a process in them."""
    for name in _output("ip", "netns", "list").split("\n"):
        if name:
            yield name.split()[0]


def links() -> Iterator[str]:
    """Links of the host."""
    for link in json.loads(_output("ip", "-json", "link", "show") or "[]"):
        yield link["ifname"]


def addresses_and_routes() -> Iterator[str]:
    """Addresses, routes and rules of the host."""
    for link in json.loads(_output("ip", "-json", "address", "show") or "[]"):
        for entry in link.get("addr_info", ()):
            yield f"{link['ifname']} {entry['local']}/{entry['prefixlen']}"
    for family in ("-4", "-6"):
        for line in _output("ip", family, "route", "show", "table", "all").splitlines():
            yield re.sub(r" (expires|metric|error|pref|hoplimit|mtu) \S+", "", line).strip()
        yield from _output("ip", family, "rule", "show").splitlines()


def filters() -> Iterator[str]:
    """Rules of nftables and of both kinds of iptables."""
    for line in _output("nft", "--stateless", "list", "ruleset").splitlines():
        yield line.strip()
    for program in ("iptables-legacy-save", "ip6tables-legacy-save"):
        for line in _output(program).splitlines():
            if not line.startswith("#"):
                yield re.sub(r"\[\d+:\d+\]", "", line).strip()


def mounts() -> Iterator[str]:
    """Mount points."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        yield line.split()[4]


def processes() -> Iterator[str]:
    """Processes that this run started, or that live in a network namespace other than ours.

    `scripts/test` marks its descendants by a variable; what a lab host runs has no such variable,
    but a namespace of its own. Other programs of the machine may come and go.
    """
    own = Path("/proc/self/ns/net").readlink()
    mark = f"{MARK}={os.environ[MARK]}".encode() if MARK in os.environ else None
    mine = _ancestors()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in mine:
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            marked = mark is not None and mark in (entry / "environ").read_bytes().split(b"\0")
            elsewhere = (entry / "ns/net").readlink() != own
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z" and (marked or elsewhere):
            yield " ".join(word.decode(errors="replace") for word in words if word)[:200]


def _ancestors() -> set[int]:
    found = set()
    pid = os.getpid()
    while pid > 1:
        found.add(pid)
        stat = Path(f"/proc/{pid}/stat").read_text()
        pid = int(stat.rpartition(")")[2].split()[1])
    return found


def files() -> Iterator[str]:
    """Directories of ours."""
    for pattern in ("var/lib/plait*", "run/plait*", "var/log/plait*", "etc/systemd/system/plait*"):
        yield from map(str, Path("/").glob(pattern))
    for root, names, _ in os.walk("/sys/fs/cgroup"):
        yield from (f"{root}/{name}" for name in names if "plait" in name)


KINDS: dict[str, Callable[[], Iterator[str]]] = {
    "namespace": namespaces,
    "link": links,
    "address, route or rule": addresses_and_routes,
    "filter rule": filters,
    "mount": mounts,
    "process": processes,
    "file": files,
}


def picture() -> dict[str, list[str]]:
    """Everything, by kind."""
    return {kind: sorted(set(read())) for kind, read in KINDS.items()}


def main(verb: str, path: str) -> int:
    """See the module's docstring."""
    if verb == "save":
        Path(path).write_text(json.dumps(picture()))
        return 0
    before = json.loads(Path(path).read_text())
    new = [
        f"{kind} left behind: {line}"
        for kind, lines in picture().items()
        for line in lines
        if line not in set(before.get(kind, ()))
    ]
    print("\n".join(new) or "nothing was left behind")
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
