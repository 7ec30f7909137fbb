"""What a fake API server keeps: objects, the log of their changes, and how far back it goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from plait.kubernetes.replica import Key

Json = dict[str, Any]
Storage = tuple[str, str]
"""Group and plural: all versions of a resource are kept as one."""


class Compacted(Exception):
    """The log does not go back so far."""


class Entry(NamedTuple):
    """One change: `old` is None for a new object, `new` for a deleted one."""

    revision: int
    storage: Storage
    old: Json | None
    new: Json | None


class FakeStore:
    """Objects are never changed once they are here. Revisions count from 1, one a change."""

    def __init__(self) -> None:
        self.revision = 1
        self.compacted = 0
        """Changes up to this revision are forgotten."""
        self._objects: dict[Storage, dict[Key, Json]] = {}
        self._log: list[Entry] = []

    def get(self, storage: Storage, key: Key) -> Json | None:
        """An object, or None."""
        return self._objects.get(storage, {}).get(key)

    def put(self, storage: Storage, key: Key, obj: Json) -> Json:
        """Keep an object; as kept, with its resourceVersion."""
        self.revision += 1
        kept = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.revision)}}
        objects = self._objects.setdefault(storage, {})
        self._log.append(Entry(self.revision, storage, objects.get(key), kept))
        objects[key] = kept
        return kept

    def delete(self, storage: Storage, key: Key) -> Json:
        """Forget an object; KeyError if there is none."""
        old = self._objects[storage].pop(key)
        self.revision += 1
        self._log.append(Entry(self.revision, storage, old, None))
        return old

    def list(self, storage: Storage, revision: int | None = None) -> list[Json]:
        """All objects, by key, as they are or were; raises Compacted."""
        objects = dict(self._objects.get(storage, {}))
        if revision is not None:
            for entry in reversed(list(self.since(storage, revision))):
                key = key_of(entry.old or entry.new or {})
                if entry.old is None:
                    objects.pop(key, None)
                else:
                    objects[key] = entry.old
        return [objects[key] for key in sorted(objects)]

    def since(self, storage: Storage, revision: int) -> Iterator[Entry]:
        """Changes after a revision; raises Compacted."""
        if revision < self.compacted:
            raise Compacted
        first = len(self._log)
        while first and self._log[first - 1].revision > revision:
            first -= 1
        return (entry for entry in self._log[first:] if entry.storage == storage)

    def compact(self, revision: int | None = None) -> None:
        """Forget changes up to a revision; all of them by default."""
        self.compacted = self.revision if revision is None else revision
        self._log = [entry for entry in self._log if entry.revision > self.compacted]


def key_of(obj: Json) -> Key:
    """Namespace and name of an object."""
    meta = obj["metadata"]
    return meta.get("namespace", ""), meta["name"]
