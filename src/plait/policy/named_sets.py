"""The sets that rules name, kept up to date as endpoints, nodes and namespaces come, change and go.

A set is the union of terms. What it holds is counted, for an endpoint may be selected by several
terms and an address be held, for a moment, by two endpoints. Sets are changed, never made anew,
so that who follows one sees its changes alone (`plait.model.members`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import TypeVar

from plait.model.members import Members, Tally
from plait.model.objects import EndpointSlice
from plait.model.ruleset import Socket
from plait.selection.parties import Party, slice_party
from plait.selection.selector_index import SelectorIndex
from plait.selection.terms import Term

T = TypeVar("T", bound=Hashable)


class _AddressSet:
    __slots__ = ("tally", "terms", "uses")

    def __init__(self, terms: frozenset[Term], tally: Tally[str]) -> None:
        self.terms = terms
        self.tally = tally
        self.uses = 0


class _SocketSet:
    __slots__ = ("port", "protocol", "tally", "uses")

    def __init__(self, port: str, protocol: str, tally: Tally[Socket]) -> None:
        self.port = port
        self.protocol = protocol
        self.tally = tally
        self.uses = 0


class NamedSets:
    """All parties of the network, with EndpointSlices, and the sets of them that somebody uses."""

    def __init__(self) -> None:
        self.changes = 0
        """Grows with every change of a set in use."""
        self._known: Tally[str] = Tally()
        self._gateways: dict[str, tuple[str, ...]] = {}
        self._parties: dict[Hashable, Party] = {}
        self._endpoints: SelectorIndex[Tally[str]] = SelectorIndex()
        self._nodes: SelectorIndex[Tally[str]] = SelectorIndex()
        self._slices: SelectorIndex[Tally[str]] = SelectorIndex()
        self._unfiled: dict[Hashable, EndpointSlice] | None = {}
        """All EndpointSlices, while no set has meant any; then None. Few networks have policies
        that name Services, and some have ten thousand Services."""
        self._ports: dict[str, set[Party]] = {}
        """Endpoints by the name of a port."""
        self._sets: dict[str, _AddressSet] = {}
        self._sockets: dict[str, _SocketSet] = {}
        self._by_port: dict[str, list[_SocketSet]] = {}

    @property
    def known(self) -> Members[str]:
        """Addresses of all endpoints, and gateways."""
        return self._known.members

    @property
    def evaluated(self) -> int:
        """How often conditions were held against labels so far."""
        return self._endpoints.evaluated + self._nodes.evaluated + self._slices.evaluated

    # Parties

    def put_endpoint(self, key: Hashable, party: Party | None) -> None:
        """An endpoint is so; None: it is no more."""
        self._replace(self._endpoints, ("endpoint", key), party)

    def put_node(self, name: str, party: Party | None) -> None:
        """A node is so; None: it is no more."""
        self._replace(self._nodes, ("node", name), party)

    def put_slice(self, key: Hashable, one: EndpointSlice | None) -> None:
        """An EndpointSlice is so; None: it is no more."""
        if self._unfiled is None:
            self._file_slice(key, one)
        elif one is None:
            self._unfiled.pop(key, None)
        else:
            self._unfiled[key] = one

    def _file_slice(self, key: Hashable, one: EndpointSlice | None) -> None:
        party = None if one is None else slice_party(one)
        self._replace(self._slices, ("slice", key), party)

    def put_gateways(self, network: str, addresses: tuple[str, ...]) -> None:
        """A network's gateways are these: hosts answer there, so a guard lets them pass."""
        former = self._gateways.pop(network, ())
        if addresses:
            self._gateways[network] = addresses
        for address in addresses:
            self._known.take(address)
        for address in former:
            self._known.drop(address)

    def relabel(self, namespace: str, labels: Mapping[str, str] | None) -> None:
        """A namespace has these labels; None: it has no object any more."""
        flips = self._endpoints.relabel(namespace, labels)
        for selected in (True, False):
            for flip in flips:
                if flip.selected == selected:
                    for tally in flip.users:
                        for address in flip.party.addresses:
                            self._count(tally, address, selected)

    def _replace(
        self, index: SelectorIndex[Tally[str]], key: tuple[str, Hashable], new: Party | None
    ) -> None:
        old = self._parties.get(key)
        if old is new or (old is not None and old.says(new)):
            return
        lost = self._held(index, old)
        if old is not None:
            index.remove(old)
            del self._parties[key]
        if new is not None:
            index.add(new)
            self._parties[key] = new
        for tally, address in self._held(index, new):
            self._count(tally, address, True)
        for tally, address in lost:
            self._count(tally, address, False)
        if index is self._endpoints:
            # What is taken first and given back after that has never left.
            for party, there in ((new, True), (old, False)):
                if party is not None:
                    self._know(party, there)

    def _know(self, party: Party, there: bool) -> None:
        for address in party.addresses:
            if there:
                self._known.take(address)
            else:
                self._known.drop(address)
        for name in {port.name for port in party.ports}:
            self._file_port(name, party, there)
            for found in self._by_port.get(name, ()):
                for socket in _sockets(party, name, found.protocol):
                    self._count(found.tally, socket, there)

    def _held(
        self, index: SelectorIndex[Tally[str]], party: Party | None
    ) -> list[tuple[Tally[str], str]]:
        if party is None or not party.addresses:
            return []
        return [(tally, address) for tally in index.users(party) for address in party.addresses]

    def _count(self, tally: Tally[T], item: T, more: bool) -> None:
        self.changes += tally.take(item) if more else tally.drop(item)

    # Sets of addresses

    @property
    def sets(self) -> dict[str, Members[str]]:
        """The sets in use, by name."""
        return {name: found.tally.members for name, found in self._sets.items()}

    def use_set(self, name: str, terms: frozenset[Term]) -> bool:
        """One more uses the union of these terms. Whether it is the first."""
        found = self._sets.get(name)
        new = found is None
        if found is None:
            tally = Tally(self._addresses(terms), self._serial())
            for term in terms:
                self._index(term).watch(term, tally)
            found = self._sets[name] = _AddressSet(terms, tally)
        found.uses += 1
        return new

    def leave_set(self, name: str) -> bool:
        """One less uses it. Whether it was the last."""
        found = self._sets[name]
        found.uses -= 1
        if found.uses:
            return False
        del self._sets[name]
        for term in found.terms:
            self._index(term).unwatch(term, found.tally)
        return True

    def _addresses(self, terms: Iterable[Term]) -> Iterator[str]:
        for term in terms:
            for party in self._index(term).select(term):
                yield from party.addresses

    def _index(self, term: Term) -> SelectorIndex[Tally[str]]:
        match term.kind:
            case "endpoints":
                return self._endpoints
            case "nodes":
                return self._nodes
            case "slices":
                unfiled, self._unfiled = self._unfiled, None
                for key, one in (unfiled or {}).items():
                    self._file_slice(key, one)
                return self._slices

    def _serial(self) -> int:
        """One that no set had so far: a set that is made anew is not taken for the former one."""
        self.changes += 1
        return self.changes

    # Named ports

    @property
    def sockets(self) -> dict[str, Members[Socket]]:
        """The sets of named ports in use, by name."""
        return {name: found.tally.members for name, found in self._sockets.items()}

    def use_sockets(self, name: str, port: str, protocol: str) -> bool:
        """One more uses the ports of a name, of one protocol or (empty) of any. Whether it is
        the first."""
        found = self._sockets.get(name)
        new = found is None
        if found is None:
            items = (
                socket
                for party in self._ports.get(port, ())
                for socket in _sockets(party, port, protocol)
            )
            tally = Tally(items, self._serial())
            found = self._sockets[name] = _SocketSet(port, protocol, tally)
            self._by_port.setdefault(port, []).append(found)
        found.uses += 1
        return new

    def leave_sockets(self, name: str) -> bool:
        """One less uses them. Whether it was the last."""
        found = self._sockets[name]
        found.uses -= 1
        if found.uses:
            return False
        del self._sockets[name]
        self._by_port[found.port].remove(found)
        if not self._by_port[found.port]:
            del self._by_port[found.port]
        return True

    def _file_port(self, name: str, party: Party, there: bool) -> None:
        parties = self._ports.setdefault(name, set())
        if there:
            parties.add(party)
        else:
            parties.discard(party)
            if not parties:
                del self._ports[name]


def _sockets(party: Party, name: str, protocol: str) -> Iterator[Socket]:
    for port in party.ports:
        if port.name == name and protocol in ("", port.protocol):
            for address in party.addresses:
                yield Socket(address, port.protocol, port.port)
