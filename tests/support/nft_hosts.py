"""Hosts whose nftables table holds policies, for tests of states."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from plait.agent.programmers.filter import FilterBase, FilterEndpoints
from plait.agent.programmers.filter_table import FilterTable
from plait.agent.programmers.policy import FilterPolicy
from plait.kernel.conntrack import Conntrack, FakeConntrack
from plait.kernel.fake_nft import FakeNft
from plait.kernel.nft import NftDoor, Refusal
from plait.model.hoststate import Filter, FilterEndpoint, FilterNetwork, HostState
from plait.model.ruleset import Ruleset
from plait.wire import nft
from plait.wire.nft_read import TableState

Doors = Callable[[], tuple[NftDoor, Conntrack | FakeConntrack]]
"""Opens those of another agent on the same kernel; the one before must have closed its own."""

A1, A2, A6 = "10.1.0.1", "10.1.0.2", "fd01::1"
FILTER: Final = Filter(
    networks={"a": FilterNetwork(pools=("10.1.0.0/16", "fd01::/64"))},
    endpoints={
        "pl1": FilterEndpoint(network="a", addresses=(A1, A6)),
        "pl2": FilterEndpoint(network="a", addresses=(A2,)),
    },
    pools=("10.1.0.0/16", "fd01::/64"),
)
"""A network with two endpoints of this host."""


def walks(states: Iterable[str]) -> dict[str, list[str]]:
    """Orders in which to go through named states."""
    names = list(states)
    shuffled = names * 3
    random.Random(7).shuffle(shuffled)
    return {"forwards": names, "backwards": names[::-1], "shuffled": shuffled}


def recorded(door: FakeNft) -> list[TableState | None]:
    """Our table after each transaction from now on."""
    tables: list[TableState | None] = []
    commit = door.commit

    def kept(changes: Sequence[nft.Change]) -> dict[int, Refusal]:
        answer = commit(changes)
        tables.append(door.read())
        return answer

    door.commit = kept  # type: ignore[method-assign]
    return tables


def names(*wanted: str) -> Callable[[nft.Change], bool]:
    """A change of rules, a set or elements of these names."""

    def is_one(change: nft.Change) -> bool:
        match change:
            case nft.AddRules(chain=made) | nft.AddChain(chain=made):
                return made.name in wanted
            case nft.AddSet(set=made) | nft.AddElements(set=made):
                return made.name in wanted
        return False

    return is_one


class Host:
    """Programmers over a door."""

    def __init__(self, door: NftDoor) -> None:
        self.door = door
        self.table = FilterTable(door)
        self.base = FilterBase(self.table)
        self.policy = FilterPolicy(self.table)
        self.endpoints = FilterEndpoints(self.table, FakeConntrack())

    def go(self, wanted: Ruleset) -> int:
        """Make the kernel so; the number of ops of policies that it took."""
        state, count = HostState(filter=FILTER, policy=wanted), 0
        for programmer in (self.base, self.policy, self.endpoints):
            programmer.observe()
            ops = programmer.plan(state)
            count += len(ops) if programmer is self.policy else 0
            assert all(op.text or op.key[0] == "set" for op in ops), ops
            assert programmer.apply(ops) == ()
            assert programmer.plan(state) == ()
        return count

    def check(self, wanted: Ruleset) -> None:
        """The kernel, read anew, is what a fresh host with this ruleset has."""
        found = self.door.read()
        assert found is not None
        fresh = Host(FakeNft(features=self.door.features))
        fresh.go(wanted)
        expected = fresh.door.read()
        assert expected is not None
        assert found._replace(info=None) == expected._replace(info=None)  # type: ignore[arg-type]
        assert self.table.actual == found
        self.table.observe(force=True)
        state = HostState(filter=FILTER, policy=wanted)
        assert self.policy.plan(state) == ()
