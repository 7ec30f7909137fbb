"""Comparing tables of thousands, of which one entry changed: a turn does it again and again.

Each pass over them costs as much as their objects lie far apart in memory: there should be few.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import compress
from operator import is_not
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def other_objects(known: Mapping[K, V], wanted: Mapping[K, V]) -> Iterator[K]:
    """Keys of what is wanted and is not the very object that is known. `wanted` must not change
    meanwhile."""
    return compress(wanted, map(is_not, map(known.get, wanted), wanted.values()))


def differing(before: Mapping[K, V], after: Mapping[K, V]) -> list[K]:
    """Keys of what is there and was not, or was other."""
    if before is after:
        return []
    return [key for key in other_objects(before, after) if before.get(key) != after[key]]


def left_over(before: Set[K], after: Set[K], new: int) -> Set[K]:
    """What was there and is no more. `new` is how many are there that were not: nearly always it
    tells by itself that nothing is left over."""
    if len(before) == len(after) - new:
        return frozenset()
    return before - after


def out_and_put(before: Mapping[K, V], after: Mapping[K, V]) -> tuple[Sequence[K], Sequence[K]]:
    """Keys of what was there and is no more, or is other; and of what is there and was not, or
    was other."""
    put = differing(before, after)
    other = [key for key in put if key in before]
    return [*left_over(before.keys(), after.keys(), len(put) - len(other)), *other], put
