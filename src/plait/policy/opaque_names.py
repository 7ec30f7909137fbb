"""Opaque names of what a ruleset is made of: a letter and 75 bits of a hash of the meaning.

The same meaning has the same name on every host and after every restart, so that counters go on
and nothing is written twice; another meaning has another name, so that a record in a log is never
taken for another rule's. No text of a user's gets into them, and there are enough bits that nobody
finds labels whose set is called like somebody else's.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from plait.model.policies import Direction, Rule
from plait.selection.terms import Term

_DIGITS: Final = 15
"""Of 5 bits, a-z and 2-7 (RFC 4648 section 6): with the letter 16, as many as a name may have."""
_encode: Final = msgspec.json.Encoder(order="deterministic").encode


def rule_name(policy: str, direction: Direction, rule: Rule, *, again: int, staged: bool) -> str:
    """A rule of a policy. `again`: how many rules before it in that direction are the same."""
    return _name("r", policy, direction, rule, again, staged)


def chain_name(policy: str, direction: Direction) -> str:
    """The rules of a policy in a direction, whatever they are: an edit changes one chain."""
    return _name("c", policy, direction)


def class_name(direction: Direction, tiers: Iterable[tuple[str, list[str]]]) -> str:
    """The endpoints to which these policies of these tiers apply, in this order."""
    return _name("k", direction, list(tiers))


def set_name(terms: Iterable[Term]) -> str:
    """The addresses that any of the terms selects."""
    return _name("s", sorted(map(_encode, terms)))


def sockets_name(port: str, protocol: str) -> str:
    """The ports of this name, of one protocol or (empty) of any."""
    return _name("n", port, protocol)


def domains_name(patterns: Iterable[str]) -> str:
    """The addresses of these names."""
    return _name("d", list(patterns))


def isolation_name(direction: Direction, policies: Iterable[str], *, staged: bool) -> str:
    """The denial of what none of these policies accepts."""
    return _name("i", direction, list(policies), staged)


def _name(letter: Literal["r", "c", "k", "s", "n", "d", "i"], *meaning: object) -> str:
    digest = base64.b32encode(hashlib.blake2s(_encode(meaning)).digest())
    return letter + digest[:_DIGITS].decode().lower()
