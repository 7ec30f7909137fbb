"""A flow log that can be waited on: what the agent and the server both answer from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from plait.model.flowring import FlowRing
from plait.model.flows import MAX_WAIT, FlowPage, FlowQuery, FlowRecord

MAX_WAITERS: Final = 256
"""Questions that may wait at once; others are answered at once, with what there is."""


class FlowTail:
    """A ring, and those who wait for its next record; of one event loop."""

    def __init__(self, ring: FlowRing, *, wall: Callable[[], float]) -> None:
        """`wall` is Unix time, seconds."""
        self.ring = ring
        self._wall = wall
        self._news = asyncio.Event()
        self._waiters = 0
        self._closed = False

    def extend(self, records: Iterable[FlowRecord], *, lost: int = 0) -> None:
        """Add records, and how many packets will have none, and wake who waits."""
        before = self.ring.cursor
        self.ring.lose(lost)
        for record in records:
            self.ring.add(record)
        if self.ring.cursor != before:
            self._wake()

    def close(self) -> None:
        """Nobody waits any longer: the process ends."""
        self._closed = True
        self._wake()

    async def page(self, query: FlowQuery) -> FlowPage:
        """The answer to a question; waits for a first record as long as it asks."""
        if query.latest:
            return FlowPage(cursor=self.ring.cursor)
        since = max(self._wall() - query.within, 0.0) if query.within else 0.0
        found = self.ring.page(after=query.after, since=since, only=query, limit=query.limit)
        if found.items or found.more or found.lost or self._waiters >= MAX_WAITERS:
            return found
        self._waiters += 1
        try:
            async with asyncio.timeout(min(query.wait, MAX_WAIT)):
                while not (found.items or found.more or found.lost or self._closed):
                    await self._news.wait()
                    found = self.ring.page(after=found.cursor, only=query, limit=query.limit)
        except TimeoutError:
            pass
        finally:
            self._waiters -= 1
        return found

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
