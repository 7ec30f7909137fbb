"""State, not path: what policies are in the kernel depends on the ruleset, not on how it came."""

from __future__ import annotations

import errno
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from plait.agent.desired import filter_sets, policy_rules, policy_sets
from plait.agent.programmers.filter import FilterBase, FilterEndpoints
from plait.agent.programmers.filter_table import FilterTable
from plait.agent.programmers.policy import FilterPolicy
from plait.kernel import netns
from plait.kernel.conntrack import FakeConntrack
from plait.kernel.fake_nft import FakeNetfilter, FakeNft
from plait.kernel.nft import Nft, NftDoor
from plait.model.hoststate import Filter, FilterEndpoint, FilterNetwork, HostState
from plait.model.members import Members
from plait.model.ruleset import (
    ChainRule,
    Classes,
    PolicyChain,
    PolicyClass,
    PortMatch,
    Ruleset,
    Socket,
    Tier,
)
from plait.wire import nft
from plait.wire import nft_expr as e

A1, A2, A6 = "10.1.0.1", "10.1.0.2", "fd01::1"
FILTER = Filter(
    networks={"a": FilterNetwork(pools=("10.1.0.0/16", "fd01::/64"))},
    endpoints={
        "pl1": FilterEndpoint(network="a", addresses=(A1, A6)),
        "pl2": FilterEndpoint(network="a", addresses=(A2,)),
    },
    pools=("10.1.0.0/16", "fd01::/64"),
)
TCP80 = PortMatch(protocol="tcp", first=80, last=80)
PORTS = (
    TCP80,
    PortMatch(protocol="udp", first=53, last=53),
    PortMatch(protocol="tcp", first=8000, last=9000),
    PortMatch(protocol="tcp", first=8500, last=9500),
    PortMatch(protocol="sctp"),
    PortMatch(protocol="icmp", icmp_type=8, icmp_code=0),
    PortMatch(protocol="icmpv6", icmp_type=128),
    PortMatch(named="web"),
)
RANGES = ("10.0.0.0-10.255.255.255", "192.0.2.3-192.0.2.9", "fd02::-fd02::ffff", "fd03::1-fd03::1")


def chain(*rules: ChainRule, direction: Any = "ingress") -> PolicyChain:
    return PolicyChain(direction=direction, rules=rules)


def klass(*tiers: Tier, direction: Any = "ingress", guard: bool = False) -> PolicyClass:
    return PolicyClass(direction=direction, tiers=tiers, guard=guard)


def front() -> dict[str, Members[str]]:
    return {"front": Members({A1, A6, "10.1.7.7"})}


ACCEPT_FRONT = ChainRule(id="r1", decision="accept", peers="front", ports=(TCP80,))
DENY_ALL = ChainRule(id="r2", decision="deny", anyone=True, reject=True)
PASS_SOME = ChainRule(id="r3", decision="pass", ranges=RANGES)
MUCH = ChainRule(
    id="r4", decision="accept", peers="front", ranges=RANGES, domains="dom", ports=PORTS
)
STAGED = ChainRule(id="r5", decision="deny", anyone=True, staged=True)

STATES: dict[str, Callable[[], Ruleset]] = {
    "nothing": Ruleset,
    "one policy": lambda: Ruleset(
        chains={"web": chain(ACCEPT_FRONT)},
        classes={"k1": klass(Tier(chains=("web",), deny="i1"))},
        dispatch={A2: Classes("", "k1")},
        sets=front(),
    ),
    "more members": lambda: Ruleset(
        chains={"web": chain(ACCEPT_FRONT)},
        classes={"k1": klass(Tier(chains=("web",), deny="i1"))},
        dispatch={A2: Classes("", "k1")},
        sets={"front": Members({A1, "10.1.9.9", "fd01::9"})},
    ),
    "both directions and families": lambda: Ruleset(
        chains={"web": chain(ACCEPT_FRONT), "out": chain(DENY_ALL, direction="egress")},
        classes={
            "k1": klass(Tier(chains=("web",), deny="i1")),
            "k2": klass(Tier(chains=("out",)), direction="egress", guard=True),
        },
        dispatch={
            A2: Classes("k2", "k1"),
            A1: Classes("k2", ""),
            A6: Classes("k2", ""),
        },
        sets=front(),
        known=Members({A1, A2, A6}),
    ),
    "all that a rule can say": lambda: Ruleset(
        chains={"much": chain(MUCH, direction="egress")},
        classes={"k3": klass(Tier(chains=("much",), deny="i2"), direction="egress")},
        dispatch={A2: Classes("k3", "")},
        sets=front(),
        sockets={"web": Members({Socket(A1, "tcp", 8080), Socket(A6, "udp", 53)})},
        domains={"dom": ("*.example.com",)},
    ),
    "a tier that is passed": lambda: Ruleset(
        chains={"pass": chain(PASS_SOME, DENY_ALL), "web": chain(ACCEPT_FRONT)},
        classes={"k4": klass(Tier(chains=("web", "pass")), Tier(chains=("web",), deny="i1"))},
        dispatch={A1: Classes("", "k4"), A2: Classes("", "k4")},
        sets=front(),
    ),
    "staged": lambda: Ruleset(
        chains={"stage": chain(STAGED)},
        classes={"k5": klass(Tier(chains=("stage",), staged_deny="i5"))},
        dispatch={A1: Classes("", "k5")},
    ),
    "another class": lambda: Ruleset(
        chains={"web": chain(DENY_ALL)},
        classes={"k6": klass(Tier(chains=("web",)))},
        dispatch={A2: Classes("", "k6")},
    ),
}


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


Make = Callable[[], Host]


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Another agent on the same kernel; the one before must have closed its door."""
    doors: list[NftDoor] = []
    kernel = FakeNetfilter()
    fd = netns.create() if request.param == "real" else -1

    def build() -> Host:
        if fd < 0:
            doors.append(FakeNft(kernel))
        else:
            with netns.inside(fd):
                doors.append(Nft())
        return Host(doors[-1])

    yield build
    for door in doors:
        door.close()
    if fd >= 0:
        os.close(fd)


@pytest.fixture
def host(make: Make) -> Host:
    return make()


def walks() -> dict[str, list[str]]:
    names = list(STATES)
    shuffled = names * 3
    random.Random(7).shuffle(shuffled)
    return {"forwards": names, "backwards": names[::-1], "shuffled": shuffled}


@pytest.mark.parametrize("walk", walks().values(), ids=walks())
def test_every_walk_ends_where_a_fresh_host_would(host: Host, walk: list[str]) -> None:
    for name in walk:
        wanted = STATES[name]()
        host.go(wanted)
        host.check(wanted)


@pytest.mark.parametrize("name", STATES)
def test_squashed_from_nothing_and_back(host: Host, name: str) -> None:
    for wanted in (STATES[name](), STATES["nothing"]()):
        host.go(wanted)
        host.check(wanted)
