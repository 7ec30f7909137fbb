"""The tables of one fake namespace, and the rules by which the kernel changes them."""

from __future__ import annotations

import errno
import ipaddress
import itertools
import struct
from collections.abc import Callable
from typing import Any, Final, NoReturn

import msgspec

from plait.kernel.netlink import Event
from plait.kernel.sysctl import FakeSysctl
from plait.wire import links as wl
from plait.wire import rtnetlink as rt
from plait.wire import tc
from plait.wire.netlink import NetlinkError

_CONF4: Final = dict.fromkeys(wl.DEVCONF4, "0")
_CONF6: Final = {**dict.fromkeys(wl.DEVCONF6, "0"), "accept_ra": "1"}
_HOST_KEYS: Final = {
    "net/ipv4/ip_forward": "0",
    "net/ipv6/conf/all/forwarding": "0",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv6/conf/default/disable_ipv6": "0",
}


def refuse(code: int, words: str = "") -> NoReturn:
    """Answer with an error."""
    raise NetlinkError(code, words)


class FakeLink:
    """A link of a fake namespace."""

    def __init__(self, space: FakeSpace, info: wl.LinkInfo) -> None:
        self.space = space
        self.info = info
        self.other: FakeLink | None = None
        """A veth's other end."""

    def change(self, **fields: Any) -> None:
        """Change what the link says of itself."""
        self.info = msgspec.structs.replace(self.info, **fields)

    def dump(self) -> wl.LinkInfo:
        """As the kernel dumps it, with the settings of the moment."""
        other = self.other
        return msgspec.structs.replace(
            self.info,
            peer=other.info.index if other else 0,
            peer_elsewhere=other is not None and other.space is not self.space,
            conf4=self._conf("ipv4", wl.DEVCONF4),
            conf6=self._conf("ipv6", wl.DEVCONF6),
        )

    def _conf(self, family: str, positions: dict[str, int]) -> bytes:
        packed = bytearray(4 * (max(positions.values()) + 1))
        for key, position in positions.items():
            value = self.space.sysctl.values.get(f"net/{family}/conf/{self.info.name}/{key}", "0")
            struct.pack_into("=i", packed, 4 * position, int(value))
        return bytes(packed)


class FakeSpace:
    """A fake network namespace, born with `lo` down."""

    def __init__(self, inode: int) -> None:
        self.inode = inode
        self.links: dict[int, FakeLink] = {}
        self.addresses: list[rt.AddressInfo] = []
        self.routes: list[rt.RouteInfo] = []
        self.rules: list[rt.RuleInfo] = []
        self.neighbours: list[rt.NeighbourInfo] = []
        self.qdiscs: dict[tuple[int, int], tc.QdiscInfo] = {}
        """By (link, parent)."""
        self.filters: list[tc.FilterInfo] = []
        self.sysctl = FakeSysctl(dict(_HOST_KEYS))
        self.listeners: list[Callable[[Event], None]] = []
        self.failures: list[tuple[int, int]] = []
        """(message type or 0, errno) of requests that are to be refused."""
        self.traps: list[tuple[int, Callable[[], None]]] = []
        self._indexes = itertools.count(1)
        self.add(wl.LinkInfo(0, "lo", False, 0, 65536, "00:00:00:00:00:00"))

    def add(self, info: wl.LinkInfo) -> FakeLink:
        """A new link, with the settings that come with it."""
        index = next(self._indexes)
        link = self.links[index] = FakeLink(self, msgspec.structs.replace(info, index=index))
        for family, defaults in (("ipv4", _CONF4), ("ipv6", _CONF6)):
            for key, value in defaults.items():
                inherited = self.sysctl.values.get(f"net/{family}/conf/default/{key}", value)
                self.sysctl.values[f"net/{family}/conf/{info.name}/{key}"] = inherited
        return link

    def by_name(self, name: str) -> FakeLink | None:
        """The link of a name."""
        return next((link for link in self.links.values() if link.info.name == name), None)

    def link(self, index: int) -> FakeLink:
        """The link of an index; ENODEV when there is none."""
        found = self.links.get(index)
        return found if found is not None else refuse(errno.ENODEV)

    def tell(self, event: Event) -> None:
        """Notify who listens."""
        for listener in self.listeners:
            listener(event)


