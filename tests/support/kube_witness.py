"""A reflector's handler that believes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plait.kubernetes.replica import Change, Key


class Witness:
    """A handler that holds every change against what was told before (P3)."""

    def __init__(self) -> None:
        self.state: dict[Key, Any] = {}
        self.story: list[tuple[str, str]] = []
        """Name and version of every change, `gone` for the version of one that went. The real
        server marks a pod that is about to go, which is left out."""
        self._dead: set[str] = set()
        self._newest: dict[Key, int] = {}

    def __call__(self, changes: Sequence[Change[Any]]) -> None:
        assert changes
        for key, old, new in changes:
            assert self.state.get(key) is old
            assert old is not None or new is not None
            if new is None or new.metadata.deletion_timestamp is None:
                version = "gone" if new is None else new.metadata.resource_version
                self.story.append((key[1], version))
            if new is None:
                self._dead.add(old.metadata.uid)
                del self.state[key]
                continue
            assert new.metadata.uid not in self._dead
            assert old is None or old.metadata.uid == new.metadata.uid
            number = int(new.metadata.resource_version)
            assert number > self._newest.get(key, 0)
            self._newest[key] = number
            self.state[key] = new
