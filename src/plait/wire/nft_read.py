"""What the kernel says of an nf_tables table: requests that read, and parsers of the answers."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from plait.wire import nft, nft_machine
from plait.wire import nft_expr as e
from plait.wire.nfnetlink import (
    SUBSYS_NFTABLES,
    Message,
    attributes,
    each,
    integer,
    string,
    text,
    u32,
)

_KIND: Final = SUBSYS_NFTABLES << 8
_UDATA_COMMENT: Final = 0
_SIGNED: Final = struct.Struct(">i")


class TableInfo(NamedTuple):
    """A table."""

    family: int
    name: str
    flags: int
    handle: int
    owner: int
    """Netlink port of the socket that owns it; 0 when nobody does."""


class ChainInfo(NamedTuple):
    """A chain; `hook` is (number, priority, type) of a base chain."""

    name: str
    hook: tuple[int, int, str] | None


class RuleInfo(NamedTuple):
    """A rule, by its comment."""

    chain: str
    comment: str
    packets: int
    bytes: int


class SetInfo(NamedTuple):
    """A set; what must agree with `nft.Set` for it to be the same."""

    name: str
    flags: int
    key_type: int
    key_size: int
    data_type: int
    data_size: int


class ChainState(NamedTuple):
    """A chain as it is: where it is attached, and its rules' comments in order."""

    hook: tuple[int, int, str] | None
    rules: tuple[str, ...]


class TableState(NamedTuple):
    """A table as it is."""

    info: TableInfo
    chains: dict[str, ChainState]
    sets: dict[str, SetInfo]
    elements: dict[str, dict[bytes, nft.Data]]
    """By set, then by key as `nft.Set` has it (a range's first and last address)."""
    counters: set[str]
    """Names of counters."""


class Count(NamedTuple):
    """What a counter has counted."""

    packets: int
    bytes: int


def describe_chain(wanted: nft.Chain) -> ChainState:
    """How the kernel will describe a chain of ours."""
    hook = wanted.hook
    return ChainState(
        (hook.number, hook.priority, hook.type) if hook else None,
        tuple([rule.comment for rule in wanted.rules]),
    )


def table_query(name: str) -> bytes:
    """Attributes that select a table, its chains, its rules or its sets."""
    return string(1, name)


def chain_query(table: str, chain: str) -> bytes:
    """Attributes that select one chain (NFT_MSG_GETCHAIN)."""
    return string(1, table) + string(3, chain)


def counters_query(table: str) -> bytes:
    """Attributes that select a table's counters."""
    return string(1, table) + u32(3, nft.OBJECT_COUNTER)


def elements_query(table: str, name: str) -> bytes:
    """Attributes that select a set's elements."""
    return string(1, table) + string(2, name)


def describe(wanted: nft.Set) -> SetInfo:
    """How the kernel will describe a set of ours."""
    request = next(nft.AddSet(wanted).requests(""))
    return _set_info(memoryview(request[3]))


def _number(attrs: dict[int, memoryview], kind: int) -> int:
    return integer(attrs[kind]) if kind in attrs else 0


def table_info(msg: Message) -> TableInfo:
    """Of an NFT_MSG_NEWTABLE."""
    attrs = attributes(msg.body)
    return TableInfo(
        msg.family, text(attrs[1]), _number(attrs, 2), _number(attrs, 4), _number(attrs, 7)
    )


def chain_info(msg: Message) -> tuple[str, ChainInfo]:
    """(table, chain) of an NFT_MSG_NEWCHAIN."""
    attrs = attributes(msg.body)
    hook = None
    if 4 in attrs:
        inner = attributes(attrs[4])
        kind = text(attrs[7]) if 7 in attrs else ""
        hook = (integer(inner[1]), _SIGNED.unpack(inner[2])[0], kind)
    return text(attrs[1]), ChainInfo(text(attrs[3]), hook)


def rule_info(msg: Message) -> tuple[str, RuleInfo]:
    """(table, rule) of an NFT_MSG_NEWRULE; packets and bytes are those of its first counter."""
    attrs = attributes(msg.body)
    packets = size = 0
    if 4 in attrs:
        for _, view in each(attrs[4]):
            expr = attributes(view)
            if text(expr[1]) == "counter":
                data = attributes(expr[2])
                size, packets = _number(data, 1), _number(data, 2)
                break
    comment = _comment(attrs[7]) if 7 in attrs else ""
    return text(attrs[1]), RuleInfo(text(attrs[2]), comment, packets, size)


