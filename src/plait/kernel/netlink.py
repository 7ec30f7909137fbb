"""The rtnetlink door: one namespace's links, addresses, routes, rules and neighbours.

The kernel answers a request before `send` returns, so everything here is synchronous and
waits for nothing. One system call carries a whole batch; each message is acknowledged by
itself, so that a refusal names its message.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeVar

import msgspec

from plait.kernel import netns
from plait.kernel.sysctl import KernelSysctl, Sysctl
from plait.wire import links as wl
from plait.wire import netlink as nl
from plait.wire import rtnetlink as rt
from plait.wire import tc
from plait.wire.netlink import NetlinkError

_NETLINK_ROUTE: Final = 0
_SOL_NETLINK: Final = 270
_ADD_MEMBERSHIP, _CAP_ACK, _EXT_ACK, _GET_STRICT_CHK = 1, 10, 11, 12
_RECEIVE_BUFFER: Final = 1 << 20
_EVENT_BUFFER: Final = 8 << 20
"""Bytes that may wait; a busy host makes about 10 events of 2 KiB an endpoint."""
_SO_RCVBUFFORCE: Final = 33
_DATAGRAM: Final = 1 << 16
"""Bytes; the kernel cuts its answers at 32 KiB (net/netlink/af_netlink.c)."""
_BATCH: Final = 128
"""Messages in one send: their acknowledgements must fit into the receive buffer."""
_DUMP_TRIES: Final = 8
_SIOCGIFNAME, _SIOCGIFINDEX = 0x8910, 0x8933
# RTNLGRP_ numbers of linux/rtnetlink.h.
_GROUPS: Final = (1, 3, 5, 7, 8, 9, 11, 19)

T = TypeVar("T")


class Event(msgspec.Struct, frozen=True):
    """Something that happened in the namespace, whoever did it.

    `lost` says that the kernel had to drop notifications: only a new look at everything helps.
    """

    kind: Literal["link", "address", "route", "rule", "neighbour", "lost"]
    deleted: bool = True
    info: wl.LinkInfo | rt.AddressInfo | rt.RouteInfo | rt.RuleInfo | rt.NeighbourInfo | None = None


class Subscription(Protocol):
    """A stream of events; readable (`fileno`) when there are some."""

    def fileno(self) -> int:
        """Descriptor for the event loop's `add_reader`."""

    def read(self) -> list[Event]:
        """Events that wait, without blocking: changes of links, deletions of the rest."""

    def close(self) -> None:
        """Stop."""


class Rtnetlink(Protocol):
    """The verbs; `Netlink` is the real one, `FakeNetlink` the fake."""

    def execute(self, messages: Sequence[bytes]) -> list[NetlinkError | None]:
        """Carry out requests in order; one refused does not stop the next."""

    def index(self, name: str) -> int:
        """Interface index; 0 when there is no such link."""

    def name(self, index: int) -> str:
        """Interface name; empty when there is no such link."""

    def links(self, kind: str = "", group: int = 0) -> list[wl.LinkInfo]:
        """Links, of one kind (`veth`, `vxlan`) or all, in one group or any."""

    def link(self, index: int) -> wl.LinkInfo | None:
        """One link; None when there is none of that index."""

    def addresses(self, family: int, index: int = 0) -> list[rt.AddressInfo]:
        """Addresses of a family, of one link or all."""

    def routes(self, family: int, protocol: int = 0) -> list[rt.RouteInfo]:
        """Routes of all tables, of one protocol or all."""

    def route_to(self, address: str) -> rt.RouteInfo | None:
        """The route that a packet to this address would take; None when there is none, or one
        that leads nowhere."""

    def rules(self, family: int) -> list[rt.RuleInfo]:
        """Policy-routing rules."""

    def neighbours(self, family: int, index: int) -> list[rt.NeighbourInfo]:
        """ARP or ND entries of a link; with AF_BRIDGE its forwarding entries."""

    def qdiscs(self) -> list[tc.QdiscInfo]:
        """Qdiscs of all links, but for those that the kernel put there itself."""

    def filters(self, index: int, parent: int) -> list[tc.FilterInfo]:
        """Traffic control's filters of a link, `tc.INGRESS` or `tc.EGRESS`."""

    def open(self, path: str, inode: int = 0) -> Namespace:
        """Another namespace; NamespaceGone when there is none of that inode."""

    def subscribe(self) -> Subscription:
        """Hear of changes from now on."""

    def clone(self) -> Rtnetlink:
        """Another door to the same namespace, for another thread: a door serves one at a time."""

    def close(self) -> None:
        """Release descriptors."""


