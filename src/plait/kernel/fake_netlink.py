"""A fake rtnetlink kernel: namespaces in memory, behind the same door.

It reads the very messages that the real kernel would get and keeps to its rules as far as the
agent can meet them: names are unique in a namespace, a veth has two ends and dies with either,
routes need a link that is up and a gateway that is reachable, and go when their link goes down,
IPv6 addresses as well. `fail_next` and `before` make it fail on request. The contract tests
hold it against the real one.
"""

from __future__ import annotations

import errno
import ipaddress
import itertools
import os
import struct
from collections.abc import Callable, Sequence
from typing import Final

from plait.kernel import fake_tables as tables
from plait.kernel import fake_tc
from plait.kernel.fake_tables import FakeLink, FakeSpace, refuse
from plait.kernel.netlink import Event, Rtnetlink, Subscription
from plait.kernel.netns import NamespaceGone
from plait.kernel.sysctl import FakeSysctl
from plait.wire import links as wl
from plait.wire import netlink as nl
from plait.wire import rtnetlink as rt
from plait.wire import tc
from plait.wire.netlink import NetlinkError

_IFINFO: Final = struct.Struct("=BBHiII")


class FakeKernel:
    """All namespaces of a machine. `host` is the one that the agent lives in."""

    def __init__(self) -> None:
        self._inodes = itertools.count(4026531840)
        self._fds = itertools.count(1000)
        self.paths: dict[str, FakeSpace] = {}
        self.fds: dict[int, FakeSpace] = {}
        self.host = FakeSpace(next(self._inodes))

    def netlink(self) -> FakeNetlink:
        """A door to the host's namespace."""
        return FakeNetlink(self, self.host)

    def sysctl(self) -> FakeSysctl:
        """The host's settings."""
        return self.host.sysctl

    def add_netns(self, path: str) -> FakeSpace:
        """A new namespace behind a path."""
        self.paths[path] = FakeSpace(next(self._inodes))
        return self.paths[path]

    def del_netns(self, path: str) -> None:
        """The namespace dies, and the veths in it with their other ends."""
        space = self.paths.pop(path)
        for link in list(space.links.values()):
            if link.info.name != "lo":
                tables.remove_link(link)

    def hold(self, space: FakeSpace) -> int:
        """A descriptor of a namespace."""
        fd = next(self._fds)
        self.fds[fd] = space
        return fd


class FakeSubscription:
    """Events of a fake namespace; readable by an event loop."""

    def __init__(self, space: FakeSpace) -> None:
        self._space = space
        self._events: list[Event] = []
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        space.listeners.append(self._hear)

    def _hear(self, event: Event) -> None:
        self._events.append(event)
        os.eventfd_write(self._fd, 1)

    def fileno(self) -> int:
        """See `Subscription.fileno`."""
        return self._fd

    def read(self) -> list[Event]:
        """See `Subscription.read`."""
        if self._events:
            os.eventfd_read(self._fd)
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """See `Subscription.close`."""
        self._space.listeners.remove(self._hear)
        os.close(self._fd)


class FakeNamespace:
    """Another namespace, held open."""

    def __init__(self, kernel: FakeKernel, space: FakeSpace) -> None:
        self.fd = kernel.hold(space)
        self.inode = space.inode
        self.is_own = space is kernel.host
        self._kernel = kernel
        self._netlink = FakeNetlink(kernel, space)

    @property
    def netlink(self) -> Rtnetlink:
        """The namespace's own door."""
        return self._netlink

    @property
    def sysctl(self) -> FakeSysctl:
        """The namespace's own settings."""
        return self._netlink.space.sysctl

    def __enter__(self) -> FakeNamespace:
        return self

    def __exit__(self, *_: object) -> None:
        del self._kernel.fds[self.fd]


