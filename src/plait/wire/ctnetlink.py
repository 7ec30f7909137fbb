"""Connection tracking over netlink (linux/netfilter/nfnetlink_conntrack.h): flows and deletion."""

from __future__ import annotations

import ipaddress
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
    original, protocol = _tuple(attrs[_TUPLE_ORIG], version)
    reply, _ = _tuple(attrs[_TUPLE_REPLY], version)
    key = nested(_TUPLE_ORIG, bytes(attrs[_TUPLE_ORIG]))
    if _ZONE in attrs:
        key += attr(_ZONE, bytes(attrs[_ZONE]))
    # With the id, an entry that took the place of this one meanwhile is left alone.
    return Flow(version, protocol, original, reply, key + u32(_ID, integer(attrs[_ID])))


def _tuple(view: memoryview, version: Literal[4, 6]) -> tuple[Tuple, int]:
    attrs = attributes(view)
    ip, proto = attributes(attrs[1]), attributes(attrs[2])
    src, dst = _IP[version]
    ports = [integer(proto[kind]) if kind in proto else 0 for kind in (2, 3)]
    return (
        Tuple(
            str(ipaddress.ip_address(bytes(ip[src]))),
            str(ipaddress.ip_address(bytes(ip[dst]))),
            *ports,
        ),
        integer(proto[1]),
    )
