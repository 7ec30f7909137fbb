"""nf_tables objects of one table as values, the changes of a transaction, and their messages.

Source: linux/netfilter/nf_tables.h. A `Change` is one or more netlink messages of a batch; it
prints as nft(8) would be typed. Rules carry, as their comment, why they are there and a digest of
their expressions, so that what is in the kernel can be compared with what is wanted without
decoding expressions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from typing import Final, Protocol

import msgspec

from plait.wire import nft_expr as e
from plait.wire import nft_keys as k
from plait.wire.nfnetlink import (
    F_APPEND,
    F_CREATE,
    F_EXCL,
    MAX_ATTR,
    Request,
    attr,
    nested,
    s32,
    string,
    u32,
)

NEWTABLE, GETTABLE, DELTABLE = 0, 1, 2
NEWCHAIN, GETCHAIN, DELCHAIN = 3, 4, 5
NEWRULE, GETRULE, DELRULE = 6, 7, 8
NEWSET, GETSET, DELSET = 9, 10, 11
NEWSETELEM, GETSETELEM, DELSETELEM = 12, 13, 14
NEWGEN, GETGEN = 15, 16
NEWOBJ, GETOBJ, DELOBJ = 18, 19, 20

GROUP_NFTABLES: Final = 7
"""NFNLGRP_NFTABLES: multicast group of changes to any ruleset of the namespace."""

TABLE_OWNER: Final = 2
"""NFT_TABLE_F_OWNER, kernel 5.12: only the creating socket may change the table."""
TABLE_PERSIST: Final = 4
"""NFT_TABLE_F_PERSIST, kernel 6.9: the table outlives its owner, and a new owner may adopt it."""

SET_INTERVAL: Final = 4
SET_MAP: Final = 8
SET_TIMEOUT: Final = 16
SET_CONCAT: Final = 128
"""NFT_SET_CONCAT, kernel 5.6: each field of a concatenation is a range of its own."""
ELEM_INTERVAL_END: Final = 1
OBJECT_COUNTER: Final = 1

_FAMILY: Final = e.NFPROTO_INET
DATA_TYPE_VERDICT: Final = 0xFFFF_FF00
_ELEMENT_LIST_LIMIT: Final = MAX_ATTR - 2048
"""Bytes of elements in one message, well below the longest attribute."""


Data = bytes | e.Verdict | None
"""Value of an element: None in a set, bytes or a verdict in a map."""


class Hook(msgspec.Struct, frozen=True):
    """Where a base chain is attached; its policy is always accept."""

    type: str
    name: str
    number: int
    """NF_INET_*."""
    priority: int


class Rule(msgspec.Struct, frozen=True, dict=True):
    """A rule: statements, and why it is there (a constant of the code, never a user's text)."""

    why: str
    statements: tuple[e.Statement, ...]

    @cached_property
    def packed(self) -> bytes:
        """The kernel expressions."""
        return b"".join([s.pack() for s in self.statements])

    @cached_property
    def comment(self) -> str:
        """`why #digest`: says what the rule is, and identifies it exactly."""
        return f"{self.why} #{hashlib.blake2s(self.packed, digest_size=6).hexdigest()}"

    def text(self) -> str:
        """In nft's syntax."""
        return " ".join([s.text() for s in self.statements]) + f' comment "{self.why}"'


class Chain(msgspec.Struct, frozen=True):
    """A chain with all its rules."""

    name: str
    rules: tuple[Rule, ...] = ()
    hook: Hook | None = None


class Set(msgspec.Struct, frozen=True):
    """A set, or a map when it has a value."""

    name: str
    key: tuple[k.Type, ...]
    value: tuple[k.Type, ...] = ()
    verdicts: bool = False
    interval: bool = False
    """Elements are ranges: the key is the first and the last, side by side. Of a concatenation,
    each field is a range of its own."""
    timeout: bool = False
    """Elements may have an end; whoever adds one says when."""
    size: int = 0
    """The most elements that rules may add (`UpdateMap`); 0: rules add none."""

    @property
    def ranged_fields(self) -> bool:
        """Whether elements are ranges of more than one field."""
        return self.interval and len(self.key) > 1

    @property
    def flags(self) -> int:
        """NFT_SET_*."""
        return (
            (SET_MAP if self.value or self.verdicts else 0)
            | (SET_INTERVAL if self.interval else 0)
            | (SET_TIMEOUT if self.timeout else 0)
            | (SET_CONCAT if self.ranged_fields else 0)
        )

    @property
    def key_size(self) -> int:
        """Bytes; each part of a concatenation stands on a four-byte boundary."""
        return k.width(self.key)

    def declaration(self) -> str:
        """`type …` of nft's syntax: what must agree for a set to be the same set."""
        text = "type " + " . ".join(t.name for t in self.key)
        if self.verdicts:
            text += " : verdict"
        elif self.value:
            text += " : " + " . ".join(t.name for t in self.value)
        flags = [word for word in ("interval", "timeout") if getattr(self, word)]
        return text + (" flags " + ",".join(flags) if flags else "")

    def show_key(self, key: bytes) -> str:
        """An element's key in nft's syntax."""
        if not self.interval:
            return k.show(self.key, key)
        size, offset, parts = len(key) // 2, 0, []
        for kind in self.key:
            low, high = offset, offset + size
            first, last = (kind.show(key[at : at + kind.size]) for at in (low, high))
            parts.append(first if first == last else f"{first}-{last}")
            offset += (kind.size + 3) & ~3
        return " . ".join(parts)

    def show(self, key: bytes, data: Data) -> str:
        """An element in nft's syntax."""
        text = self.show_key(key)
        if isinstance(data, e.Verdict):
            return f"{text} : {data.text()}"
        return text if data is None else f"{text} : {k.show(self.value, data)}"


# Changes


class Step(Protocol):
    """A step of a transaction."""

    def requests(self, table: str) -> Iterator[Request]:
        """Its messages."""

    def text(self, table: str) -> str:
        """As nft(8) would be typed."""


class AddTable(msgspec.Struct, frozen=True):
    """Make the table, or adopt one without an owner; no error when it is ours."""

    flags: int = 0

    def requests(self, table: str) -> Iterator[Request]:
        """See Step."""
        yield NEWTABLE, F_CREATE, _FAMILY, string(1, table) + u32(2, self.flags)

    def text(self, table: str) -> str:
        """See Step."""
        names = {TABLE_OWNER: "owner", TABLE_PERSIST: "persist"}
        flags = ",".join(name for bit, name in names.items() if self.flags & bit)
        return f"add table inet {table}" + (f" {{ flags {flags}; }}" if flags else "")


class DeleteTable(msgspec.Struct, frozen=True):
    """Remove the table with all that is in it."""

    def requests(self, table: str) -> Iterator[Request]:
        """See Step."""
        yield DELTABLE, 0, _FAMILY, string(1, table)

    def text(self, table: str) -> str:
        """See Step."""
        return f"delete table inet {table}"


class AddChain(msgspec.Struct, frozen=True):
    """Make a chain without rules; no error when it exists."""

    chain: Chain

    def requests(self, table: str) -> Iterator[Request]:
        """See Step."""
        body = string(1, table) + string(3, self.chain.name)
        if hook := self.chain.hook:
            body += nested(4, u32(1, hook.number), s32(2, hook.priority))
            body += u32(5, e.VERDICT_ACCEPT) + string(7, hook.type)
        yield NEWCHAIN, F_CREATE, _FAMILY, body

    def text(self, table: str) -> str:
        """See Step."""
        text = f"add chain inet {table} {self.chain.name}"
        if hook := self.chain.hook:
            text += f" {{ type {hook.type} hook {hook.name} priority {hook.priority}; }}"
        return text


class DeleteChain(msgspec.Struct, frozen=True):
    """Remove a chain and its rules; refused (EBUSY) while something leads to it."""

    name: str

    def requests(self, table: str) -> Iterator[Request]:
        """See Step."""
        body = string(1, table)
        yield DELRULE, 0, _FAMILY, body + string(2, self.name)
        yield DELCHAIN, 0, _FAMILY, body + string(3, self.name)

    def text(self, table: str) -> str:
        """See Step."""
        return f"delete chain inet {table} {self.name}"


class FlushChain(msgspec.Struct, frozen=True):
    """Remove a chain's rules."""

    name: str

    def requests(self, table: str) -> Iterator[Request]:
        """See Step."""
        yield DELRULE, 0, _FAMILY, string(1, table) + string(2, self.name)

    def text(self, table: str) -> str:
        """See Step."""
        return f"flush chain inet {table} {self.name}"


class AddRules(msgspec.Struct, frozen=True):
    """Append a chain's rules."""

    chain: Chain

    def requests(self, table: str) -> Iterator[Request]:
        """See Step."""
        head = string(1, table) + string(2, self.chain.name)
        for rule in self.chain.rules:
            comment = rule.comment.encode() + b"\0"
            # libnftables keeps type-length-value triples here; type 0 is the comment.
            userdata = attr(7, bytes((0, len(comment))) + comment)
            body = head + nested(4, rule.packed) + userdata
            yield NEWRULE, F_CREATE | F_APPEND, _FAMILY, body

    def text(self, table: str) -> str:
        """See Step."""
        head = f"add rule inet {table} {self.chain.name} "
        return "\n".join(head + rule.text() for rule in self.chain.rules)


class AddSet(msgspec.Struct, frozen=True):
    """Make an empty set or map; no error when it exists with the same types."""

    set: Set

    def requests(self, table: str) -> Iterator[Request]:
        """See Step."""
        s = self.set
        body = string(1, table) + string(2, s.name) + u32(3, s.flags)
        body += u32(4, k.ident(s.key)) + u32(5, s.key_size)
        if s.verdicts:
            body += u32(6, DATA_TYPE_VERDICT) + u32(7, 16)
        elif s.value:
            body += u32(6, k.ident(s.value)) + u32(7, k.width(s.value))
        described = u32(1, s.size) if s.size else b""
        if s.ranged_fields:
            lengths = b"".join([nested(1, u32(1, t.size)) for t in s.key])
            described += nested(2, lengths)
        if described:
            body += nested(9, described)
        # libnftables needs to be told that interface names are in host order to list them.
        order = 1 if s.key == (k.IFNAME,) else 2
        body += attr(13, bytes((0, 4)) + e.host32(order))
        # An id is required, though we refer to sets by name.
        yield NEWSET, F_CREATE, _FAMILY, body + u32(10, 1)

    def text(self, table: str) -> str:
        """See Step."""
        word = "map" if self.set.value or self.set.verdicts else "set"
        return f"add {word} inet {table} {self.set.name} {{ {self.set.declaration()}; }}"


class DeleteSet(msgspec.Struct, frozen=True):
    """Remove a set and its elements; refused (EBUSY) while a rule uses it."""

    name: str

    def requests(self, table: str) -> Iterator[Request]:
        """See Step."""
        yield DELSET, 0, _FAMILY, string(1, table) + string(2, self.name)

    def text(self, table: str) -> str:
        """See Step."""
        return f"delete set inet {table} {self.name}"


class Elements(msgspec.Struct, frozen=True):
    """Elements of one set, to be added or deleted."""

    set: Set
    elements: tuple[tuple[bytes, Data], ...]

    def _requests(self, table: str, kind: int, flags: int, extra: bytes = b"") -> Iterator[Request]:
        head = string(1, table) + string(2, self.set.name)
        parts: list[bytes] = []
        size = 0
        for item in self._pack(extra):
            if size + len(item) > _ELEMENT_LIST_LIMIT:
                yield kind, flags, _FAMILY, head + nested(3, *parts)
                parts, size = [], 0
            parts.append(item)
            size += len(item)
        if parts:
            yield kind, flags, _FAMILY, head + nested(3, *parts)

    def _pack(self, extra: bytes = b"") -> Iterator[bytes]:
        if self.set.ranged_fields:
            size = self.set.key_size
            for key, data in self.elements:
                first, last = e.value_data(key[:size]), e.value_data(key[size:])
                yield nested(1, nested(1, first), nested(10, last), _pack_data(data))
        elif self.set.interval:
            for key, data in self.elements:
                yield from _pack_range(key, data)
        elif self.set.verdicts or extra or self.set.key_size % 4 or k.width(self.set.value) % 4:
            for key, data in self.elements:
                yield nested(1, nested(1, e.value_data(key)), _pack_data(data), extra)
        else:
            yield from self._pack_alike()

    def _pack_alike(self) -> Iterator[bytes]:
        """Sets of addresses and maps of Services are large, and all of an element but its key and
        its value is always the same."""
        size, width = self.set.key_size, k.width(self.set.value)
        before_key, value = nested(1, e.value_data(bytes(size))), _pack_data(bytes(width))
        alone = nested(1, before_key)[:-size]
        paired, between = nested(1, before_key, value)[: len(alone)], value[: len(value) - width]
        for key, data in self.elements:
            yield paired + key + between + data if isinstance(data, bytes) else alone + key

    def _text(self, table: str, verb: str) -> str:
        shown = ", ".join(self.set.show(key, data) for key, data in self.elements)
        return f"{verb} element inet {table} {self.set.name} {{ {shown} }}"


def _pack_data(data: Data) -> bytes:
    if data is None:
        return b""
    return nested(2, data.data() if isinstance(data, e.Verdict) else e.value_data(data))


def _pack_range(key: bytes, data: Data) -> Iterator[bytes]:
    size = len(key) // 2
    yield nested(1, nested(1, e.value_data(key[:size])), _pack_data(data))
    beyond = int.from_bytes(key[size:], "big") + 1
    # A range that reaches the last address has no end.
    if beyond >> (8 * size) == 0:
        end = nested(1, e.value_data(beyond.to_bytes(size, "big")))
        yield nested(1, u32(3, ELEM_INTERVAL_END), end)


class AddElements(Elements, frozen=True):
    """Add elements; refused (EEXIST) if a key is there already."""

    def requests(self, table: str) -> Iterator[Request]:
        """See Step."""
        return self._requests(table, NEWSETELEM, F_CREATE | F_EXCL)

    def text(self, table: str) -> str:
        """See Step."""
        return self._text(table, "add")


class AddTimed(Elements, frozen=True):
    """Add elements that the kernel removes by itself after so many milliseconds.

    One that is there already is no error; only from kernel 6.12 on it then gets the new end.
    """

    milliseconds: int

    def requests(self, table: str) -> Iterator[Request]:
        """See Step."""
        timeout = attr(4, self.milliseconds.to_bytes(8, "big"))
        return self._requests(table, NEWSETELEM, F_CREATE, timeout)

    def text(self, table: str) -> str:
        """See Step."""
        shown = ", ".join(
            f"{self.set.show_key(key)} timeout {self.milliseconds}ms" for key, _ in self.elements
        )
        return f"add element inet {table} {self.set.name} {{ {shown} }}"


class DeleteElements(Elements, frozen=True):
    """Delete elements; refused (ENOENT) if one is not there."""

    def requests(self, table: str) -> Iterator[Request]:
        """See Step."""
        return self._requests(table, DELSETELEM, 0)

    def text(self, table: str) -> str:
        """See Step."""
        return self._text(table, "delete")


class AddCounter(msgspec.Struct, frozen=True):
    """Make a named counter, at zero; one that is there keeps what it counted."""

    name: str

    def requests(self, table: str) -> Iterator[Request]:
        """See Step."""
        body = string(1, table) + string(2, self.name) + u32(3, OBJECT_COUNTER)
        yield NEWOBJ, F_CREATE, _FAMILY, body + nested(4)

    def text(self, table: str) -> str:
        """See Step."""
        return f"add counter inet {table} {self.name}"


class DeleteCounter(msgspec.Struct, frozen=True):
    """Remove a named counter; refused (EBUSY) while a rule uses it."""

    name: str

    def requests(self, table: str) -> Iterator[Request]:
        """See Step."""
        yield DELOBJ, 0, _FAMILY, string(1, table) + string(2, self.name) + u32(3, OBJECT_COUNTER)

    def text(self, table: str) -> str:
        """See Step."""
        return f"delete counter inet {table} {self.name}"


Change = (
    AddTable
    | DeleteTable
    | AddChain
    | DeleteChain
    | FlushChain
    | AddRules
    | AddSet
    | DeleteSet
    | AddElements
    | AddTimed
    | DeleteElements
    | AddCounter
    | DeleteCounter
)
