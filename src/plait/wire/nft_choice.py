"""Statements that choose one of many by numbers, and remember what was chosen.

Source: linux/netfilter/nf_tables.h. What a look-up gives may be compared or translated to, but is
never the key of another look-up: nft 1.0.6, which lists other people's rules beside ours, aborts
on that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

import msgspec

from plait.wire.nfnetlink import attr, nested, string, u32
from plait.wire.nft_expr import (
    REG32_00,
    Field,
    expression,
    field_names,
    host32,
    load_fields,
    show_address,
    show_host,
    show_number,
    value_data,
)

_NG_RANDOM: Final = 1
_EQ: Final = 0
_DYNSET_UPDATE: Final = 1
_RESULT: Final = 20
"""REG32_12: where a number that was looked up does not touch the longest key of ours."""
_CT_PROTO_SRC, _CT_PROTO_DST = 11, 12
_CT_IP: Final = {4: (19, 20), 6: (21, 22)}
"""NFT_CT_SRC_IP and NFT_CT_DST_IP, of each family."""
_ORIGINAL, _REPLY = 0, 1


def _ct(key: int, direction: int) -> Callable[[int], bytes]:
    return cache(
        lambda reg: expression("ct", u32(1, reg), u32(2, key), attr(3, bytes((direction,))))
    )


def _ip(side: int, direction: int) -> dict[int, Field]:
    way = ("original", "reply")[direction]
    names = {4: f"ct {way} ip", 6: f"ct {way} ip6"}
    return {
        f: Field(
            f"{names[f]} {('saddr', 'daddr')[side]}",
            4 if f == 4 else 16,
            _ct(_CT_IP[f][side], direction),
            show_address,
        )
        for f in (4, 6)
    }


CLIENT: Final = _ip(0, _ORIGINAL)
"""Who began the flow."""
CALLED: Final = _ip(1, _ORIGINAL)
"""The address to which the flow was sent, before translation."""
CALLED_PORT: Final = Field("ct original proto-dst", 2, _ct(_CT_PROTO_DST, _ORIGINAL), show_number)
BACKEND: Final = _ip(0, _REPLY)
"""Who answers in the flow, after translation."""
BACKEND_PORT: Final = Field("ct reply proto-src", 2, _ct(_CT_PROTO_SRC, _REPLY), show_number)
CT_DIRECTION: Final = Field(
    "ct direction",
    1,
    cache(lambda reg: expression("ct", u32(1, reg), u32(2, 1))),
    lambda raw: ("original", "reply")[raw[0]],
)
REPLY: Final = bytes((_REPLY,))


@cache
def random(count: int, first: int = 0) -> Field:
    """One of `count` numbers from `first` on, each as likely, another one for each packet."""
    offset = f" offset {first}" if first else ""
    return Field(
        f"numgen random mod {count}{offset}",
        4,
        cache(
            lambda reg: expression(
                "numgen", u32(1, reg), u32(2, count), u32(3, _NG_RANDOM), u32(4, first)
            )
        ),
        show_host,
    )


class MapIs(msgspec.Struct, frozen=True):
    """The number that a map holds for the fields is this one; not when it holds none."""

    fields: tuple[Field, ...]
    map: str
    value: int

    def pack(self) -> bytes:
        """See Statement."""
        return (
            load_fields(self.fields)
            + expression("lookup", string(1, self.map), u32(2, REG32_00), u32(3, _RESULT))
            + expression(
                "cmp", u32(1, _RESULT), u32(2, _EQ), nested(3, value_data(host32(self.value)))
            )
        )

    def text(self) -> str:
        """See Statement."""
        return f"{field_names(self.fields)} map @{self.map} {self.value}"


class UpdateMap(msgspec.Struct, frozen=True):
    """Have a map hold fields for fields for so long from now on; what it holds already stays.

    When the map is full the rule ends here.
    """

    map: str
    key: tuple[Field, ...]
    value: tuple[Field, ...]
    milliseconds: int

    def pack(self) -> bytes:
        """See Statement."""
        data = REG32_00 + sum((field.size + 3) // 4 for field in self.key)
        return load_fields(self.key + self.value) + expression(
            "dynset",
            string(1, self.map),
            u32(3, _DYNSET_UPDATE),
            u32(4, REG32_00),
            u32(5, data),
            attr(6, self.milliseconds.to_bytes(8, "big")),
        )

    def text(self) -> str:
        """See Statement."""
        return (
            f"update @{self.map} {{ {field_names(self.key)} timeout {self.milliseconds}ms"
            f" : {field_names(self.value)} }}"
        )
