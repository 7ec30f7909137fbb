"""The sysctl door: values below /proc/sys, and its fake.

Keys have slashes (`net/ipv4/ip_forward`), for link names may contain dots. `net/` belongs to
the network namespace of the thread that opens the file.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final, Protocol

from plait.kernel import netns

_ROOT: Final = Path("/proc/sys")


class Sysctl(Protocol):
    """Reading and writing kernel settings."""

    def read(self, key: str) -> str | None:
        """The value, its white space made single; None when the kernel has no such key."""

    def write(self, key: str, value: str) -> None:
        """Set it; OSError when the kernel refuses or has no such key."""


def check_key(key: str) -> None:
    """Refuse a key that leads out of /proc/sys (ValueError)."""
    if not key or any(part in {"", ".", ".."} for part in key.split("/")) or "\0" in key:
        raise ValueError(f"not a sysctl key: {key!r}")


class KernelSysctl:
    """The real door, of one network namespace; None: the one of the calling thread."""

    def __init__(self, netns_fd: int | None = None) -> None:
        self._netns = netns_fd

    def read(self, key: str) -> str | None:
        """See `Sysctl.read`."""
        check_key(key)
        try:
            with netns.inside(self._netns):
                fd = os.open(_ROOT / key, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return " ".join(os.read(fd, 4096).decode().split())
        finally:
            os.close(fd)

    def write(self, key: str, value: str) -> None:
        """See `Sysctl.write`."""
        check_key(key)
        with netns.inside(self._netns):
            fd = os.open(_ROOT / key, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, f"{value}\n".encode())
        finally:
            os.close(fd)


class FakeSysctl:
    """The fake: a dictionary. Keys that are not there are refused as the kernel refuses them."""

    def __init__(self, values: dict[str, str] | None = None) -> None:
        self.values = dict(values or {})
        self._failures: list[int] = []

    def fail_next(self, code: int = errno.EPERM, times: int = 1) -> None:
        """Refuse the next writes with that errno."""
        self._failures += [code] * times

    def read(self, key: str) -> str | None:
        """See `Sysctl.read`."""
        check_key(key)
        return self.values.get(key)

    def write(self, key: str, value: str) -> None:
        """See `Sysctl.write`."""
        check_key(key)
        if self._failures:
            code = self._failures.pop(0)
            raise OSError(code, os.strerror(code), key)
        if key not in self.values:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)
        self.values[key] = " ".join(value.split())
