"""A copy of all objects of a kind, and what changes in it from one word of the server to the
next. Pure.

Whatever way the server's words come, each object's changes are told in order, none twice and none
left out (P3): listed again after a gap, what has gone in the meantime is told as gone, and an
object that was replaced by another of its name as gone and come.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Generic, NamedTuple

from plait.kubernetes.kinds import T

Key = tuple[str, str]
"""Namespace (empty for kinds of the whole cluster) and name."""


class Change(NamedTuple, Generic[T]):
    """One object came (`old` is None), went (`new` is None) or is another now."""

    key: Key
    old: T | None
    new: T | None


class Replica(Generic[T]):
    """The copy. Every method returns the changes that it made, in order."""

    def __init__(self) -> None:
        self._objects: dict[Key, T] = {}
        self._listed: set[Key] | None = None
        self.objects: Mapping[Key, T] = MappingProxyType(self._objects)
        """Live, not to be changed."""

    def put(self, objects: Iterable[T]) -> list[Change[T]]:
        """These are there as they are here; those of the same version are known."""
        changes: list[Change[T]] = []
        have, listed = self._objects, self._listed
        for new in objects:
            meta = new.metadata
            key = meta.key
            if listed is not None:
                listed.add(key)
            old = have.get(key)
            if old is not None:
                known = old.metadata
                if known.uid != meta.uid:
                    changes.append(Change(key, old, None))
                    old = None
                elif known.resource_version == meta.resource_version:
                    continue
            have[key] = new
            changes.append(Change(key, old, new))
        return changes

    def delete(self, key: Key) -> list[Change[T]]:
        """This one is not there."""
        old = self._objects.pop(key, None)
        return [] if old is None else [Change(key, old, None)]

    def begin(self) -> None:
        """A list begins: `put` and `keep` say what it holds until `finish`."""
        self._listed = set()

    def keep(self, key: Key) -> None:
        """The list holds this one, in a form that nobody understands: what is known stays."""
        if self._listed is not None:
            self._listed.add(key)

    def finish(self) -> list[Change[T]]:
        """The list is complete: what it did not hold is not there."""
        listed, self._listed = self._listed, None
        if listed is None:
            return []
        gone = [key for key in self._objects if key not in listed]
        return [change for key in gone for change in self.delete(key)]

    def clear(self) -> list[Change[T]]:
        """None is there."""
        self._listed = None
        return [change for key in tuple(self._objects) for change in self.delete(key)]
