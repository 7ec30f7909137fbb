"""Compiler and evaluator were written apart, from the meaning of the objects: they say the same of
every pair and every kind of packet, and name the same rule."""

from __future__ import annotations

import ipaddress
import itertools
from typing import Literal

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.support.policies import (
    FOUND,
    NODES,
    OUTSIDE,
    POOLS,
    UNKNOWN,
    Asked,
    local,
    packets,
    scenes,
)

from plait.model.objects import AnyObject, Endpoint, Node
from plait.model.policies import DIRECTIONS, Direction
from plait.policy.engine import Engine
from plait.policy.evaluate import Side, judge
from plait.policy.evaluate_rule import name_matches
from plait.policy.flow import Flow
from plait.policy.walk import GUARD, NO_POLICY, Outcome, Packet, Walker
from plait.policy.world import World

POOL_NETWORKS = [ipaddress.ip_network(pool) for pool in POOLS]
PROTOCOLS = {"icmpv6": "ICMPv6", "gre": "gre"}


def in_pools(address: str) -> bool:
    return any(ipaddress.ip_address(address) in pool for pool in POOL_NETWORKS)


def named(patterns: tuple[str, ...], address: str) -> bool:
    """The resolver found these names before."""
    return any(name_matches(p, name) for p in patterns for name in FOUND.get(address, ()))


def engines(objects: list[AnyObject]) -> dict[str, Engine]:
    """One for each host, told what its agent knows."""
    made = {node: Engine(node) for node in NODES}
    for node, engine in made.items():
        for obj in objects:
            engine.put(obj)
            if isinstance(obj, Endpoint) and obj.spec.node == node:
                engine.set_local(obj.metadata.name, local(obj))
    return made


def said(engine: Engine, outcome: Outcome) -> tuple[object, ...]:
    """What decided, in the words of the evaluator."""
    if outcome.id in {NO_POLICY, GUARD}:
        return (outcome.accepted, {NO_POLICY: "default", GUARD: "guard"}[outcome.id], False)
    meaning = engine.meaning(outcome.id)
    assert meaning is not None
    assert meaning.direction == outcome.direction
    if meaning.isolating:
        return (outcome.accepted, "isolation", False, meaning.isolating[0])
    return (outcome.accepted, "rule", outcome.reject, meaning.policy, meaning.index)


def meant(side: Side) -> tuple[object, ...]:
    base = (side.allowed, side.decided, side.reject)
    if side.by is None:
        return base
    name = side.by.policy.metadata.name
    if side.decided == "isolation":
        isolating = (
            trace.policy.metadata.name
            for trace in side.tiers[-1].policies
            if trace.isolates and not trace.policy.spec.staged
        )
        return (*base, min(isolating))
    assert side.rule is not None
    return (*base, name, side.rule.position)


class Judges:
    """Both, side by side."""

    def __init__(self, objects: list[AnyObject]) -> None:
        self.world = World.of(objects)
        self.engines = engines(objects)
        self.walkers = {}
        for node, engine in self.engines.items():
            ruleset = engine.ruleset()
            self.walkers[node] = Walker(
                ruleset,
                in_domain=lambda name, address, sets=ruleset.domains: named(sets[name], address),
                in_pools=in_pools,
            )

    def compare(self, subject: Endpoint, direction: Direction, other: str, asked: Asked) -> None:
        own = next(a for a in subject.spec.addresses if (":" in a) == (":" in other))
        src, dst = (own, other) if direction == "egress" else (other, own)
        node = subject.spec.node
        outcome = self.walkers[node].walk(
            Packet(direction, src, dst, asked.protocol, asked.port, *asked[2:])
        )
        party, peer = self.world.party(own), self.world.party(other)
        ends = (party, peer) if direction == "egress" else (peer, party)
        protocol = PROTOCOLS.get(asked.protocol, asked.protocol.upper())
        side = judge(
            self.world, direction, Flow(*ends, protocol, asked.port, *asked[2:]), in_domain=named
        )
        assert said(self.engines[node], outcome) == meant(side), (src, dst, direction, asked)


@given(scenes(), st.sampled_from((4, 6)))
@settings(max_examples=40, phases=set(Phase) - {Phase.explain})
def test_both_agree_on_every_pair_and_every_packet(
    objects: list[AnyObject], family: Literal[4, 6]
) -> None:
    judges = Judges(objects)
    found = [obj for obj in objects if isinstance(obj, Endpoint)]
    hosts = [obj for obj in objects if isinstance(obj, Node)]
    addresses = [
        *(a for obj in (*found, *hosts) for a in obj.spec.addresses),
        *OUTSIDE,
        *UNKNOWN,
    ]
    others = [a.partition("/")[0] for a in addresses if (":" in a) == (family == 6)]
    for subject, direction, other in itertools.product(found, DIRECTIONS, others):
        if other not in subject.spec.addresses:
            for asked in packets(family):
                judges.compare(subject, direction, other, asked)
