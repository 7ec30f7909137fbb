"""Keys and values of the elements of nf_tables sets: their data types, one after the other.

Source: linux/netfilter/nf_tables.h; numbers of types are libnftables' (datatype.h).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Final, NamedTuple

from plait.wire import nft_expr as e


class Type(NamedTuple):
    """A data type of set keys and values; `ident` is libnftables' number, for `nft list`."""

    name: str
    ident: int
    size: int
    show: Callable[[bytes], str]


IFNAME: Final = Type("ifname", 41, 16, e.show_ifname)
IPV4: Final = Type("ipv4_addr", 7, 4, e.show_address)
IPV6: Final = Type("ipv6_addr", 8, 16, e.show_address)
PROTO: Final = Type("inet_proto", 12, 1, e.show_protocol)
SERVICE: Final = Type("inet_service", 13, 2, e.show_number)
NUMBER: Final = Type("mark", 19, 4, e.show_host)
"""A number of 32 bits in host order."""
ADDRESS: Final = {4: IPV4, 6: IPV6}


def width(types: tuple[Type, ...]) -> int:
    """Bytes of a key or value: each part of a concatenation stands on a four-byte boundary."""
    return types[0].size if len(types) == 1 else sum((t.size + 3) & ~3 for t in types)


def ident(types: tuple[Type, ...]) -> int:
    """Number of a concatenated type: libnftables gives each part six bits."""
    number = 0
    for t in types:
        number = number << 6 | t.ident
    return number


def show(types: tuple[Type, ...], raw: bytes) -> str:
    """A key or value in nft's syntax."""
    parts, offset = [], 0
    for t in types:
        parts.append(t.show(raw[offset : offset + t.size]))
        offset += (t.size + 3) & ~3
    return " . ".join(parts)


def concat(*parts: bytes) -> bytes:
    """A concatenated key or value: each part padded to four bytes."""
    return b"".join([p + bytes(-len(p) & 3) for p in parts])


def cidr_range(cidr: str) -> bytes:
    """Key of a CIDR in an interval set."""
    net = ipaddress.ip_network(cidr)
    return net.network_address.packed + net.broadcast_address.packed
