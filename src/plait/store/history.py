"""Recent events in memory, bounded in number and in bytes, shared by all watchers.

A watcher keeps a revision, not a queue: however many watchers there are and however slow they
are, memory stays within the bounds given here.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from plait.store.base import Event

EVENT_OVERHEAD: Final = 256
"""Bytes of bookkeeping counted for an event beside its values."""

Events = tuple[Event, ...]


class History:
    """Events of the revisions `floor + 1` to the newest, without a gap."""

    def __init__(self, floor: int, *, max_revisions: int, max_bytes: int) -> None:
        self.floor = floor
        """Revisions up to and including this one are not here."""
        self._max_revisions = max_revisions
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: deque[Events] = deque()

    def append(self, events: Events) -> None:
        """Add the events of the next revision; the oldest go when a bound is passed."""
        self._entries.append(events)
        self._bytes += _size(events)
        while len(self._entries) > self._max_revisions or self._bytes > self._max_bytes:
            self._drop()

    def get(self, revision: int) -> Events | None:
        """Events of a revision; None if they are not here (any more)."""
        index = revision - self.floor - 1
        return self._entries[index] if 0 <= index < len(self._entries) else None

    def forget(self, revision: int) -> None:
        """Drop what is not newer than `revision`."""
        while self._entries and self.floor < revision:
            self._drop()

    def _drop(self) -> None:
        self._bytes -= _size(self._entries.popleft())
        self.floor += 1


def _size(events: Events) -> int:
    return sum(EVENT_OVERHEAD + len(e.value or b"") + len(e.previous or b"") for e in events)
