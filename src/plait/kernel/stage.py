"""A host to try the doors on: a network namespace of its own, real or fake.

The contract tests, the states tests and the benchmarks play the same piece on both stages.
"""

from __future__ import annotations

import os
import subprocess
from typing import Protocol

from plait.kernel import netns
from plait.kernel.fake_netlink import FakeKernel
from plait.kernel.netlink import Netlink, Rtnetlink
from plait.kernel.sysctl import KernelSysctl, Sysctl


class Stage(Protocol):
    """A host and containers' namespaces."""

    netlink: Rtnetlink
    sysctl: Sysctl

    def add_netns(self) -> tuple[str, int]:
        """A new namespace: a path that leads to it, and its inode."""

    def drop_netns(self, path: str) -> None:
        """Let a namespace die; a real one takes a moment."""

    def inside(self, path: str) -> Rtnetlink:
        """A door to a namespace."""

    def close(self) -> None:
        """Let everything die."""


class FakeStage:
    """The fake one."""

    def __init__(self) -> None:
        self.kernel = FakeKernel()
        self.netlink = self.kernel.netlink()
        self.sysctl = self.kernel.sysctl()
        self._count = 0

    def add_netns(self) -> tuple[str, int]:
        """See `Stage.add_netns`."""
        self._count += 1
        path = f"/run/netns/fake{self._count}"
        return path, self.kernel.add_netns(path).inode

    def drop_netns(self, path: str) -> None:
        """See `Stage.drop_netns`."""
        self.kernel.del_netns(path)

    def inside(self, path: str) -> Rtnetlink:
        """See `Stage.inside`."""
        return self.netlink.open(path).netlink

    def close(self) -> None:
        """See `Stage.close`."""


class KernelStage:
    """The real one: root is needed. The namespaces have no names and die with this process."""

    def __init__(self) -> None:
        self.fd = netns.create()
        self.netlink = Netlink(self.fd)
        self.sysctl = KernelSysctl(self.fd)
        self._spaces: dict[str, int] = {}
        self._doors: list[Netlink] = []

    def add_netns(self) -> tuple[str, int]:
        """See `Stage.add_netns`."""
        fd = netns.create()
        path = netns.fd_path(fd)
        self._spaces[path] = fd
        return path, os.fstat(fd).st_ino

    def drop_netns(self, path: str) -> None:
        """See `Stage.drop_netns`."""
        for door in self._doors:
            door.close()
        self._doors = []
        os.close(self._spaces.pop(path))

    def inside(self, path: str) -> Rtnetlink:
        """See `Stage.inside`."""
        door = Netlink(self._spaces[path])
        self._doors.append(door)
        return door

    def run(self, *argv: str, path: str = "") -> str:
        """What a command prints in the host's namespace, or in one of the others."""
        with netns.inside(self._spaces[path] if path else self.fd):
            done = subprocess.run(argv, check=True, capture_output=True, text=True)
        return done.stdout

    def close(self) -> None:
        """See `Stage.close`."""
        self.netlink.close()
        for path in list(self._spaces):
            self.drop_netns(path)
        os.close(self.fd)
