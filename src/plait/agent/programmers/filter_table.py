"""Our nftables table as last read or made, and the transactions that change it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from plait.agent.desired import filter_sets, policy_sets, ruleset
from plait.agent.desired.ruleset import Element
from plait.kernel.nft import Features, NftDoor, Refusal, owned_by_another
from plait.model import marks
from plait.model.hoststate import FilterEndpoint
from plait.wire import nft, nft_read

EMPTY: Final = nft_read.TableState(nft_read.TableInfo(0, "", 0, 0, 0), {}, {}, {}, set())
"""What is there when there is no table."""


class FilterTable:
    """What the filter programmers share.

    `actual` is None when there is no table that we could go on with; `stale` then is the one to
    be replaced, whole and in one transaction, because it was made with other flags or types.
    """

    def __init__(self, door: NftDoor) -> None:
        self.door = door
        self.actual: nft_read.TableState | None = None
        self.stale: nft_read.TableState | None = None
        self.endpoints: dict[str, frozenset[Element]] = {}
        """Elements of endpoints by link, of `actual`."""
        self.settled: dict[str, FilterEndpoint] = {}
        """Endpoints of which a plan found that `endpoints` is as they want it: the next plan
        need not look again."""
        self.readings = 0
        """How often `actual` became another one than what our own changes made of it."""
        self._generation = -1

    @property
    def features(self) -> Features:
        """Of the kernel."""
        return self.door.features

    @property
    def flags(self) -> int:
        """Flags that the table must have."""
        return nft.TABLE_OWNER | nft.TABLE_PERSIST if self.features.owner else 0

    @property
    def problems(self) -> tuple[str, ...]:
        """What this kernel lacks and what that means, for the agent's status."""
        found = []
        if not self.features.owner:
            found.append(
                "nftables tables cannot be owned (kernel before 6.9): "
                "other programs can change or flush ours until it is repaired"
            )
        if not self.features.tproxy:
            found.append(
                "nftables cannot proxy transparently (nft_tproxy): names resolve only for "
                f"containers whose resolver is {marks.GATEWAY4} or {marks.RESOLVER6}"
            )
        if not self.features.nflog:
            found.append(
                "nftables cannot log to a listener (nft_log, nfnetlink_log): "
                "`plait flows` shows nothing of this host"
            )
        return tuple(found)

    def observe(self, *, force: bool = False) -> None:
        """Read the table, unless nothing can have changed since it was last read.

        Nothing has when no ruleset of the namespace was changed; nor when we own the table, for
        then the kernel refuses everybody else. Raises PlaitError when a live process owns it.
        """
        generation = self.door.generation()
        if not force and generation == self._generation:
            return
        held = self.actual.info if self.actual else None
        if not force and held and held.owner == self.door.port and held == self.door.table():
            self._generation = generation
            return
        found = self.door.read()
        if found is not None and found.info.owner not in (0, self.door.port):
            raise owned_by_another(found.info.name, found.info.owner)
        usable = found is not None and self._usable(found)
        self.actual, self.stale = (found, None) if usable else (None, found)
        self.endpoints, self.settled = endpoints_of(self.actual), {}
        self.readings += 1
        self._generation = generation

    def _usable(self, found: nft_read.TableState) -> bool:
        flags = found.info.flags
        if self.features.owner:
            # An orphan has lost its owner flag, and only that.
            flags |= nft.TABLE_OWNER
        return flags == self.flags and not any(
            (declared := policy_sets.declared(name)) and nft_read.describe(declared) != held
            for name, held in found.sets.items()
        )

    def commit(self, changes: Sequence[nft.Change]) -> dict[int, Refusal]:
        """Make the changes in one transaction; when all were made, `actual` follows."""
        if changes and self.actual is not None and isinstance(changes[0], nft.AddTable):
            # The kernel adds no base chain in the transaction that adopts the table (EINVAL).
            # Adopting changes no rule, so it may come before.
            refused = self._commit(changes[:1])
            if refused:
                return refused
            return {i + 1 if i >= 0 else i: why for i, why in self._commit(changes[1:]).items()}
        return self._commit(changes)

    def _commit(self, changes: Sequence[nft.Change]) -> dict[int, Refusal]:
        refused = self.door.commit(changes) if changes else {}
        if not refused:
            for change in changes:
                self._follow(change)
        return refused

    def adopted(self) -> bool:
        """Whether the table is there and ours to change."""
        return self.actual is not None and (
            not self.features.owner or self.actual.info.owner == self.door.port
        )

    def purge(self) -> None:
        """Remove the table, and with it all that it does."""
        if self.door.table() is not None:
            adopt = [nft.AddTable(self.flags)] if self.actual else []
            self.door.commit([*adopt, nft.DeleteTable()])
        self.actual, self.stale, self._generation = None, None, -1
        self.readings += 1
        self.endpoints, self.settled = {}, {}

    def _follow(self, change: nft.Change) -> None:
        state = self.actual
        match change:
            case nft.AddTable():
                # The handle and the owner are the kernel's to say.
                info = self.door.table()
                if info is not None:
                    self.actual = (
                        state._replace(info=info)
                        if state
                        else nft_read.TableState(info, {}, {}, {}, set())
                    )
            case nft.DeleteTable():
                self.actual, self.stale, self.endpoints, self.settled = None, None, {}, {}
                self.readings += 1
            case _ if state is not None:
                _FOLLOW[type(change)](state, change)