# Links


def add_veth(here: FakeSpace, info: wl.LinkInfo, there: FakeSpace, peer: wl.LinkInfo) -> None:
    """Both ends, down."""
    near = here.add(info)
    far = there.add(msgspec.structs.replace(peer, kind="veth"))
    near.other, far.other = far, near
    for link in (near, far):
        link.space.tell(Event("link", deleted=False, info=link.dump()))


def add_vxlan(space: FakeSpace, info: wl.LinkInfo) -> None:
    """A VXLAN device; a VNI exists once on a port."""
    assert info.vxlan is not None
    for link in space.links.values():
        there = link.info.vxlan
        if there is not None and (there.vni, there.port) == (info.vxlan.vni, info.vxlan.port):
            refuse(errno.EEXIST, "A VXLAN device with the specified VNI already exists")
    link = space.add(info)
    space.tell(Event("link", deleted=False, info=link.dump()))


def add_plain(space: FakeSpace, info: wl.LinkInfo) -> None:
    """A link of which nothing is special but its kind; the kernel chooses its MAC."""
    link = space.add(msgspec.structs.replace(info, mtu=1500, mac="02:00:00:00:00:fb"))
    space.tell(Event("link", deleted=False, info=link.dump()))


def remove_link(link: FakeLink) -> None:
    """A link goes, its other end too, and all that was on them."""
    ends = [link] if link.other is None else [link, link.other]
    for end in ends:
        space, index = end.space, end.info.index
        _flush_routes(space, index)
        for address in [a for a in space.addresses if a.index == index]:
            space.addresses.remove(address)
            space.tell(Event("address", info=address))
        space.neighbours = [n for n in space.neighbours if n.index != index]
        space.qdiscs = {key: q for key, q in space.qdiscs.items() if key[0] != index}
        space.filters = [
            msgspec.structs.replace(f, target=tc.NOWHERE) if f.target == index else f
            for f in space.filters
            if f.index != index
        ]
        name = end.info.name
        for key in [k for k in space.sysctl.values if k.split("/")[2:4] == ["conf", name]]:
            del space.sysctl.values[key]
        del space.links[index]
        space.tell(Event("link", deleted=True, info=end.info))


def set_up(link: FakeLink, *, up: bool) -> None:
    """Raise or lower a link; what is lowered loses its routes and IPv6 addresses."""
    if link.info.up == up:
        return
    link.change(up=up)
    space, index = link.space, link.info.index
    if link.info.name == "lo" and up:
        space.addresses += [
            rt.AddressInfo(index, "127.0.0.1/8", 0),
            rt.AddressInfo(index, "::1/128", 1),
        ]
    if up:
        return
    _flush_routes(space, index)
    for address in [a for a in space.addresses if a.index == index and ":" in a.address]:
        space.addresses.remove(address)
        space.tell(Event("address", info=address))
    space.neighbours = [n for n in space.neighbours if n.index != index or n.family == rt.AF_BRIDGE]


def _has_ipv4(space: FakeSpace, index: int) -> bool:
    return any(a.index == index and ":" not in a.address for a in space.addresses)


def _flush_routes(space: FakeSpace, index: int, *, only: int = 0) -> None:
    gone = [r for r in space.routes if r.index == index and only in {0, r.family}]
    for route in gone:
        space.routes.remove(route)
        if route.family == rt.AF_INET6:
            # IPv4 tells nobody of routes that go with their link.
            space.tell(Event("route", info=route))


# Addresses


def add_address(space: FakeSpace, address: rt.AddressInfo) -> None:
    """A new address."""
    name = space.link(address.index).info.name
    off = space.sysctl.values[f"net/ipv6/conf/{name}/disable_ipv6"] == "1"
    if ":" in address.address and off:
        refuse(errno.EACCES, "IPv6 is disabled on this device")
    if any((a.index, a.address) == (address.index, address.address) for a in space.addresses):
        refuse(errno.EEXIST)
    space.addresses.append(address)