class FakeNetlink:
    """The fake door."""

    def __init__(self, kernel: FakeKernel, space: FakeSpace) -> None:
        self._kernel = kernel
        self.space = space

    def fail_next(self, code: int = errno.EPERM, *, kind: int = 0, times: int = 1) -> None:
        """Refuse the next requests, of one message type or any, in this namespace."""
        self.space.failures += [(kind, code)] * times

    def before(self, kind: int, action: Callable[[], None]) -> None:
        """Do something just before the next request of a message type, such as raise."""
        self.space.traps.append((kind, action))

    def execute(self, messages: Sequence[bytes]) -> list[NetlinkError | None]:
        """See `Rtnetlink.execute`."""
        results: list[NetlinkError | None] = []
        for packed in messages:
            for header, payload in nl.messages(packed):
                try:
                    self._request(header, payload)
                    results.append(None)
                except NetlinkError as problem:
                    results.append(problem)
        return results

    def _request(self, header: nl.Header, payload: bytes) -> None:
        space = self.space
        for trap in [trap for trap in space.traps if trap[0] == header.type][:1]:
            space.traps.remove(trap)
            trap[1]()
        for failure in [f for f in space.failures if f[0] in {0, header.type}][:1]:
            space.failures.remove(failure)
            raise NetlinkError(failure[1])
        if header.type == wl.RTM_NEWLINK:
            self._new_link(payload)
        else:
            _HANDLERS[header.type](space, header.flags, payload)

    def _new_link(self, payload: bytes) -> None:
        info = wl.parse_link(payload)
        self._check_name(self.space, info.name)
        if info.kind == "ifb":
            tables.add_plain(self.space, info)
            return
        data = nl.attributes(nl.attributes(payload, 16)[wl.IFLA_LINKINFO])[wl.IFLA_INFO_DATA]
        if info.kind == "vxlan":
            tables.add_vxlan(self.space, info)
            return
        inner = nl.attributes(data)[wl.VETH_INFO_PEER]
        peer = wl.parse_link(inner)
        descriptor = nl.attributes(inner, 16).get(wl.IFLA_NET_NS_FD)
        there = self.space if descriptor is None else self._space_of(nl.get_s32(descriptor))
        if there is self.space and peer.name == info.name:
            refuse(errno.EEXIST)
        self._check_name(there, peer.name)
        tables.add_veth(self.space, info, there, peer)

    def _space_of(self, fd: int) -> FakeSpace:
        space = self._kernel.fds.get(fd)
        return space if space is not None else refuse(errno.EINVAL)

    @staticmethod
    def _check_name(space: FakeSpace, name: str) -> None:
        if not 0 < len(name.encode()) < 16:
            refuse(errno.EINVAL)
        if space.by_name(name) is not None:
            refuse(errno.EEXIST)

    def index(self, name: str) -> int:
        """See `Rtnetlink.index`."""
        link = self.space.by_name(name)
        return link.info.index if link is not None else 0

    def name(self, index: int) -> str:
        """See `Rtnetlink.name`."""
        link = self.space.links.get(index)
        return link.info.name if link is not None else ""

    def links(self, kind: str = "", group: int = 0) -> list[wl.LinkInfo]:
        """See `Rtnetlink.links`."""
        found = [link.dump() for link in self.space.links.values()]
        return [i for i in found if (not kind or i.kind == kind) and group in {0, i.group}]

    def link(self, index: int) -> wl.LinkInfo | None:
        """See `Rtnetlink.link`."""
        link = self.space.links.get(index)
        return link.dump() if link is not None else None

    def addresses(self, family: int, index: int = 0) -> list[rt.AddressInfo]:
        """See `Rtnetlink.addresses`."""
        return [
            found
            for found in self.space.addresses
            if rt.family_of(found.address) == family and index in {0, found.index}
        ]

    def route_to(self, address: str) -> rt.RouteInfo | None:
        """See `Rtnetlink.route_to`."""
        ip = ipaddress.ip_address(address)
        found = [r for r in self.space.routes if r.table == 254]
        found = [r for r in found if ip in ipaddress.ip_network(r.dst)]
        best = min(found, key=lambda r: (-int(r.dst.partition("/")[2]), r.metric), default=None)
        return best if best is not None and best.kind in {"unicast", "local"} else None

    def routes(self, family: int, protocol: int = 0) -> list[rt.RouteInfo]:
        """See `Rtnetlink.routes`."""
        found = [route for route in self.space.routes if route.family == family]
        return [route for route in found if protocol in {0, route.protocol}]

    def rules(self, family: int) -> list[rt.RuleInfo]:
        """See `Rtnetlink.rules`."""
        return [rule for rule in self.space.rules if rule.family == family]

    def neighbours(self, family: int, index: int) -> list[rt.NeighbourInfo]:
        """See `Rtnetlink.neighbours`."""
        entries = self.space.neighbours
        return [entry for entry in entries if (entry.family, entry.index) == (family, index)]

    def qdiscs(self) -> list[tc.QdiscInfo]:
        """See `Rtnetlink.qdiscs`."""
        return list(self.space.qdiscs.values())

    def filters(self, index: int, parent: int) -> list[tc.FilterInfo]:
        """See `Rtnetlink.filters`."""
        return [f for f in self.space.filters if (f.index, f.parent) == (index, parent)]

    def open(self, path: str, inode: int = 0) -> FakeNamespace:
        """See `Rtnetlink.open`."""
        space = self._kernel.paths.get(path)
        if space is None:
            raise NamespaceGone(f"{path}: No such file or directory")
        if inode and inode != space.inode:
            raise NamespaceGone(
                f"{path} is another namespace now (inode {space.inode}, was {inode})"
            )
        return FakeNamespace(self._kernel, space)

    def subscribe(self) -> Subscription:
        """See `Rtnetlink.subscribe`."""
        return FakeSubscription(self.space)

    def clone(self) -> Rtnetlink:
        """See `Rtnetlink.clone`."""
        return FakeNetlink(self._kernel, self.space)

    def close(self) -> None:
        """See `Rtnetlink.close`."""


