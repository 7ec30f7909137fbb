"""Keys that may have to be written, in the order in which they should be. Pure.

What comes before what goes; namespaces and nodes, then policies, services, slices and at last
pods, so that a pod finds its policies there; what goes, from the end. A kind of which not all that
Kubernetes has was heard loses nothing, and no pod is written before all namespaces and policies
are known: its keys wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from plait.model.objects import (
    PLURALS,
    EndpointSlice,
    Namespace,
    Node,
    Object,
    Pod,
    Policy,
    Service,
)

ORDER: Final[tuple[type[Object], ...]] = (Namespace, Node, Policy, Service, EndpointSlice, Pod)
BEFORE_PODS: Final[tuple[type[Object], ...]] = (Namespace, Policy)

Class = tuple[type[Object], bool]
"""A kind, and whether the object goes."""
CLASSES: Final[tuple[Class, ...]] = (
    *((kind, False) for kind in ORDER),
    *((kind, True) for kind in reversed(ORDER)),
)


def kind_of(key: str) -> type[Object]:
    """The kind of a key."""
    return PLURALS[key.split("/", 2)[1]]


class Due:
    """`known` says whether everything that Kubernetes has of a kind of ours was heard."""

    def __init__(self, known: Callable[[type[Object]], bool]) -> None:
        self._known = known
        self._keys: dict[Class, dict[str, None]] = {each: {} for each in CLASSES}
        self._class: dict[str, Class] = {}

    def __len__(self) -> int:
        return len(self._class)

    def add(self, key: str, *, goes: bool) -> None:
        """The key may have to be written; `goes` if it is not wanted."""
        new = kind_of(key), goes
        old = self._class.get(key)
        if old != new:
            if old is not None:
                del self._keys[old][key]
            self._class[key] = new
            self._keys[new][key] = None

    def done(self, keys: Iterable[str]) -> None:
        """Nothing is left to do for these."""
        for key in keys:
            found = self._class.pop(key, None)
            if found is not None:
                del self._keys[found][key]

    def first(self, most: int) -> list[str]:
        """The keys to look at next, of one class and in the order in which they were added."""
        for each in CLASSES:
            if self._keys[each] and self._may(*each):
                return [key for key, _ in zip(self._keys[each], range(most), strict=False)]
        return []

    def _may(self, kind: type[Object], goes: bool) -> bool:
        if goes:
            return self._known(kind)
        return kind is not Pod or all(map(self._known, BEFORE_PODS))
