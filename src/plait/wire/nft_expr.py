"""nf_tables expressions as values: `.pack()` for the kernel, `.text()` in nft's syntax.

A rule is a sequence of statements; each statement packs to the kernel expressions that `nft`
would make of its text (linux/netfilter/nf_tables.h; nft(8)). Every value is bytes or a number
that code computed: no text of a user can reach a rule.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable
from functools import cache
from typing import Final, Literal, NamedTuple, Protocol

import msgspec

from plait.wire.nfnetlink import attr, nested, string, u32

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

NFPROTO_INET: Final = 1
NFPROTO_IPV4: Final = 2
NFPROTO_IPV6: Final = 10
NFPROTO: Final = {4: NFPROTO_IPV4, 6: NFPROTO_IPV6}

PROTOCOLS: Final = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
_PROTOCOL_NAMES: Final = {number: name for name, number in PROTOCOLS.items()}

CT_INVALID: Final = 1
CT_ESTABLISHED: Final = 2
CT_RELATED: Final = 4
CT_NEW: Final = 8
CT_STATUS_DNAT: Final = 0x20
"""IPS_DST_NAT: the connection's destination was rewritten."""

RTN_LOCAL: Final = 2

VERDICT_DROP: Final = 0
VERDICT_ACCEPT: Final = 1
VERDICT_JUMP: Final = -3
VERDICT_GOTO: Final = -4
VERDICT_RETURN: Final = -5
_VERDICT_TEXT: Final = {0: "drop", 1: "accept", -3: "jump", -4: "goto", -5: "return"}

_REG_VERDICT: Final = 0
REG_1: Final = 1
REG32_00: Final = 8
"""Registers of four bytes; REG32_00 to REG32_03 overlay REG_1."""

_LIST_ELEM: Final = 1
_DATA_VALUE: Final = 1
_DATA_VERDICT: Final = 2


def host32(value: int) -> bytes:
    """A 32-bit number as the kernel keeps it in a register: host order."""
    return value.to_bytes(4, sys.byteorder)


def ifname(name: str) -> bytes:
    """An interface name as a register holds it: 16 bytes, NUL-padded (IFNAMSIZ)."""
    return name.encode().ljust(16, b"\0")


def expression(name: str, *attrs: bytes) -> bytes:
    """One kernel expression."""
    return nested(_LIST_ELEM, string(1, name), nested(2, *attrs))


def verdict_data(code: int, chain: str = "") -> bytes:
    """NFTA_DATA_VERDICT of an immediate or of a map's element."""
    attrs = attr(1, code.to_bytes(4, "big", signed=True))
    return nested(_DATA_VERDICT, attrs + (string(2, chain) if chain else b""))


def value_data(value: bytes) -> bytes:
    """NFTA_DATA_VALUE."""
    return attr(_DATA_VALUE, value)


# Fields: what can be loaded into a register


class Field(NamedTuple):
    """A property of a packet."""

    name: str
    """As nft writes it."""
    size: int
    """Bytes in the register."""
    load: Callable[[int], bytes]
    """Kernel expression that loads it into a register."""
    show: Callable[[bytes], str]


def _meta(key: int) -> Callable[[int], bytes]:
    return cache(lambda reg: expression("meta", u32(1, reg), u32(2, key)))


def _payload(base: int, offset: int, size: int) -> Callable[[int], bytes]:
    return cache(
        lambda reg: expression("payload", u32(1, reg), u32(2, base), u32(3, offset), u32(4, size))
    )


def _ct(key: int) -> Callable[[int], bytes]:
    return cache(lambda reg: expression("ct", u32(1, reg), u32(2, key)))


def _ct_of(key: int, direction: int) -> Callable[[int], bytes]:
    return cache(
        lambda reg: expression("ct", u32(1, reg), u32(2, key), attr(3, bytes((direction,))))
    )


def _fib_daddr_type(reg: int) -> bytes:
    return expression("fib", u32(1, reg), u32(2, 3), u32(3, 2))


