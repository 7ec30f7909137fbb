"""The addresses that this node may give out, kept in step with blocks and journal.

The decisions are `plait.ipam`'s; this keeps the state between them. Who uses what comes from the
ledger (this host knows best), which blocks are ours comes from the snapshot (the server decides).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import msgspec

from plait.agent import refusals
from plait.agent.ledger import Ledger
from plait.agent.snapshot import Snapshot
from plait.ipam.allocate import (
    COOL_DOWN,
    HELD,
    Block,
    Granted,
    Missing,
    Request,
    Space,
    allocate,
    give_back,
    lend,
    rested,
)
from plait.ipam.pool import Pool, bounds, parse
from plait.model.objects import AddressBlock, Network

Clock = Callable[[], float]
Spaces = tuple[Space, ...]


class Holder(NamedTuple):
    """Who may use an address, by what the blocks say."""

    cidr: str
    """Block that holds the address."""
    node: str
    """Owner or borrower; empty when nobody."""
    loan: bool = False


class AddressBook:
    """This node's spaces, by network."""

    def __init__(
        self,
        node: str,
        snapshot: Snapshot,
        ledger: Ledger,
        *,
        clock: Clock,
        wall: Clock,
        cool_down: float = COOL_DOWN,
    ) -> None:
        """`clock` is monotonic; `wall` is Unix time, for what must survive a restart."""
        self._node = node
        self._snapshot = snapshot
        self._ledger = ledger
        self._clock = clock
        self._wall = wall
        self._cool_down = cool_down
        self._spaces: dict[str, Spaces] = {}

    def spaces(self, network: str) -> Spaces:
        """The spaces of a network, one a pool; PLAIT-NET-006 when it is unknown."""
        spaces = self._spaces.get(network)
        if spaces is None:
            if network not in self._snapshot.networks:
                raise refusals.no_network(network)
            spaces = self._build(self._snapshot.networks[network])
            self._spaces[network] = spaces
        return spaces

    def all(self) -> Iterator[Space]:
        """Every space of every network that is known."""
        for network in self._snapshot.networks:
            yield from self.spaces(network)

    def refresh(self, networks: Iterable[str]) -> None:
        """Blocks or specification of these networks changed."""
        for name in networks:
            network = self._snapshot.networks.get(name)
            if network is None:
                self._spaces.pop(name, None)
            else:
                self._spaces[name] = self._build(network)

    def allocate(self, network: str, request: Request, family: int = 0) -> Granted | Missing:
        """Allocate at once from our own blocks; `family` 0 means all families."""
        now = self._clock()
        spaces = tuple(rested(space, now) for space in self.spaces(network))
        chosen = tuple(s for s in spaces if family in (0, s.pool.family))
        changed, outcome = allocate(chosen, request, now)
        if isinstance(outcome, Granted):
            by_family = {space.pool.family: space for space in changed}
            self._spaces[network] = tuple(by_family.get(s.pool.family, s) for s in spaces)
        return outcome

    def release(self, network: str, addresses: Iterable[str], *, rest: bool = True) -> None:
        """The addresses are free again, after a rest."""
        if network not in self._spaces:
            return
        until = self._clock() + (self._cool_down if rest else 0.0)
        for address in addresses:
            self._change(network, address, lambda space, value: give_back(space, value, until))

    def holder_of(self, network: str, address: str) -> str | None:
        """Endpoint id or `HELD` that has the address on this node."""
        family, value = parse(address)
        for space in self._spaces.get(network, ()):
            if space.pool.family == family:
                return space.used.get(value)
        return None

    def lend(self, network: str, address: str) -> str:
        """Set the address aside for another node; returns why not, or the empty string."""
        refusal: list[str] = []

        def step(space: Space, value: int) -> Space:
            outcome = lend(space, value)
            if isinstance(outcome, str):
                refusal.append(outcome)
                return space
            return outcome

        self._change(network, address, step)
        return refusal[0] if refusal else ""

    def rest(self) -> None:
        """Let go of the addresses that have rested enough: in a network in which nothing is
        attached any more nobody else does."""
        now = self._clock()
        for network, spaces in self._spaces.items():
            self._spaces[network] = tuple(rested(space, now) for space in spaces)

    def expired(self) -> list[tuple[str, str]]:
        """(network, address) in the ledger that have rested enough."""
        limit = self._wall() - self._cool_down
        return [key for key, at in self._ledger.resting.items() if at <= limit]

    def resting_loans(self) -> set[tuple[str, str]]:
        """(network, address) that rest here still: a borrowed one is not returned before."""
        return set(self._ledger.resting)

    def who_owns(self, network: str, address: str) -> Holder:
        """Who may use an address, as far as the snapshot says."""
        cidr = self.block_of(network, address)
        for block in self._snapshot.blocks_of(network):
            if block.spec.cidr != cidr:
                continue
            for loan in block.spec.loans:
                if loan.address == address and loan.state == "granted":
                    return Holder(cidr, loan.node, loan=True)
            return Holder(cidr, block.spec.node)
        return Holder(cidr, "")

    def block_of(self, network: str, address: str) -> str:
        """CIDR of the block that holds an address; empty when no pool does."""
        family, value = parse(address)
        for space in self.spaces(network):
            if space.pool.family == family and space.pool.contains(value):
                return space.pool.block_of(value)
        return ""

    def _change(self, network: str, address: str, step: Callable[[Space, int], Space]) -> None:
        family, value = parse(address)
        self._spaces[network] = tuple(
            step(space, value) if space.pool.family == family else space
            for space in self.spaces(network)
        )

    def _build(self, network: Network) -> Spaces:
        former = {space.pool.cidr: space for space in self._spaces.get(network.metadata.name, ())}
        blocks = self._snapshot.blocks_of(network.metadata.name)
        result: list[Space] = []
        for cidr in network.spec.pools:
            pool = pool_of(network, cidr)
            space = former.get(cidr)
            if space is None:
                space = self._from_ledger(pool)
            own, lent = self._blocks(pool, blocks)
            result.append(
                msgspec.structs.replace(
                    space,
                    pool=pool,
                    blocks=own,
                    lent=lent,
                    closing=frozenset(c for n, c in self._ledger.returning if n == pool.network),
                )
            )
        return tuple(result)

    def _blocks(
        self, pool: Pool, blocks: list[AddressBlock]
    ) -> tuple[tuple[Block, ...], frozenset[int]]:
        own: list[Block] = []
        lent = {
            value
            for network, address in self._ledger.lent
            if network == pool.network
            for family, value in (parse(address),)
            if family == pool.family
        }
        for block in blocks:
            if bounds(block.spec.cidr)[0] != pool.family:
                continue
            if block.spec.node == self._node:
                own.append(Block(block.spec.cidr))
            for loan in block.spec.loans:
                if loan.state != "granted":
                    continue
                if loan.node == self._node:
                    width = 32 if pool.family == 4 else 128
                    own.append(Block(f"{loan.address}/{width}", loan=True))
                elif block.spec.node == self._node:
                    lent.add(parse(loan.address)[1])
        return tuple(own), frozenset(lent)

    def _from_ledger(self, pool: Pool) -> Space:
        used: dict[int, str] = {}
        resting: dict[int, float] = {}

        def mine(network: str, address: str) -> int | None:
            family, value = parse(address)
            return value if network == pool.network and family == pool.family else None

        for network, address in self._ledger.held:
            value = mine(network, address)
            if value is not None:
                used[value] = HELD
        for ident, endpoint in self._ledger.endpoints.items():
            for address in endpoint.addresses:
                value = mine(endpoint.request.network, address)
                if value is not None:
                    used[value] = ident
        now, wall = self._clock(), self._wall()
        for (network, address), at in self._ledger.resting.items():
            value = mine(network, address)
            if value is not None:
                # The wall clock may have jumped either way since: never less than nothing,
                # never more than a whole rest.
                left = min(max(at + self._cool_down - wall, 0.0), self._cool_down)
                resting[value] = now + left
        return Space(pool=pool, used=used, resting=resting)


def pool_of(network: Network, cidr: str) -> Pool:
    """The geometry of one of a network's pools."""
    spec = network.spec
    return Pool.of(
        network.metadata.name,
        cidr,
        gateways=spec.gateways,
        reserved=spec.reserved,
        from_top=spec.external_ipam,
    )
