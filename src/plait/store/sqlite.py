"""The embedded durable store: SQLite with one writer thread and group commit.

Transactions are decided in the event loop, in the order in which they come, upon a draft; all
that were decided while the disk was busy become durable in one commit. So a failed guard fails
alone, costs no disk access, and 64 writers share one fsync. Reads come from memory, which holds
what is durable and nothing else; older history for watchers comes from the log table.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple, ParamSpec, TypeVar

from plait.store.backup import restore, write_backup
from plait.store.base import Event
from plait.store.keyspace import Change, Draft, Keyspace
from plait.store.leases import Clock
from plait.store.local import HISTORY_BYTES, HISTORY_REVISIONS, LocalStore
from plait.store.sqlite_file import StoreFile, locked

__all__ = ["SqliteStore", "restore"]

KEEP_REVISIONS: Final = 100_000
"""Revisions of history that stay on disk; older ones are compacted by and by."""
BATCH_CHANGES: Final = 1024
BATCH_BYTES: Final = 16 << 20
"""Bounds of one commit."""

P = ParamSpec("P")
T = TypeVar("T")


class _Waiting(NamedTuple):
    """A decided transaction; `change` is None when it writes nothing."""

    change: Change | None
    done: asyncio.Future[None]


class SqliteStore(LocalStore):
    """See `base.Store`.

    A write that cannot be made durable raises PLAIT-STORE-001 (disk full) or PLAIT-STORE-007,
    and so do the writes that were decided after it; the next one tries again. After such an
    error a write may or may not be found after a crash, as with any lost acknowledgement.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock = time.monotonic,
        keep_revisions: int = KEEP_REVISIONS,
        history_revisions: int = HISTORY_REVISIONS,
        history_bytes: int = HISTORY_BYTES,
    ) -> None:
        super().__init__(
            clock=clock, history_revisions=history_revisions, history_bytes=history_bytes
        )
        self._path = path
        self._keep = keep_revisions
        self._queue: deque[_Waiting] = deque()
        self._work = asyncio.Event()

    async def open(self) -> None:
        """See `Store.open`.

        PLAIT-STORE-006 when another process has it open, PLAIT-STORE-002 when it is damaged.
        """
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(locked(self._path))
            self._thread = stack.enter_context(
                ThreadPoolExecutor(max_workers=1, thread_name_prefix="plait-store")
            )
            self._file = await self._call(StoreFile, self._path)
            stack.push_async_callback(self._call, self._file.close)
            content = await self._call(self._file.load)
            space = Keyspace(
                revision=content.revision,
                compacted=content.compacted,
                last_lease=content.last_lease,
                leases=(lease for lease, _ttl in content.leases),
                items=content.items,
            )
            self._reset(space, content.leases)
            self._resources = stack.pop_all()
        self._busy = False
        self._opened = True
        self._writer = asyncio.create_task(self._write_for_ever(), name="store-writer")

    async def close(self) -> None:
        """See `Store.close`. What was decided before is written first."""
        if not self._opened:
            return
        self._opened = False
        self._work.set()
        await self._writer
        self._wake()
        await self._resources.aclose()

    async def backup(self, path: Path) -> None:
        """Write a consistent copy, mode 0600, complete or not at all; writes wait meanwhile."""
        self._check_open()
        await self._call(write_backup, self._file, path)

    # ---- writing

    async def _commit(self, change: Change | None) -> None:
        # Even an answer that writes nothing may rest upon a change that is not durable yet.
        if change is None and not self._queue and not self._busy:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(change, done))
        self._work.set()
        await done

    async def _write_for_ever(self) -> None:
        while self._queue or self._opened:
            if not self._queue:
                self._work.clear()
                await self._work.wait()
                continue
            batch = self._take()
            changes = [waiting.change for waiting in batch if waiting.change is not None]
            changes += self._compaction(changes)
            self._busy = True
            try:
                if changes:
                    await self._call(self._file.write, changes)
            except Exception as error:
                self._refuse(batch, error)
            else:
                self._applied(changes)
                for waiting in batch:
                    if not waiting.done.done():
                        waiting.done.set_result(None)
            finally:
                self._busy = False

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._queue and len(batch) < BATCH_CHANGES and size < BATCH_BYTES:
            waiting = self._queue.popleft()
            size += waiting.change.size if waiting.change else 0
            batch.append(waiting)
        return batch

    def _compaction(self, changes: Sequence[Change]) -> list[Change]:
        """Forget the oldest history, a hundredth of what is kept at a time."""
        newest = max((change.revision for change in changes), default=0)
        if newest - self._space.compacted <= self._keep + self._keep // 100:
            return []
        return [Change(compacted=newest - self._keep)]

    def _refuse(self, batch: Sequence[_Waiting], error: Exception) -> None:
        """Fail a batch, and all that was decided upon it."""
        refused = [*batch, *self._queue]
        self._queue.clear()
        self._draft = Draft(self._space)
        for waiting in refused:
            if not waiting.done.done():
                waiting.done.set_exception(error)

    # ---- reading

    async def _replay(self, after: int, until: int) -> Sequence[tuple[Event, ...]]:
        return await self._call(self._file.replay, after, until)

    async def _call(self, function: Callable[P, T], *args: P.args, **_none: P.kwargs) -> T:
        """Run in the thread that owns the connection."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)
