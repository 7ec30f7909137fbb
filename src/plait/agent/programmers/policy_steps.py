"""The steps of a change of policies, in the one order in which the kernel takes them.

What is led to is made before what leads there, and removed after it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec

from plait.agent.desired import filter_sets
from plait.agent.desired.policy_rules import Compiled, dispatch_keys
from plait.agent.desired.policy_sets import Constant
from plait.agent.desired.ruleset import Element
from plait.model import marks
from plait.wire import nft, nft_read

Key = tuple[Any, ...]

(
    _UNLEAD,
    _DECLARE,
    _FILL,
    _FLUSH,
    _RULES,
    _LEAD,
    _FLUSH_GONE,
    _DELETE_CHAIN,
    _DELETE,
) = range(9)


class SetWant(NamedTuple):
    """What is to be done to a set."""

    set: nft.Set
    added: tuple[bytes, ...]
    removed: tuple[bytes, ...]
    serial: int
    """Of the members, once that is done."""


class Made(NamedTuple):
    """A chain or a class, and what it is in the kernel."""

    source: tuple[Any, ...]
    """All that it was made of."""
    compiled: Compiled


class Steps:
    """A change in the making. Each step is of the object for whose sake it is made."""

    def __init__(self, actual: nft_read.TableState) -> None:
        self._actual = actual
        self._found: list[tuple[int, Key, nft.Change]] = []
        self._new: list[tuple[int, Key, nft.Change]] = []
        """Of these, what makes objects to which nothing leads yet: no packet meets them."""
        self._shared: set[str] = set()
        """Constants and counters that one object has declared already."""

    def in_order(self) -> list[tuple[Key, nft.Change]]:
        """The changes, each with its object."""
        return _in_order(self._found)

    def ahead(self) -> list[tuple[Key, nft.Change]]:
        """Those of the changes that must stand one transaction before the others.

        The kernel takes a packet through the rules that there were when it came, and looks up
        elements as they are in that moment. An element may lead it to a chain of the same
        transaction, which it finds without rules.
        """
        leads = any(phase == _LEAD for phase, _, _ in self._found)
        return _in_order(self._new) if leads else []

    def add(self, key: Key, want: Any) -> None:
        """What makes an object so: a SetWant, a Made, elements that lead to chains, or None for
        one that goes."""
        if isinstance(want, SetWant):
            self._set(key, want)
        elif isinstance(want, Made):
            self._compiled(key, want.compiled)
        elif key[0] == "dispatch":
            self._dispatch(key, want or ())
        elif key[0] == "gone":
            self._gone(key)

    def _step(self, phase: int, key: Key, change: nft.Change, *, new: bool = False) -> None:
        self._found.append((phase, key, change))
        if new:
            self._new.append((phase, key, change))

    def _set(self, key: Key, want: SetWant) -> None:
        present = self._actual.elements.get(want.set.name)
        new = present is None
        if present is None:
            self._step(_DECLARE, key, nft.AddSet(want.set), new=True)
            present = {}
        removed = tuple([(k, None) for k in want.removed if k in present])
        added = tuple([(k, None) for k in want.added if k not in present])
        if removed:
            self._step(_FILL, key, nft.DeleteElements(want.set, removed))
        if added:
            self._step(_FILL, key, nft.AddElements(want.set, added), new=new)

    def _compiled(self, key: Key, compiled: Compiled) -> None:
        for constant in compiled.constants:
            if constant.set.name not in self._shared:
                self._shared.add(constant.set.name)
                self._set(key, _difference(constant, self._actual))
        for name in compiled.counters:
            if name not in self._shared and name not in self._actual.counters:
                self._shared.add(name)
                self._step(_DECLARE, key, nft.AddCounter(name), new=True)
        for chain, described in compiled.chains:
            held = self._actual.chains.get(chain.name)
            if held == described:
                continue
            if held is None:
                self._step(_DECLARE, key, nft.AddChain(chain), new=True)
            elif held.rules:
                self._step(_FLUSH, key, nft.FlushChain(chain.name))
            if chain.rules:
                self._step(_RULES, key, nft.AddRules(chain), new=held is None)

    def _dispatch(self, key: Key, want: Iterable[Element]) -> None:
        wanted = {(name, k): data for name, k, data in want}
        address = key[1]
        for name, k in dict.fromkeys([*dispatch_keys(address), *wanted]):
            declared = filter_sets.SETS[name]
            held = self._actual.elements.get(name, {}).get(k)
            data = wanted.get((name, k))
            if held == data:
                continue
            if held is not None:
                self._step(_UNLEAD, key, nft.DeleteElements(declared, ((k, None),)))
            if data is not None:
                self._step(_LEAD, key, nft.AddElements(declared, ((k, data),)))

    def _gone(self, key: Key) -> None:
        _, kind, name = key
        if kind == "chain" and name in self._actual.chains:
            self._step(_FLUSH_GONE, key, nft.FlushChain(name))
            self._step(_DELETE_CHAIN, key, nft.DeleteChain(name))
        elif kind == "counter" and name in self._actual.counters:
            self._step(_DELETE, key, nft.DeleteCounter(name))
        elif kind == "set" and name in self._actual.sets:
            self._step(_DELETE, key, nft.DeleteSet(name))


def _in_order(steps: Iterable[tuple[int, Key, nft.Change]]) -> list[tuple[Key, nft.Change]]:
    return [(key, change) for _, key, change in sorted(steps, key=lambda step: step[0])]


def _difference(constant: Constant, actual: nft_read.TableState) -> SetWant:
    present = actual.elements.get(constant.set.name, {}).keys()
    keys = set(constant.keys)
    return SetWant(constant.set, tuple(keys - present), tuple(present - keys), 0)


_SHOWN: Final = 8


def text(changes: Iterable[nft.Change]) -> str:
    """Changes as a network engineer writes them; of many elements only how many they are."""
    return "\n".join(_text(change) for change in changes)


def _text(change: nft.Change) -> str:
    if isinstance(change, nft.Elements) and len(change.elements) > _SHOWN:
        shown = msgspec.structs.replace(change, elements=change.elements[:_SHOWN])
        more = len(change.elements) - _SHOWN
        return shown.text(marks.NFT_TABLE).removesuffix(" }") + f", … {more} more }}"
    return change.text(marks.NFT_TABLE)
