"""The state of a store and the decision about a transaction: pure, no IO, no clock.

`Keyspace` is what is durable; readers see nothing else. `Draft` is the keyspace and, laid over
it, the changes that were decided but are not durable yet, so that many transactions can be
decided one after the other and made durable together (group commit). A transaction becomes a
`Change`, which is data: a store writes it down, then applies it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from plait.model.errors import PlaitError
from plait.store.base import Compare, Delete, Event, KeyValue, Page, Put, TxnResult

FIRST_REVISION: Final = 1
"""Revision of a store to which nothing was ever written."""
MAX_KEY: Final = 512
"""Bytes."""
MAX_VALUE: Final = 1 << 20
"""Bytes."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """The effect of one accepted request.

    `events` and `puts` share `revision`; a key that is removed has an event without a value and
    no put. A change that touches leases or history only has revision 0.
    """

    revision: int = 0
    events: tuple[Event, ...] = ()
    puts: tuple[KeyValue, ...] = ()
    granted: tuple[tuple[int, float], ...] = ()
    """Lease id and time to live in seconds."""
    revoked: tuple[int, ...] = ()
    compacted: int = 0
    """History up to and including this revision is forgotten."""

    @property
    def size(self) -> int:
        """Bytes of keys and values."""
        return sum(len(e.key) + len(e.value or b"") + len(e.previous or b"") for e in self.events)


class Keyspace:
    """Current values in key order, the leases' keys, and the bounds of history."""

    def __init__(
        self,
        *,
        revision: int = FIRST_REVISION,
        compacted: int = 0,
        last_lease: int = 0,
        leases: Iterable[int] = (),
        items: Iterable[KeyValue] = (),
    ) -> None:
        self.revision = revision
        self.compacted = compacted
        self.last_lease = last_lease
        """The greatest lease id ever given; ids are never used again."""
        self.leases: dict[int, set[str]] = {lease: set() for lease in leases}
        """Keys of every live lease."""
        self._items: dict[str, KeyValue] = {item.key: item for item in items}
        self._keys = sorted(self._items)
        for item in self._items.values():
            if item.lease:
                self.leases[item.lease].add(item.key)

    def get(self, key: str) -> KeyValue | None:
        """The key now, or None."""
        return self._items.get(key)

    def range(self, prefix: str, limit: int, after: str) -> Page:
        """See `Store.range`."""
        start = bisect_left(self._keys, prefix)
        if after >= prefix:
            start = max(start, bisect_right(self._keys, after))
        # U+007F is greater than every character of a key.
        end = bisect_left(self._keys, prefix + "\x7f", lo=start)
        stop = min(end, start + limit) if limit else end
        items = tuple(self._items[key] for key in self._keys[start:stop])
        return Page(items=items, revision=self.revision, more=stop < end)

    def apply(self, change: Change) -> None:
        """Make the change; it must have been decided upon this state."""
        for event in change.events:
            if event.value is None:
                self._remove(event.key)
        for item in change.puts:
            self._put(item)
        for lease, _ttl in change.granted:
            self.leases[lease] = set()
            self.last_lease = max(self.last_lease, lease)
        for lease in change.revoked:
            self.leases.pop(lease, None)
        self.revision = max(self.revision, change.revision)
        self.compacted = max(self.compacted, change.compacted)

    def _put(self, item: KeyValue) -> None:
        before = self._items.get(item.key)
        if before is None:
            insort(self._keys, item.key)
        elif before.lease:
            self.leases[before.lease].discard(item.key)
        if item.lease:
            self.leases[item.lease].add(item.key)
        self._items[item.key] = item

    def _remove(self, key: str) -> None:
        item = self._items.pop(key)
        del self._keys[bisect_left(self._keys, key)]
        if item.lease:
            self.leases[item.lease].discard(key)