def endpoints_of(state: nft_read.TableState | None) -> dict[str, frozenset[Element]]:
    """Elements of endpoints by link."""
    found: dict[str, set[Element]] = {}
    if state:
        for declared in filter_sets.ENDPOINT_SETS:
            for key, data in state.elements.get(declared.name, {}).items():
                element = Element(declared.name, key, data)
                found.setdefault(ruleset.link_of(key), set()).add(element)
    return {link: frozenset(elements) for link, elements in found.items()}


def _follow_add_elements(state: nft_read.TableState, change: Any) -> None:
    state.elements[change.set.name].update(change.elements)


def _follow_delete_elements(state: nft_read.TableState, change: Any) -> None:
    held = state.elements[change.set.name]
    for key, _ in change.elements:
        held.pop(key, None)


def _follow_add_timed(state: nft_read.TableState, change: Any) -> None:
    """What ends by itself is the kernel's to know."""


def _follow_add_counter(state: nft_read.TableState, change: Any) -> None:
    state.counters.add(change.name)


def _follow_delete_counter(state: nft_read.TableState, change: Any) -> None:
    state.counters.discard(change.name)


def _follow_add_set(state: nft_read.TableState, change: Any) -> None:
    state.sets[change.set.name] = nft_read.describe(change.set)
    state.elements.setdefault(change.set.name, {})


def _follow_delete_set(state: nft_read.TableState, change: Any) -> None:
    state.sets.pop(change.name, None)
    state.elements.pop(change.name, None)


def _follow_add_chain(state: nft_read.TableState, change: Any) -> None:
    described = nft_read.describe_chain(change.chain)
    rules = state.chains[change.chain.name].rules if change.chain.name in state.chains else ()
    state.chains[change.chain.name] = described._replace(rules=rules)


def _follow_add_rules(state: nft_read.TableState, change: Any) -> None:
    held = state.chains[change.chain.name]
    described = nft_read.describe_chain(change.chain)
    state.chains[change.chain.name] = held._replace(rules=held.rules + described.rules)


def _follow_flush_chain(state: nft_read.TableState, change: Any) -> None:
    state.chains[change.name] = state.chains[change.name]._replace(rules=())


def _follow_delete_chain(state: nft_read.TableState, change: Any) -> None:
    state.chains.pop(change.name, None)


_FOLLOW: Final[dict[type, Callable[[nft_read.TableState, Any], None]]] = {
    nft.AddElements: _follow_add_elements,
    nft.DeleteElements: _follow_delete_elements,
    nft.AddTimed: _follow_add_timed,
    nft.AddCounter: _follow_add_counter,
    nft.DeleteCounter: _follow_delete_counter,
    nft.AddSet: _follow_add_set,
    nft.DeleteSet: _follow_delete_set,
    nft.AddChain: _follow_add_chain,
    nft.AddRules: _follow_add_rules,
    nft.FlushChain: _follow_flush_chain,
    nft.DeleteChain: _follow_delete_chain,
}