def _set_link(space: FakeSpace, _: int, payload: bytes) -> None:
    link = space.link(wl.index_of(payload))
    flags, change = _IFINFO.unpack_from(payload)[4:]
    _set_attributes(link, nl.attributes(payload, 16))
    if change & wl.IFF_UP:
        tables.set_up(link, up=bool(flags & wl.IFF_UP))
    space.tell(Event("link", deleted=False, info=link.dump()))


def _set_attributes(link: FakeLink, found: dict[int, bytes]) -> None:
    get = found.get
    if wl.IFLA_MTU in found:
        link.change(mtu=nl.get_u32(get(wl.IFLA_MTU)))
    if wl.IFLA_ADDRESS in found:
        link.change(mac=found[wl.IFLA_ADDRESS].hex(":"))
    if wl.IFLA_GROUP in found:
        link.change(group=nl.get_u32(get(wl.IFLA_GROUP)))
    if wl.IFLA_IFALIAS in found:
        link.change(alias=nl.get_text(get(wl.IFLA_IFALIAS)))
    spec = nl.attributes(nl.attributes(get(wl.IFLA_AF_SPEC, b"")).get(rt.AF_INET6, b""))
    if wl.IFLA_INET6_ADDR_GEN_MODE in spec:
        mode = str(nl.get_u8(spec[wl.IFLA_INET6_ADDR_GEN_MODE]))
        key = f"net/ipv6/conf/{link.info.name}/addr_gen_mode"
        link.space.sysctl.values[key] = mode


def _del_link(space: FakeSpace, _: int, payload: bytes) -> None:
    index = wl.index_of(payload)
    if index:
        tables.remove_link(space.link(index))
        return
    group = nl.get_u32(nl.attributes(payload, 16).get(wl.IFLA_GROUP))
    members = [link for link in space.links.values() if link.info.group == group]
    if not members:
        refuse(errno.ENODEV)
    for link in members:
        if link.info.index in space.links:
            tables.remove_link(link)


def _new_address(space: FakeSpace, _: int, payload: bytes) -> None:
    tables.add_address(space, rt.parse_address(payload))


def _del_address(space: FakeSpace, _: int, payload: bytes) -> None:
    tables.del_address(space, rt.parse_address(payload))


def _parsed_route(payload: bytes) -> rt.RouteInfo:
    route = rt.parse_route(payload)
    return route if route is not None else refuse(errno.EAFNOSUPPORT)


def _new_route(space: FakeSpace, flags: int, payload: bytes) -> None:
    replace = bool(flags & nl.NLM_F_REPLACE)
    tables.add_route(space, _parsed_route(payload), replace=replace)


def _del_route(space: FakeSpace, _: int, payload: bytes) -> None:
    tables.del_route(space, _parsed_route(payload))


def _new_rule(space: FakeSpace, _: int, payload: bytes) -> None:
    rule = rt.parse_rule(payload)
    if rule in space.rules:
        refuse(errno.EEXIST)
    space.rules.append(rule)


def _del_rule(space: FakeSpace, _: int, payload: bytes) -> None:
    rule = rt.parse_rule(payload)
    if rule not in space.rules:
        refuse(errno.ENOENT)
    space.rules.remove(rule)
    space.tell(Event("rule", info=rule))


def _new_neighbour(space: FakeSpace, _: int, payload: bytes) -> None:
    tables.put_neighbour(space, rt.parse_neighbour(payload))


def _del_neighbour(space: FakeSpace, _: int, payload: bytes) -> None:
    tables.del_neighbour(space, rt.parse_neighbour(payload))


_HANDLERS: Final[dict[int, Callable[[FakeSpace, int, bytes], None]]] = {
    wl.RTM_SETLINK: _set_link,
    wl.RTM_DELLINK: _del_link,
    rt.RTM_NEWADDR: _new_address,
    rt.RTM_DELADDR: _del_address,
    rt.RTM_NEWROUTE: _new_route,
    rt.RTM_DELROUTE: _del_route,
    rt.RTM_NEWRULE: _new_rule,
    rt.RTM_DELRULE: _del_rule,
    rt.RTM_NEWNEIGH: _new_neighbour,
    rt.RTM_DELNEIGH: _del_neighbour,
    **fake_tc.HANDLERS,
}
