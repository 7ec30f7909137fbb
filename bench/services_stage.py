"""A host that translates, a caller and backends, each in a network namespace; and what calling
costs.

Nobody accepts: the kernel of the backends completes handshakes by itself, so the time from SYN to
SYN-ACK holds no program's work but the caller's.
"""

from __future__ import annotations

import os
import random
import select
import socket
import struct
import subprocess
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from plait.kernel import netns
from plait.model import marks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PORT: Final = 80
BACKEND_PORT: Final = 8000
BACKENDS: Final = tuple(f"10.1.0.{n}" for n in (2, 3, 4, 5))
"""Addresses in the backends' namespace."""
CALLER: Final = "10.1.0.10"
POOL: Final = "10.1.0.0/16"
SERVICE_POOL: Final = "10.96.0.0/12"
BACKLOG: Final = 1 << 16
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: close with a reset, which leaves nothing behind."""


def cluster_ip(number: int) -> str:
    """Address of a Service."""
    return f"10.{96 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


class Stage:
    """See the module's docstring."""

    def __init__(self, stack: ExitStack) -> None:
        self.host, self.caller, self.backends = (netns.create() for _ in range(3))
        for fd in (self.host, self.caller, self.backends):
            stack.callback(os.close, fd)
        for name, fd, addresses in (
            ("caller", self.caller, (CALLER,)),
            ("backends", self.backends, BACKENDS),
        ):
            self._join(f"pl{name}", fd, addresses)
        self._write(self.host, "ipv4/ip_forward", "1")
        self._write(self.backends, "core/somaxconn", str(BACKLOG))
        self._listening: dict[socket.socket, str] = {}
        for address in BACKENDS:
            sock = netns.ns_socket(self.backends, socket.AF_INET, socket.SOCK_STREAM)
            stack.callback(sock.close)
            with netns.inside(self.backends):
                sock.bind((address, BACKEND_PORT))
            sock.listen(BACKLOG)
            sock.setblocking(False)
            self._listening[sock] = address

    def _join(self, link: str, fd: int, addresses: Sequence[str]) -> None:
        with netns.inside(self.host):
            _ip("link", "set", "lo", "up")
            peer = ("type", "veth", "peer", "name", "eth0", "netns", netns.fd_path(fd))
            _ip("link", "add", link, "group", str(marks.LINK_GROUP), *peer)
            _ip("link", "set", link, "up")
            if link == "plcaller":
                _ip("address", "add", f"{marks.GATEWAY4}/32", "dev", "lo")
            for address in addresses:
                _ip("route", "add", f"{address}/32", "dev", link)
        with netns.inside(fd):
            _ip("link", "set", "lo", "up")
            _ip("link", "set", "eth0", "up")
            for address in addresses:
                _ip("address", "add", f"{address}/32", "dev", "eth0")
            _ip("route", "add", "default", "via", marks.GATEWAY4, "dev", "eth0", "onlink")

    def _write(self, fd: int, key: str, value: str) -> None:
        with netns.inside(fd), open(f"/proc/sys/net/{key}", "w") as file:  # noqa: PTH123
            file.write(value)

    def call(self, number: int) -> tuple[float, str]:
        """Milliseconds of a handshake with a Service, and the backend; infinite without one."""
        with netns.ns_socket(self.caller, socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            sock.settimeout(2.0)
            start = time.perf_counter()
            try:
                sock.connect((cluster_ip(number), PORT))
            except OSError:
                return float("inf"), ""
            took = (time.perf_counter() - start) * 1e3
            backend = ""
            for server in select.select(list(self._listening), [], [], 1.0)[0]:
                server.accept()[0].close()
                backend = self._listening[server]
            return took, backend

    def calls(self, count: int, services: int) -> list[float]:
        """Milliseconds of handshakes with as many Services, chosen at random."""
        with self.calling() as call:
            return [call(number) for number in drawn(count, services)]

    @contextmanager
    def calling(self) -> Iterator[Call]:
        """Inside the caller's namespace, so that no switch is measured."""
        with netns.inside(self.caller):
            yield Call()
        for server in self._listening:
            while select.select([server], [], [], 0)[0]:
                server.accept()[0].close()


def drawn(count: int, services: int) -> list[int]:
    """Numbers of Services, the same each time."""
    chosen = random.Random(7)
    return [chosen.randrange(services) for _ in range(count)]


class Call:
    """A handshake."""

    def __call__(self, number: int) -> float:
        """Milliseconds."""
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            to = (cluster_ip(number), PORT)
            start = time.perf_counter()
            sock.connect(to)
            return (time.perf_counter() - start) * 1e3


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
