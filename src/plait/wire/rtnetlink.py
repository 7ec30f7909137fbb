"""rtnetlink messages: links, addresses, routes, rules, neighbours (linux/rtnetlink.h).

Requests are built from plain values and interface indexes; names are the door's business. The
kernel dumps an object in the layout in which it is asked for, so the parsers read both, and
the fake kernel reads requests with them. `plait.wire.links` has the messages of links.
"""

from __future__ import annotations

import ipaddress
import struct
from functools import lru_cache
from typing import Final, Literal

import msgspec

from plait.wire import netlink as nl

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34

AF_INET: Final = 2
AF_BRIDGE: Final = 7
AF_INET6: Final = 10

ADD: Final = nl.NLM_F_ACK | nl.NLM_F_CREATE | nl.NLM_F_EXCL
"""Fails with EEXIST rather than touch what is there."""
REPLACE: Final = nl.NLM_F_ACK | nl.NLM_F_CREATE | nl.NLM_F_REPLACE

IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS, IFA_PROTO = 1, 2, 8, 11
IFAPROT_KERNEL_LL: Final = 3
"""IFA_PROTO of the link-local addresses that the kernel makes (linux/if_addr.h)."""
IFA_F_NODAD: Final = 0x02
IFA_F_PERMANENT: Final = 0x80
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS = 1, 4, 5, 6, 7, 8
RTA_MULTIPATH, RTA_TABLE, RTA_VIA, RTA_NH_ID = 9, 15, 18, 30
RTAX_MTU: Final = 2
RTNH_F_ONLINK: Final = 4
RTM_F_FIB_MATCH: Final = 0x2000
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_HOST, RT_SCOPE_NOWHERE = 0, 253, 254, 255
RT_TABLE_COMPAT: Final = 252
IP6_RT_PRIO_USER: Final = 1024
"""Metric that IPv6 gives to a route without one (net/ipv6.h)."""
FRA_PRIORITY, FRA_FWMARK, FRA_TABLE, FRA_FWMASK, FRA_PROTOCOL = 6, 10, 15, 16, 21
FR_ACT_TO_TBL: Final = 1
NDA_DST, NDA_LLADDR, NDA_PROTOCOL = 1, 2, 12
NUD_NOARP: Final = 0x40
NUD_PERMANENT: Final = 0x80
NTF_SELF: Final = 0x02

Kind = Literal["unicast", "local", "blackhole", "unreachable", "other"]
KINDS: Final[dict[Kind, int]] = {"unicast": 1, "local": 2, "blackhole": 6, "unreachable": 7}
_KIND_NAMES: Final[dict[int, Kind]] = {number: name for name, number in KINDS.items()}
# An unreachable pool is "on-link": dockerd's own IPAM proposes only pools that overlap no route of
# that scope (moby libnetwork/netutils CheckRouteOverlaps), and so keeps off ours.
_SCOPES: Final[dict[Kind, int]] = {
    "local": RT_SCOPE_HOST,
    "unicast": RT_SCOPE_LINK,
    "unreachable": RT_SCOPE_LINK,
}

_IFADDR: Final = struct.Struct("=BBBBI")
_ROUTE: Final = struct.Struct("=BBBBBBBBI")
_RULE: Final = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR: Final = struct.Struct("=BBHiHBB")
_VIA_FAMILY: Final = struct.Struct("=H")


class AddressInfo(msgspec.Struct, frozen=True):
    """An address on an interface."""

    index: int
    address: str
    """With prefix length."""
    protocol: int
    """IFA_PROTO; 0 where the kernel (before 5.18) has none."""
    flags: int = 0


class RouteInfo(msgspec.Struct, frozen=True):
    """A route with at most one next hop."""

    dst: str
    """CIDR."""
    kind: Kind = "unicast"
    index: int = 0
    via: str = ""
    onlink: bool = False
    table: int = 254
    metric: int = 0
    src: str = ""
    mtu: int = 0
    protocol: int = 0

    @property
    def family(self) -> int:
        """AF_INET or AF_INET6."""
        return AF_INET6 if ":" in self.dst else AF_INET


class RuleInfo(msgspec.Struct, frozen=True):
    """A policy-routing rule that looks up a table for packets with a mark."""

    family: int
    priority: int
    table: int
    mark: int
    mask: int
    protocol: int = 0


