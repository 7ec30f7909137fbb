"""What the stores of this process share: reads, watches and leases over one `Keyspace`.

A subclass makes a decided change durable in its own way (`_commit`) and calls `_applied` once
it is; nothing is visible to a reader or a watcher before that.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final

from plait.model.errors import PlaitError
from plait.store.base import Compacted, Compare, Delete, Event, KeyValue, Page, Put, TxnResult
from plait.store.history import History
from plait.store.keyspace import FIRST_REVISION, Change, Draft, Keyspace
from plait.store.leases import Clock, Deadlines

HISTORY_REVISIONS: Final = 4096
"""Revisions that are kept in memory for watchers, at most."""
HISTORY_BYTES: Final = 16 << 20
"""Bytes of values that are kept in memory for watchers, at most."""


class LocalStore(ABC):
    """A `Store` whose state is in this process. Not thread-safe: for one event loop."""

    def __init__(
        self,
        *,
        clock: Clock = time.monotonic,
        history_revisions: int = HISTORY_REVISIONS,
        history_bytes: int = HISTORY_BYTES,
    ) -> None:
        self._clock = clock
        self._history_revisions = history_revisions
        self._history_bytes = history_bytes
        self._opened = False
        self._reset(Keyspace(), ())

    def _reset(self, space: Keyspace, leases: Iterable[tuple[int, float]]) -> None:
        """Begin with this state; every lease begins anew."""
        self._space = space
        self._draft = Draft(space)
        self._changed = asyncio.Event()
        self._history = History(
            space.revision,
            max_revisions=self._history_revisions,
            max_bytes=self._history_bytes,
        )
        self._deadlines = Deadlines(self._clock)
        for lease, ttl in leases:
            self._deadlines.begin(lease, ttl)

    # ---- what differs

    @abstractmethod
    async def _commit(self, change: Change | None) -> None:
        """Make the change durable and visible, and all that it was decided upon.

        Called in the very step that decided the change, with no await between, so that changes
        are committed in the order of their revisions.
        """

    @abstractmethod
    async def _replay(self, after: int, until: int) -> Sequence[tuple[Event, ...]]:
        """Events of some revisions from `after + 1` on, at most to `until`, without a gap.

        Asked for revisions that memory holds no more. Empty when they are compacted.
        """

    # ---- reads

    @property
    def revision(self) -> int:
        """Revision of the last committed write."""
        return self._space.revision

    async def get(self, key: str) -> KeyValue | None:
        """See `Store.get`."""
        self._check_open()
        return self._space.get(key)

    async def range(self, prefix: str, *, limit: int = 0, after: str = "") -> Page:
        """See `Store.range`."""
        self._check_open()
        return self._space.range(prefix, limit, after)

    # ---- writes

    async def txn(self, compares: Sequence[Compare], ops: Sequence[Put | Delete]) -> TxnResult:
        """See `Store.txn`; the rules for operations are those of `Draft.decide`."""
        self._check_open()
        result, change = self._draft.decide(compares, ops)
        await self._commit(change)
        return result

    async def compact(self, revision: int) -> None:
        """See `Store.compact`. A revision beyond the current one means the current one."""
        self._check_open()
        target = min(revision, self._space.revision)
        if target > self._space.compacted:
            await self._commit(Change(compacted=target))

    # ---- leases

    async def lease_grant(self, ttl: float) -> int:
        """See `Store.lease_grant`."""
        self._check_open()
        if not 0 < ttl < float("inf"):
            raise PlaitError("PLAIT-STORE-005", f"{ttl} seconds is not the life of a lease")
        lease, change = self._draft.grant(ttl)
        await self._commit(change)
        return lease

    async def lease_keepalive(self, lease: int) -> bool:
        """See `Store.lease_keepalive`. A lease lives until `lapse` finds it, not shorter."""
        self._check_open()
        return self._draft.has_lease(lease) and self._deadlines.renew(lease)

    async def lease_revoke(self, lease: int) -> None:
        """See `Store.lease_revoke`."""
        self._check_open()
        await self._commit(self._draft.revoke(lease))

    async def lapse(self) -> tuple[int, ...]:
        """Revoke the leases whose time is over and return them (`leases.lapse_for_ever`)."""
        self._check_open()
        lapsed = self._deadlines.lapsed()
        await asyncio.gather(*(self.lease_revoke(lease) for lease in lapsed))
        return lapsed

    # ---- watch

    async def watch(self, prefix: str, from_revision: int) -> AsyncIterator[tuple[Event, ...]]:
        """See `Store.watch`.

        A revision that this store has not reached belongs to another history (a store that was
        lost or replaced), so that too is `Compacted`.
        """
        cursor = max(from_revision, FIRST_REVISION)
        while True:
            self._check_open()
            if cursor < self._space.compacted or cursor > self._space.revision:
                raise Compacted(self._space.compacted)
            if cursor == self._space.revision:
                await self._changed.wait()
                continue
            recent = self._history.get(cursor + 1)
            if recent is not None:
                batch: Sequence[tuple[Event, ...]] = (recent,)
            else:
                batch = await self._replay(cursor, self._space.revision)
            for events in batch:
                cursor += 1
                matching = tuple(event for event in events if event.key.startswith(prefix))
                if matching:
                    yield matching

    # ---- for subclasses

    def _applied(self, changes: Iterable[Change]) -> None:
        """These changes are durable: show them to readers and watchers."""
        for change in changes:
            self._space.apply(change)
            self._draft.settle(change)
            if change.events:
                self._history.append(change.events)
            for lease, ttl in change.granted:
                self._deadlines.begin(lease, ttl)
            for lease in change.revoked:
                self._deadlines.end(lease)
            if change.compacted:
                self._history.forget(change.compacted)
        self._wake()

    def _wake(self) -> None:
        """Let every watcher look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _check_open(self) -> None:
        if not self._opened:
            raise PlaitError("PLAIT-STORE-003", "the store is not open")
