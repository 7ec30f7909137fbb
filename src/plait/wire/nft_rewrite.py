"""Statements that change a packet or where it goes: translation, proxying, marks, tracking.

Source: linux/netfilter/nf_tables.h. Every value is bytes or a number that code computed.
"""

from __future__ import annotations

import ipaddress
from typing import Final, Literal

import msgspec

from plait.wire.nfnetlink import nested, string, u32
from plait.wire.nft_expr import (
    MARK,
    NFPROTO,
    REG32_00,
    REG_1,
    Field,
    bitwise,
    expression,
    field_names,
    host32,
    load_fields,
    value_data,
)


def _immediate(register: int, value: bytes) -> bytes:
    return expression("immediate", u32(1, register), nested(2, value_data(value)))


_NAT_SNAT: Final = 0
_NAT_DNAT: Final = 1


class DnatByMap(msgspec.Struct, frozen=True):
    """Rewrite the destination to the address and port that a map holds for the fields."""

    family: Literal[4, 6]
    fields: tuple[Field, ...]
    map: str

    def pack(self) -> bytes:
        """See Statement."""
        address = REG32_00
        port = address + (1 if self.family == 4 else 4)
        return (
            load_fields(self.fields)
            + expression("lookup", string(1, self.map), u32(2, REG32_00), u32(3, address))
            + expression(
                "nat",
                u32(1, _NAT_DNAT),
                u32(2, NFPROTO[self.family]),
                u32(3, address),
                u32(5, port),
            )
        )

    def text(self) -> str:
        """See Statement."""
        family = "ip" if self.family == 4 else "ip6"
        return f"dnat {family} to {field_names(self.fields)} map @{self.map}"


class Snat(msgspec.Struct, frozen=True):
    """Rewrite the source to an address."""

    address: str

    def pack(self) -> bytes:
        """See Statement."""
        ip = ipaddress.ip_address(self.address)
        return _immediate(REG_1, ip.packed) + expression(
            "nat", u32(1, _NAT_SNAT), u32(2, NFPROTO[ip.version]), u32(3, REG_1)
        )

    def text(self) -> str:
        """See Statement."""
        family = "ip" if ipaddress.ip_address(self.address).version == 4 else "ip6"
        return f"snat {family} to {self.address}"


class Masquerade(msgspec.Struct, frozen=True):
    """Rewrite the source to the outgoing interface's address."""

    def pack(self) -> bytes:
        """See Statement."""
        return expression("masq")

    def text(self) -> str:
        """See Statement."""
        return "masquerade"


class NoTrack(msgspec.Struct, frozen=True):
    """Keep the packet out of connection tracking."""

    def pack(self) -> bytes:
        """See Statement."""
        return expression("notrack")

    def text(self) -> str:
        """See Statement."""
        return "notrack"


class Tproxy(msgspec.Struct, frozen=True):
    """Hand the packet, unchanged, to the transparent socket that listens on an address.

    When there is none the rule ends here and the packet goes on untouched.
    """

    address: str
    port: int

    def pack(self) -> bytes:
        """See Statement."""
        ip = ipaddress.ip_address(self.address)
        port = REG32_00 + len(ip.packed) // 4
        return (
            _immediate(REG32_00, ip.packed)
            + _immediate(port, self.port.to_bytes(2, "big"))
            + expression("tproxy", u32(1, NFPROTO[ip.version]), u32(2, REG32_00), u32(3, port))
        )

    def text(self) -> str:
        """See Statement."""
        if ipaddress.ip_address(self.address).version == 4:
            return f"tproxy ip to {self.address}:{self.port}"
        return f"tproxy ip6 to [{self.address}]:{self.port}"


class SetMark(msgspec.Struct, frozen=True):
    """Set the packet mark's bits under a mask, and leave the others."""

    mask: int
    value: int

    def pack(self) -> bytes:
        """See Statement."""
        keep = ~self.mask & 0xFFFF_FFFF
        return (
            MARK.load(REG_1)
            + bitwise(host32(keep), host32(self.value))
            + expression("meta", u32(2, 3), u32(3, REG_1))
        )

    def text(self) -> str:
        """See Statement."""
        keep = ~self.mask & 0xFFFF_FFFF
        return f"meta mark set meta mark & 0x{keep:08x} ^ 0x{self.value:08x}"
