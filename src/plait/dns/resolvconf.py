"""The host's own resolvers, as `resolv.conf` names them (man 5 resolv.conf)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Final

from plait.dns.resolver import Server

MAX_SERVERS: Final = 3
"""As glibc's MAXNS."""
MAX_SIZE: Final = 65536
CHECK_INTERVAL: Final = 1.0
"""Seconds between looks at the file."""


def parse(text: str) -> tuple[Server, ...]:
    """Addresses of the `nameserver` lines; lines that hold no address are passed over."""
    servers: dict[Server, None] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            address = ipaddress.ip_address(words[1])
        except ValueError:
            continue
        servers[str(address), 53] = None
    return tuple(servers)[:MAX_SERVERS]


class ResolvConf:
    """Calling it gives the servers now; the file is read again when it has changed."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._checked = float("-inf")
        self._stamp: tuple[int, int, int] | None = None
        self._servers: tuple[Server, ...] = ()

    def __call__(self) -> tuple[Server, ...]:
        """The servers; none while the file cannot be read."""
        now = self._clock()
        if now - self._checked < CHECK_INTERVAL:
            return self._servers
        self._checked = now
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if stamp != self._stamp:
                with self._path.open(encoding="utf-8", errors="replace") as file:
                    self._servers = parse(file.read(MAX_SIZE))
                self._stamp = stamp
        except OSError:
            self._stamp = None
            self._servers = ()
        return self._servers