def _fib_source_link(reg: int) -> bytes:
    # NFT_FIB_RESULT_OIF of NFTA_FIB_F_SADDR with NFTA_FIB_F_IIF.
    return expression("fib", u32(1, reg), u32(2, 1), u32(3, 1 | 8))


def show_number(raw: bytes) -> str:
    """A big-endian number."""
    return str(int.from_bytes(raw, "big"))


def show_host(raw: bytes) -> str:
    """A number of host order."""
    return str(int.from_bytes(raw, sys.byteorder))


def _show_mark(raw: bytes) -> str:
    return f"0x{int.from_bytes(raw, sys.byteorder):08x}"


def show_ifname(raw: bytes) -> str:
    """A quoted interface name."""
    return '"' + raw.rstrip(b"\0").decode() + '"'


def show_address(raw: bytes) -> str:
    """An IPv4 or IPv6 address."""
    return str(ipaddress.ip_address(raw))


def show_protocol(raw: bytes) -> str:
    """A transport protocol's name."""
    return _PROTOCOL_NAMES.get(raw[0], str(raw[0]))


def _show_nfproto(raw: bytes) -> str:
    return "ipv4" if raw[0] == NFPROTO_IPV4 else "ipv6"


def _bits(names: dict[int, str]) -> Callable[[bytes], str]:
    def show(raw: bytes) -> str:
        value = int.from_bytes(raw, sys.byteorder)
        return ",".join(name for bit, name in names.items() if value & bit) or "0"

    return show


_TCP_FLAGS: Final = {1: "fin", 2: "syn", 4: "rst", 8: "psh", 16: "ack", 32: "urg"}


def _show_tcp_flags(raw: bytes) -> str:
    return ",".join(name for bit, name in _TCP_FLAGS.items() if raw[0] & bit)


IIFGROUP: Final = Field("iifgroup", 4, _meta(21), show_host)
OIFGROUP: Final = Field("oifgroup", 4, _meta(22), show_host)
IIFNAME: Final = Field("iifname", 16, _meta(6), show_ifname)
OIFNAME: Final = Field("oifname", 16, _meta(7), show_ifname)
MARK: Final = Field("meta mark", 4, _meta(3), _show_mark)
FAMILY: Final = Field("meta nfproto", 1, _meta(15), _show_nfproto)
L4PROTO: Final = Field("meta l4proto", 1, _meta(16), show_protocol)
CT_STATE: Final = Field(
    "ct state",
    4,
    _ct(0),
    _bits({1: "invalid", 2: "established", 4: "related", 8: "new"}),
)
CT_STARTER: Final = {
    4: Field("ct original ip saddr", 4, _ct_of(19, 0), show_address),
    6: Field("ct original ip6 saddr", 16, _ct_of(21, 0), show_address),
}
"""Who began the flow."""
CT_ANSWERER: Final = {
    4: Field("ct reply ip saddr", 4, _ct_of(19, 1), show_address),
    6: Field("ct reply ip6 saddr", 16, _ct_of(21, 1), show_address),
}
"""Who answers in the flow, after translation."""
CT_STATUS: Final = Field("ct status", 4, _ct(2), _bits({0x20: "dnat"}))
DADDR_TYPE: Final = Field(
    "fib daddr type", 4, _fib_daddr_type, lambda raw: {"2": "local"}.get(show_host(raw), "?")
)
SOURCE_LINK: Final = Field(
    "fib saddr . iif oif", 4, _fib_source_link, lambda raw: "missing" if not any(raw) else "?"
)
"""0 when no route to the packet's source leads out of the link that it came in by."""
SADDR: Final = {
    4: Field("ip saddr", 4, _payload(1, 12, 4), show_address),
    6: Field("ip6 saddr", 16, _payload(1, 8, 16), show_address),
}
DADDR: Final = {
    4: Field("ip daddr", 4, _payload(1, 16, 4), show_address),
    6: Field("ip6 daddr", 16, _payload(1, 24, 16), show_address),
}
SPORT: Final = Field("th sport", 2, _payload(2, 0, 2), show_number)
DPORT: Final = Field("th dport", 2, _payload(2, 2, 2), show_number)
ICMP_TYPE: Final = {
    4: Field("icmp type", 1, _payload(2, 0, 1), show_number),
    6: Field("icmpv6 type", 1, _payload(2, 0, 1), show_number),
}
ICMP_CODE: Final = {
    4: Field("icmp code", 1, _payload(2, 1, 1), show_number),
    6: Field("icmpv6 code", 1, _payload(2, 1, 1), show_number),
}
TCP_FLAGS: Final = Field("tcp flags", 1, _payload(2, 13, 1), _show_tcp_flags)
VXLAN_VNI: Final = Field("@th,96,24", 3, _payload(2, 12, 3), show_number)
"""UDP header (8 bytes), VXLAN flags and reserved (4), then the VNI (RFC 7348 section 5)."""


