"""A server in memory behind the Api Protocol: revisions, compare-and-swap, watch, and failing.

What the real server validates (pools, authorisation) it does not: it keeps objects, and gives
clients the same order of events.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

import msgspec

from plait.client.base import BatchOp, WatchEvent
from plait.client.flowtail import FlowTail
from plait.model.errors import PlaitError
from plait.model.flowring import FlowRing
from plait.model.flows import FlowBatch, FlowPage, FlowQuery, FlowReceipt, RuleCount
from plait.model.objects import AnyObject, Object, object_key

T = TypeVar("T", bound=Object)


class FakeServer:
    """The state that several `FakeApi`s share."""

    def __init__(self) -> None:
        self.revision = 1
        self.objects: dict[str, AnyObject] = {}
        self.away = False
        """True: nothing gets through, and watches hear no more."""
        self.forgotten = False
        """True: the node that asks is not known any more."""
        self.writes = 0
        self.flows = FlowTail(FlowRing(capacity=1000, wall=time.time), wall=time.time)
        self.counts: tuple[RuleCount, ...] = ()
        self._queues: set[asyncio.Queue[WatchEvent | None]] = set()

    def put(self, obj: AnyObject) -> AnyObject:
        """Write, whatever is there, and tell the watchers."""
        self.revision += 1
        self.writes += 1
        uid = obj.metadata.uid or f"uid-{self.revision}"
        metadata = msgspec.structs.replace(obj.metadata, revision=self.revision, uid=uid)
        stored = msgspec.structs.replace(obj, metadata=metadata)
        self.objects[obj.key] = stored
        self._tell(WatchEvent(type="put", revision=self.revision, object=stored))
        return stored

    def remove(self, key: str) -> None:
        """Delete, and tell the watchers."""
        self.revision += 1
        self.writes += 1
        gone = self.objects.pop(key)
        self._tell(WatchEvent(type="delete", revision=self.revision, object=gone))

    def cut(self) -> None:
        """Go away: calls fail, watches end."""
        self.away = True
        for queue in self._queues:
            queue.put_nowait(None)

    def forget(self) -> None:
        """Know the asking node no more: calls are refused, watches end."""
        self.forgotten = True
        for queue in self._queues:
            queue.put_nowait(None)

    def heal(self) -> None:
        """Come back, and know everybody."""
        self.away = self.forgotten = False

    def subscribe(self) -> asyncio.Queue[WatchEvent | None]:
        """Events from now on; None when the connection breaks."""
        queue: asyncio.Queue[WatchEvent | None] = asyncio.Queue()
        self._queues.add(queue)
        return queue

    def unsubscribe(self, queue: asyncio.Queue[WatchEvent | None]) -> None:
        """No more events."""
        self._queues.discard(queue)

    def _tell(self, event: WatchEvent) -> None:
        for queue in self._queues:
            queue.put_nowait(event)


class FakeApi:
    """Implements client.base.Api over a FakeServer."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server

    async def get(self, kind: type[T], name: str, namespace: str = "") -> T:
        """See Api."""
        await self._reach()
        key = object_key(kind, name, namespace)
        found = self._server.objects.get(key)
        if found is None:
            raise PlaitError("PLAIT-API-004", f"there is no {key}")
        return found  # type: ignore[return-value]

    async def list(self, kind: type[T], namespace: str = "") -> tuple[T, ...]:
        """See Api."""
        await self._reach()
        return tuple(
            obj
            for obj in self._server.objects.values()
            if isinstance(obj, kind) and namespace in ("", obj.metadata.namespace)
        )

    async def create(self, obj: T, *, dry_run: bool = False) -> T:
        """See Api."""
        await self._reach()
        if obj.key in self._server.objects:
            raise PlaitError("PLAIT-API-005", f"{obj.key} exists")
        return obj if dry_run else self._server.put(obj)  # type: ignore[arg-type,return-value]

    async def update(self, obj: T, *, dry_run: bool = False) -> T:
        """See Api."""
        await self._reach()
        self._check(obj)
        return obj if dry_run else self._server.put(obj)  # type: ignore[arg-type,return-value]

    async def delete(
        self,
        kind: type[Object],
        name: str,
        namespace: str = "",
        *,
        revision: int = 0,
        dry_run: bool = False,
    ) -> None:
        """See Api."""
        found = await self.get(kind, name, namespace)
        if revision and found.metadata.revision != revision:
            raise PlaitError("PLAIT-API-006", f"{found.key} was changed")
        if not dry_run:
            self._server.remove(found.key)

    async def batch(self, ops: Sequence[BatchOp]) -> tuple[AnyObject, ...]:
        """See Api."""
        await self._reach()
        for op in ops:
            there = op.object.key in self._server.objects
            if op.verb == "create" and there:
                raise PlaitError("PLAIT-API-005", f"{op.object.key} exists")
            if op.verb == "delete" and not there:
                raise PlaitError("PLAIT-API-004", f"there is no {op.object.key}")
            if op.verb == "update":
                self._check(op.object)
        stored: list[AnyObject] = []
        for op in ops:
            if op.verb == "delete":
                stored.append(self._server.objects[op.object.key])
                self._server.remove(op.object.key)
            else:
                stored.append(self._server.put(op.object))
        return tuple(stored)

    async def watch(self, kinds: Sequence[type[Object]]) -> AsyncIterator[WatchEvent]:
        """See Api."""
        wanted = tuple(kinds)
        while True:
            if self._server.forgotten:
                raise _forgotten()
            if self._server.away:
                await asyncio.sleep(0.01)
                continue
            queue = self._server.subscribe()
            try:
                at = self._server.revision
                yield WatchEvent(type="begin", revision=at)
                for obj in tuple(self._server.objects.values()):
                    if isinstance(obj, wanted):
                        yield WatchEvent(type="put", revision=obj.metadata.revision, object=obj)
                yield WatchEvent(type="synced", revision=at)
                while (event := await queue.get()) is not None:
                    if event.revision > at and isinstance(event.object, wanted):
                        yield event
            finally:
                self._server.unsubscribe(queue)
            yield WatchEvent(type="disconnected", reason="cut")

    async def flows(self, query: FlowQuery) -> FlowPage:
        """See ApiClient."""
        await self._reach()
        return await self._server.flows.page(query)

    async def counters(self) -> tuple[RuleCount, ...]:
        """See ApiClient."""
        await self._reach()
        return self._server.counts

    async def report_flows(self, node: str, batch: FlowBatch) -> FlowReceipt:
        """See ApiClient."""
        await self._reach()
        own = (msgspec.structs.replace(record, node=node) for record in batch.items)
        self._server.flows.extend(own, lost=batch.lost)
        self._server.counts += batch.counts
        return FlowReceipt(log=self._server.flows.ring.start)

    async def close(self) -> None:
        """See Api."""

    async def _reach(self) -> None:
        # Always a suspension, as over a real connection: others may act in between.
        await asyncio.sleep(0)
        if self._server.away:
            raise PlaitError("PLAIT-API-012", "the server is away")
        if self._server.forgotten:
            raise _forgotten()

    def _check(self, obj: Object) -> None:
        if not obj.metadata.revision:
            return
        found = self._server.objects.get(obj.key)
        if found is None:
            raise PlaitError("PLAIT-API-004", f"there is no {obj.key}")
        if found.metadata.revision != obj.metadata.revision:
            raise PlaitError("PLAIT-API-006", f"{obj.key} was changed")


def _forgotten() -> PlaitError:
    return PlaitError("PLAIT-AUTH-007", "the server does not know this node any more")