class NeighbourInfo(msgspec.Struct, frozen=True):
    """An ARP or ND entry, or with family AF_BRIDGE a forwarding entry of a tunnel."""

    family: int
    index: int
    address: str
    """IP address; of a forwarding entry, the tunnel's far end (empty: none)."""
    mac: str
    state: int
    flags: int = 0

    @property
    def permanent(self) -> bool:
        """It was put there for good, not learned."""
        return bool(self.state & NUD_PERMANENT)


@lru_cache(maxsize=4096)
def pack_ip(address: str) -> bytes:
    """4 or 16 bytes of an address."""
    return ipaddress.ip_address(address).packed


@lru_cache(maxsize=4096)
def unpack_ip(packed: bytes) -> str:
    """Canonical text of an address of 4 or 16 bytes."""
    return str(ipaddress.ip_address(packed))


def pack_mac(mac: str) -> bytes:
    """6 bytes of a MAC."""
    return bytes.fromhex(mac.replace(":", ""))


def _split(cidr: str) -> tuple[int, bytes, int]:
    """Family, address and prefix length of `10.0.0.1/24`."""
    address, _, length = cidr.partition("/")
    packed = pack_ip(address)
    family = AF_INET if len(packed) == 4 else AF_INET6
    return family, packed, int(length) if length else len(packed) * 8


# Addresses (man 7 rtnetlink, linux/if_addr.h)


def _address(kind: int, flags: int, index: int, cidr: str, protocol: int) -> bytes:
    family, packed, length = _split(cidr)
    # A duplicate address cannot be on a link of ours: no detection, no wait.
    ifa_flags = IFA_F_PERMANENT | (IFA_F_NODAD if family == AF_INET6 else 0)
    scope = RT_SCOPE_LINK if packed[:2] == b"\xfe\x80" and family == AF_INET6 else 0
    payload = _IFADDR.pack(family, length, ifa_flags, scope, index)
    payload += nl.attribute(IFA_LOCAL, packed) + nl.attribute(IFA_ADDRESS, packed)
    if protocol:
        payload += nl.u8(IFA_PROTO, protocol)
    return nl.message(kind, flags, payload)


def new_address(index: int, cidr: str, protocol: int = 0, flags: int = ADD) -> bytes:
    """`ip address add CIDR dev INDEX`, without duplicate address detection."""
    return _address(RTM_NEWADDR, flags, index, cidr, protocol)


def del_address(index: int, cidr: str) -> bytes:
    """`ip address del CIDR dev INDEX`."""
    return _address(RTM_DELADDR, nl.NLM_F_ACK, index, cidr, 0)


def dump_addresses(family: int, index: int = 0) -> bytes:
    """All addresses of a family; of one interface where the socket checks strictly."""
    return nl.message(RTM_GETADDR, nl.NLM_F_DUMP, _IFADDR.pack(family, 0, 0, 0, index))


def parse_address(payload: bytes) -> AddressInfo:
    """One RTM_NEWADDR or RTM_DELADDR."""
    _, length, flags, _, index = _IFADDR.unpack_from(payload)
    found = nl.attributes(payload, _IFADDR.size)
    packed = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS, bytes(4))
    return AddressInfo(
        index,
        f"{unpack_ip(packed)}/{length}",
        nl.get_u8(found.get(IFA_PROTO)),
        nl.get_u32(found[IFA_FLAGS]) if IFA_FLAGS in found else flags,
    )


# Routes


def _route(kind: int, flags: int, route: RouteInfo) -> bytes:
    family, dst, length = _split(route.dst)
    scope = RT_SCOPE_UNIVERSE if route.via else _SCOPES.get(route.kind, RT_SCOPE_UNIVERSE)
    if kind == RTM_DELROUTE:
        scope = RT_SCOPE_NOWHERE  # Any scope matches.
    payload = _ROUTE.pack(
        family,
        length,
        0,
        0,
        route.table if route.table < 256 else RT_TABLE_COMPAT,
        route.protocol,
        scope,
        KINDS[route.kind],
        RTNH_F_ONLINK if route.onlink else 0,
    )
    payload += nl.attribute(RTA_DST, dst) + nl.u32(RTA_TABLE, route.table)
    metric = route.metric or (IP6_RT_PRIO_USER if family == AF_INET6 else 0)
    if metric:
        payload += nl.u32(RTA_PRIORITY, metric)
    if route.via:
        via = pack_ip(route.via)
        if len(via) == len(dst):
            payload += nl.attribute(RTA_GATEWAY, via)
        else:
            payload += nl.attribute(RTA_VIA, _VIA_FAMILY.pack(AF_INET6) + via)
    if route.index:
        payload += nl.u32(RTA_OIF, route.index)
    if route.src:
        payload += nl.attribute(RTA_PREFSRC, pack_ip(route.src))
    if route.mtu:
        payload += nl.nest(RTA_METRICS, nl.u32(RTAX_MTU, route.mtu))
    return nl.message(kind, flags, payload)


