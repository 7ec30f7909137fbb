"""up, join, down and everything around them: real processes, in two namespaces of the test's own
with a directory of its own each."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from plait.client.polling import poll

pytestmark = pytest.mark.root

ADDRESSES = ("192.0.2.10", "192.0.2.11")
SYSCTLS = Path("/proc/sys/net")


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


class Host:
    """A network namespace, a root directory, and `plait` in both."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.root = root
        self.env = {**os.environ, "PLAIT_ROOT": str(root), "HOME": str(root)}

    def argv(self, *args: str) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self.name}", *args]

    def start(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.argv(sys.executable, "-P", "-m", "plait", *args),
            env=self.env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def plait(self, *args: str, code: int = 0) -> str:
        """Standard output of a command that must end with `code`; its errors if that is not 0."""
        process = self.start(*args)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, f"{args}: {out}{err}{self.logs()}"
        assert "Traceback" not in err
        return err if code else out

    def json(self, *args: str) -> Any:
        return json.loads(self.plait(*args, "--json"))

    def logs(self) -> str:
        files = sorted((self.root / "var/log/plait").glob("*.log"))
        return "".join(f"\n== {f.name}\n{f.read_text()[-2000:]}" for f in files)

    def pids(self) -> dict[str, int]:
        with_pid = subprocess.run(
            self.argv(
                sys.executable,
                "-c",
                "import sys;from pathlib import Path;from plait.cli.services import Supervised;"
                "from plait.model.paths import Paths;import json;"
                "a=Supervised(Paths(Path(sys.argv[1])))._ask({'verb':'status'}) or {};"
                "print(json.dumps({p['name']:p['pid'] for p in a.get('programs',[])}"
                "|{'supervisor':a.get('pid',0)}))",
                str(self.root),
            ),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        found: dict[str, int] = json.loads(with_pid)
        return found

    def picture(self) -> dict[str, str]:
        """All that `plait down --purge` must leave as it was."""
        run = self.run
        volatile = re.compile(r" (expires|hoplimit) \S+")
        settings = {
            str(path.relative_to(SYSCTLS)): text
            for path, text in self.sysctls()
            # Counters and things that the kernel itself changes.
            if not re.search(r"flush|nf_conntrack_count|stable_secret|fib_sync_mem", str(path))
        }
        return {
            "links": run("ip", "-br", "link"),
            "addresses": run("ip", "-br", "address"),
            "routes": volatile.sub("", run("ip", "route", "show", "table", "all")),
            "routes6": volatile.sub("", run("ip", "-6", "route", "show", "table", "all")),
            "rules": run("ip", "rule") + run("ip", "-6", "rule"),
            "nft": run("nft", "list", "ruleset"),
            "files": "\n".join(sorted(map(str, self.root.rglob("*")))),
            "sysctls": json.dumps(settings, sort_keys=True),
        }

    def sysctls(self) -> list[tuple[Path, str]]:
        out = self.run(
            sys.executable,
            "-c",
            "import json,os;from pathlib import Path\nr=[]\n"
            "for d in ('ipv4','ipv6','netfilter'):\n"
            "  for p in Path('/proc/sys/net',d).rglob('*'):\n"
            "    try:\n      r.append((str(p),p.read_text())) if p.is_file() else None\n"
            "    except OSError: pass\n"
            "print(json.dumps(r))",
        )
        return [(Path(p), t) for p, t in json.loads(out)]

    def run(self, *argv: str) -> str:
        return subprocess.run(self.argv(*argv), check=True, capture_output=True, text=True).stdout


def until(ready: Callable[[], object], what: str) -> None:
    assert poll(ready, seconds=30, every=0.02), f"waited in vain until {what}"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    mark = uuid.uuid4().hex[:6]
    names = [f"plt-{mark}-{i}" for i in range(2)]
    with ExitStack() as stack:
        for name in names:
            ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", names[0], "link", "add", "eth0", "type", "veth", "peer", "eth0", "netns", names[1])
        for name, own, other in zip(names, ADDRESSES, reversed(ADDRESSES), strict=True):
            ip("-n", name, "address", "add", f"{own}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "route", "add", "default", "via", other)
        made = []
        for index, name in enumerate(names):
            root = tmp_path / f"h{index}"
            for part in ("run", "var/lib", "var/log", "etc"):
                (root / part).mkdir(parents=True)
            made.append(Host(name, root))
            stack.callback(made[-1].plait, "down", "--purge", "--force")
        for name in names:
            until(
                lambda name=name: "tentative" not in ip("-n", name, "-6", "address"),
                "IPv6 addresses are good",
            )
        yield made[0], made[1]


@pytest.fixture
def sleeper() -> Iterator[Callable[[], int]]:
    """Processes in network namespaces of their own."""
    with ExitStack() as stack:

        def make() -> int:
            process = subprocess.Popen(["unshare", "--net", "sleep", "600"])
            stack.callback(process.wait)
            stack.callback(process.kill)
            own = Path("/proc/self/ns/net").readlink()
            theirs = Path(f"/proc/{process.pid}/ns/net")
            until(lambda: theirs.readlink() != own, "it has unshared")
            return process.pid

        yield make


def test_two_commands_make_a_network_and_one_leaves_no_trace(
    hosts: tuple[Host, Host], sleeper: Callable[[], int]
) -> None:
    one, two = hosts
    before = [host.picture() for host in hosts]
    one.plait("up", "--name", "one", "--dry-run")
    assert [host.picture() for host in hosts] == before
    out = one.plait("up", "--name", "one")
    join = next(line.split() for line in out.splitlines() if "plait join" in line)
    two.plait(*join[1:], "--name", "two")
    two.plait(*join[1:])
    assert "Plait runs here" in one.plait("up")

    state = one.root / "var/lib/plait"
    assert state.stat().st_mode & 0o777 == 0o700
    for path in (one.root / "run/plait").glob("*.sock"):
        assert path.stat().st_mode & 0o777 == 0o600, path

    pids = {"web": (one, sleeper()), "client": (two, sleeper())}
    for name, (host, pid) in pids.items():
        host.plait("attach", str(pid), "--name", name, "--label", "app=x")
        again = host.plait("attach", str(pid), "--name", name)
        assert "attached already" in again

    def found() -> dict[str, tuple[str, list[str]]]:
        """What the server knows by now: node and addresses by name."""
        items = [e["spec"] for e in two.json("ps", "--label", "app=x")["items"]]
        return {spec["name"]: (spec["node"], spec["addresses"]) for spec in items}

    until(lambda: found().keys() == pids.keys(), "the server knows both endpoints")
    assert {name: node for name, (node, _) in found().items()} == {"web": "one", "client": "two"}
    for address in found()["web"][1]:
        until(
            lambda address=address: (
                not subprocess.run(
                    ["nsenter", "-t", str(pids["client"][1]), "-n", "ping", "-c1", "-W1", address],
                    capture_output=True,
                ).returncode
            ),
            f"{address} answers",
        )
    assert [p["node"] for p in one.json("peers")["items"]] == ["two"]
    status = two.json("status")
    assert (status["agent"], status["server"]) == ("up", "-")
    until(lambda: two.json("status")["nodesReady"] == 2, "both nodes are ready")
    until(lambda: one.json("status")["problems"] == [], "nothing is amiss")
    until(lambda: one.plait("agent", "plan") == "", "nothing is left to do")

    refused = one.plait("network", "rm", "plait", code=1)
    assert "PLAIT-API-011" in refused
    for name, (host, _) in pids.items():
        host.plait("detach", name)
        host.plait("detach", name)
    until(lambda: one.json("ps")["items"] == [], "the server knows no endpoint")

    two.plait("down")
    assert "unreachable" in two.run("ip", "route", "show", "proto", "112")
    for host in (two, one):
        host.plait("down", "--purge")
        host.plait("down", "--purge")
    for host, picture in zip(hosts, before, strict=True):
        now = host.picture()
        for part, text in picture.items():
            assert now[part] == text, part


def test_what_dies_comes_back_and_what_is_interrupted_goes_on(hosts: tuple[Host, Host]) -> None:
    one, _ = hosts
    process = one.start("up", "--name", "one")
    until((one.root / "var/lib/plait/server.json").exists, "the first step is done")
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert "Traceback" not in err
    assert process.returncode in {0, 130}, out + err
    one.plait("up", "--name", "one")
    first = one.pids()
    os.kill(first["server"], signal.SIGKILL)
    until(lambda: one.pids()["server"] not in {0, first["server"]}, "the server is back")
    second = one.pids()
    os.kill(first["supervisor"], signal.SIGKILL)
    until(
        lambda: not any(map(alive, (first["supervisor"], first["agent"], second["server"]))),
        "nothing of the dead supervisor runs",
    )
    one.plait("up")
    third = one.pids()
    assert all(third[name] for name in ("supervisor", "server", "agent"))
    one.plait("server", "stop")
    assert one.json("status")["server"] == "down"
    assert "PLAIT-API-012" in one.plait("ps", code=1)
    one.plait("up")
    assert one.json("status")["server"] == "up"


def test_a_backup_brings_the_network_back(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    one, _ = hosts
    one.plait("up", "--name", "one", "--pool", "10.96.0.0/12")
    one.plait("network", "create", "kept", "--internal")
    saved = tmp_path / "saved"
    one.plait("server", "backup", str(saved))
    assert saved.stat().st_mode & 0o777 == 0o600
    one.plait("network", "create", "lost")
    assert "PLAIT-STORE-006" in one.plait("server", "restore", str(saved), code=1)
    one.plait("server", "stop")
    one.plait("server", "restore", str(saved))
    (tmp_path / "bad").write_bytes(b"no archive")
    assert "PLAIT-STORE-002" in one.plait("server", "restore", str(tmp_path / "bad"), code=1)
    one.plait("up")
    names = {n["metadata"]["name"] for n in one.json("network", "ls")["items"]}
    assert names == {"plait", "kept"}


def test_refusals_name_the_conflict_and_change_nothing(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    ip("-n", one.name, "route", "add", "10.112.0.0/16", "via", ADDRESSES[1])
    err = one.plait("up", "--pool", "10.112.0.0/12", code=1)
    assert "error[PLAIT-HOST-003]: the pool 10.112.0.0/12 overlaps the route 10.112.0.0/16" in err
    assert "fix: plait up --pool 10.80.0.0/12" in err
    err = one.plait("up", "--service-pool", "10.112.4.0/24", code=1)
    assert "PLAIT-HOST-003" in err
    assert "fix: plait up --service-pool 10.79.0.0/16" in err
    assert list((one.root / "var/lib").iterdir()) == []
    assert "PLAIT-HOST-005" in one.plait("ps", code=1)

    one.plait("up", "--name", "one", "--service-pool", "10.70.0.0/16")
    one.plait("up", "--load-balancer-pool", "192.0.2.240/28")
    assert "PLAIT-HOST-009" in one.plait("up", "--service-pool", "10.71.0.0/16", code=1)
    spec = one.json("get", "cluster", "plait")["spec"]
    assert spec["pools"][0] == "10.80.0.0/12"
    assert spec["servicePools"][0] == "10.70.0.0/16"
    assert spec["loadBalancerPools"] == ["192.0.2.240/28"]
    assert "PLAIT-HOST-009" in one.plait("up", "--port", "7000", code=1)
    token = one.json("token", "create", "--single-use")["token"]
    kind, digest, ident, secret = token.split(".")
    false = {
        "PLAIT-AUTH-003": f"{kind}.{digest}.{ident}.{'x' * 43}",
        "PLAIT-AUTH-005": f"{kind}.{'0' * 64}.{ident}.{secret}",
    }
    for code, text in false.items():
        assert code in two.plait("join", ADDRESSES[0], "--token", text, code=1)
    assert "PLAIT-AUTH-003" in two.plait("join", ADDRESSES[0], "--token", "nonsense", code=1)
    assert "PLAIT-API-012" in two.plait("join", "127.0.0.1:1", "--token", token, code=1)
    two.plait("join", ADDRESSES[0], "--token", token, "--name", "two")
    assert "PLAIT-HOST-004" in two.plait("join", "192.0.2.77", "--token", token, code=1)
    assert "PLAIT-HOST-004" in two.plait("up", "--port", "7000", code=1)
    assert "PLAIT-NET-001" in one.plait("network", "create", "x", "--pool", "10.80.0.0/20", code=1)
    assert "nearest" not in one.plait("get", "networks")
    err = one.plait("describe", "network", "plaid", code=1)
    assert "fix: plait get networks plait" in err
