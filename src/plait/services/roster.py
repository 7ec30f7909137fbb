"""Who is there: endpoints and nodes, filed for the Services that may lead to them.

Nobody is filed before a Service asks for endpoints by labels or for an address: where an
orchestrator says all backends that never happens, and ten thousand endpoints cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

from plait.model.objects import Endpoint, Node
from plait.model.selectors import ENDPOINT_NODE
from plait.selection.parties import (
    LocalParty,
    Party,
    endpoint_party,
    local_party,
    node_party,
)
from plait.selection.selector_index import SelectorIndex
from plait.selection.terms import Term

U = TypeVar("U", bound=Hashable)
Somebody = Endpoint | LocalParty | Node


class Roster(Generic[U]):
    """Endpoints and nodes, and the users who asked for some of them."""

    def __init__(self, node: str, changed: Callable[[Iterable[U]], None]) -> None:
        """`changed` is told the users of whom something came, went or changed; `node` is where
        LocalParties are."""
        self._node = node
        self._changed = changed
        self._known: dict[Hashable, tuple[Somebody, bool]] | None = {}
        """All and whether they are ready, while nobody is filed; then None."""
        self._parties: dict[Hashable, Party] = {}
        self._unready: set[Party] = set()
        self._index: SelectorIndex[U] = SelectorIndex()
        self._holders: dict[str, tuple[Party, ...]] = {}
        """By address."""
        self._sought: dict[str, set[U]] = {}
        """Users by the address that they asked for."""

    def put(self, key: Hashable, somebody: Somebody | None, *, ready: bool = True) -> None:
        """Somebody is so; None: they are no more."""
        if self._known is None:
            self._file(key, self._party(somebody), ready)
        elif somebody is None:
            self._known.pop(key, None)
        else:
            self._known[key] = (somebody, ready)

    def watch(self, term: Term, user: U) -> None:
        """A user asks for the endpoints that a term selects."""
        self._begin()
        self._index.watch(term, user)

    def unwatch(self, term: Term, user: U) -> None:
        """A user is done with a term."""
        self._index.unwatch(term, user)

    def select(self, term: Term) -> Iterator[tuple[Party, bool]]:
        """The endpoints that a term selects, and whether each is ready."""
        for party in self._index.select(term):
            yield party, party not in self._unready

    def seek(self, address: str, user: U) -> None:
        """A user asks who has an address."""
        self._begin()
        self._sought.setdefault(address, set()).add(user)

    def unseek(self, address: str, user: U) -> None:
        """A user is done with an address."""
        users = self._sought[address]
        users.discard(user)
        if not users:
            del self._sought[address]

    def node_of(self, address: str) -> str:
        """The node where an address is, empty if nobody has it. Of two that have it for a moment
        it is ours, or always the same one."""
        nodes = {party.labels[ENDPOINT_NODE] for party in self._holders.get(address, ())}
        return self._node if self._node in nodes else min(nodes, default="")

    def _begin(self) -> None:
        """File everybody, from now on."""
        known, self._known = self._known, None
        for key, (somebody, ready) in (known or {}).items():
            self._file(key, self._party(somebody), ready)

    def _party(self, somebody: Somebody | None) -> Party | None:
        match somebody:
            case Endpoint():
                return endpoint_party(somebody)
            case LocalParty():
                return local_party(somebody, self._node)
            case Node():
                return node_party(somebody)
            case None:
                return None

    def _file(self, key: Hashable, new: Party | None, ready: bool) -> None:
        old = self._parties.get(key)
        if old is not None:
            if old.says(new) and ready == (old not in self._unready):
                return
            self._notice(old)
            del self._parties[key]
            self._unready.discard(old)
            self._place(old, there=False)
        if new is not None:
            self._parties[key] = new
            if not ready:
                self._unready.add(new)
            self._place(new, there=True)
            self._notice(new)

    def _place(self, party: Party, *, there: bool) -> None:
        # Nodes have no namespace, and no selector of a Service means one.
        if party.space:
            (self._index.add if there else self._index.remove)(party)
        for address in party.addresses:
            others = tuple(one for one in self._holders.pop(address, ()) if one is not party)
            holders = (*others, party) if there else others
            if holders:
                self._holders[address] = holders

    def _notice(self, party: Party) -> None:
        if party.space:
            self._changed(self._index.users(party))
        for address in party.addresses:
            self._changed(self._sought.get(address, ()))