def new_route(route: RouteInfo, flags: int = ADD) -> bytes:
    """`ip route add`, or with REPLACE `ip route replace`."""
    return _route(RTM_NEWROUTE, flags, route)


def del_route(route: RouteInfo) -> bytes:
    """`ip route del`; the kernel matches what the route names, its protocol included."""
    return _route(RTM_DELROUTE, nl.NLM_F_ACK, route)


def dump_routes(family: int, protocol: int = 0) -> bytes:
    """Routes of every table; of one protocol where the socket checks strictly."""
    payload = _ROUTE.pack(family, 0, 0, 0, 0, protocol, 0, 0, 0)
    return nl.message(RTM_GETROUTE, nl.NLM_F_DUMP, payload)


def get_route(address: str) -> bytes:
    """`ip route get fibmatch ADDRESS`: the route that a packet to the address would take."""
    family, dst, length = _split(address)
    payload = _ROUTE.pack(family, length, 0, 0, 0, 0, 0, 0, RTM_F_FIB_MATCH)
    return nl.message(RTM_GETROUTE, 0, payload + nl.attribute(RTA_DST, dst))


def parse_route(payload: bytes) -> RouteInfo | None:
    """One RTM_NEWROUTE or RTM_DELROUTE; None for a family that is not IP.

    A route that we cannot have made (several next hops, a nexthop object, another type) has kind
    `other`. The IPv6 metric 1024 is shown as 0, for that is what asking for none gives.
    """
    family, length, _, _, table, protocol, _, kind, flags = _ROUTE.unpack_from(payload)
    if family not in {AF_INET, AF_INET6}:
        return None
    found = nl.attributes(payload, _ROUTE.size)
    dst = found.get(RTA_DST) or bytes(4 if family == AF_INET else 16)
    metric = nl.get_u32(found.get(RTA_PRIORITY))
    via = ""
    if RTA_GATEWAY in found:
        via = unpack_ip(found[RTA_GATEWAY])
    elif RTA_VIA in found:
        via = unpack_ip(found[RTA_VIA][2:])
    strange = RTA_MULTIPATH in found or RTA_NH_ID in found
    return RouteInfo(
        dst=f"{unpack_ip(dst)}/{length}",
        kind="other" if strange else _KIND_NAMES.get(kind, "other"),
        index=nl.get_u32(found.get(RTA_OIF)),
        via=via,
        onlink=bool(flags & RTNH_F_ONLINK),
        table=nl.get_u32(found[RTA_TABLE]) if RTA_TABLE in found else table,
        metric=0 if family == AF_INET6 and metric == IP6_RT_PRIO_USER else metric,
        src=unpack_ip(found[RTA_PREFSRC]) if RTA_PREFSRC in found else "",
        mtu=nl.get_u32(nl.attributes(found.get(RTA_METRICS, b"")).get(RTAX_MTU)),
        protocol=protocol,
    )


# Rules (linux/fib_rules.h)


def _rule(kind: int, flags: int, rule: RuleInfo) -> bytes:
    table = rule.table if rule.table < 256 else RT_TABLE_COMPAT
    payload = _RULE.pack(rule.family, 0, 0, 0, table, 0, 0, FR_ACT_TO_TBL, 0)
    payload += nl.u32(FRA_PRIORITY, rule.priority) + nl.u32(FRA_TABLE, rule.table)
    payload += nl.u32(FRA_FWMARK, rule.mark) + nl.u32(FRA_FWMASK, rule.mask)
    payload += nl.u8(FRA_PROTOCOL, rule.protocol)
    return nl.message(kind, flags, payload)


def new_rule(rule: RuleInfo) -> bytes:
    """`ip rule add fwmark MARK/MASK lookup TABLE priority N`."""
    return _rule(RTM_NEWRULE, ADD, rule)