# Statements


class Statement(Protocol):
    """A part of a rule."""

    def pack(self) -> bytes:
        """Kernel expressions."""

    def text(self) -> str:
        """In nft's syntax."""


_OPS: Final = {"==": 0, "!=": 1, "<=": 3, ">=": 5}


def _cmp(op: str, value: bytes) -> bytes:
    return expression("cmp", u32(1, REG_1), u32(2, _OPS[op]), nested(3, value_data(value)))


def bitwise(mask: bytes, xor: bytes) -> bytes:
    """Keep the bits of REG_1 under a mask, then flip some."""
    return expression(
        "bitwise",
        u32(1, REG_1),
        u32(2, REG_1),
        u32(3, len(mask)),
        nested(4, value_data(mask)),
        nested(5, value_data(xor)),
    )


class Match(msgspec.Struct, frozen=True):
    """A field equals a value, or does not."""

    field: Field
    value: bytes
    op: Literal["==", "!="] = "=="

    def pack(self) -> bytes:
        """See Statement."""
        return self.field.load(REG_1) + _cmp(self.op, self.value)

    def text(self) -> str:
        """See Statement."""
        op = "" if self.op == "==" else "!= "
        return f"{self.field.name} {op}{self.field.show(self.value)}"


class Between(msgspec.Struct, frozen=True):
    """A field lies between two values, both included."""

    field: Field
    low: bytes
    high: bytes

    def pack(self) -> bytes:
        """See Statement."""
        return self.field.load(REG_1) + _cmp(">=", self.low) + _cmp("<=", self.high)

    def text(self) -> str:
        """See Statement."""
        return f"{self.field.name} {self.field.show(self.low)}-{self.field.show(self.high)}"


class InPrefix(msgspec.Struct, frozen=True):
    """An address field lies in a CIDR, or does not."""

    field: Field
    cidr: str
    op: Literal["==", "!="] = "=="

    def pack(self) -> bytes:
        """See Statement."""
        net = ipaddress.ip_network(self.cidr)
        mask = bitwise(net.netmask.packed, bytes(self.field.size))
        return self.field.load(REG_1) + mask + _cmp(self.op, net.network_address.packed)

    def text(self) -> str:
        """See Statement."""
        return f"{self.field.name} {'' if self.op == '==' else '!= '}{self.cidr}"


class Masked(msgspec.Struct, frozen=True):
    """A 32-bit field of host order, under a mask, equals a value; or, without one, is not 0."""

    field: Field
    mask: int
    value: int | None = None

    def pack(self) -> bytes:
        """See Statement."""
        compare = _cmp("!=", bytes(4)) if self.value is None else _cmp("==", host32(self.value))
        return self.field.load(REG_1) + bitwise(host32(self.mask), bytes(4)) + compare

    def text(self) -> str:
        """See Statement."""
        mask = self.field.show(host32(self.mask))
        if self.value is None:
            return f"{self.field.name} {mask}"
        return f"{self.field.name} & {mask} == {self.field.show(host32(self.value))}"


