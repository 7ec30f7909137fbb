"""What the nodes tell about flows: the last hour of the whole network, and the rules' counts.

In memory only: a server that starts anew begins with an empty log, and the nodes' next batches.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from datetime import datetime
from typing import Any, Final, TypeVar

import msgspec

from plait.client.flowtail import FlowTail
from plait.model.flowring import FlowRing, utc
from plait.model.flows import (
    FlowBatch,
    FlowPage,
    FlowQuery,
    FlowReceipt,
    FlowRecord,
    RuleCount,
)

H = TypeVar("H", bound=Hashable)

CAPACITY: Final = 100_000
"""Records of all nodes together."""
HORIZON: Final = 3600.0
"""Seconds for which a record is kept."""
MAX_COUNTS: Final = 20_000
"""Rules of one node whose counts are kept; of others nothing is known."""
MAX_SHARED: Final = 50_000
"""Ends and words that records share, so that each is in memory once."""


class FlowStore:
    """Takes batches, answers questions."""

    def __init__(self, wall: Callable[[], float]) -> None:
        """`wall` is Unix time, seconds."""
        self._wall = wall
        self.tail = FlowTail(FlowRing(capacity=CAPACITY, wall=wall, horizon=HORIZON), wall=wall)
        self._seen: dict[str, tuple[int, int]] = {}
        """Each node's own log, and the highest number of it."""
        self._counts: dict[str, dict[str, RuleCount]] = {}
        self._shared: dict[Hashable, Any] = {}

    def take(self, node: str, batch: FlowBatch) -> FlowReceipt:
        """A node's batch. What it says of other nodes' decisions is not believed, and what it
        sent before is passed over."""
        receipt = FlowReceipt(log=self.tail.ring.start)
        if batch.to not in (0, receipt.log):
            return receipt
        own, seen = self._seen.get(node, (0, 0))
        if own != batch.log:
            seen = 0
        fresh = [record for record in batch.items if record.seq > seen]
        self._seen[node] = (batch.log, max((record.seq for record in fresh), default=seen))
        if fresh or not batch.items:
            now = utc(self._wall())
            self.tail.extend([self._own(node, record, now) for record in fresh], lost=batch.lost)
        self.tail.ring.expire()
        self._count(node, batch)
        return receipt

    def forget(self, node: str) -> None:
        """A node is no more; its records stay until their time is over."""
        self._seen.pop(node, None)
        self._counts.pop(node, None)

    async def page(self, query: FlowQuery) -> FlowPage:
        """The answer to a question."""
        self.tail.ring.expire()
        return await self.tail.page(query)

    def counts(self) -> tuple[RuleCount, ...]:
        """The counts of all nodes together, by policy, direction and place."""
        total: dict[str, RuleCount] = {}
        for counts in self._counts.values():
            for ident, count in counts.items():
                known = total.get(ident)
                total[ident] = count if known is None else _sum(known, count)
        return tuple(sorted(total.values(), key=_order))

    def close(self) -> None:
        """Let go of who waits."""
        self.tail.close()

    def _own(self, node: str, record: FlowRecord, now: datetime) -> FlowRecord:
        return msgspec.structs.replace(
            record,
            node=node,
            # A clock that runs ahead would keep a record beyond its hour.
            time=min(record.time, now),
            protocol=self._share(record.protocol),
            src=self._share(record.src),
            dst=self._share(record.dst),
            policy=self._share(record.policy),
            isolating=self._share(record.isolating),
            rule=self._share(record.rule),
            reason=self._share(record.reason),
            id=self._share(record.id),
        )

    def _share(self, value: H) -> H:
        if len(self._shared) >= MAX_SHARED:
            self._shared.clear()
        found: H = self._shared.setdefault(value, value)
        return found

    def _count(self, node: str, batch: FlowBatch) -> None:
        if batch.first:
            self._counts[node] = {}
        counts = self._counts.setdefault(node, {})
        for ident in batch.gone:
            counts.pop(ident, None)
        room = MAX_COUNTS - len(counts)
        for count in batch.counts:
            if count.id in counts or room > 0:
                room -= count.id not in counts
                counts[count.id] = count


def _sum(one: RuleCount, other: RuleCount) -> RuleCount:
    return msgspec.structs.replace(
        one, packets=one.packets + other.packets, bytes=one.bytes + other.bytes
    )


def _order(count: RuleCount) -> tuple[object, ...]:
    return (count.policy, count.direction, count.index, count.id)
