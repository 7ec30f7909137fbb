"""What a lab may leave behind on this machine, and must not."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from plait.client.polling import poll
from plait.lab import hosts, state
from plait.lab.lab import Lab


def processes() -> Iterator[Path]:
    return (path for path in Path("/proc").iterdir() if path.name.isdigit())


def net_inode(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def now() -> int:
    """The time in which the kernel tells when a process started: clock ticks since boot."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def traces(name: str, namespaces: frozenset[str], gone: int) -> list[str]:
    """What is left of a lab on this machine: processes, mounts, cgroups, namespaces, links.

    `gone` is the time before its hosts ended. What started later in a namespace is not the lab's:
    the kernel gives a new namespace the number of one that has ended.
    """
    found = []
    mark = f"plait-lab-{name}-"
    directory = str(state.directory(name))
    for process in processes():
        try:
            if mark in (process / "cgroup").read_text():
                found.append(f"process {process.name} {(process / 'cmdline').read_text()}")
            elif (
                str((process / "ns/net").readlink()) in namespaces
                and hosts.start_time(int(process.name)) <= gone
            ):
                found.append(f"process {process.name} in a namespace of the lab")
            if directory in (process / "mountinfo").read_text():
                found.append(f"mount in {process.name}")
        except OSError:
            continue  # it ended while we looked
    found += [f"cgroup {path}" for path in Path("/sys/fs/cgroup").rglob(f"{mark}*")]
    # A namespace that is mounted somewhere (`ip netns`, dockerd) shows its inode here.
    mounts = Path("/proc/self/mountinfo").read_text()
    found += [f"namespace {inode}" for inode in namespaces if inode in mounts]
    links = [path.name for path in Path("/sys/class/net").iterdir()]
    found += [f"link {link}" for link in links if re.fullmatch(r"p-(h\d+|outside)|site\d+", link)]
    if Path(directory).exists():
        found.append(directory)
    return found


def assert_nothing_left(
    name: str, namespaces: frozenset[str], gone: int, seconds: float = 30
) -> None:
    """Fail with what is left (see `traces`); what has ended needs a moment to be collected."""

    def left() -> list[str]:
        # What ended is a zombie until its parent, PID 1 of this machine, has collected it.
        hosts.reap()
        return traces(name, namespaces, gone)

    assert not (found := poll(left, lambda found: not found, seconds=seconds)), found


def namespaces_of(lab: Lab) -> frozenset[str]:
    """Numbers of the network namespaces of the hosts that run now."""
    return frozenset(net_inode(host.pid) for host in lab.state.hosts.values() if hosts.alive(host))
