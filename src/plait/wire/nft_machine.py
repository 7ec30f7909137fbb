"""What a table does with a packet, read from the kernel's own expressions. Pure.

A small nf_tables: registers, the expressions that our rules are made of, chains and verdicts
(linux/netfilter/nf_tables.h). It knows nothing of policies, so it says what the rules that are in
the kernel do and not what somebody meant by them. An expression that it does not know is an
error, never a guess.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from plait.wire import nft
from plait.wire import nft_expr as e
from plait.wire.nfnetlink import attributes, each, integer, text

MAX_RULES: Final = 100_000
"""Rules that one packet meets; the kernel allows no loops, a torn reading might."""
_CONTINUE: Final = e.Verdict(-1)
_ORDERS: Final[tuple[Callable[[bytes, bytes], bool], ...]] = (
    lambda a, b: a == b,
    lambda a, b: a != b,
    lambda a, b: a < b,
    lambda a, b: a <= b,
    lambda a, b: a > b,
    lambda a, b: a >= b,
)
"""NFT_CMP_*, by number."""
_REGISTER_BYTES: Final = 64
_NETWORK, _TRANSPORT = 1, 2
_LOOKUP_INVERTED: Final = 1
_ORIGINAL: Final = b"\0"
"""Direction of a flow's first packet."""
_DNAT: Final = 1
_FIB_OIF: Final = 1
_RTN_UNICAST: Final = 1

Attributes = dict[int, memoryview]


class UnknownExpression(Exception):
    """A rule has an expression of which nobody here knows what it does."""


class Expression(NamedTuple):
    """A kernel expression."""

    name: str
    attributes: Attributes


class Rule(NamedTuple):
    """A rule as the kernel holds it."""

    comment: str
    expressions: tuple[Expression, ...]


def expressions(view: memoryview) -> tuple[Expression, ...]:
    """Of NFTA_RULE_EXPRESSIONS."""
    found = []
    for _, item in each(view):
        attrs = attributes(item)
        found.append(Expression(text(attrs[1]), attributes(attrs[2]) if 2 in attrs else {}))
    return tuple(found)


class Table(Protocol):
    """A table that can be asked."""

    def hooked(self, hook: int, kind: str) -> Sequence[str]:
        """Base chains of a hook (NF_INET_*) and a type, of any type where it is empty, in the
        order of their priorities."""

    def rules(self, chain: str) -> Sequence[Rule]:
        """Rules of a chain."""

    def lookup(self, name: str, key: bytes) -> tuple[bool, nft.Data]:
        """Whether a set holds a key, and the value that it holds for it."""


class Probe(msgspec.Struct, kw_only=True):
    """The first packet of a flow, and where it is. Rules may change it."""

    src: str
    dst: str
    protocol: int
    """IANA number."""
    dport: int = 0
    icmp_type: int = 0
    icmp_code: int = 0
    iif: str = ""
    iif_group: int = 0
    oif: str = ""
    oif_group: int = 0
    to_host: bool = False
    """The destination is an address of the host."""
    mark: int = 0
    translated: bool = False
    """A published port led it to `dst`."""
    proxied: bool = False
    """A rule handed it to a transparent socket of the host."""

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.dst else 4

    def network_header(self) -> bytes:
        """IPv4 (RFC 791) or IPv6 (RFC 8200), what rules look at of it."""
        src, dst = ipaddress.ip_address(self.src).packed, ipaddress.ip_address(self.dst).packed
        if self.version == 4:
            return bytes((0x45, *bytes(8), self.protocol, 0, 0)) + src + dst
        return bytes((0x60, 0, 0, 0, 0, 0, self.protocol, 64)) + src + dst

    def transport_header(self) -> bytes:
        """A SYN, or the head of a datagram or message."""
        if self.protocol in (e.PROTOCOLS["icmp"], e.PROTOCOLS["icmpv6"]):
            return bytes((self.icmp_type, self.icmp_code)).ljust(8, b"\0")
        head = b"\xc0\x00" + self.dport.to_bytes(2, "big")
        if self.protocol == e.PROTOCOLS["tcp"]:
            return head.ljust(12, b"\0") + b"\x50\x02" + bytes(6)
        return head.ljust(16, b"\0")


class Met(NamedTuple):
    """A rule that the packet matched."""

    chain: str
    comment: str
    counter: str
    """Name of the counter object that it counts in, or empty."""
    prefix: str
    """Of what it logs, or empty."""
    verdict: str
    """`accept`, `drop`, `reject`, `jump x`, `goto x`, `return`; empty: it goes on."""


