"""Keeps a `State` equal to the store by following its watch.

Reads, validation and watchers see the mirror, and a write returns only when the mirror shows
it, so a client reads its own writes. With several servers over one store a mirror may lag; the
guards of a transaction, not the mirror, decide whether a write holds.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final, NamedTuple, cast

import structlog

from plait.model.errors import PlaitError
from plait.model.objects import Object, decode
from plait.server.state import Entry, State, kind_of_key
from plait.store.base import Compacted, Event, Store
from plait.wire.watch import delete_line

log = structlog.get_logger("plait.server")

HISTORY_REVISIONS: Final = 10_000
"""Revisions before the present that a starting server reads, so that clients resume across a
restart of the server."""


class Change(NamedTuple):
    """One change of one object, ready for watchers."""

    kind: type[Object]
    revision: int
    line: bytes
    """The change as a line of a watch stream."""


class Mirror:
    """See the module. `on_changes` gets each revision's changes, in order of their keys, after
    the state shows them; `on_record` the keys of changed records of the server's own;
    `on_reset` is called when the store's history had a gap, so watchers must begin anew."""

    def __init__(self, store: Store, *, history: int = HISTORY_REVISIONS) -> None:
        self.state = State()
        self.on_changes: Callable[[int, Sequence[Change]], None] = lambda _revision, _changes: None
        self.on_past: Callable[[int, Sequence[Change]], None] = lambda _revision, _changes: None
        self.on_record: Callable[[str], None] = lambda _key: None
        self.on_reset: Callable[[int], None] = lambda _revision: None
        self._store = store
        self._history = history
        self._task: asyncio.Task[None] | None = None
        self._loaded = 0
        """Revision of the state that was read as a whole."""
        self._past_told = asyncio.Event()
        self._failed: BaseException | None = None
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._serial = 0

    async def start(self) -> None:
        """Read everything, then follow."""
        revision = await self._load()
        self.on_reset(max(1, revision - self._history))
        self._task = asyncio.create_task(self._run(revision), name="server.mirror")

    async def stop(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._fail(PlaitError("PLAIT-API-012", "the server is stopping"))

    @property
    def alive(self) -> bool:
        """Whether it follows the store."""
        return self._task is not None and self._failed is None

    async def wait(self, revision: int) -> None:
        """Return when the state shows this revision."""
        if self.state.revision >= revision:
            return
        if self._failed is not None:
            raise PlaitError("PLAIT-API-012", "the server cannot follow its store")
        future = asyncio.get_running_loop().create_future()
        self._serial += 1
        heapq.heappush(self._waiters, (revision, self._serial, future))
        await future

    async def past(self) -> None:
        """Return when all changes from before the state that was read are told: one who resumes
        earlier would miss the rest of them."""
        await self._past_told.wait()
        if self._failed is not None:
            raise PlaitError("PLAIT-API-012", "the server cannot follow its store")

    async def _load(self) -> int:
        page = await self._store.range("/")
        state = State()
        for item in page.items:
            if kind_of_key(item.key) is None:
                state.records[item.key] = (item.value, item.mod_revision)
            else:
                state.put(item.key, decode(item.value), item.mod_revision)
        state.revision = page.revision
        self.state, self._loaded = state, page.revision
        return page.revision

    async def _run(self, loaded: int) -> None:
        try:
            start = max(1, loaded - self._history)
            while True:
                self._reached(start)
                try:
                    await self._follow(start)
                except Compacted as gone:
                    if start < loaded and gone.revision <= loaded:
                        start = max(gone.revision, start + 1)
                        self.on_reset(start)
                        continue
                    log.warning("mirror.gap", compacted=gone.revision)
                    start = loaded = await self._load()
                    self.on_reset(loaded)
                    self._wake()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            log.exception("mirror.failed")
            self._fail(error)

    async def _follow(self, start: int) -> None:
        stream = cast("AsyncGenerator[tuple[Event, ...], None]", self._store.watch("/", start))
        try:
            async for events in stream:
                self._apply(events)
        finally:
            await stream.aclose()

    def _apply(self, events: Sequence[Event]) -> None:
        revision = events[0].revision
        past = revision <= self.state.revision
        changes: list[Change] = []
        for event in sorted(events, key=lambda event: event.key):
            kind = kind_of_key(event.key)
            if kind is not None:
                change = self._past(kind, event) if past else self._object(kind, event)
                if change is not None:
                    changes.append(change)
            elif not past:
                self._record(event)
        if past:
            self.on_past(revision, changes)
        else:
            self.state.revision = revision
            self.on_changes(revision, changes)
            self._wake()
        self._reached(revision)

    def _object(self, kind: type[Object], event: Event) -> Change | None:
        if event.value is None:
            old = self.state.delete(event.key)
            if old is None:
                return None
            return Change(kind, event.revision, delete_line(event.revision, old.body))
        entry = self.state.put(event.key, decode(event.value), event.revision)
        return Change(kind, event.revision, entry.line)

    def _past(self, kind: type[Object], event: Event) -> Change | None:
        """A change from before the state: only for those who resume."""
        value = event.value if event.value is not None else event.previous
        if value is None:
            return None
        entry = Entry(event.key, decode(value), event.revision)
        if event.value is None:
            return Change(kind, event.revision, delete_line(event.revision, entry.body))
        return Change(kind, event.revision, entry.line)

    def _record(self, event: Event) -> None:
        if event.value is None:
            self.state.records.pop(event.key, None)
        else:
            self.state.records[event.key] = (event.value, event.revision)
        self.on_record(event.key)

    def _reached(self, revision: int) -> None:
        if revision >= self._loaded:
            self._past_told.set()

    def _wake(self) -> None:
        while self._waiters and self._waiters[0][0] <= self.state.revision:
            _, _, future = heapq.heappop(self._waiters)
            if not future.done():
                future.set_result(None)

    def _fail(self, error: BaseException) -> None:
        self._failed = error
        self._past_told.set()
        waiters, self._waiters = self._waiters, []
        for _, _, future in waiters:
            if not future.done():
                future.set_exception(PlaitError("PLAIT-API-012", "the server is stopping"))
