"""A bounded log of flow records: the oldest go first, and what is missing is counted. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NamedTuple

import msgspec

from plait.model.flows import EVERY_FLOW, FlowFilter, FlowPage, FlowRecord

SCAN: Final = 5_000
"""Records that one question looks at, at most: what it costs is bounded, however few match."""
PAGE: Final = 1_000
"""Records in one answer, at most."""
MARKS: Final = 512
"""Moments of loss that are remembered; of older ones only the sum."""
BUCKET: Final = 10.0
"""Seconds of records that were crowded out and are counted together."""


class _Loss(NamedTuple):
    seq: int
    """Of the record before which it happened."""
    time: float
    count: int


class FlowRing:
    """Records by their number, without gaps.

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
        self._records: deque[FlowRecord] = deque()
        self._start = self._next = int(wall() * 1_000_000)
        self._losses: deque[_Loss] = deque(maxlen=MARKS)
        self._crowded: deque[_Loss] = deque(maxlen=MARKS)
        self.added = 0
        """Records since the start."""
        self.lost = 0
        """Packets that have no record, since the start."""

    def __len__(self) -> int:
        return len(self._records)

    @property
    def cursor(self) -> int:
        """Number of the last record."""
        return self._next - 1

    def add(self, record: FlowRecord) -> None:
        """Number a record and keep it."""
        if len(self._records) >= self._capacity:
            self._crowd_out(self._records.popleft())
        self._records.append(msgspec.structs.replace(record, seq=self._next))
        self._next += 1
        self.added += 1

    def lose(self, count: int) -> None:
        """So many packets will never have a record."""
        if count <= 0:
            return
        self.lost += count
        last = self._losses[-1] if self._losses else None
        if last is not None and last.seq == self._next:
            self._losses[-1] = last._replace(count=last.count + count)
        else:
            self._losses.append(_Loss(self._next, self._wall(), count))

    def expire(self) -> None:
        """Let go of what is older than the horizon."""
        limit = self._wall() - self._horizon
        while self._records and self._records[0].time.timestamp() < limit:
            self._records.popleft()
        for losses in (self._losses, self._crowded):
            while losses and losses[0].time < limit:
                losses.popleft()

    def page(
        self,
        *,
        after: int = 0,
        since: float = 0.0,
        only: FlowFilter = EVERY_FLOW,
        limit: int = PAGE,
    ) -> FlowPage:
        """Records with a number above `after`, of the time `since` (Unix) or later."""
        records = self._records
        first = self._next - len(records)
        start = max(after + 1 - first, 0)
        end = min(start + SCAN, len(records))
        earliest = utc(since)
        items: list[FlowRecord] = []
        cursor = max(after, first - 1) if start < len(records) else self.cursor
        for place in range(start, end):
            record = records[place]
            if len(items) >= limit:
                break
            cursor = record.seq
            if record.time >= earliest and only.matches(record):
                items.append(record)
        lost = sum(
            loss.count
            for loss in self._losses
            if after < loss.seq <= cursor + 1 and loss.time >= since
        )
        return FlowPage(
            items=tuple(items),
            cursor=cursor,
            more=cursor < self.cursor,
            lost=lost + self._missing(after, first, since),
        )

    def _missing(self, after: int, first: int, since: float) -> int:
        """Records that were crowded out and not seen by who has read up to `after`."""
        if after >= self._start:
            return max(first - 1 - after, 0)
        return sum(loss.count for loss in self._crowded if loss.time >= since)

    def _crowd_out(self, record: FlowRecord) -> None:
        moment = record.time.timestamp()
        last = self._crowded[-1] if self._crowded else None
        if last is not None and abs(moment - last.time) < BUCKET:
            self._crowded[-1] = last._replace(count=last.count + 1)
        else:
            self._crowded.append(_Loss(record.seq, moment, 1))


def utc(seconds: float) -> datetime:
    """Unix time as a moment in UTC."""
    return datetime.fromtimestamp(seconds, UTC)
