"""What `plait attach` may be given: a process, a network namespace, a container."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

from plait.cli.hostfacts import docker_get
from plait.model.errors import PlaitError
from plait.model.objects import Workload
from plait.model.paths import Paths

NETNS_DIR: Final = Path("/run/netns")
"""Where ip-netns(8) keeps named namespaces."""
NAME_MAX: Final = 255
"""Longest name of a file, in bytes (linux/limits.h)."""


class Target(NamedTuple):
    """A namespace to attach, and whose it is."""

    netns: str
    """Path of the namespace."""
    inode: int
    workload: Workload
    name: str
    """A name for the endpoint when none was given."""


def _gone(word: str, why: str) -> PlaitError:
    return PlaitError(
        "PLAIT-AGENT-004",
        f"`{word}` has no network namespace here",
        why=why,
        fix=("give a pid, a name of `ip netns list`, a path, or a Docker container",),
    )


def dns_label(text: str) -> str:
    """A DNS label made of any text (RFC 1123), or empty."""
    return re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-")[:63].strip("-")


def resolve(word: str, paths: Paths) -> Target:
    """The namespace that a word means; PLAIT-AGENT-004 when it means none."""
    if any(len(part) > NAME_MAX for part in word.split("/")):
        raise _gone(f"{word[:80]}…", f"no name has more than {NAME_MAX} characters")
    if word.isascii() and word.isdigit():
        return _of_pid(int(word), word)
    if "/" in word:
        return _of_path(Path(word), Path(word).name)
    if (NETNS_DIR / word).exists() and word not in {".", ".."}:
        return _of_path(NETNS_DIR / word, word)
    container = docker_get(paths, f"/containers/{quote(word, safe='')}/json")
    if container is None:
        raise _gone(word, "it is no pid, no name of a namespace, no path and no container")
    pid = container.get("State", {}).get("Pid", 0)
    if not pid:
        raise _gone(word, "the container does not run")
    found = _of_pid(pid, word)
    name = container.get("Name", "").removeprefix("/")
    return found._replace(name=dns_label(name))


def _of_pid(pid: int, word: str) -> Target:
    process = Path("/proc") / str(pid)
    try:
        comm = (process / "comm").read_text().strip()
        inode = (process / "ns/net").stat().st_ino
    except OSError:
        raise _gone(word, f"there is no process {pid}") from None
    return Target(
        f"/proc/{pid}/ns/net", inode, Workload(runtime="process", id=str(pid)), dns_label(comm)
    )


def _of_path(path: Path, name: str) -> Target:
    try:
        stat = path.stat()
    except OSError as error:
        raise _gone(str(path), str(error.strerror)) from None
    # Every namespace file lives on nsfs, which is no block device and has no name: nsenter is
    # the judge of whether this one is a network namespace.
    done = subprocess.run(["nsenter", f"--net={path}", "true"], capture_output=True, check=False)
    if done.returncode:
        raise _gone(str(path), "the file is no network namespace")
    return Target(
        str(path.resolve()),
        stat.st_ino,
        Workload(runtime="process", id=str(path)),
        dns_label(name),
    )


def host_inode() -> int:
    """Inode of this process's own network namespace: the host's."""
    return Path("/proc/self/ns/net").stat().st_ino


def free_ifname(target: Target) -> str:
    """The first `ethN` that the namespace does not have."""
    done = subprocess.run(
        ["nsenter", f"--net={target.netns}", "cat", "/proc/self/net/dev"],
        capture_output=True,
        text=True,
        check=False,
    )
    taken = {line.partition(":")[0].strip() for line in done.stdout.splitlines()}
    return next(name for name in map("eth{}".format, range(len(taken) + 1)) if name not in taken)
