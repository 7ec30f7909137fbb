"""Which Plait Network a Docker network stands for, and waiting until that is known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import msgspec

from plait.docker.journal import HeldAddress, Journal, NetworkRecord
from plait.model.errors import PlaitError
from plait.model.objects import Network

T = TypeVar("T")


class Changes:
    """Wakes whoever waits for something to become true."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Something changed."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Until the next change."""
        await self._event.wait()

    async def until(self, look: Callable[[], T | None]) -> T:
        """The first value that `look` gives; it is asked again after every change."""
        while True:
            found = look()
            if found is not None:
                return found
            await self.wait()


class Directory:
    """Networks that the agent knows, and the journal's records of Docker's networks.

    The composition root calls `replace_networks` with the agent's snapshot, first when that
    is complete. Until then nothing is known, and nothing is taken for deleted.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._networks: dict[str, Network] = {}
        self._reasons: dict[str, PlaitError] = {}
        self.synced = False
        self.changes = Changes()

    # -- networks of Plait

    @property
    def networks(self) -> Mapping[str, Network]:
        """Networks by name."""
        return self._networks

    def replace_networks(self, networks: Iterable[Network]) -> None:
        """The networks that there are now, all of them."""
        fresh = {n.metadata.name: n for n in networks}
        if self.synced and fresh == self._networks:
            return
        self._networks = fresh
        self.synced = True
        self.changes.notify()

    def owner_of(self, pool: str) -> Network | None:
        """The network that a pool belongs to. Pools never overlap, so there is at most one."""
        return next((n for n in self._networks.values() if pool in n.spec.pools), None)

    async def owner(self, pool: str, deadline: float) -> Network:
        """As `owner_of`, waiting up to `deadline` seconds; then PLAIT-DOCKER-004."""
        try:
            async with asyncio.timeout(deadline):
                return await self.changes.until(lambda: self.owner_of(pool))
        except TimeoutError:
            raise unknown(f"the network of the pool {pool}", None) from None

    # -- networks of Docker

    @property
    def records(self) -> Mapping[str, NetworkRecord]:
        """Records by Docker's network id."""
        return self._journal.state.networks

    def put(self, network_id: str, record: NetworkRecord) -> None:
        """Keep a record."""
        if self.records.get(network_id) == record:
            return
        records = {**self.records, network_id: record}
        self._journal.write(msgspec.structs.replace(self._journal.state, networks=records))
        self._reasons.pop(network_id, None)
        self.changes.notify()

    def forget(self, network_id: str) -> None:
        """Drop a record; no error if there is none."""
        records = {k: v for k, v in self.records.items() if k != network_id}
        self._journal.write(msgspec.structs.replace(self._journal.state, networks=records))
        self._reasons.pop(network_id, None)
        self.changes.notify()

    def fail(self, network_id: str, reason: PlaitError) -> None:
        """Why a Docker network has no Plait Network yet; told to callers that wait for it."""
        self._reasons[network_id] = reason

    def lookup(self, network_id: str) -> tuple[NetworkRecord, Network] | None:
        """The Plait Network of a Docker network, if both are known."""
        record = self.records.get(network_id)
        network = self._networks.get(record.network) if record else None
        return (record, network) if record and network else None

    async def resolve(self, network_id: str, deadline: float) -> tuple[NetworkRecord, Network]:
        """As `lookup`, waiting up to `deadline` seconds; then PLAIT-DOCKER-004."""
        try:
            async with asyncio.timeout(deadline):
                return await self.changes.until(lambda: self.lookup(network_id))
        except TimeoutError:
            what = f"the Docker network {network_id[:12]}"
            raise unknown(what, self._reasons.get(network_id)) from None

    # -- deletions that the server has not heard of

    @property
    def deletions(self) -> Mapping[str, str]:
        """Networks that the user removed here: name to uid."""
        return self._journal.state.deletions

    def delete(self, name: str, uid: str) -> None:
        """Remember that the user removed a network."""
        self._set_deletions({**self.deletions, name: uid})

    def deleted(self, name: str) -> None:
        """The server has decided."""
        self._set_deletions({k: v for k, v in self.deletions.items() if k != name})

    def _set_deletions(self, deletions: dict[str, str]) -> None:
        self._journal.write(msgspec.structs.replace(self._journal.state, deletions=deletions))
        self.changes.notify()

    # -- addresses that no endpoint uses yet

    @property
    def held(self) -> tuple[HeldAddress, ...]:
        """Addresses that dockerd asked for and has not used yet."""
        return self._journal.state.held

    def hold(self, held: HeldAddress) -> None:
        """Remember an address."""
        self._set_held((*self._others(held.network, held.address), held))

    def unhold(self, network: str, address: str) -> None:
        """An endpoint uses the address, or it was given back."""
        self._set_held(self._others(network, address))

    def _others(self, network: str, address: str) -> tuple[HeldAddress, ...]:
        return tuple(h for h in self.held if (h.network, h.address) != (network, address))

    def _set_held(self, held: tuple[HeldAddress, ...]) -> None:
        self._journal.write(msgspec.structs.replace(self._journal.state, held=held))


def unknown(what: str, reason: PlaitError | None) -> PlaitError:
    """PLAIT-DOCKER-004, with the reason if one is known."""
    return PlaitError(
        "PLAIT-DOCKER-004",
        f"{what} is not yet known to Plait",
        why=f"{reason.code}: {reason.detail}" if reason else "the server has not confirmed it yet",
        fix=(*(reason.fix if reason else ()), "plait status"),
    )
