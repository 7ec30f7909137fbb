"""Sets that know their last changes, so that whoever follows one applies only those."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterable, Iterator
from typing import Final, Generic, NamedTuple, TypeVar

T = TypeVar("T", bound=Hashable)

REMEMBERED: Final = 1024
"""Changes that a set knows; who is further behind compares the whole."""


class Change(NamedTuple, Generic[T]):
    """What was added and removed since some moment."""

    added: frozenset[T]
    removed: frozenset[T]


class Members(Generic[T]):
    """A set with a serial number that grows with every change.

    One writer; readers keep the serial that they have followed to and ask for `since` it.
    Equality is that of the content.
    """

    __slots__ = ("_changes", "_items", "serial")

    def __init__(self, items: Iterable[T] = (), serial: int = 0) -> None:
        """`serial`: one that no set which this one may be taken for has had."""
        self._items: set[T] = set(items)
        self._changes: deque[tuple[T, bool]] = deque(maxlen=REMEMBERED)
        self.serial = serial

    def add(self, item: T) -> bool:
        """Add; False if it is there already."""
        if item in self._items:
            return False
        self._items.add(item)
        self._changes.append((item, True))
        self.serial += 1
        return True

    def discard(self, item: T) -> bool:
        """Remove; False if it is not there."""
        if item not in self._items:
            return False
        self._items.discard(item)
        self._changes.append((item, False))
        self.serial += 1
        return True

    def since(self, serial: int) -> Change[T] | None:
        """The difference to what the set was at `serial`; None if that is too long ago."""
        count = self.serial - serial
        if not 0 <= count <= len(self._changes):
            return None
        last: dict[T, bool] = {}
        first: dict[T, bool] = {}
        for index in range(len(self._changes) - count, len(self._changes)):
            item, added = self._changes[index]
            first.setdefault(item, added)
            last[item] = added
        # What was first added and is gone now was not there before, and is not now.
        moved = {item: now for item, now in last.items() if first[item] == now}
        return Change(
            frozenset(item for item, now in moved.items() if now),
            frozenset(item for item, now in moved.items() if not now),
        )

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Members) and self._items == other._items

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Members({self._items!r})"


class Tally(Generic[T]):
    """A set whose items are held once or more often."""

    __slots__ = ("_more", "members")

    def __init__(self, items: Iterable[T] = (), serial: int = 0) -> None:
        counts = Counter(items)
        self.members = Members(counts, serial)
        self._more = {item: count for item, count in counts.items() if count > 1}
        """How often, of items held more than once."""

    def take(self, item: T) -> bool:
        """One more holds it. Whether the set changed."""
        if self.members.add(item):
            return True
        self._more[item] = self._more.get(item, 1) + 1
        return False

    def drop(self, item: T) -> bool:
        """One less holds it. Whether the set changed."""
        count = self._more.get(item, 1)
        if count == 1:
            return self.members.discard(item)
        if count == 2:
            del self._more[item]
        else:
            self._more[item] = count - 1
        return False