class Namespace(Protocol):
    """Another namespace, held open; a context manager that closes it."""

    fd: int
    """Descriptor for IFLA_NET_NS_FD."""
    inode: int
    is_own: bool
    """It is the door's own namespace."""

    @property
    def netlink(self) -> Rtnetlink:
        """The namespace's own door."""

    @property
    def sysctl(self) -> Sysctl:
        """The namespace's own settings."""

    def __enter__(self) -> Namespace: ...
    def __exit__(self, *_: object) -> None: ...


def _socket(fd: int | None, buffer: int = _RECEIVE_BUFFER) -> socket.socket:
    made = netns.ns_socket(fd, socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE)
    try:
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer)
    except PermissionError:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    return made


class KernelSubscription:
    """The real stream of events."""

    def __init__(self, fd: int | None) -> None:
        self._socket = _socket(fd, _EVENT_BUFFER)
        self._socket.setblocking(False)
        self._socket.bind((0, 0))
        for group in _GROUPS:
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        """See `Subscription.fileno`."""
        return self._socket.fileno()

    def read(self) -> list[Event]:
        """See `Subscription.read`."""
        events: list[Event] = []
        while True:
            try:
                buffer = self._socket.recv(_DATAGRAM)
            except BlockingIOError:
                return events
            except OSError as problem:
                if problem.errno != errno.ENOBUFS:
                    raise
                events.append(Event("lost"))
                continue
            for header, payload in nl.messages(buffer):
                found = _event(header.type, payload)
                if found is not None:
                    events.append(found)

    def close(self) -> None:
        """See `Subscription.close`."""
        self._socket.close()


def _event(kind: int, payload: bytes) -> Event | None:
    if kind in {wl.RTM_NEWLINK, wl.RTM_DELLINK}:
        return Event("link", kind == wl.RTM_DELLINK, wl.parse_link(payload))
    if kind == rt.RTM_DELADDR:
        return Event("address", info=rt.parse_address(payload))
    if kind == rt.RTM_DELROUTE:
        return Event("route", info=rt.parse_route(payload))
    if kind == rt.RTM_DELRULE:
        return Event("rule", info=rt.parse_rule(payload))
    if kind == rt.RTM_DELNEIGH:
        return Event("neighbour", info=rt.parse_neighbour(payload))
    return None


class KernelNamespace:
    """Another namespace, with its door."""

    def __init__(self, path: str, inode: int, own: int) -> None:
        self.fd = netns.open_netns(path, inode)
        self.inode = os.fstat(self.fd).st_ino
        self.is_own = self.inode == own
        self._netlink: Netlink | None = None

    @property
    def netlink(self) -> Rtnetlink:
        """The door, opened when first used."""
        if self._netlink is None:
            self._netlink = Netlink(self.fd)
        return self._netlink

    @property
    def sysctl(self) -> Sysctl:
        """The namespace's own settings."""
        return KernelSysctl(self.fd)

    def __enter__(self) -> KernelNamespace:
        return self

    def __exit__(self, *_: object) -> None:
        if self._netlink is not None:
            self._netlink.close()
        os.close(self.fd)


class _Parsed(NamedTuple):
    """A link as parsed before: its length, where its counters are, a digest of the rest."""

    length: int
    begin: int
    end: int
    digest: int
    info: wl.LinkInfo


def _parsed(payload: bytes, known: _Parsed | None) -> _Parsed:
    """A link; parsed only if it changed since the last dump, its counters left out."""
    if (
        known is not None
        and known.length == len(payload)
        and known.digest == hash(payload[: known.begin] + payload[known.end :])
    ):
        return known
    begin, end = wl.counters(payload)
    digest = hash(payload[:begin] + payload[end:])
    return _Parsed(len(payload), begin, end, digest, wl.parse_link(payload))


