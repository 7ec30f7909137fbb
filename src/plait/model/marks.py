"""How every kernel object of ours is recognised (design section 4), and names derived from ids.

A restarted agent remembers nothing about the kernel: it finds its own objects by these marks
and touches nothing without one.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from typing import Final

PROTOCOL: Final = 112
"""rtnetlink protocol of our routes and rules (rtm_protocol) and addresses (IFA_PROTO)."""
LINK_GROUP: Final = 112
"""IFLA_GROUP of every host-side veth, of its shaper, and of a peer that waits in the host
namespace."""
DOOM_GROUP: Final = 0x706C_0071
"""IFLA_GROUP of a host-side veth that is down and waits to be deleted with others: deleting one
alone takes the kernel 20 ms. Never seen as an endpoint again."""
NFT_TABLE: Final = "plait"
"""nftables table, family inet."""
QDISC_HANDLE: Final = 0x706C_0000
"""Handle of the token buckets on links of ours: 706c:, as `tc` writes it."""
FILTER_PRIORITY: Final = 0x706C
"""Priority (`pref`) of the filters by which links of ours lead through a shaper."""
LOG_GROUP: Final = 0x706C
"""NFLOG group to which our rules log, in each namespace that has our table."""
LOG_PREFIX: Final = re.compile(r"([a-z0-9]{1,16})\.([ei])([ads])")
"""Prefix of what our rules log: id of the rule or word for the reason; egress or ingress; accept,
deny, or staged: would be denied."""
COMMENT: Final = "plait"
"""Comment of our rules in chains that belong to others (DOCKER-USER)."""
ALIAS_PREFIX: Final = "plait:"
"""IFLA_IFALIAS of a host-side veth: `plait:<endpoint id>`."""

VXLAN_LINK: Final = "plait.vx"
VXLAN_PORT: Final = 4789
"""UDP port of VXLAN (RFC 7348, IANA)."""
VXLAN_VNI: Final = 0x706C
"""24-bit network identifier; it separates us from another VXLAN on the same port."""
VXLAN_OVERHEAD4: Final = 50
"""Bytes: outer Ethernet is not counted; IPv4 20 + UDP 8 + VXLAN 8 + inner Ethernet 14."""
VXLAN_OVERHEAD6: Final = 70

GATEWAY4: Final = "169.254.1.1"
"""Next hop of every endpoint and address of the resolver; on `lo` of every host."""
GATEWAY6: Final = "fe80::1"
"""Next hop of every endpoint; on every host-side veth, for it answers only on its own link."""
RESOLVER6: Final = "fd70:6c61:6974::53"
"""The resolver's IPv6 address, on `lo` of every host."""
DNS_PORT: Final = 53
DNS_MARK: Final = 0x0070_0000
DNS_MARK_MASK: Final = 0x00F0_0000
"""Packet mark of DNS packets on their way to the resolver; routed by table `DNS_ROUTE_TABLE`."""
SERVICE_MARK: Final = 0x0080_0000
"""Bit of a packet that begins a flow to a Service, in the field of `DNS_MARK_MASK`, as the next
ones, which say more of it."""
OUTSIDE_MARK: Final = 0x0010_0000
"""It comes from outside of our networks."""
OWN_MARK: Final = 0x0020_0000
"""It comes from this host itself."""
STICKY_MARK: Final = 0x0040_0000
"""Its client is to stay with the backend."""
NODE_MARK: Final = 0x0040_0000
"""Field of `DNS_MARK_MASK` of answers to another node, which go the way of our networks: routed by
table `NODE_ROUTE_TABLE`."""
NODE_ROUTE_TABLE: Final = 113
DNS_ROUTE_TABLE: Final = 112
RULE_PRIORITY: Final = 112

HOST_MAC: Final = "ee:ee:ee:ee:ee:ee"
"""MAC of every host-side veth. Each is alone on its link, so one address serves all, and
containers may hold a permanent neighbour entry for it."""


def host_ifname(endpoint_id: str) -> str:
    """Name of the host side of an endpoint: `pl` and 11 hex digits of a hash of its id."""
    return "pl" + hashlib.sha256(endpoint_id.encode()).hexdigest()[:11]


def peer_ifname(endpoint_id: str) -> str:
    """Name of the peer while it waits in the host namespace for a runtime to take it."""
    return "pt" + hashlib.sha256(endpoint_id.encode()).hexdigest()[:11]


def shaper_ifname(host_side: str) -> str:
    """Name of the IFB link in which what an endpoint sends waits its turn: `pi` in the place of
    the host side's `pl`."""
    return "pi" + host_side.removeprefix("pl")


def _mac(kind: str, ident: str) -> str:
    digest = hashlib.sha256(f"{kind}/{ident}".encode()).digest()
    # Locally administered, unicast: bit 1 set, bit 0 clear (IEEE 802 section 8.2.2).
    octets = bytes([(digest[0] & 0xFC) | 0x02]) + digest[1:6]
    return octets.hex(":")


def endpoint_mac(endpoint_id: str) -> str:
    """MAC of the container side, derived from the id so that it survives re-creation."""
    return _mac("endpoint", endpoint_id)


def vtep_mac(node_uid: str) -> str:
    """MAC of a node's `plait.vx`, derived from the node's uid so that it survives re-creation."""
    return _mac("vtep", node_uid)


def link_local(mac: str) -> str:
    """Modified EUI-64 link-local address of a MAC (RFC 4291 appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    eui = bytes([octets[0] ^ 0x02]) + octets[1:3] + b"\xff\xfe" + octets[3:6]
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + eui))
