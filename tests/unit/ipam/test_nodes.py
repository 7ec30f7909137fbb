"""Several nodes, one store, every interleaving that hypothesis finds: P2 holds."""

from __future__ import annotations

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from plait.ipam.allocate import (
    Block,
    Granted,
    Missing,
    Request,
    Space,
    allocate,
    give_back,
    lend,
    rested,
    surplus,
)
from plait.ipam.pool import Pool, next_block, parse
from plait.model.errors import PlaitError

NODES = ("a", "b", "c")
REST = 60.0


class Cluster(RuleBasedStateMachine):
    """The store holds block -> owner; a claim is a compare-and-swap of one key."""

    @initialize(size=st.sampled_from(("10.9.0.0/27", "10.9.0.0/25", "10.9.0.0/23")))
    def start(self, size: str) -> None:
        self.pools = (Pool.of("n", size), Pool.of("n", "fd09::/121"))
        self.store: dict[str, str] = {}
        self.loans: dict[int, str] = {}
        self.spaces = {node: tuple(Space(pool=p) for p in self.pools) for node in NODES}
        self.live: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.released: dict[str, float] = {}
        self.now = 0.0
        self.count = 0

    def claim(self, node: str, family: int, seen: set[str]) -> bool:
        """Claim by what the node has seen; the store refuses what is taken."""
        pool = next(p for p in self.pools if p.family == family)
        cidr = next_block(pool, seen, node)
        if cidr is None:
            return False
        if self.store.setdefault(cidr, node) == node:
            self._own(node, family, Block(cidr))
        seen.add(cidr)
        return True

    def _own(self, node: str, family: int, block: Block) -> None:
        self.spaces[node] = tuple(
            msgspec.structs.replace(s, blocks=(*s.blocks, block))
            if s.pool.family == family and block not in s.blocks
            else s
            for s in self.spaces[node]
        )

    @rule(node=st.sampled_from(NODES), stale=st.booleans())
    def attach(self, node: str, stale: bool) -> None:
        self.count += 1
        name = f"e{self.count}"
        seen = set() if stale else set(self.store)
        while True:
            spaces = tuple(rested(s, self.now) for s in self.spaces[node])
            after, outcome = allocate(spaces, Request(owner=name), self.now)
            if isinstance(outcome, Granted):
                break
            assert after is spaces
            if not all(self.claim(node, family, seen) for family in outcome.families):
                return
        assert len(outcome.addresses) == 2, "dual stack is never half"
        for address in outcome.addresses:
            assert self.released.get(address, 0.0) <= self.now, "given out before it had rested"
        self.spaces[node] = after
        self.live[name] = (node, outcome.addresses)

    @rule(node=st.sampled_from(NODES), low=st.integers(0, 511))
    def attach_requested(self, node: str, low: int) -> None:
        pool = self.pools[0]
        address = f"10.9.{low // 256}.{low % 256}"
        self.count += 1
        name = f"e{self.count}"
        try:
            spaces, outcome = allocate(
                self.spaces[node][:1], Request(owner=name, wanted=(address,)), self.now
            )
            if isinstance(outcome, Missing):
                cidr = pool.block_of(parse(address)[1])
                owner = self.store.get(cidr)
                if owner is None:
                    self.store[cidr] = node
                    self._own(node, 4, Block(cidr))
                elif owner != node:
                    given = lend(self.spaces[owner][0], parse(address)[1])
                    if isinstance(given, str):
                        return
                    # The lender's resting time is honoured by nobody who asks by name.
                    self.spaces[owner] = (given, self.spaces[owner][1])
                    self._own(node, 4, Block(f"{address}/32", loan=True))
                spaces, outcome = allocate(
                    self.spaces[node][:1], Request(owner=name, wanted=(address,)), self.now
                )
        except PlaitError:
            return
        if isinstance(outcome, Granted):
            self.spaces[node] = (spaces[0], self.spaces[node][1])
            self.live[name] = (node, outcome.addresses)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def detach(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.live)))
        node, addresses = self.live.pop(name)
        for address in addresses:
            family, value = parse(address)
            self.released[address] = self.now + REST
            self.spaces[node] = tuple(
                give_back(s, value, self.now + REST) if s.pool.family == family else s
                for s in self.spaces[node]
            )

    @rule(seconds=st.sampled_from((1.0, 59.0, 61.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(node=st.sampled_from(NODES))
    def return_surplus(self, node: str) -> None:
        for at, space in enumerate(self.spaces[node]):
            tidy = rested(space, self.now)
            cidr = surplus(tidy)
            if cidr is None:
                continue
            del self.store[cidr]
            kept = tuple(b for b in tidy.blocks if b.cidr != cidr)
            spaces = list(self.spaces[node])
            spaces[at] = msgspec.structs.replace(tidy, blocks=kept)
            self.spaces[node] = tuple(spaces)

    @invariant()
    def no_address_has_two_holders(self) -> None:
        held = [a for _, addresses in getattr(self, "live", {}).values() for a in addresses]
        assert len(set(held)) == len(held)


Cluster.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestCluster = Cluster.TestCase
