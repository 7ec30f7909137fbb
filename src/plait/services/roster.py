"""Who is there: endpoints and nodes, filed for the Services that may lead to them.

An endpoint that is a Pod stands as its orchestrator says, for a probe or a deletion is known there
first; another one stands as its agent says.

Nobody is filed before a Service asks for endpoints by labels or for an address: where an
orchestrator says all backends that never happens, and ten thousand endpoints cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

from plait.model.objects import Endpoint, Node
from plait.model.pods import PodSpec
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
from plait.services.standing import GONE, READY, Standing, of_pod

U = TypeVar("U", bound=Hashable)
K = TypeVar("K", bound=Hashable)
Somebody = Endpoint | LocalParty | Node


class Roster(Generic[U]):
    """Endpoints and nodes, and the users who asked for some of them."""

    def __init__(self, node: str, changed: Callable[[Iterable[U]], None]) -> None:
        """`changed` is told the users of whom something came, went or changed; `node` is where
        LocalParties are."""
        self._node = node
        self._changed = changed
        self._known: dict[Hashable, tuple[Somebody, Standing]] | None = {}
        """All and how they stand, while nobody is filed; then None."""
        self._parties: dict[Hashable, Party] = {}
        self._unready: dict[Party, Standing] = {}
        """Those that are not ready by what their agents say."""
        self._index: SelectorIndex[U] = SelectorIndex()
        self._holders: dict[str, tuple[Party, ...]] = {}
        """By address."""
        self._sought: dict[str, set[U]] = {}
        """Users by the address that they asked for."""
        self._pods: dict[tuple[str, str], PodSpec] = {}
        """By namespace and name."""
        self._standings: dict[tuple[str, str], Standing] = {}
        """Of pods, by namespace and uid, once somebody asked; others are gone."""
        self._of_pod: dict[tuple[str, str], tuple[Party, ...]] = {}
        """By namespace and uid of their pod."""

    def put(self, key: Hashable, somebody: Somebody | None, standing: Standing = READY) -> None:
        """Somebody is so; None: they are no more."""
        if self._known is None:
            self._file(key, self._party(somebody), standing)
        elif somebody is None:
            self._known.pop(key, None)
        else:
            self._known[key] = (somebody, standing)

    def put_pod(self, key: tuple[str, str], pod: PodSpec | None) -> None:
        """A pod, by namespace and name, is so; None: it is no more."""
        old = self._pods.pop(key, None)
        if pod is not None:
            self._pods[key] = pod
        if self._known is None:
            if old is not None and (pod is None or pod.uid != old.uid):
                self._stand((key[0], old.uid), GONE)
            if pod is not None:
                self._stand((key[0], pod.uid), of_pod(pod))

    def watch(self, term: Term, user: U) -> None:
        """A user asks for the endpoints that a term selects."""
        self._begin()
        self._index.watch(term, user)

    def unwatch(self, term: Term, user: U) -> None:
        """A user is done with a term."""
        self._index.unwatch(term, user)

    def select(self, term: Term) -> Iterator[tuple[Party, Standing]]:
        """The endpoints that a term selects, and how each stands."""
        for party in self._index.select(term):
            yield party, self._standing(party)

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
        if self._known is None:
            return
        known, self._known = self._known, None
        for (space, _), pod in self._pods.items():
            self._stand((space, pod.uid), of_pod(pod))
        for key, (somebody, standing) in known.items():
            self._file(key, self._party(somebody), standing)

    def _standing(self, party: Party) -> Standing:
        unready = self._unready.get(party)
        if unready is not None:
            return unready
        if not party.pod:
            return READY
        # A uid alone could be another namespace's word (kubernetes.io/config.mirror).
        return self._standings.get((party.space, party.pod), GONE)

    def _stand(self, pod: tuple[str, str], standing: Standing) -> None:
        """A pod, by namespace and uid, stands so."""
        former = self._standings.pop(pod, GONE)
        if standing != GONE:
            self._standings[pod] = standing
        if standing != former:
            for party in self._of_pod.get(pod, ()):
                self._notice(party)

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

    def _file(self, key: Hashable, new: Party | None, standing: Standing) -> None:
        old = self._parties.get(key)
        if old is not None:
            if old.says(new) and standing == self._unready.get(old, READY):
                return
            self._notice(old)
            del self._parties[key]
            self._unready.pop(old, None)
            self._place(old, there=False)
        if new is not None:
            self._parties[key] = new
            if not standing.ready:
                self._unready[new] = standing
            self._place(new, there=True)
            self._notice(new)

    def _place(self, party: Party, *, there: bool) -> None:
        # Nodes have no namespace, and no selector of a Service means one.
        if party.space:
            (self._index.add if there else self._index.remove)(party)
        for address in party.addresses:
            _enlist(self._holders, address, party, there=there)
        if party.pod:
            _enlist(self._of_pod, (party.space, party.pod), party, there=there)

    def _notice(self, party: Party) -> None:
        if party.space:
            self._changed(self._index.users(party))
        for address in party.addresses:
            self._changed(self._sought.get(address, ()))


def _enlist(table: dict[K, tuple[Party, ...]], at: K, party: Party, *, there: bool) -> None:
    """File somebody, or take them out; nobody is left as nothing."""
    others = tuple(one for one in table.pop(at, ()) if one is not party)
    found = (*others, party) if there else others
    if found:
        table[at] = found
