"""Statements that count under a name, log or refuse.

Source: linux/netfilter/nf_tables.h. Names and prefixes are opaque ids that code computed.
"""

from __future__ import annotations

import msgspec

from plait.wire.nfnetlink import attr, string, u16, u32
from plait.wire.nft_expr import expression

_OBJECT_COUNTER = 1
_REJECT_TCP_RESET = 1
_REJECT_ICMPX = 2
_ICMPX_NO_ROUTE = 0
_ICMPX_PORT_UNREACHABLE = 1
_ICMPX_ADMIN_PROHIBITED = 3


class CountIn(msgspec.Struct, frozen=True):
    """Count packets and bytes in a named counter, which outlives the rule."""

    counter: str

    def pack(self) -> bytes:
        """See Statement."""
        return expression("objref", u32(1, _OBJECT_COUNTER), string(2, self.counter))

    def text(self) -> str:
        """See Statement."""
        return f'counter name "{self.counter}"'


class Log(msgspec.Struct, frozen=True):
    """Hand a copy of the packet's beginning to whoever listens on a group of NFLOG.

    Nobody there costs nothing. The prefix is at most 127 bytes.
    """

    prefix: str
    group: int
    snaplen: int
    """Bytes of the packet, from its IP header on."""

    def pack(self) -> bytes:
        """See Statement."""
        return expression("log", u16(1, self.group), string(2, self.prefix), u32(3, self.snaplen))

    def text(self) -> str:
        """See Statement."""
        return f'log prefix "{self.prefix}" group {self.group} snaplen {self.snaplen}'


class Reset(msgspec.Struct, frozen=True):
    """Drop a TCP packet and answer with a reset; for packets known to be TCP only."""

    def pack(self) -> bytes:
        """See Statement."""
        return expression("reject", u32(1, _REJECT_TCP_RESET), attr(2, b"\0"))

    def text(self) -> str:
        """See Statement."""
        return "reject with tcp reset"


class Prohibit(msgspec.Struct, frozen=True):
    """Drop a packet and say by ICMP or ICMPv6 that it is administratively prohibited."""

    def pack(self) -> bytes:
        """See Statement."""
        code = bytes([_ICMPX_ADMIN_PROHIBITED])
        return expression("reject", u32(1, _REJECT_ICMPX), attr(2, code))

    def text(self) -> str:
        """See Statement."""
        return "reject with icmpx admin-prohibited"


class RejectNoRoute(msgspec.Struct, frozen=True):
    """Drop the packet and say, by ICMP or ICMPv6, that there is no way to its destination."""

    def pack(self) -> bytes:
        """See Statement."""
        code = bytes([_ICMPX_NO_ROUTE])
        return expression("reject", u32(1, _REJECT_ICMPX), attr(2, code))

    def text(self) -> str:
        """See Statement."""
        return "reject with icmpx no-route"


class RejectPort(msgspec.Struct, frozen=True):
    """Drop the packet and say, by ICMP or ICMPv6, that nobody listens on its port."""

    def pack(self) -> bytes:
        """See Statement."""
        code = bytes([_ICMPX_PORT_UNREACHABLE])
        return expression("reject", u32(1, _REJECT_ICMPX), attr(2, code))

    def text(self) -> str:
        """See Statement."""
        return "reject with icmpx port-unreachable"
