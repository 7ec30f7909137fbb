"""What the journal says: this host's endpoints, held and resting addresses, loans given.

`fold` is pure: the state is the fold of the records, and `records` gives back the shortest
sequence of records with the same state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from plait.client.agent import LocalEndpoint

Record = dict[str, Any]
Address = tuple[str, str]
"""(network, address)."""


class Ledger:
    """The state. Only `fold` changes it."""

    def __init__(self) -> None:
        self.boot = ""
        """Boot identity under which the endpoints live."""
        self.endpoints: dict[str, LocalEndpoint] = {}
        self.places: dict[tuple[int, str], str] = {}
        """Namespace (its inode) and interface name there to the endpoint that has it."""
        self.unfinished: set[str] = set()
        """Endpoints whose attach has begun and not ended: after a crash there is nobody who
        waits for them."""
        self.held: dict[Address, float] = {}
        """Held address to the Unix time of holding."""
        self.resting: dict[Address, float] = {}
        """Released address to the Unix time of its release."""
        self.lent: dict[Address, int] = {}
        """Address lent to another node to the revision of the block that says so; 0 before the
        server has it."""
        self.returning: set[tuple[str, str]] = set()
        """(network, CIDR) of blocks, and of single addresses on loan, that we gave up: never
        used again, whatever a copy of the snapshot says, unless they are claimed anew."""

    def fold(self, records: Iterable[Record]) -> None:
        """Apply records in order. Unknown kinds of records are passed over (a newer agent's)."""
        for record in records:
            apply = getattr(self, f"_{record.get('t', '')}", None)
            if apply is not None:
                apply(record)

    def records(self) -> Iterator[Record]:
        """The shortest records that fold to this state."""
        yield {"t": "boot", "id": self.boot}
        for ident, endpoint in self.endpoints.items():
            yield attached(endpoint, done=ident not in self.unfinished)
        for key, at in self.held.items():
            yield _address("held", key, at)
        for key, at in self.resting.items():
            yield _address("resting", key, at)
        for key, revision in self.lent.items():
            yield {"t": "lent", "network": key[0], "address": key[1], "revision": revision}
        for network, cidr in self.returning:
            yield returning(network, cidr)

    def _boot(self, record: Record) -> None:
        self.boot = record["id"]

    def _endpoint(self, record: Record) -> None:
        endpoint = record["endpoint"]
        if not isinstance(endpoint, LocalEndpoint):
            endpoint = msgspec.convert(endpoint, LocalEndpoint)
        ident = endpoint.request.id
        self._leave(ident)
        self.endpoints[ident] = endpoint
        if endpoint.netns_inode:
            self.places[endpoint.netns_inode, endpoint.request.ifname] = ident
        if record["done"]:
            self.unfinished.discard(ident)
        else:
            self.unfinished.add(ident)
        for address in endpoint.addresses:
            self.held.pop((endpoint.request.network, address), None)
            self.resting.pop((endpoint.request.network, address), None)

    def _gone(self, record: Record) -> None:
        endpoint = self._leave(record["id"])
        self.unfinished.discard(record["id"])
        if endpoint is not None:
            for address in endpoint.addresses:
                self.resting[endpoint.request.network, address] = record["at"]

    def _leave(self, ident: str) -> LocalEndpoint | None:
        endpoint = self.endpoints.pop(ident, None)
        if endpoint is not None:
            place = (endpoint.netns_inode, endpoint.request.ifname)
            if self.places.get(place) == ident:
                del self.places[place]
        return endpoint

    def _held(self, record: Record) -> None:
        self.held[record["network"], record["address"]] = record["at"]
        self.resting.pop((record["network"], record["address"]), None)

    def _resting(self, record: Record) -> None:
        self.held.pop((record["network"], record["address"]), None)
        self.resting[record["network"], record["address"]] = record["at"]

    def _rested(self, record: Record) -> None:
        self.resting.pop((record["network"], record["address"]), None)

    def _lent(self, record: Record) -> None:
        self.lent[record["network"], record["address"]] = record["revision"]

    def _returned(self, record: Record) -> None:
        self.lent.pop((record["network"], record["address"]), None)

    def _returning(self, record: Record) -> None:
        self.returning.add((record["network"], record["cidr"]))

    def _kept(self, record: Record) -> None:
        self.returning.discard((record["network"], record["cidr"]))


def attached(endpoint: LocalEndpoint, *, done: bool) -> Record:
    """Record: the endpoint is as said; `done` once its attach has ended well."""
    return {"t": "endpoint", "done": done, "endpoint": endpoint}


def gone(endpoint: str, at: float) -> Record:
    """Record: the endpoint is no more; its addresses rest from the Unix time `at`."""
    return {"t": "gone", "id": endpoint, "at": at}


def held(network: str, address: str, at: float) -> Record:
    """Record: the address waits for an attach."""
    return _address("held", (network, address), at)


def resting(network: str, address: str, at: float) -> Record:
    """Record: the address was given back and rests."""
    return _address("resting", (network, address), at)


def rested(network: str, address: str) -> Record:
    """Record: the address has rested enough."""
    return {"t": "rested", "network": network, "address": address}


def lent(network: str, address: str, revision: int) -> Record:
    """Record: another node uses the address."""
    return {"t": "lent", "network": network, "address": address, "revision": revision}


def returned(network: str, address: str) -> Record:
    """Record: the loan has ended."""
    return {"t": "returned", "network": network, "address": address}


def returning(network: str, cidr: str) -> Record:
    """Record: we give the block, or the address on loan, back."""
    return {"t": "returning", "network": network, "cidr": cidr}


def kept(network: str, cidr: str) -> Record:
    """Record: the block is ours after all, or no copy of the snapshot says so any more."""
    return {"t": "kept", "network": network, "cidr": cidr}


def _address(kind: str, key: Address, at: float) -> Record:
    return {"t": kind, "network": key[0], "address": key[1], "at": at}
