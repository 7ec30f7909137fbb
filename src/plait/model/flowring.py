"""A bounded log of flow records: the oldest go first, and what is missing is counted. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import msgspec

from plait.model.flows import EVERY_FLOW, PAGE, FlowFilter, FlowPage, FlowRecord

SCAN: Final = 5_000
"""Records that one question looks at, at most: what it costs is bounded, however few match."""
MARKS: Final = 512
"""Moments of loss that are remembered; of older ones only the sum."""
BUCKET: Final = timedelta(seconds=10)
"""Records of this time that were crowded out are counted together."""


class _Loss(NamedTuple):
    """Packets without a record, at their place in the log."""

    time: datetime
    packets: int


class _Crowded(NamedTuple):
    """Records that went before their time."""

    time: datetime
    """Of the first of them."""
    entries: int


class FlowRing:
    """Records by their number, without gaps; a loss takes a number too.

    Numbers begin at the time of the start, in microseconds, so that those of a ring made anew
    are above all that the former one gave, and a reader's cursor stays good.
    """

    def __init__(
        self, *, capacity: int, wall: Callable[[], float], horizon: float = float("inf")
    ) -> None:
        """At most `capacity` records, none older than `horizon` seconds; `wall` is Unix time."""
        self._capacity = capacity
        self._horizon = horizon
        self._wall = wall
        self._entries: deque[FlowRecord | _Loss] = deque()
        self.start = self._next = max(int(wall() * 1_000_000), 1)
        """`start` is the number of the first record ever: it tells one log from another."""
        self._crowded: deque[_Crowded] = deque(maxlen=MARKS)
        self.added = 0
        """Records since the start."""
        self.lost = 0
        """Packets that have no record, since the start."""

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def cursor(self) -> int:
        """Number of the last record."""
        return self._next - 1

    def add(self, record: FlowRecord) -> None:
        """Number a record and keep it."""
        self._append(msgspec.structs.replace(record, seq=self._next))
        self.added += 1

    def lose(self, count: int) -> None:
        """So many packets will never have a record."""
        if count > 0:
            self.lost += count
            self._append(_Loss(utc(self._wall()), count))

    def expire(self) -> None:
        """Let go of what is older than the horizon."""
        limit = utc(max(self._wall() - self._horizon, 0.0))
        while self._entries and self._entries[0].time < limit:
            self._entries.popleft()
        while self._crowded and self._crowded[0].time < limit:
            self._crowded.popleft()

    def page(
        self,
        *,
        after: int = 0,
        since: float = 0.0,
        only: FlowFilter = EVERY_FLOW,
        limit: int = PAGE,
    ) -> FlowPage:
        """Records with a number above `after`, of the time `since` (Unix) or later."""
        first = self._next - len(self._entries)
        cursor = max(after, first - 1)
        earliest = utc(since)
        items: list[FlowRecord] = []
        lost = self._missing(after, first, earliest)
        for number in range(cursor + 1, min(cursor + 1 + SCAN, self._next)):
            if len(items) >= limit:
                break
            entry = self._entries[number - first]
            cursor = number
            if entry.time < earliest:
                continue
            if isinstance(entry, _Loss):
                lost += entry.packets
            elif only.matches(entry):
                items.append(entry)
        # A cursor from beyond the end is one of a log whose clock ran ahead of ours.
        cursor = min(cursor, self.cursor)
        return FlowPage(items=tuple(items), cursor=cursor, more=cursor < self.cursor, lost=lost)

    def _missing(self, after: int, first: int, earliest: datetime) -> int:
        """Records that were crowded out and not seen by who has read up to `after`."""
        if after >= self.start:
            return max(first - 1 - after, 0)
        return sum(gone.entries for gone in self._crowded if gone.time >= earliest)

    def _append(self, entry: FlowRecord | _Loss) -> None:
        if len(self._entries) >= self._capacity:
            self._crowd_out(self._entries.popleft())
        self._entries.append(entry)
        self._next += 1

    def _crowd_out(self, entry: FlowRecord | _Loss) -> None:
        last = self._crowded[-1] if self._crowded else None
        if last is not None and abs(entry.time - last.time) < BUCKET:
            self._crowded[-1] = last._replace(entries=last.entries + 1)
        else:
            self._crowded.append(_Crowded(entry.time, 1))


def utc(seconds: float) -> datetime:
    """Unix time as a moment in UTC."""
    return datetime.fromtimestamp(seconds, UTC)