class FlagsDiffer(msgspec.Struct, frozen=True):
    """A one-byte field of flags, under a mask, is not a value."""

    field: Field
    mask: int
    value: int

    def pack(self) -> bytes:
        """See Statement."""
        mask = bitwise(byte(self.mask), bytes(1))
        return self.field.load(REG_1) + mask + _cmp("!=", byte(self.value))

    def text(self) -> str:
        """See Statement."""
        value, mask = self.field.show(byte(self.value)), self.field.show(byte(self.mask))
        return f"{self.field.name} != {value} / {mask}"


def load_fields(fields: tuple[Field, ...]) -> bytes:
    """Load fields side by side, each on a four-byte boundary."""
    parts: list[bytes] = []
    register = REG32_00
    for field in fields:
        parts.append(field.load(register))
        register += (field.size + 3) // 4
    return b"".join(parts)


def field_names(fields: tuple[Field, ...]) -> str:
    """Fields side by side, in nft's words."""
    return " . ".join(field.name for field in fields)


class InSet(msgspec.Struct, frozen=True):
    """Concatenated fields are an element of a set, or are not."""

    fields: tuple[Field, ...]
    set: str
    negate: bool = False

    def pack(self) -> bytes:
        """See Statement."""
        lookup = string(1, self.set) + u32(2, REG32_00)
        return load_fields(self.fields) + expression(
            "lookup", lookup + (u32(5, 1) if self.negate else b"")
        )

    def text(self) -> str:
        """See Statement."""
        return f"{field_names(self.fields)} {'!= ' if self.negate else ''}@{self.set}"


class Vmap(msgspec.Struct, frozen=True):
    """Take the verdict that a map holds for the fields; go on when it holds none."""

    fields: tuple[Field, ...]
    map: str

    def pack(self) -> bytes:
        """See Statement."""
        return load_fields(self.fields) + expression(
            "lookup", string(1, self.map), u32(2, REG32_00), u32(3, _REG_VERDICT)
        )

    def text(self) -> str:
        """See Statement."""
        return f"{field_names(self.fields)} vmap @{self.map}"


class Counter(msgspec.Struct, frozen=True):
    """Count packets and bytes."""

    def pack(self) -> bytes:
        """See Statement."""
        return expression("counter")

    def text(self) -> str:
        """See Statement."""
        return "counter"


class Verdict(msgspec.Struct, frozen=True):
    """End the rule with a verdict; also the value of a verdict map's element."""

    code: int
    chain: str = ""

    def pack(self) -> bytes:
        """See Statement."""
        return expression("immediate", u32(1, _REG_VERDICT), nested(2, self.data()))

    def data(self) -> bytes:
        """As the value of a map's element."""
        return verdict_data(self.code, self.chain)

    def text(self) -> str:
        """See Statement."""
        return f"{_VERDICT_TEXT.get(self.code, self.code)} {self.chain}".rstrip()


ACCEPT: Final = Verdict(VERDICT_ACCEPT)
DROP: Final = Verdict(VERDICT_DROP)
RETURN: Final = Verdict(VERDICT_RETURN)


def goto(chain: str) -> Verdict:
    """Go on in a chain and do not come back."""
    return Verdict(VERDICT_GOTO, chain)


def jump(chain: str) -> Verdict:
    """Go on in a chain, then after this rule."""
    return Verdict(VERDICT_JUMP, chain)


def byte(value: int) -> bytes:
    """A one-byte operand."""
    return value.to_bytes(1, "big")


def port(value: int) -> bytes:
    """A transport port as an operand."""
    return value.to_bytes(2, "big")


def family(version: Literal[4, 6]) -> Match:
    """The packet is of this IP version."""
    return Match(FAMILY, byte(NFPROTO[version]))


def protocol(name: str) -> Match:
    """The packet is of this transport protocol."""
    return Match(L4PROTO, byte(PROTOCOLS[name]))
