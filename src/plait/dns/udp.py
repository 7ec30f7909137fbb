"""DNS over UDP, on one socket that takes packets for any destination.

The host's rules lead every DNS packet of an endpoint here whatever resolver it was meant for
(TPROXY). The kernel tells the original destination with each datagram (IP_RECVORIGDSTADDR, ip(7))
and takes it as the source of the reply (IP_PKTINFO on an IP_TRANSPARENT socket), so one socket
speaks for all of them. The port of the reply is the socket's own: rules and socket agree on it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from typing import Final, NamedTuple

from plait.dns.asks import Question
from plait.dns.frontend import Frontend
from plait.dns.resolver import Server

DRAIN: Final = 64
"""Datagrams taken before other work of the loop gets its turn."""
RECEIVE_SIZE: Final = 4096
RECEIVE_BUFFER: Final = 1 << 20
MAX_WAITING: Final = 2048
"""Datagrams whose answer has to be waited for; more are dropped, as a full queue does."""

IP_FREEBIND: Final = 15  # linux/in.h
IPV6_FREEBIND: Final = 78  # linux/in6.h


class Family(NamedTuple):
    """Socket options of an address family, from linux/in.h and linux/in6.h."""

    family: socket.AddressFamily
    level: int
    transparent: int
    orig_dst: int
    """Option and type of the control message: a sockaddr."""
    pktinfo: int
    freebind: int
    address: slice
    """Where the address stands in the sockaddr."""

    def source(self, packed: bytes) -> bytes:
        """Control message body that sets a reply's source address."""
        if self.family == socket.AF_INET:
            return struct.pack("=i4s4x", 0, packed)
        return struct.pack("=16si", packed, 0)


FAMILIES: Final = {
    4: Family(socket.AF_INET, socket.IPPROTO_IP, 19, 20, 8, IP_FREEBIND, slice(4, 8)),
    6: Family(socket.AF_INET6, socket.IPPROTO_IPV6, 75, 74, 50, IPV6_FREEBIND, slice(8, 24)),
}


def bound_socket(bind: Server, kind: socket.SocketKind, *, transparent: bool) -> socket.socket:
    """A non-blocking socket on an address that need not exist yet; OSError if it is taken."""
    family = FAMILIES[ipaddress.ip_address(bind[0]).version]
    sock = socket.socket(family.family, kind)
    try:
        sock.setblocking(False)
        if family.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(family.level, family.freebind, 1)
        if transparent:
            sock.setsockopt(family.level, family.transparent, 1)
        sock.bind(bind)
    except BaseException:
        sock.close()
        raise
    return sock


class UdpListener:
    """One socket."""

    def __init__(self, frontend: Frontend, bind: Server, *, transparent: bool) -> None:
        """OSError if the address is taken or its family is absent."""
        self._frontend = frontend
        self._family = FAMILIES[ipaddress.ip_address(bind[0]).version]
        self._own = ipaddress.ip_address(bind[0]).packed
        self._waiting: set[asyncio.Task[None]] = set()
        self._sock = bound_socket(bind, socket.SOCK_DGRAM, transparent=transparent)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if transparent:
            self._sock.setsockopt(self._family.level, self._family.orig_dst, 1)
        self.address: Server = self._sock.getsockname()[:2]
        """Where it listens; the port is chosen when the one to bind was 0."""

    def start(self) -> None:
        """Answer from now on."""
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._drain)

    async def stop(self) -> None:
        """Close the socket; what is waited for is given up."""
        asyncio.get_running_loop().remove_reader(self._sock.fileno())
        waiting = list(self._waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        self._sock.close()

    def _drain(self) -> None:
        receive, quick, orig_dst = self._sock.recvmsg, self._frontend.quick, self._family.orig_dst
        where = self._family.address
        for _ in range(DRAIN):
            try:
                data, control, _, peer = receive(RECEIVE_SIZE, 128)
            except BlockingIOError:
                return
            except OSError:
                # An ICMP error that an earlier reply met; the socket goes on.
                continue
            source = b""
            for _, kind, body in control:
                if kind == orig_dst and body[where] != self._own:
                    source = body[where]
            reply = quick(data, peer[0])
            if reply is None:
                self._slow(data, peer, source)
            else:
                self._send(reply, peer, source)

    def _slow(self, data: bytes, peer: tuple[str, int], source: bytes) -> None:
        destination = (
            (str(ipaddress.ip_address(source)), self.address[1]) if source else self.address
        )
        outcome = self._frontend.handle(data, peer[0], destination, tcp=False)
        if isinstance(outcome, bytes):
            self._send(outcome, peer, source)
        elif outcome is not None:
            if len(self._waiting) >= MAX_WAITING:
                self._frontend.stats.dropped += 1
                return
            task = asyncio.create_task(self._later(outcome, peer, source), name="dns.udp")
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)

    async def _later(self, question: Question, peer: tuple[str, int], source: bytes) -> None:
        self._send(await self._frontend.wait(question), peer, source)

    def _send(self, reply: bytes, peer: tuple[str, int], source: bytes) -> None:
        try:
            if source:
                info = (self._family.level, self._family.pktinfo, self._family.source(source))
                self._sock.sendmsg((reply,), (info,), 0, peer)
            else:
                self._sock.sendto(reply, peer)
        except OSError:
            # No room in the queue, or the client has gone: it asks again if it still wants to.
            self._frontend.stats.dropped += 1