def del_address(space: FakeSpace, address: rt.AddressInfo) -> None:
    """Take an address away; EADDRNOTAVAIL when it is not there."""
    space.link(address.index)
    for there in space.addresses:
        if (there.index, there.address) == (address.index, address.address):
            space.addresses.remove(there)
            space.tell(Event("address", info=there))
            if ":" not in there.address and not _has_ipv4(space, there.index):
                # net/ipv4/fib_frontend.c: IPv4 ends on a link with its last address.
                _flush_routes(space, there.index, only=rt.AF_INET)
            return
    refuse(errno.EADDRNOTAVAIL)


# Routes


def add_route(space: FakeSpace, route: rt.RouteInfo, *, replace: bool) -> None:
    """A new route, or with `replace` one in the place of another of its identity."""
    route = _resolve(space, route)
    for position, there in enumerate(space.routes):
        if (there.table, there.dst, there.metric) == (route.table, route.dst, route.metric):
            if not replace:
                refuse(errno.EEXIST)
            space.routes[position] = route
            return
    space.routes.append(route)


def _resolve(space: FakeSpace, route: rt.RouteInfo) -> rt.RouteInfo:
    """The route with its link, if the kernel would take it."""
    if route.kind in {"blackhole", "unreachable"}:
        return msgspec.structs.replace(route, index=0)
    v6 = route.family == rt.AF_INET6
    if route.index and not space.link(route.index).info.up:
        refuse(errno.ENETDOWN, "Nexthop device is not up" if not v6 else "")
    if route.src and not any(a.address.split("/")[0] == route.src for a in space.addresses):
        refuse(errno.EINVAL, "Invalid prefsrc address" if not v6 else "Invalid source address")
    link_local = route.via.startswith("fe80:") and route.index
    if not route.via or route.onlink or link_local:
        return route
    gateway = ipaddress.ip_address(route.via)
    for address in space.addresses:
        connected = ipaddress.ip_interface(address.address).network
        reachable = space.links[address.index].info.up and route.index in {0, address.index}
        if reachable and gateway.version == connected.version and gateway in connected:
            return msgspec.structs.replace(route, index=address.index)
    for via in space.routes:
        connected = ipaddress.ip_network(via.dst)
        if gateway.version == connected.version and gateway in connected and not via.via:
            return msgspec.structs.replace(route, index=via.index)
    refuse(errno.EHOSTUNREACH if v6 else errno.ENETUNREACH, "Nexthop has invalid gateway")


def del_route(space: FakeSpace, route: rt.RouteInfo) -> None:
    """Take away the route that matches what the request names."""
    for there in space.routes:
        same = (there.table, there.dst, there.metric) == (route.table, route.dst, route.metric)
        if (
            same
            and route.protocol in {0, there.protocol}
            and route.via in {"", there.via}
            and route.index in {0, there.index}
        ):
            space.routes.remove(there)
            space.tell(Event("route", info=there))
            return
    refuse(errno.ESRCH)


# Neighbours


def put_neighbour(space: FakeSpace, entry: rt.NeighbourInfo) -> None:
    """Add or replace."""
    link = space.link(entry.index)
    if entry.family == rt.AF_BRIDGE and link.info.kind != "vxlan":
        refuse(errno.EOPNOTSUPP)
    kept = [there for there in space.neighbours if not _same_entry(there, entry)]
    space.neighbours = [*kept, entry]


def del_neighbour(space: FakeSpace, entry: rt.NeighbourInfo) -> None:
    """Take away; ENOENT when it is not there."""
    space.link(entry.index)
    for there in space.neighbours:
        if _same_entry(there, entry) and entry.address in {"", there.address}:
            space.neighbours.remove(there)
            space.tell(Event("neighbour", info=there))
            return
    refuse(errno.ENOENT)


def _same_entry(there: rt.NeighbourInfo, entry: rt.NeighbourInfo) -> bool:
    identity = "mac" if entry.family == rt.AF_BRIDGE else "address"
    return (there.family, there.index, getattr(there, identity)) == (
        entry.family,
        entry.index,
        getattr(entry, identity),
    )
