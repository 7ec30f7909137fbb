"""Addresses for those who ask: for an attach, or held for one that is to come.

The decisions are `ipam.allocate`'s, the state between them `addresses.AddressBook`'s; what our
blocks lack is obtained from the server (`blocks.Blocks`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Literal
from urllib.parse import urlsplit

from plait.agent import ledger as record
from plait.agent import refusals
from plait.agent.blocks import Blocks
from plait.agent.checks import canonical
from plait.agent.failpoints import failpoint
from plait.agent.state import State
from plait.client.agent import AttachRequest, Reservation
from plait.ipam.allocate import HELD, Granted, Request
from plait.model.objects import Network

ROUNDS: Final = 8
"""Times an allocation is tried again after blocks were claimed for it: others may be quicker."""


class Allocating:
    """See the module's docstring."""

    def __init__(
        self,
        state: State,
        blocks: Blocks,
        *,
        fetch_network: Callable[[str], Awaitable[bool]],
        server: str,
    ) -> None:
        """`fetch_network` asks the server for a network that the snapshot lacks."""
        self._state = state
        self._blocks = blocks
        self._fetch_network = fetch_network
        self._server = server

    @property
    def enrol(self) -> str:
        """Command that makes this node known to the server."""
        where = urlsplit(self._server).netloc or "SERVER"
        # The server's own host reaches it by loopback, and is enrolled by `plait up`.
        return "plait up" if where.startswith("127.") else f"plait join {where} --token TOKEN"

    async def network(self, name: str) -> Network:
        """The network that an endpoint is to be in; PLAIT-AUTH-007, PLAIT-AGENT-008 or
        PLAIT-NET-006 when there can be none."""
        if self._state.forgotten:
            raise refusals.forgotten(self._state.identity.name, self.enrol)
        snapshot = self._state.snapshot
        if not snapshot.ready or self._state.host() is None:
            raise refusals.not_ready()
        if name not in snapshot.networks:
            await self._fetch_network(name)
        self._state.book.spaces(name)  # Raises PLAIT-NET-006.
        return snapshot.networks[name]

    async def for_attach(self, request: AttachRequest) -> Granted:
        """An address of every family of the network."""
        wanted = tuple(map(canonical, request.addresses))
        asked = Request(owner=request.id, wanted=wanted, ranges=request.ranges)
        return await self._grant(request.network, asked, 0)

    def give_back(self, network: str, addresses: tuple[str, ...], *, used: bool) -> None:
        """They are free again; those that were `used` rest before. One that was held before an
        attach asked for it is held again: who holds it tries once more, or gives it back."""
        book = self._state.book
        book.release(network, addresses, rest=used)
        for address in addresses:
            if (network, address) in self._state.records.ledger.held:
                asked = Request(owner=HELD, wanted=(address,))
                book.allocate(network, asked, 6 if ":" in address else 4)

    async def _grant(self, network: str, request: Request, family: int) -> Granted:
        for _ in range(ROUNDS):
            outcome = self._state.book.allocate(network, request, family)
            if isinstance(outcome, Granted):
                return outcome
            await self._blocks.obtain(network, outcome)
        raise refusals.no_address(network, ROUNDS)

    async def reserve(self, network: str, family: Literal[4, 6], address: str = "") -> Reservation:
        """See client.agent.Agent."""
        await self.network(network)
        if address:
            address = canonical(address)
        wanted = (address,) if address else ()
        granted = await self._grant(network, Request(owner=HELD, wanted=wanted), family)
        found = granted.addresses[0]
        try:
            self._state.records.write(record.held(network, found, self._state.wall()))
        except BaseException:
            self.give_back(network, (found,), used=False)
            raise
        failpoint("reserve.journaled")
        return Reservation(address=found, network=network)

    async def release(self, network: str, address: str) -> None:
        """See client.agent.Agent."""
        address = canonical(address)
        if (network, address) in self._state.records.ledger.held:
            self._state.records.forget(record.resting(network, address, self._state.wall()))
            self.give_back(network, (address,), used=True)