def del_rule(rule: RuleInfo) -> bytes:
    """`ip rule del` of exactly that rule."""
    return _rule(RTM_DELRULE, nl.NLM_F_ACK, rule)


def dump_rules(family: int) -> bytes:
    """Rules of a family."""
    return nl.message(RTM_GETRULE, nl.NLM_F_DUMP, _RULE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))


def parse_rule(payload: bytes) -> RuleInfo:
    """One RTM_NEWRULE or RTM_DELRULE."""
    family, _, _, _, table, _, _, _, _ = _RULE.unpack_from(payload)
    found = nl.attributes(payload, _RULE.size)
    return RuleInfo(
        family=family,
        priority=nl.get_u32(found.get(FRA_PRIORITY)),
        table=nl.get_u32(found[FRA_TABLE]) if FRA_TABLE in found else table,
        mark=nl.get_u32(found.get(FRA_FWMARK)),
        mask=nl.get_u32(found.get(FRA_FWMASK)),
        protocol=nl.get_u8(found.get(FRA_PROTOCOL)),
    )


# Neighbours and forwarding entries (linux/neighbour.h)


def _neighbour(
    kind: int, flags: int, info: tuple[int, int, int, int], address: str, mac: str, protocol: int
) -> bytes:
    family, index, state, ntf = info
    payload = _NEIGHBOUR.pack(family, 0, 0, index, state, ntf, 0)
    payload += nl.attribute(NDA_DST, pack_ip(address)) if address else b""
    payload += nl.attribute(NDA_LLADDR, pack_mac(mac)) if mac else b""
    payload += nl.u8(NDA_PROTOCOL, protocol) if protocol else b""
    return nl.message(kind, flags, payload)


def family_of(address: str) -> int:
    """AF_INET or AF_INET6 of an address or CIDR."""
    return AF_INET6 if ":" in address else AF_INET


def new_neighbour(index: int, address: str, mac: str, protocol: int = 0) -> bytes:
    """`ip neighbour replace ADDRESS lladdr MAC nud permanent dev INDEX`."""
    info = (family_of(address), index, NUD_PERMANENT, 0)
    return _neighbour(RTM_NEWNEIGH, REPLACE, info, address, mac, protocol)


def del_neighbour(index: int, address: str) -> bytes:
    """`ip neighbour del ADDRESS dev INDEX`."""
    info = (family_of(address), index, 0, 0)
    return _neighbour(RTM_DELNEIGH, nl.NLM_F_ACK, info, address, "", 0)


def new_fdb(index: int, mac: str, dst: str) -> bytes:
    """`bridge fdb replace MAC dev INDEX dst DST self permanent`."""
    info = (AF_BRIDGE, index, NUD_NOARP | NUD_PERMANENT, NTF_SELF)
    return _neighbour(RTM_NEWNEIGH, REPLACE, info, dst, mac, 0)


def del_fdb(index: int, mac: str, dst: str) -> bytes:
    """`bridge fdb del MAC dev INDEX dst DST self`."""
    info = (AF_BRIDGE, index, NUD_NOARP | NUD_PERMANENT, NTF_SELF)
    return _neighbour(RTM_DELNEIGH, nl.NLM_F_ACK, info, dst, mac, 0)


def dump_neighbours(family: int, index: int) -> bytes:
    """Neighbour entries (AF_INET, AF_INET6) or forwarding entries (AF_BRIDGE) of an interface."""
    payload = _NEIGHBOUR.pack(family, 0, 0, 0, 0, 0, 0)
    if family == AF_BRIDGE:
        # The forwarding dump takes the interface in its header, the others as an attribute.
        payload = _NEIGHBOUR.pack(family, 0, 0, index, 0, 0, 0)
    else:
        payload += nl.u32(8, index)
    return nl.message(RTM_GETNEIGH, nl.NLM_F_DUMP, payload)


def parse_neighbour(payload: bytes) -> NeighbourInfo:
    """One RTM_NEWNEIGH or RTM_DELNEIGH."""
    family, _, _, index, state, flags, _ = _NEIGHBOUR.unpack_from(payload)
    found = nl.attributes(payload, _NEIGHBOUR.size)
    address = found.get(NDA_DST, b"")
    return NeighbourInfo(
        family=family,
        index=index,
        address=unpack_ip(address) if len(address) in {4, 16} else "",
        mac=found.get(NDA_LLADDR, b"").hex(":") if found.get(NDA_LLADDR) else "",
        state=state,
        flags=flags,
    )
