"""What Plait's server has, as far as the connector knows: its watch, and answers to its writes.

Answers come before the watch tells the same, so that nothing is written twice. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from plait.client.base import WatchEvent
from plait.model.objects import AnyObject


class Held:
    """Objects by key. The methods return the keys of what changed."""

    def __init__(self) -> None:
        self._objects: dict[str, AnyObject] = {}
        self.objects: Mapping[str, AnyObject] = MappingProxyType(self._objects)
        """Live, not to be changed."""
        self._removed: dict[str, int] = {}
        """Objects whose removal was answered and not yet told: no older word counts."""
        self._listed: set[str] | None = None
        self._revision = 0
        """Up to here the watch told all that there is, but while it lists."""
        self._rewound = False
        self.synced = False
        """A whole listing was seen."""

    def take(self, event: WatchEvent) -> set[str]:
        """A word of the watch."""
        match event.type:
            case "begin":
                self._listed = set()
                # A server that was restored from a backup counts again from there.
                self._rewound = 0 < event.revision < self._revision
            case "put" if event.object is not None:
                if self._listed is not None:
                    self._listed.add(event.object.key)
                else:
                    self._revision = max(self._revision, event.revision)
                return self._put(event.object, self._rewound)
            case "delete" if event.object is not None:
                return self._delete(event.object.key, event.revision)
            case "synced":
                return self._complete(event.revision)
            case _:
                pass
        self._revision = max(self._revision, event.revision)
        return set()

    def stored(self, obj: AnyObject) -> set[str]:
        """The server answered that this is what it has. Where the watch has come that far and
        knows no such object, it has gone again since."""
        told = self.synced and self._listed is None and obj.metadata.revision < self._revision
        if told and obj.key not in self._objects:
            return set()
        return self._put(obj, False)

    def removed(self, key: str) -> set[str]:
        """The server answered that there is no such object."""
        gone = self._objects.pop(key, None)
        if gone is None:
            return set()
        self._removed[key] = gone.metadata.revision
        return {key}

    def _put(self, obj: AnyObject, whatever: bool) -> set[str]:
        key, revision = obj.key, obj.metadata.revision
        former = self._objects.get(key)
        known = former.metadata.revision if former is not None else self._removed.get(key, -1)
        if revision <= known and not (whatever and former != obj):
            return set()
        self._removed.pop(key, None)
        self._objects[key] = obj
        return {key}

    def _delete(self, key: str, revision: int) -> set[str]:
        self._revision = max(self._revision, revision)
        self._removed.pop(key, None)
        former = self._objects.get(key)
        if former is None or former.metadata.revision > revision:
            return set()
        del self._objects[key]
        return {key}

    def _complete(self, revision: int) -> set[str]:
        listed, self._listed = self._listed or set(), None
        gone = {
            key
            for key, obj in self._objects.items()
            if key not in listed and (self._rewound or obj.metadata.revision <= revision)
        }
        for key in gone:
            del self._objects[key]
        self._removed.clear()
        self._revision = revision
        self._rewound = False
        self.synced = True
        return gone