def rule_program(msg: Message) -> tuple[str, str, nft_machine.Rule]:
    """(table, chain, rule) of an NFT_MSG_NEWRULE, with all that it does."""
    attrs = attributes(msg.body)
    made = nft_machine.expressions(attrs[4]) if 4 in attrs else ()
    comment = _comment(attrs[7]) if 7 in attrs else ""
    return text(attrs[1]), text(attrs[2]), nft_machine.Rule(comment, made)


def _comment(view: memoryview) -> str:
    offset = 0
    while offset + 2 <= len(view):
        kind, length = view[offset], view[offset + 1]
        if kind == _UDATA_COMMENT:
            return text(view[offset + 2 : offset + 2 + length])
        offset += 2 + length
    return ""


def set_info(msg: Message) -> tuple[str, SetInfo]:
    """(table, set) of an NFT_MSG_NEWSET."""
    return text(attributes(msg.body)[1]), _set_info(msg.body)


def _set_info(view: memoryview) -> SetInfo:
    attrs = attributes(view)
    verdicts = _number(attrs, 6) == nft.DATA_TYPE_VERDICT
    return SetInfo(
        text(attrs[2]),
        _number(attrs, 3),
        _number(attrs, 4),
        _number(attrs, 5),
        _number(attrs, 6),
        # The kernel reports the size of its own struct for verdicts, which varies.
        0 if verdicts else _number(attrs, 7),
    )


def _items(msg: Message) -> Iterator[dict[int, memoryview]]:
    """Attributes of the elements of an NFT_MSG_NEWSETELEM."""
    attrs = attributes(msg.body)
    if 3 in attrs:
        for _, view in each(attrs[3]):
            item = attributes(view)
            if 1 in item:
                yield item


def _key(item: dict[int, memoryview], kind: int) -> bytes:
    return bytes(attributes(item[kind])[1])


def elements(msg: Message) -> Iterator[tuple[bytes, nft.Data, int]]:
    """(key, value, flags) of the elements of an NFT_MSG_NEWSETELEM; the key of one that ranges
    over several fields is its first and its last, side by side."""
    for item in _items(msg):
        key = _key(item, 1) + (_key(item, 10) if 10 in item else b"")
        data: nft.Data = None
        if 2 in item:
            value = attributes(item[2])
            if 1 in value:
                data = bytes(value[1])
            elif 2 in value:
                verdict = attributes(value[2])
                code = _SIGNED.unpack(verdict[1])[0]
                data = e.Verdict(code, text(verdict[2]) if 2 in verdict else "")
        yield key, data, _number(item, 3)


def remaining(msg: Message) -> Iterator[tuple[bytes, int]]:
    """(key, milliseconds left) of the elements of an NFT_MSG_NEWSETELEM that have an end."""
    for item in _items(msg):
        if 5 in item:
            yield _key(item, 1), integer(item[5])


def counter_info(msg: Message) -> tuple[str, str, Count]:
    """(table, name, counts) of an NFT_MSG_NEWOBJ of a counter."""
    attrs = attributes(msg.body)
    data = attributes(attrs[4]) if 4 in attrs else {}
    return text(attrs[1]), text(attrs[2]), Count(_number(data, 2), _number(data, 1))


def element_map(found: Iterable[Message], *, interval: bool) -> dict[bytes, nft.Data]:
    """All elements of a set's dump, by key; `interval` says that they are ranges of one field."""
    items = (item for msg in found for item in elements(msg))
    if interval:
        return dict(ranges(items))
    return {key: data for key, data, _ in items}


def generation(msg: Message) -> int:
    """Of an NFT_MSG_NEWGEN: counts the commits of the namespace, by anyone."""
    return integer(attributes(msg.body)[1])


def names_table(msg: Message, table: str) -> bool:
    """Whether a notification is about an inet table of this name."""
    if msg.kind >> 8 != SUBSYS_NFTABLES or msg.family != e.NFPROTO_INET:
        return False
    # NFTA_*_TABLE, and NFTA_TABLE_NAME, are all attribute 1.
    raw = attributes(msg.body).get(1)
    return raw is not None and text(raw) == table


def ranges(found: Iterable[tuple[bytes, nft.Data, int]]) -> Iterator[tuple[bytes, nft.Data]]:
    """Elements of an interval set from its (address, value, flags) elements, in any order."""
    first: bytes | None = None
    value: nft.Data = None
    ends = [(address, not flags & nft.ELEM_INTERVAL_END, data) for address, data, flags in found]
    # At one address an end comes before the start of the next range.
    for address, start, data in sorted(ends, key=lambda item: item[:2]):
        if not start and first is not None:
            last = int.from_bytes(address, "big") - 1
            yield first + last.to_bytes(len(address), "big"), value
        first, value = (address, data) if start else (None, None)
    if first is not None:
        yield first + b"\xff" * len(first), value
