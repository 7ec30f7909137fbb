"""The store contract: a revisioned key-value store with transactions, leases and watch.

Every implementation passes `tests/contract/test_store.py`. The promises (design section 1):

- P1: a write that was acknowledged survives kill -9 and power loss (memory excepted).
- P3: a watch never skips, repeats or reorders; events of one revision arrive together. When it
  cannot continue it raises `Compacted`, and the caller lists and watches anew.

A revision is a 64-bit counter of committed write transactions; it starts at 1 for an empty
store and grows by one with each transaction that writes. Keys are at most 512 bytes of printable
ASCII that begin with `/`; values are at most 1 MiB.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import msgspec


class Compacted(Exception):
    """History before `revision` is gone: list again, then watch from there."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"history before revision {revision} was compacted")
        self.revision = revision


class KeyValue(msgspec.Struct, frozen=True):
    """A key at one of its revisions."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 0


class Compare(msgspec.Struct, frozen=True):
    """A guard: the key's mod_revision must equal this; 0 means "the key does not exist"."""

    key: str
    mod_revision: int


class Put(msgspec.Struct, frozen=True):
    """Write a key."""

    key: str
    value: bytes
    lease: int = 0


class Delete(msgspec.Struct, frozen=True):
    """Remove a key; removing an absent key changes nothing and is no error."""

    key: str


class TxnResult(msgspec.Struct, frozen=True):
    """Outcome of a transaction.

    `revision` is that of the transaction if it wrote, else the store's current one. `failed`
    holds the keys whose guard did not hold; then nothing was written.
    """

    succeeded: bool
    revision: int
    failed: tuple[str, ...] = ()


class Event(msgspec.Struct, frozen=True):
    """One change. `value` is None for a delete; `previous` is the value before, if any."""

    key: str
    value: bytes | None
    revision: int
    create_revision: int = 0
    previous: bytes | None = None


class Page(msgspec.Struct, frozen=True):
    """A part of a range, and the revision at which it was read."""

    items: tuple[KeyValue, ...]
    revision: int
    more: bool = False


class Store(Protocol):
    """See the module's docstring for the promises. All times are seconds."""

    async def open(self) -> None:
        """Make ready; replays what is on disk."""

    async def close(self) -> None:
        """Flush and release. Later calls raise PlaitError PLAIT-STORE-003."""

    @property
    def revision(self) -> int:
        """Revision of the last committed write."""

    async def get(self, key: str) -> KeyValue | None:
        """The key now, or None."""

    async def range(self, prefix: str, *, limit: int = 0, after: str = "") -> Page:
        """Keys that begin with `prefix`, in byte order, beyond `after`; 0 means no limit."""

    async def txn(self, compares: Sequence[Compare], ops: Sequence[Put | Delete]) -> TxnResult:
        """All of `ops` if every guard holds, else nothing. Durable when it returns."""

    async def lease_grant(self, ttl: float) -> int:
        """A lease id. Keys put under it are deleted when it lapses or is revoked."""

    async def lease_keepalive(self, lease: int) -> bool:
        """Begin the lease's time anew; False when it has lapsed."""

    async def lease_revoke(self, lease: int) -> None:
        """Delete the lease and its keys; no error if it is gone."""

    def watch(self, prefix: str, from_revision: int) -> AsyncIterator[tuple[Event, ...]]:
        """Changes of revisions greater than `from_revision`, one tuple a revision, without end.

        Raises Compacted when they are gone, also at a later step when the reader fell behind, and
        for a revision that the store has not reached: it is of a history that was replaced.
        """

    async def compact(self, revision: int) -> None:
        """Forget history up to and including `revision`; current values stay."""