class Netlink:
    """The real door. `fd` is a namespace's descriptor, not kept; None: the calling thread's."""

    def __init__(self, fd: int | None = None) -> None:
        self._own = os.dup(fd) if fd is not None else -1
        self._inode = os.fstat(fd).st_ino if fd is not None else netns.own_inode()
        self._socket = _socket(fd)
        for option in (_CAP_ACK, _EXT_ACK, _GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._ioctl: socket.socket | None = None
        self._sequence = 0
        self._parsed: dict[str, dict[int, _Parsed]] = {}
        """Links of the last dump of a kind, by index."""
        self._seen: dict[bytes, dict[bytes, Any]] = {}

    def close(self) -> None:
        """See `Rtnetlink.close`."""
        self._socket.close()
        if self._ioctl is not None:
            self._ioctl.close()
        if self._own >= 0:
            os.close(self._own)
            self._own = -1

    def _fd(self) -> int | None:
        return self._own if self._own >= 0 else None

    def execute(self, messages: Sequence[bytes]) -> list[NetlinkError | None]:
        """See `Rtnetlink.execute`."""
        results: list[NetlinkError | None] = []
        for start in range(0, len(messages), _BATCH):
            results += self._send(messages[start : start + _BATCH])
        return results

    def _send(self, messages: Sequence[bytes]) -> list[NetlinkError | None]:
        first = self._sequence + 1
        self._sequence += len(messages)
        buffer = bytearray(b"".join(messages))
        offset = 0
        for number, packed in enumerate(messages):
            struct.pack_into("=I", buffer, offset + nl.SEQUENCE_OFFSET, first + number)
            offset += len(packed)
        self._socket.send(buffer)
        results: list[NetlinkError | None] = [None] * len(messages)
        waiting = set(range(first, first + len(messages)))
        while waiting:
            for header, payload in nl.messages(self._socket.recv(_DATAGRAM)):
                if header.type == nl.NLMSG_ERROR and header.sequence in waiting:
                    waiting.remove(header.sequence)
                    results[header.sequence - first] = nl.error(header, payload)
        return results

    def _dump(self, request: bytes, parse: Callable[[bytes], T]) -> list[T]:
        for _ in range(_DUMP_TRIES):
            found = self._dump_once(request, parse)
            if found is not None:
                return found
        raise NetlinkError(errno.EBUSY, "the kernel's tables changed during every reading")

    def _dump_once(self, request: bytes, parse: Callable[[bytes], T]) -> list[T] | None:
        """One pass; None when the tables changed meanwhile, so that objects may be missing."""
        self._sequence += 1
        sequence = self._sequence
        buffer = bytearray(request)
        struct.pack_into("=I", buffer, nl.SEQUENCE_OFFSET, sequence)
        self._socket.send(buffer)
        found: list[T] = []
        torn = False
        while True:
            for header, payload in nl.messages(self._socket.recv(_DATAGRAM)):
                if header.sequence != sequence:
                    continue
                torn = torn or bool(header.flags & nl.NLM_F_DUMP_INTR)
                if header.type == nl.NLMSG_DONE:
                    code = -nl.get_s32(payload)
                    if code > 0:
                        raise NetlinkError(code)
                    return None if torn else found
                if header.type == nl.NLMSG_ERROR:
                    problem = nl.error(header, payload)
                    if problem is not None:
                        raise problem
                else:
                    found.append(parse(payload))

    def _ask(self, number: int, request: bytes) -> bytes | None:
        if self._ioctl is None:
            self._ioctl = netns.ns_socket(self._fd(), socket.AF_INET, socket.SOCK_DGRAM)
        try:
            return fcntl.ioctl(self._ioctl, number, request)
        except OSError as problem:
            if problem.errno in {errno.ENODEV, errno.ENXIO}:
                return None
            raise

    def index(self, name: str) -> int:
        """See `Rtnetlink.index`."""
        answer = self._ask(_SIOCGIFINDEX, struct.pack("16s24x", name.encode()[:15]))
        return int(struct.unpack_from("=i", answer, 16)[0]) if answer else 0

    def name(self, index: int) -> str:
        """See `Rtnetlink.name`."""
        answer = self._ask(_SIOCGIFNAME, struct.pack("=16xi20x", index))
        return answer[:16].rstrip(b"\0").decode() if answer else ""

    def links(self, kind: str = "", group: int = 0) -> list[wl.LinkInfo]:
        """See `Rtnetlink.links`."""
        if group:
            # To parse thousands for the sake of a few would hold up the other threads.
            mark = nl.u32(wl.IFLA_GROUP, group)
            marked = [p for p in self._dump(wl.dump_links(kind), bytes) if mark in p]
            found = map(wl.parse_link, marked)
            return [i for i in found if i.group == group and (not kind or i.kind == kind)]
        before, now = self._parsed.get(kind, {}), {}
        for payload in self._dump(wl.dump_links(kind), bytes):
            index = wl.index_of(payload)
            now[index] = _parsed(payload, before.get(index))
        self._parsed[kind] = now
        # A kernel that does not know the kind dumps everything.
        return [link.info for link in now.values() if not kind or link.info.kind == kind]

    def _known(self, request: bytes, parse: Callable[[bytes], T]) -> list[T]:
        """A dump in which an object that was there the last time is not parsed again."""
        before = self._seen.get(request, {})
        payloads = self._dump(request, bytes)
        now: dict[bytes, Any] = {p: before[p] if p in before else parse(p) for p in payloads}
        self._seen[request] = now
        return list(now.values())

    def link(self, index: int) -> wl.LinkInfo | None:
        """See `Rtnetlink.link`."""
        return self._one(wl.get_link(index), wl.parse_link)

    def _one(self, request: bytes, parse: Callable[[bytes], T]) -> T | None:
        """The answer to a question about one object; None when it is refused."""
        self._sequence += 1
        sequence = self._sequence
        buffer = bytearray(request)
        struct.pack_into("=I", buffer, nl.SEQUENCE_OFFSET, sequence)
        self._socket.send(buffer)
        while True:
            for header, payload in nl.messages(self._socket.recv(_DATAGRAM)):
                if header.sequence == sequence:
                    return None if header.type == nl.NLMSG_ERROR else parse(payload)

    def addresses(self, family: int, index: int = 0) -> list[rt.AddressInfo]:
        """See `Rtnetlink.addresses`."""
        if not index:
            return self._known(rt.dump_addresses(family), rt.parse_address)
        try:
            found = self._dump(rt.dump_addresses(family, index), rt.parse_address)
        except NetlinkError as problem:
            if problem.code == errno.ENODEV:
                return []  # The link has just gone.
            raise
        return [address for address in found if address.index == index]

    def routes(self, family: int, protocol: int = 0) -> list[rt.RouteInfo]:
        """See `Rtnetlink.routes`."""
        # A foreign table may be huge: only our own is worth remembering.
        dump = self._known if protocol else self._dump
        found = dump(rt.dump_routes(family, protocol), rt.parse_route)
        return [r for r in found if r is not None and protocol in {0, r.protocol}]

    def route_to(self, address: str) -> rt.RouteInfo | None:
        """See `Rtnetlink.route_to`."""
        return self._one(rt.get_route(address), rt.parse_route)

    def rules(self, family: int) -> list[rt.RuleInfo]:
        """See `Rtnetlink.rules`."""
        return self._dump(rt.dump_rules(family), rt.parse_rule)

    def neighbours(self, family: int, index: int) -> list[rt.NeighbourInfo]:
        """See `Rtnetlink.neighbours`."""
        found = self._dump(rt.dump_neighbours(family, index), rt.parse_neighbour)
        return [entry for entry in found if entry.index == index]

    def qdiscs(self) -> list[tc.QdiscInfo]:
        """See `Rtnetlink.qdiscs`."""
        return [found for found in self._dump(tc.dump_qdiscs(), tc.parse_qdisc) if found]

    def filters(self, index: int, parent: int) -> list[tc.FilterInfo]:
        """See `Rtnetlink.filters`."""
        return self._dump(tc.dump_filters(index, parent), tc.parse_filter)

    def open(self, path: str, inode: int = 0) -> Namespace:
        """See `Rtnetlink.open`."""
        return KernelNamespace(path, inode, self._inode)

    def subscribe(self) -> Subscription:
        """See `Rtnetlink.subscribe`."""
        return KernelSubscription(self._fd())

    def clone(self) -> Rtnetlink:
        """See `Rtnetlink.clone`."""
        return Netlink(self._fd())
