"""Who may reach whom: every pair of endpoints, by some ports.

Endpoints that no policy can tell apart form a group, and one pair of each two groups is asked:
the cost grows with the number of kinds of endpoints, not with that of endpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from plait.model.objects import Endpoint
from plait.model.policies import DIRECTIONS
from plait.policy.evaluate import evaluate
from plait.policy.evaluate_rule import peer_matches
from plait.policy.questions import PortAsked, endpoint_names, pairs, parse_asked
from plait.policy.world import World


class Cell(NamedTuple):
    """Whether one endpoint reaches another by one port."""

    src: str
    dst: str
    port: str
    allowed: bool
    why: str = ""
    """What cannot be asked, or where families differ; mostly empty."""


class Matrix(NamedTuple):
    """The answer for all pairs; a pair of an endpoint with itself is left out."""

    endpoints: tuple[str, ...]
    ports: tuple[str, ...]
    kinds: tuple[int, ...]
    """Which group each endpoint is in."""
    answers: dict[tuple[int, int, int], tuple[bool, str]]
    """Whether it is allowed, and what cannot be asked, by group of the source, group of the
    destination, and place of the port."""

    def allowed(self, src: int, dst: int, port: int) -> bool:
        """By the places of source, destination and port."""
        return self.answers[self.kinds[src], self.kinds[dst], port][0]

    def cells(self) -> Iterator[Cell]:
        """One for each source, destination and port, in their order."""
        for i, src in enumerate(self.endpoints):
            for j, dst in enumerate(self.endpoints):
                if i == j:
                    continue
                for k, port in enumerate(self.ports):
                    yield Cell(src, dst, port, *self.answers[self.kinds[i], self.kinds[j], k])


def matrix(world: World, ports: Sequence[PortAsked], namespaces: Sequence[str] = ()) -> Matrix:
    """Ask for every pair of endpoints, or of those in some namespaces."""
    chosen = [e for e in world.endpoints if not namespaces or e.metadata.namespace in namespaces]
    called = endpoint_names(world.endpoints)
    numbers: dict[Any, int] = {}
    kinds = tuple(numbers.setdefault(kind_of(world, e), len(numbers)) for e in chosen)
    members: dict[int, list[Endpoint]] = {}
    for kind, endpoint in zip(kinds, chosen, strict=True):
        members.setdefault(kind, []).append(endpoint)
    answers = {
        (one, other, k): reaches(world, sources[0], receivers[-1], port)
        for one, sources in members.items()
        for other, receivers in members.items()
        # The first and the last of a group are one only if nobody else is in it.
        if one != other or len(sources) > 1
        for k, port in enumerate(ports)
    }
    texts = tuple(called[e.metadata.namespace, e.metadata.name] for e in chosen)
    return Matrix(texts, tuple(p.text for p in ports), kinds, answers)


def reaches(world: World, src: Endpoint, dst: Endpoint, port: PortAsked) -> tuple[bool, str]:
    """Whether an endpoint reaches another by a port in every family that both have."""
    by_family: dict[int, bool] = {}
    shared = False
    for one, other in pairs(world, src, dst):
        shared = True
        for flow in port.flows(world, one, other):
            family = 6 if ":" in one.address else 4
            allowed = evaluate(world, flow).allowed
            by_family[family] = by_family.get(family, True) and allowed
    if not shared:
        return False, "no address family in common"
    if not by_family:
        return False, f"the receiver has no port named {port.name}"
    if len(set(by_family.values())) > 1:
        return False, " but ".join(
            f"IPv{family} {'allowed' if yes else 'denied'}"
            for family, yes in sorted(by_family.items())
        )
    return all(by_family.values()), ""


def kind_of(world: World, endpoint: Endpoint) -> Any:
    """All of an endpoint that a policy or a network can tell."""
    parties = world.parties(endpoint)
    spec = endpoint.spec
    return (
        spec.network,
        tuple(":" in party.address for party in parties),
        tuple(
            tuple(p.metadata.name for _, tier in world.applicable(endpoint, d) for p in tier)
            for d in DIRECTIONS
        ),
        frozenset((n.name, n.protocol, n.port) for n in spec.named_ports),
        tuple(
            frozenset(i for i, peer in enumerate(world.peers) if peer_matches(world, peer, party))
            for party in parties
        ),
    )


def ports_named(world: World) -> list[PortAsked]:
    """The ports that policies name, in the order of their numbers and names; else 80/tcp."""
    texts: dict[str, None] = {}
    for policy in world.policies:
        for direction in DIRECTIONS:
            for rule in policy.spec.rules(direction):
                for port in rule.ports or ():
                    if port.port is None or port.protocol in ("ICMP", "ICMPv6"):
                        continue
                    suffix = f"/{port.protocol.lower()}" if port.protocol else ""
                    texts[f"{port.port}{suffix}"] = None
    asked = [parse_asked(text) for text in texts]
    asked.sort(key=lambda p: (p.name, p.port, p.protocol))
    return asked or [parse_asked("80/tcp")]
