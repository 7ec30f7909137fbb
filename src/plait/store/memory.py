"""A store in memory: for tests, and as the model of what a store does. Nothing is durable."""

from __future__ import annotations

from collections.abc import Sequence

from plait.store.base import Event
from plait.store.keyspace import Change
from plait.store.local import LocalStore


class MemoryStore(LocalStore):
    """See `base.Store`. History is what memory keeps; older revisions count as compacted."""

    async def open(self) -> None:
        """See `Store.open`."""
        self._opened = True

    async def close(self) -> None:
        """See `Store.close`."""
        self._opened = False
        self._wake()

    async def _commit(self, change: Change | None) -> None:
        if change is None:
            return
        self._applied((change,))
        self._space.compacted = max(self._space.compacted, self._history.floor)

    async def _replay(self, after: int, until: int) -> Sequence[tuple[Event, ...]]:
        del after, until  # what memory lost is compacted, and the watch finds that out itself
        return ()
