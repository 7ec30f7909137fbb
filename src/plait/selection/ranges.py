"""Ranges of addresses: CIDRs without their exceptions, joined, as text and back."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple


class Range(NamedTuple):
    """From the first to the last number of one family (or, of ports, of one protocol)."""

    family: int
    first: int
    last: int


@lru_cache(maxsize=16384)
def of_cidr(cidr: str) -> Range:
    """The addresses of a CIDR. ValueError if it is none."""
    network = ipaddress.ip_network(cidr)
    return Range(network.version, int(network[0]), int(network[-1]))


def without(whole: Range, holes: Iterable[Range]) -> list[Range]:
    """What is left of a range."""
    left: list[Range] = []
    family, first, last = whole
    for hole in join(hole for hole in holes if hole.family == family):
        if hole.last < first or hole.first > last:
            continue
        if hole.first > first:
            left.append(Range(family, first, hole.first - 1))
        first = hole.last + 1
    if first <= last:
        left.append(Range(family, first, last))
    return left


def join(ranges: Iterable[Range]) -> list[Range]:
    """The same numbers in as few ranges as possible: sorted, with a gap between any two."""
    joined: list[Range] = []
    for one in sorted(ranges):
        before = joined[-1] if joined else None
        if before is None or before.family != one.family or one.first > before.last + 1:
            joined.append(one)
        elif one.last > before.last:
            joined[-1] = before._replace(last=one.last)
    return joined


@lru_cache(maxsize=16384)
def text(one: Range) -> str:
    """`first-last`, canonical addresses."""
    kind = ipaddress.IPv4Address if one.family == 4 else ipaddress.IPv6Address
    return f"{kind(one.first)}-{kind(one.last)}"


def parse(written: str) -> Range:
    """The range of a text that `text` made."""
    first, last = map(ipaddress.ip_address, written.split("-"))
    return Range(first.version, int(first), int(last))
