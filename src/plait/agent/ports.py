"""Published ports of the host: nobody else takes one, and a conflict is refused at once.

For each port a socket is bound and never listens: the kernel then refuses the port to every
other program, as it would between two servers. Packets never reach it, for nft translates them
before (dstnat). SCTP is kept in the table only where the kernel has no SCTP sockets, and so is
what the caller holds itself.
"""

from __future__ import annotations

import contextlib
import errno
import random
import socket
from collections.abc import Callable
from typing import Final

import msgspec

from plait.client.agent import AttachRequest
from plait.model.errors import PlaitError
from plait.model.objects import PublishedPort

TYPES: Final = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, 132),  # IPPROTO_SCTP (RFC 9260)
}
DYNAMIC: Final = (32768, 60999)
"""Ports to choose from for host_port 0: the kernel's default ip_local_port_range, as Docker."""
ATTEMPTS: Final = 64
"""Ports tried for host_port 0 before giving up."""

Key = tuple[int, str, str, int]
"""(family, host address, protocol, port)."""


def holds_ports(request: AttachRequest) -> bool:
    """Whether the agent keeps the endpoint's host ports from others. Runtimes of CNI bind them
    themselves (podman) or see to it before (kubelet)."""
    return request.workload.runtime != "cni"


class Ports:
    """The held ports, by endpoint."""

    def __init__(self, choose: Callable[[int, int], int] = random.randint) -> None:
        """`choose(low, high)` picks a port to try, both ends included."""
        self._choose = choose
        self._held: dict[str, dict[Key, socket.socket | None]] = {}
        self._owner: dict[Key, str] = {}

    def set(
        self, endpoint: str, ports: tuple[PublishedPort, ...], *, hold: bool = True
    ) -> tuple[PublishedPort, ...]:
        """Hold these ports for the endpoint instead of its present ones, all or none.

        Returns them with chosen numbers in place of 0. PLAIT-AGENT-007 when one is taken. Without
        `hold` no socket is bound, and only our other endpoints are kept from them.
        """
        before = self._held.get(endpoint, {})
        wanted: dict[Key, socket.socket | None] = {}
        fresh: list[Key] = []
        result: list[PublishedPort] = []
        try:
            for port in ports:
                number = port.host_port or self._pick(
                    endpoint, port, before, wanted, fresh, hold=hold
                )
                for key in _keys(port, number):
                    if key in wanted:
                        continue
                    if key in before:
                        wanted[key] = before[key]
                    else:
                        wanted[key] = self._hold(endpoint, key, hold=hold)
                        fresh.append(key)
                result.append(msgspec.structs.replace(port, host_port=number))
        except BaseException:
            for key in fresh:
                self._drop(key, wanted[key])
            raise
        for key, sock in before.items():
            if key not in wanted:
                self._drop(key, sock)
        if wanted:
            self._held[endpoint] = wanted
        else:
            self._held.pop(endpoint, None)
        return tuple(result)

    def close(self) -> None:
        """Give all ports back."""
        for endpoint in tuple(self._held):
            self.set(endpoint, ())

    def _pick(
        self,
        endpoint: str,
        port: PublishedPort,
        before: dict[Key, socket.socket | None],
        wanted: dict[Key, socket.socket | None],
        fresh: list[Key],
        *,
        hold: bool,
    ) -> int:
        """Hold a free port of the dynamic range in every family that the port needs."""
        for _ in range(ATTEMPTS):
            number = self._choose(*DYNAMIC)
            keys = _keys(port, number)
            if any(key in before or key in wanted for key in keys):
                continue
            got: list[tuple[Key, socket.socket | None]] = []
            try:
                for key in keys:
                    sock = self._hold(endpoint, key, hold=hold)
                    got.append((key, sock))
            except PlaitError:
                for key, sock in got:
                    self._drop(key, sock)
                continue
            wanted.update(got)
            fresh.extend(keys)
            return number
        raise PlaitError(
            "PLAIT-AGENT-007",
            f"no free host port was found for {port.port}/{port.protocol}",
            why=f"{ATTEMPTS} ports from {DYNAMIC[0]} to {DYNAMIC[1]} were tried",
            fix=("name a host port",),
        )

    def _hold(self, endpoint: str, key: Key, *, hold: bool) -> socket.socket | None:
        family, host, protocol, number = key
        if host == "::1":
            raise _refused(
                key,
                "the kernel lets nothing from ::1 leave the host, not even translated",
                "publish on 127.0.0.1, or on an IPv6 address of this host",
            )
        clash = next((k for k in _conflicts(key) if k in self._owner), None) or (
            None
            if host
            else next((k for k in self._owner if k[0] == family and k[2:] == key[2:]), None)
        )
        if clash is not None:
            raise _refused(
                key,
                f"endpoint {self._owner[clash]} publishes it",
                "plait ps   # which container that is",
                "choose another host port, or 0",
            )
        sock = _bind(family, host, protocol, number) if hold else None
        self._owner[key] = endpoint
        return sock

    def _drop(self, key: Key, sock: socket.socket | None) -> None:
        self._owner.pop(key, None)
        if sock is not None:
            sock.close()


def _keys(port: PublishedPort, number: int) -> list[Key]:
    """The sockets that a published port needs."""
    host = port.host_ip
    both = (4, 6) if socket.has_ipv6 else (4,)
    families = both if host == "" else (6 if ":" in host else 4,)
    wildcard = host in ("", "0.0.0.0", "::")
    return [(family, "" if wildcard else host, port.protocol, number) for family in families]


def _conflicts(key: Key) -> tuple[Key, ...]:
    """Keys that the same packets would match: itself and the wildcard."""
    family, host, protocol, number = key
    return (key, (family, "", protocol, number)) if host else (key,)


def _bind(family: int, host: str, protocol: str, number: int) -> socket.socket | None:
    kind, proto = TYPES[protocol]
    try:
        sock = socket.socket(
            socket.AF_INET6 if family == 6 else socket.AF_INET, kind | socket.SOCK_CLOEXEC, proto
        )
    except OSError as error:
        if error.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.ESOCKTNOSUPPORT):
            return None
        raise
    try:
        if family == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host or ("::" if family == 6 else "0.0.0.0"), number))
    except OSError as error:
        with contextlib.suppress(OSError):
            sock.close()
        if family == 6 and error.errno == errno.EADDRNOTAVAIL and not host:
            return None  # IPv6 is switched off on this host.
        key = (family, host, protocol, number)
        raise _refused(key, error.strerror or str(error), *_remedies(key, error)) from error
    if protocol == "udp":
        # What arrives before nft's translation stands is not for us; keep no queue of it.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    return sock


def _remedies(key: Key, error: OSError) -> tuple[str, ...]:
    if error.errno == errno.EADDRNOTAVAIL:
        return ("ip -brief address   # what this host has", "publish on one of those, or on none")
    _, _, protocol, number = key
    flag = {"tcp": "t", "udp": "u", "sctp": "S"}[protocol]
    return (
        f"ss -{flag}lnp 'sport = :{number}'   # who has it",
        "choose another host port, or 0",
    )


def _refused(key: Key, why: str, *fix: str) -> PlaitError:
    family, host, protocol, number = key
    where = f"[{host}]" if ":" in host else host or f"every IPv{family} address"
    return PlaitError(
        "PLAIT-AGENT-007",
        f"host port {number}/{protocol} on {where} cannot be published",
        why=why,
        fix=fix,
    )
