"""Connection tracking over netlink (linux/netfilter/nfnetlink_conntrack.h): flows and deletion."""

from __future__ import annotations

import ipaddress
import struct
from typing import Final, Literal, NamedTuple

from plait.wire.nfnetlink import (
    SUBSYS_CTNETLINK,
    Message,
    attr,
    attributes,
    integer,
    nested,
    u32,
)

CT_NEW: Final = SUBSYS_CTNETLINK << 8 | 0
CT_GET: Final = SUBSYS_CTNETLINK << 8 | 1
CT_DELETE: Final = SUBSYS_CTNETLINK << 8 | 2

AF: Final = {4: 2, 6: 10}

_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE = 1, 2, 12, 18
_IP: Final = {4: (1, 2), 6: (3, 4)}
_PORTS: Final = (2, 3)
_ICMP: Final = {4: (5, 6), 6: (8, 9)}
"""CTA_PROTO_ICMP_TYPE and _CODE, of each family."""
_LENGTH: Final = struct.Struct("=H")
_SOURCE: Final = 12
"""Offset of the source in an attribute of a tuple: behind its own header, that of CTA_TUPLE_IP,
which the kernel writes first, and that of the address."""
_ADDRESS: Final = {AF[4]: 4, AF[6]: 16}


class Tuple(NamedTuple):
    """One direction of a flow."""

    src: str
    dst: str
    sport: int
    dport: int


class Flow(NamedTuple):
    """An entry of the connection table."""

    family: Literal[4, 6]
    protocol: int
    original: Tuple
    reply: Tuple
    key: bytes
    """Attributes that name this very entry in a deletion."""
    icmp_type: int = -1
    """Of the first message; -1 for other protocols."""
    icmp_code: int = -1


def flow(msg: Message) -> Flow | None:
    """Of an IPCTNL_MSG_CT_NEW; None for a family that is not IP."""
    version: Literal[4, 6]
    if msg.family == AF[4]:
        version = 4
    elif msg.family == AF[6]:
        version = 6
    else:
        return None
    attrs = attributes(msg.body)
    original, protocol, kind = _tuple(attrs[_TUPLE_ORIG], version)
    reply, _, _ = _tuple(attrs[_TUPLE_REPLY], version)
    key = nested(_TUPLE_ORIG, bytes(attrs[_TUPLE_ORIG]))
    if _ZONE in attrs:
        key += attr(_ZONE, bytes(attrs[_ZONE]))
    # With the id, an entry that took the place of this one meanwhile is left alone.
    return Flow(version, protocol, original, reply, key + u32(_ID, integer(attrs[_ID])), *kind)


def ends(msg: Message) -> tuple[bytes, bytes]:
    """Packed addresses of the sender and of the receiver as translated: the source of either
    direction. Of a message that says neither, two empty ones.

    Tables are large, and most entries are nobody's of ours: this costs a tenth of `flow`.
    """
    size = _ADDRESS.get(msg.family, 0)
    body = msg.body
    second = (_LENGTH.unpack_from(body)[0] + 3) & ~3 if len(body) >= _LENGTH.size else 0
    if not size or len(body) < second + _SOURCE + size:
        return b"", b""
    reply = second + _SOURCE
    return bytes(body[_SOURCE : _SOURCE + size]), bytes(body[reply : reply + size])


def _tuple(view: memoryview, version: Literal[4, 6]) -> tuple[Tuple, int, tuple[int, int]]:
    attrs = attributes(view)
    ip, proto = attributes(attrs[1]), attributes(attrs[2])
    src, dst = _IP[version]
    ports = [integer(proto[kind]) if kind in proto else 0 for kind in _PORTS]
    icmp_type, icmp_code = (integer(proto[k]) if k in proto else -1 for k in _ICMP[version])
    return (
        Tuple(
            str(ipaddress.ip_address(bytes(ip[src]))),
            str(ipaddress.ip_address(bytes(ip[dst]))),
            *ports,
        ),
        integer(proto[1]),
        (icmp_type, icmp_code),
    )