class Passage(NamedTuple):
    """What became of a packet in one hook."""

    verdict: str
    """`accept`, `drop` or `reject`."""
    met: tuple[Met, ...]


class Machine:
    """Runs packets through the chains of hooks."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def hook(self, number: int, packet: Probe, *, kind: str = "filter") -> Passage:
        """All base chains of a hook, of one type or, with an empty one, of all; until one does not
        accept. Raises UnknownExpression."""
        met: list[Met] = []
        for chain in self._table.hooked(number, kind):
            verdict = _Run(self._table, packet, met).chain(chain)
            if verdict in ("drop", "reject"):
                return Passage(verdict, tuple(met))
        return Passage("accept", tuple(met))


class _Run:
    """One packet in one base chain."""

    def __init__(self, table: Table, packet: Probe, met: list[Met]) -> None:
        self._table = table
        self._packet = packet
        self._met = met
        self._registers = bytearray(_REGISTER_BYTES)
        self._left = MAX_RULES

    def chain(self, name: str) -> str:
        """The verdict of a base chain; its policy is to accept."""
        return self._chain(name) or "accept"

    def _chain(self, name: str) -> str:
        """`accept`, `drop`, `reject`, or empty where the chain returns."""
        while True:
            following = ""
            for rule in self._table.rules(name):
                self._left -= 1
                if self._left < 0:
                    raise UnknownExpression("a loop")
                verdict = self._rule(name, rule)
                if isinstance(verdict, str):
                    return verdict
                match verdict.code:
                    case e.VERDICT_ACCEPT:
                        return "accept"
                    case e.VERDICT_DROP:
                        return "drop"
                    case e.VERDICT_JUMP:
                        if ended := self._chain(verdict.chain):
                            return ended
                    case e.VERDICT_GOTO:
                        following = verdict.chain
                        break
                    case e.VERDICT_RETURN:
                        return ""
                    case _:
                        continue
            if not following:
                return ""
            name = following

    def _rule(self, chain: str, rule: Rule) -> e.Verdict | str:
        counter = prefix = ""
        verdict: e.Verdict | str = _CONTINUE
        for name, attrs in rule.expressions:
            match name:
                case "objref":
                    counter = text(attrs[2])
                case "log":
                    prefix = text(attrs[2]) if 2 in attrs else ""
                case "counter" | "notrack" | "masq" | "dynset":
                    pass
                case "reject":
                    verdict = "reject"
                case _:
                    ended = self._step(name, attrs)
                    if ended is None:
                        return _CONTINUE
                    verdict = ended
            if verdict is not _CONTINUE:
                break
        shown = verdict if isinstance(verdict, str) else verdict.text()
        shown = "" if verdict is _CONTINUE else shown
        self._met.append(Met(chain, rule.comment, counter, prefix, shown))
        return verdict

    def _step(self, name: str, attrs: Attributes) -> e.Verdict | None:
        """What an expression says; None: the rule does not match."""
        match name:
            case "meta":
                return self._meta(attrs)
            case "ct":
                return self._load(attrs[1], self._ct(integer(attrs[2])))
            case "fib":
                return self._load(attrs[1], self._fib(integer(attrs[2])))
            case "payload":
                return self._payload(attrs)
            case "cmp":
                return self._compare(attrs)
            case "bitwise":
                return self._bitwise(attrs)
            case "lookup":
                return self._lookup(attrs)
            case "immediate":
                return self._immediate(attrs)
            case "nat":
                return self._nat(attrs)
            case "numgen":
                # Of those among which it would draw, the first.
                first = integer(attrs[4]) if 4 in attrs else 0
                return self._load(attrs[1], e.host32(first))
            case "tproxy":
                self._packet.proxied = True
                return _CONTINUE
        raise UnknownExpression(name)

    # Registers

    def _load(self, register: memoryview, value: bytes | None) -> e.Verdict | None:
        if value is None:
            return None
        at = _offset(integer(register))
        padded = value.ljust((len(value) + 3) & ~3, b"\0")
        self._registers[at : at + len(padded)] = padded
        return _CONTINUE

    def _stored(self, register: memoryview, size: int) -> bytes:
        at = _offset(integer(register))
        return bytes(self._registers[at : at + size])

    # Expressions

    def _meta(self, attrs: Attributes) -> e.Verdict | None:
        key = integer(attrs[2])
        if 3 in attrs:
            if key != 3:
                raise UnknownExpression(f"meta set {key}")
            self._packet.mark = int.from_bytes(self._stored(attrs[3], 4), sys.byteorder)
            return _CONTINUE
        packet = self._packet
        values: dict[int, Callable[[], bytes]] = {
            3: lambda: e.host32(packet.mark),
            6: lambda: e.ifname(packet.iif),
            7: lambda: e.ifname(packet.oif),
            15: lambda: bytes((e.NFPROTO_IPV6 if packet.version == 6 else e.NFPROTO_IPV4,)),
            16: lambda: bytes((packet.protocol,)),
            21: lambda: e.host32(packet.iif_group),
            22: lambda: e.host32(packet.oif_group),
        }
        if key not in values:
            raise UnknownExpression(f"meta {key}")
        return self._load(attrs[1], values[key]())

    def _ct(self, key: int) -> bytes:
        if key == 0:
            return e.host32(e.CT_NEW)
        if key == 1:
            return _ORIGINAL
        if key == 2:
            return e.host32(e.CT_STATUS_DNAT if self._packet.translated else 0)
        raise UnknownExpression(f"ct {key}")

    def _fib(self, result: int) -> bytes:
        if result == _FIB_OIF:
            # The way back to where a packet came from is taken to be there.
            return e.host32(1)
        return e.host32(e.RTN_LOCAL if self._packet.to_host else _RTN_UNICAST)

    def _payload(self, attrs: Attributes) -> e.Verdict | None:
        base, offset, size = (integer(attrs[kind]) for kind in (2, 3, 4))
        if base == _NETWORK:
            header = self._packet.network_header()
        elif base == _TRANSPORT:
            header = self._packet.transport_header()
        else:
            raise UnknownExpression(f"payload {base}")
        part = header[offset : offset + size]
        return self._load(attrs[1], part if len(part) == size else None)

    def _compare(self, attrs: Attributes) -> e.Verdict | None:
        value = bytes(attributes(attrs[3])[1])
        holds = _ORDERS[integer(attrs[2])](self._stored(attrs[1], len(value)), value)
        return _CONTINUE if holds else None

    def _bitwise(self, attrs: Attributes) -> e.Verdict | None:
        if integer(attrs.get(6, memoryview(b"\0"))):
            raise UnknownExpression("bitwise shift")
        mask, xor = (bytes(attributes(attrs[kind])[1]) for kind in (4, 5))
        value = self._stored(attrs[1], integer(attrs[3]))
        made = bytes((v & m) ^ x for v, m, x in zip(value, mask, xor, strict=True))
        return self._load(attrs[2], made)

    def _lookup(self, attrs: Attributes) -> e.Verdict | None:
        found, data = self._table.lookup(text(attrs[1]), self._stored(attrs[2], _REGISTER_BYTES))
        inverted = 5 in attrs and bool(integer(attrs[5]) & _LOOKUP_INVERTED)
        if found is inverted:
            return None
        if 3 not in attrs:
            return _CONTINUE
        if isinstance(data, e.Verdict):
            return data
        return self._load(attrs[3], data)

    def _immediate(self, attrs: Attributes) -> e.Verdict | None:
        data = attributes(attrs[2])
        if 2 in data:
            verdict = attributes(data[2])
            code = int.from_bytes(verdict[1], "big", signed=True)
            return e.Verdict(code, text(verdict[2]) if 2 in verdict else "")
        return self._load(attrs[1], bytes(data[1]))

    def _nat(self, attrs: Attributes) -> e.Verdict | None:
        if integer(attrs[1]) == _DNAT:
            size = 16 if self._packet.version == 6 else 4
            address = ipaddress.ip_address(self._stored(attrs[3], size))
            self._packet.dst = str(address)
            if 5 in attrs:
                self._packet.dport = int.from_bytes(self._stored(attrs[5], 2), "big")
            self._packet.translated, self._packet.to_host = True, False
        return e.ACCEPT


def _offset(register: int) -> int:
    """Offset of a register: those of four bytes overlay those of sixteen."""
    return (register - 8) * 4 if register >= 8 else (register - 1) * 16


def in_ranges(
    ranges: Iterable[tuple[bytes, nft.Data]], key: bytes, *, fields: int
) -> tuple[bool, nft.Data]:
    """The range that holds a key; of a range, first and last stand side by side. With `fields`
    each four bytes are a field of their own, which has to be in its range."""
    for span, data in ranges:
        half = len(span) // 2
        value, first, last = key[:half], span[:half], span[half:]
        step = 4 if fields > 1 else half
        if all(
            first[at : at + step] <= value[at : at + step] <= last[at : at + step]
            for at in range(0, half, step)
        ):
            return True, data
    return False, None
