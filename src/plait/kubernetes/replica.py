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
    """The copy. What changes it returns the changes, in order."""

    def __init__(self) -> None:
        self._objects: dict[Key, T] = {}
        self.objects: Mapping[Key, T] = MappingProxyType(self._objects)
        """Live, not to be changed."""

    def put(self, new: T) -> list[Change[T]]:
        """This object is as it is here."""
        meta = new.metadata
        key = meta.key
        old = self._objects.get(key)
        if old is not None and same(old, new):
            return []
        self._objects[key] = new
        if old is not None and old.metadata.uid != meta.uid:
            return [Change(key, old, None), Change(key, None, new)]
        return [Change(key, old, new)]

    def delete(self, key: Key) -> list[Change[T]]:
        """This one is not there."""
        old = self._objects.pop(key, None)
        return [] if old is None else [Change(key, old, None)]

    def replace(self, listed: Listing[T]) -> list[Change[T]]:
        """There is what a complete list holds, and nothing else. What has gone is told first: its
        addresses may be another's already.
        """
        gone = [key for key in self._objects if key not in listed.keys]
        changes = [change for key in gone for change in self.delete(key)]
        for new in listed.news:
            changes += self.put(new)
        return changes

    def clear(self) -> list[Change[T]]:
        """None is there."""
        return self.replace(Listing(self))


class Listing(Generic[T]):
    """A list that comes in pages. It keeps only what the replica does not know."""

    def __init__(self, replica: Replica[T]) -> None:
        self._known = replica.objects
        self.keys: set[Key] = set()
        """All that the list holds."""
        self.news: list[T] = []

    def add(self, objects: Iterable[T]) -> None:
        """The next page."""
        known, keys, news = self._known, self.keys, self.news
        for new in objects:
            key = new.metadata.key
            keys.add(key)
            old = known.get(key)
            if old is None or not same(old, new):
                news.append(new)

    def keep(self, key: Key) -> None:
        """The list holds this one in a form that nobody understands: what is known of it stays."""
        self.keys.add(key)


def same(old: T, new: T) -> bool:
    """Whether these are one object at one version."""
    a, b = old.metadata, new.metadata
    return a.resource_version == b.resource_version and a.uid == b.uid