class Draft:
    """The keyspace as it will be when every decided change is durable."""

    def __init__(self, base: Keyspace) -> None:
        self._base = base
        self.revision = base.revision
        self._last_lease = base.last_lease
        self._overlay: dict[str, tuple[int, KeyValue | None]] = {}
        """Key to the revision that changes it and what it becomes."""
        self._revoked: set[int] = set()

    def get(self, key: str) -> KeyValue | None:
        """The key as it will be."""
        if key in self._overlay:
            return self._overlay[key][1]
        return self._base.get(key)

    def decide(
        self, compares: Sequence[Compare], ops: Sequence[Put | Delete]
    ) -> tuple[TxnResult, Change | None]:
        """The outcome of a transaction, and its change if it writes.

        Operations take effect in order, and what counts is their net effect: one event a key.
        PLAIT-STORE-004 for a put under a lease that is gone, PLAIT-STORE-005 for a key or value
        outside the limits.
        """
        for compare in compares:
            check_key(compare.key)
        for op in ops:
            self._check(op)
        failed = tuple(c.key for c in compares if self._mod_revision(c.key) != c.mod_revision)
        if failed:
            return TxnResult(succeeded=False, revision=self.revision, failed=failed), None
        change = self._change(ops)
        return TxnResult(succeeded=True, revision=self.revision), change

    def grant(self, ttl: float) -> tuple[int, Change]:
        """A new lease."""
        self._last_lease += 1
        return self._last_lease, Change(granted=((self._last_lease, ttl),))

    def revoke(self, lease: int) -> Change | None:
        """Remove a lease and its keys; None if it is gone."""
        if not self.has_lease(lease):
            return None
        candidates = self._base.leases[lease] | self._overlay.keys()
        held = (self.get(key) for key in sorted(candidates))
        keys = [item.key for item in held if item is not None and item.lease == lease]
        self._revoked.add(lease)
        change = self._change([Delete(key) for key in keys])
        if change is None:
            return Change(revoked=(lease,))
        return msgspec.structs.replace(change, revoked=(lease,))

    def has_lease(self, lease: int) -> bool:
        """Whether keys may be put under the lease."""
        return lease in self._base.leases and lease not in self._revoked

    def settle(self, change: Change) -> None:
        """The base has this change now."""
        for event in change.events:
            if self._overlay[event.key][0] == event.revision:
                del self._overlay[event.key]
        self._revoked.difference_update(change.revoked)

    def _mod_revision(self, key: str) -> int:
        item = self.get(key)
        return item.mod_revision if item else 0

    def _check(self, op: Put | Delete) -> None:
        check_key(op.key)
        if isinstance(op, Delete):
            return
        if len(op.value) > MAX_VALUE:
            raise PlaitError(
                "PLAIT-STORE-005",
                f"a value of {len(op.value)} bytes is longer than {MAX_VALUE}",
                where=op.key,
            )
        if op.lease and not self.has_lease(op.lease):
            raise PlaitError("PLAIT-STORE-004", f"lease {op.lease} has lapsed", where=op.key)

    def _change(self, ops: Sequence[Put | Delete]) -> Change | None:
        revision = self.revision + 1
        net: dict[str, KeyValue | None] = {}
        for op in ops:
            before = net[op.key] if op.key in net else self.get(op.key)
            if isinstance(op, Delete):
                net[op.key] = None
            else:
                created = before.create_revision if before else revision
                net[op.key] = KeyValue(op.key, op.value, created, revision, op.lease)
        events = []
        for key, item in net.items():
            before = self.get(key)
            if item is not None:
                previous = before.value if before else None
                events.append(Event(key, item.value, revision, item.create_revision, previous))
            elif before is not None:
                events.append(Event(key, None, revision, previous=before.value))
        if not events:
            return None
        self.revision = revision
        for event in events:
            self._overlay[event.key] = (revision, net[event.key])
        puts = tuple(item for item in net.values() if item is not None)
        return Change(revision=revision, events=tuple(events), puts=puts)


def check_key(key: str) -> None:
    """Refuse a key that is not 1 to 512 bytes of printable ASCII after `/` (PLAIT-STORE-005)."""
    if not (key.startswith("/") and len(key) <= MAX_KEY and key.isascii() and key.isprintable()):
        raise PlaitError(
            "PLAIT-STORE-005",
            f"{key[:64]!r} is not a key",
            why=f"a key begins with / and is at most {MAX_KEY} bytes of printable ASCII",
        )
