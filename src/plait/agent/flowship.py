"""Sends this host's flow records and counts to the server, so that one question answers for the
whole network.

The log itself is the queue: a cursor says how far the server knows it. While the server is away
the log keeps what fits, and what was crowded out is told as lost.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Final

import structlog

from plait.agent.rulecounts import EVERY, RuleCounts
from plait.client.flowtail import FlowTail
from plait.model.errors import PlaitError
from plait.model.flows import FlowBatch, FlowQuery, FlowReceipt, RuleCount

BATCH: Final = 500
"""Records, and counts, in one batch: as a rule well below the longest body that a server takes."""
AGAIN: Final = 1_000
"""Records, the last ones, that a server which started anew is told again."""
GATHER: Final = 0.2
"""Seconds for which the first record of a batch waits for others."""
BACKOFF: Final = (0.5, 5.0)
"""Seconds before a batch that was not taken is tried again: first, and at most."""

TOO_LARGE: Final = 413
HOPELESS: Final = frozenset((400, TOO_LARGE, 422))
"""HTTP status of a batch that will be refused however often it is sent."""

log: Final = structlog.get_logger("plait.agent.flows")

Send = Callable[[FlowBatch], Awaitable[FlowReceipt]]


class Shipper:
    """See the module's docstring."""

    def __init__(self, tail: FlowTail, counts: RuleCounts, send: Send) -> None:
        self._tail = tail
        self._counts = counts
        self._send = send
        self._cursor = 0
        self._told: dict[str, RuleCount] = {}
        self._settled: tuple[RuleCount, ...] = ()
        """The counts of which the server knows all."""
        self._first = True
        self._server = 0
        """The server's log that knows what was sent."""
        self._size = BATCH
        self._refused = 0
        """Records that the server will never have."""

    async def run(self) -> None:
        """Send until cancelled."""
        pause = BACKOFF[0]
        while True:
            try:
                await self.round()
            except PlaitError as error:
                log.debug("flows.not.sent", error=str(error))
                # Jitter, so that hosts do not come back together.
                await asyncio.sleep(pause * (0.5 + random.random()))  # noqa: S311
                pause = min(pause * 2, BACKOFF[1])
            else:
                pause = BACKOFF[0]
                await asyncio.sleep(GATHER)

    async def round(self, *, wait: float = EVERY) -> bool:
        """Send the next batch; False when `wait` seconds brought nothing to send. Raises
        PlaitError when the server does not take it: nothing is given up then."""
        changed, gone = self._news()
        hasty = changed or gone or self._first
        page = await self._tail.page(
            FlowQuery(after=self._cursor, limit=self._size, wait=0.0 if hasty else wait)
        )
        if not (page.items or page.lost or hasty):
            return False
        batch = FlowBatch(
            items=page.items,
            log=self._tail.ring.start,
            to=self._server,
            lost=page.lost + self._refused,
            counts=changed,
            gone=gone,
            first=self._first,
        )
        if await self._taken(batch):
            self._first = False
            self._cursor = page.cursor
            self._told.update({count.id: count for count in changed})
            for ident in gone:
                del self._told[ident]
        return True

    async def _taken(self, batch: FlowBatch) -> bool:
        """Send; False when it is to be sent again, smaller or from an earlier place."""
        try:
            receipt = await self._send(batch)
        except PlaitError as error:
            if error.status == TOO_LARGE and self._size > 1:
                self._size = max(self._size // 4, 1)
                return False
            if error.status not in HOPELESS:
                raise
            log.warning("flows.refused", error=str(error), records=len(batch.items))
            self._refused = batch.lost + len(batch.items)
            return True
        self._size = min(self._size * 2, BATCH)
        if self._server not in (0, receipt.log):
            self._begin_anew(receipt.log)
            return False
        self._server = receipt.log
        self._refused = 0
        return True

    def _begin_anew(self, server: int) -> None:
        """The server started: it took nothing, and knows of nothing."""
        self._server = server
        self._cursor = max(self._tail.ring.cursor - AGAIN, 0)
        self._told = {}
        self._settled = ()
        self._first = True

    def _news(self) -> tuple[tuple[RuleCount, ...], tuple[str, ...]]:
        """Counts that the server does not know, and ids that it should forget."""
        present = self._counts.items
        if present is self._settled:
            return (), ()
        changed = [count for count in present if self._told.get(count.id) != count]
        gone = self._told.keys() - {count.id for count in present}
        if not changed and not gone:
            self._settled = present
        return tuple(changed[: self._size]), tuple(islice(gone, self._size))


async def read_counters(counts: RuleCounts) -> None:
    """Read the counters every `EVERY` seconds until cancelled."""
    while True:
        try:
            await counts.refresh()
        except OSError as error:
            log.warning("counters.not.read", error=str(error))
        await asyncio.sleep(EVERY)
