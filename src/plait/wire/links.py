"""rtnetlink messages of links: veth pairs, VXLAN and IFB devices (linux/if_link.h).

IFLA_IFALIAS and IFLA_INET6_ADDR_GEN_MODE are taken by a change of a link only, never by its
creation (net/core/rtnetlink.c), hence `set_link`.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from plait.wire import netlink as nl
from plait.wire.rtnetlink import ADD, AF_INET, AF_INET6, pack_ip, pack_mac, unpack_ip

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
IFF_UP: Final = 1

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_LINKINFO = 1, 3, 4, 5, 18
IFLA_IFALIAS, IFLA_AF_SPEC, IFLA_GROUP, IFLA_NET_NS_FD, IFLA_EXT_MASK = 20, 26, 27, 28, 29
IFLA_LINK_NETNSID: Final = 37
IFLA_STATS, IFLA_STATS64 = 7, 23
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
VETH_INFO_PEER: Final = 1
IFLA_INET_CONF: Final = 1
IFLA_INET6_CONF, IFLA_INET6_ADDR_GEN_MODE = 2, 8
IN6_ADDR_GEN_MODE_NONE: Final = 1
RTEXT_FILTER_SKIP_STATS: Final = 8
VXLAN_ID, VXLAN_LOCAL, VXLAN_LEARNING, VXLAN_PORT, VXLAN_LOCAL6 = 1, 4, 7, 15, 17

_IFINFO: Final = struct.Struct("=BBHiII")

DEVCONF4: Final = {
    "forwarding": 0,
    "proxy_arp": 2,
    "accept_redirects": 3,
    "send_redirects": 5,
    "rp_filter": 7,
    "accept_source_route": 8,
    "arp_filter": 12,
    "arp_announce": 17,
    "arp_ignore": 18,
    "accept_local": 22,
    "src_valid_mark": 23,
    "route_localnet": 25,
}
"""Position of net/ipv4/conf/<link>/<key> in IFLA_INET_CONF (linux/ip.h, counted from 0)."""
DEVCONF6: Final = {
    "forwarding": 0,
    "accept_ra": 3,
    "accept_redirects": 4,
    "autoconf": 5,
    "dad_transmits": 6,
    "proxy_ndp": 22,
    "disable_ipv6": 26,
    "accept_dad": 27,
    "addr_gen_mode": 47,
}
"""Position of net/ipv6/conf/<link>/<key> in IFLA_INET6_CONF (linux/ipv6.h)."""
_DEVCONF: Final = {"ipv4": DEVCONF4, "ipv6": DEVCONF6}


class VxlanInfo(msgspec.Struct, frozen=True):
    """What the kernel says of a VXLAN device."""

    vni: int
    port: int
    local: str
    learning: bool


class LinkInfo(msgspec.Struct, frozen=True):
    """A link as the kernel dumps it."""

    index: int
    name: str
    up: bool
    group: int
    mtu: int
    mac: str
    alias: str = ""
    kind: str = ""
    peer: int = 0
    """IFLA_LINK: index of a veth's other end, in that end's namespace."""
    peer_elsewhere: bool = False
    """The other end is in another namespace."""
    conf4: bytes = b""
    conf6: bytes = b""
    vxlan: VxlanInfo | None = None

    def sysctl(self, key: str) -> str | None:
        """Value of `net/<ipv4|ipv6>/conf/<link>/<setting>`, out of the dump itself.

        `key` is `<ipv4|ipv6>/conf/<link>/<setting>`. None: the dump does not say.
        """
        family, _, rest = key.partition("/")
        position = _DEVCONF.get(family, {}).get(rest.rpartition("/")[2])
        values = self.conf4 if family == "ipv4" else self.conf6
        if position is None or len(values) < 4 * position + 4:
            return None
        return str(struct.unpack_from("=i", values, 4 * position)[0])

    @property
    def addrgen_none(self) -> bool:
        """The kernel makes no link-local address of its own."""
        return self.sysctl("ipv6/conf//addr_gen_mode") == str(IN6_ADDR_GEN_MODE_NONE)


def _ifinfo(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return _IFINFO.pack(0, 0, 0, index, flags, change)


def new_veth(
    name: str,
    *,
    mac: str,
    mtu: int,
    group: int,
    peer_name: str,
    peer_mac: str,
    peer_group: int = 0,
    peer_netns: int = -1,
) -> bytes:
    """`ip link add NAME type veth peer name PEER netns …`, both ends down.

    `peer_netns` is a descriptor of the namespace in which the peer is born; -1: the same as the
    host side's. All in one message, so that no end is ever seen without its group and MTU.
    """
    peer = _ifinfo() + nl.text(IFLA_IFNAME, peer_name) + nl.u32(IFLA_MTU, mtu)
    peer += nl.attribute(IFLA_ADDRESS, pack_mac(peer_mac)) + nl.u32(IFLA_GROUP, peer_group)
    if peer_netns >= 0:
        peer += nl.s32(IFLA_NET_NS_FD, peer_netns)
    data = nl.attribute(VETH_INFO_PEER, peer)
    payload = _ifinfo() + nl.text(IFLA_IFNAME, name) + nl.u32(IFLA_MTU, mtu)
    payload += nl.attribute(IFLA_ADDRESS, pack_mac(mac)) + nl.u32(IFLA_GROUP, group)
    kind = nl.text(IFLA_INFO_KIND, "veth") + nl.attribute(IFLA_INFO_DATA, data)
    return nl.message(RTM_NEWLINK, ADD, payload + nl.attribute(IFLA_LINKINFO, kind))


def new_vxlan(name: str, *, mac: str, mtu: int, vni: int, port: int, local: str) -> bytes:
    """`ip link add NAME type vxlan id VNI local LOCAL dstport PORT nolearning`, down.

    UDP checksums are left as the kernel has them: on, which lets receivers aggregate.
    """
    packed = pack_ip(local)
    data = nl.u32(VXLAN_ID, vni) + nl.u16_network(VXLAN_PORT, port) + nl.u8(VXLAN_LEARNING, 0)
    data += nl.attribute(VXLAN_LOCAL if len(packed) == 4 else VXLAN_LOCAL6, packed)
    payload = _ifinfo() + nl.text(IFLA_IFNAME, name) + nl.u32(IFLA_MTU, mtu)
    payload += nl.attribute(IFLA_ADDRESS, pack_mac(mac))
    kind = nl.text(IFLA_INFO_KIND, "vxlan") + nl.attribute(IFLA_INFO_DATA, data)
    return nl.message(RTM_NEWLINK, ADD, payload + nl.attribute(IFLA_LINKINFO, kind))


def new_ifb(name: str, *, group: int) -> bytes:
    """`ip link add NAME group GROUP type ifb`, down: a link through which others lead what they
    receive, so that it can wait in a queue."""
    payload = _ifinfo() + nl.text(IFLA_IFNAME, name) + nl.u32(IFLA_GROUP, group)
    kind = nl.text(IFLA_INFO_KIND, "ifb")
    return nl.message(RTM_NEWLINK, ADD, payload + nl.attribute(IFLA_LINKINFO, kind))


def set_link(
    index: int,
    *,
    up: bool | None = None,
    mtu: int = 0,
    mac: str = "",
    group: int = -1,
    alias: str = "",
    addrgen_none: bool = False,
) -> bytes:
    """`ip link set INDEX …`: only what is named changes.

    The kernel raises a link before it reads the address generation mode of the same message, so
    `addrgen_none` and `up` belong into two messages.
    """
    flags = IFF_UP if up else 0
    payload = _ifinfo(index, flags, IFF_UP if up is not None else 0)
    payload += nl.u32(IFLA_MTU, mtu) if mtu else b""
    payload += nl.attribute(IFLA_ADDRESS, pack_mac(mac)) if mac else b""
    payload += nl.u32(IFLA_GROUP, group) if group >= 0 else b""
    payload += nl.attribute(IFLA_IFALIAS, alias.encode()) if alias else b""
    if addrgen_none:
        mode = nl.u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE)
        payload += nl.nest(IFLA_AF_SPEC, nl.nest(AF_INET6, mode))
    return nl.message(RTM_SETLINK, nl.NLM_F_ACK, payload)


def del_link(index: int) -> bytes:
    """`ip link del INDEX`. About 20 ms for a veth: the kernel waits for its readers."""
    return nl.message(RTM_DELLINK, nl.NLM_F_ACK, _ifinfo(index))


def del_group(group: int) -> bytes:
    """`ip link del group GROUP`: all of them for one wait."""
    return nl.message(RTM_DELLINK, nl.NLM_F_ACK, _ifinfo() + nl.u32(IFLA_GROUP, group))


def dump_links(kind: str = "") -> bytes:
    """Links without statistics; of one kind where the socket checks strictly."""
    payload = _ifinfo() + nl.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    if kind:
        payload += nl.nest(IFLA_LINKINFO, nl.text(IFLA_INFO_KIND, kind))
    return nl.message(RTM_GETLINK, nl.NLM_F_DUMP, payload)


def get_link(index: int) -> bytes:
    """One link."""
    payload = _ifinfo(index) + nl.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    return nl.message(RTM_GETLINK, 0, payload)


def index_of(payload: bytes) -> int:
    """Index of the link that a message is about."""
    return int(_IFINFO.unpack_from(payload)[3])


def counters(payload: bytes) -> tuple[int, int]:
    """Where the packet counters of a dumped link begin and end; they differ in every dump."""
    offset, begin = _IFINFO.size, 0
    while offset + 4 <= len(payload):
        length, kind = nl.ATTRIBUTE.unpack_from(payload, offset)
        if kind in {IFLA_STATS, IFLA_STATS64}:
            begin = begin or offset
        elif begin or length < 4:
            break
        offset += (length + 3) & ~3
    return begin or offset, offset


def parse_link(payload: bytes) -> LinkInfo:
    """One RTM_NEWLINK or RTM_DELLINK."""
    _, _, _, index, flags, _ = _IFINFO.unpack_from(payload)
    found = nl.attributes(payload, _IFINFO.size)
    get = found.get
    info = nl.attributes(get(IFLA_LINKINFO, b""))
    kind = nl.get_text(info.get(IFLA_INFO_KIND))
    spec = nl.attributes(get(IFLA_AF_SPEC, b""))
    conf4 = nl.attributes(spec.get(AF_INET, b"")).get(IFLA_INET_CONF, b"")
    conf6 = nl.attributes(spec.get(AF_INET6, b"")).get(IFLA_INET6_CONF, b"")
    mac = get(IFLA_ADDRESS)
    return LinkInfo(
        index=index,
        name=nl.get_text(get(IFLA_IFNAME)),
        up=bool(flags & IFF_UP),
        group=nl.get_u32(get(IFLA_GROUP)),
        mtu=nl.get_u32(get(IFLA_MTU)),
        mac=mac.hex(":") if mac else "",
        alias=nl.get_text(get(IFLA_IFALIAS)),
        kind=kind,
        peer=nl.get_u32(get(IFLA_LINK)),
        peer_elsewhere=IFLA_LINK_NETNSID in found,
        conf4=conf4,
        conf6=conf6,
        vxlan=_parse_vxlan(info.get(IFLA_INFO_DATA, b"")) if kind == "vxlan" else None,
    )


def _parse_vxlan(data: bytes) -> VxlanInfo:
    found = nl.attributes(data)
    local = found.get(VXLAN_LOCAL) or found.get(VXLAN_LOCAL6)
    return VxlanInfo(
        vni=nl.get_u32(found.get(VXLAN_ID)),
        port=int.from_bytes(found.get(VXLAN_PORT, b""), "big"),
        local=unpack_ip(local) if local else "",
        learning=bool(nl.get_u8(found.get(VXLAN_LEARNING))),
    )
