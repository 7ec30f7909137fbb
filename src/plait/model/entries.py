"""Mappings that know their last changes, so that whoever follows one applies only those."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Mapping
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

REMEMBERED: Final = 4096
"""Changes that a mapping knows; who is further behind compares the whole."""


class Entries(Generic[K, V]):
    """A mapping with a serial number that grows with every change; `Members` for mappings.

    One writer; readers keep the serial that they have followed to and ask for `since` it.
    Equality is that of the content.
    """

    __slots__ = ("_changes", "_items", "serial")

    def __init__(self, items: Mapping[K, V] | None = None, serial: int = 0) -> None:
        """`serial`: one that no mapping which this one may be taken for has had."""
        self._items: dict[K, V] = dict(items or {})
        self._changes: deque[K] = deque(maxlen=REMEMBERED)
        self.serial = serial

    def set(self, key: K, value: V) -> bool:
        """Put a value in its place; False if it is there already."""
        if key in self._items and self._items[key] == value:
            return False
        self._items[key] = value
        self._changed(key)
        return True

    def discard(self, key: K) -> bool:
        """Remove; False if it is not there."""
        if self._items.pop(key, None) is None:
            return False
        self._changed(key)
        return True

    def since(self, serial: int) -> frozenset[K] | None:
        """Keys whose value may be other than at `serial`; None if that is too long ago."""
        count = self.serial - serial
        if not 0 <= count <= len(self._changes):
            return None
        return frozenset(self._changes[-1 - index] for index in range(count))

    def get(self, key: K) -> V | None:
        """The value of a key, or None."""
        return self._items.get(key)

    def items(self) -> Iterator[tuple[K, V]]:
        """All of it."""
        return iter(self._items.items())

    def _changed(self, key: K) -> None:
        self._changes.append(key)
        self.serial += 1

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entries) and self._items == other._items

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Entries({self._items!r})"
