"""Who a change of policies may concern: endpoints, hosts and the outside, grouped.

Of two worlds only what differs is looked at, and members of a group get the same answers in both.
So the cost grows with the number of kinds of endpoints among those that the change rules, and
among those that they meet; not with the number of pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from plait.model.objects import Endpoint, Node
from plait.model.policies import DIRECTIONS, Direction, Peer, Policy
from plait.policy.evaluate_rule import peer_matches
from plait.policy.questions import OUTSIDE, endpoint_names
from plait.policy.world import Party, World, parse_cidr

MAX_CIDRS: Final = 64
"""CIDRs of which one address each is asked about."""
SAMPLES: Final = 16
"""Addresses of a CIDR among which one is looked for that is nobody's."""

_OTHER: Final[Mapping[Direction, Direction]] = {"ingress": "egress", "egress": "ingress"}

Parties = tuple[Party, ...]


class Place(NamedTuple):
    """Some who get the same answers, as senders and as receivers."""

    names: tuple[str, ...]
    samples: tuple[Parties, ...]
    """Parties of one or two of them; two, so that one can ask another."""
    ruled: frozenset[Direction] = frozenset()
    """Directions in which something that rules them differs between the worlds."""
    host: Parties = ()
    """Of the host that the first sample is on; of endpoints only."""


class Scope(NamedTuple):
    """What differs between two worlds, and what that may depend on."""

    ruled: Mapping[Direction, frozenset[tuple[str, str]]]
    """Endpoints, by namespace and id, for which it matters which world it is."""
    deciding: tuple[tuple[Policy, ...], tuple[Policy, ...]]
    """The policies of each world that decide about flows of these endpoints, in their order."""

    @property
    def policies(self) -> tuple[Policy, ...]:
        """Those of both worlds."""
        return (*self.deciding[0], *self.deciding[1])


def places(before: World, after: World) -> tuple[list[Place], Scope]:
    """Everybody who is in both worlds, and the outside."""
    scope = _scope(before, after)
    return [
        *_endpoints(before, after, scope),
        *_hosts(before, after, scope),
        *_outside(after, scope, differing(before, after)),
    ], scope


def differing(before: World, after: World) -> set[str] | None:
    """Names of policies that do not mean the same in both worlds; None: anything may differ."""
    if before.namespaces != after.namespaces or before.networks != after.networks:
        return None
    if before.services != after.services or before.slices != after.slices:
        return None
    if before.nodes != after.nodes or before.endpoints != after.endpoints:
        return None
    groups = {
        name
        for name in {*before.groups, *after.groups}
        if before.groups.get(name) != after.groups.get(name)
    }
    old, new = ({p.metadata.name: p.spec for p in w.policies} for w in (before, after))
    return {
        name
        for name in {*old, *new}
        if old.get(name) != new.get(name) or any(p.group in groups for p in _peers_of(new[name]))
    }


def _peers_of(spec: Any) -> Iterator[Peer]:
    for direction in DIRECTIONS:
        for rule in spec.rules(direction):
            yield from rule.peers or ()


# What matters


def _scope(before: World, after: World) -> Scope:
    everyone = frozenset(_id(e) for e in after.endpoints)
    changed = differing(before, after)
    if changed is None:
        both = (tuple(before.policies), tuple(after.policies))
        return Scope(dict.fromkeys(DIRECTIONS, everyone), both)
    ruled: dict[Direction, frozenset[tuple[str, str]]] = {}
    for direction in DIRECTIONS:
        deciding = [
            (world, policy)
            for world in (before, after)
            for policy in world.policies
            if policy.metadata.name in changed and _decides(policy, direction)
        ]
        ruled[direction] = frozenset(
            _id(e)
            for e in after.endpoints
            if any(world.rules_over(policy.spec.subject, e) for world, policy in deciding)
        )
    return Scope(ruled, (tuple(_deciding(before, ruled)), tuple(_deciding(after, ruled))))


def _decides(policy: Policy, direction: Direction) -> bool:
    return bool(policy.spec.rules(direction)) or policy.spec.isolates(direction)


def _deciding(
    world: World, ruled: Mapping[Direction, frozenset[tuple[str, str]]]
) -> Iterator[Policy]:
    """Policies over the ruled endpoints, and those that their peers may have at the other end."""
    over = {d: [e for e in world.endpoints if _id(e) in ruled[d]] for d in DIRECTIONS}
    for policy in world.policies:
        subject = policy.spec.subject
        for direction in DIRECTIONS:
            if _decides(policy, direction) and (
                ruled[_OTHER[direction]]
                or any(world.rules_over(subject, e) for e in over[direction])
            ):
                yield policy
                break


def _id(endpoint: Endpoint) -> tuple[str, str]:
    return (endpoint.metadata.namespace, endpoint.metadata.name)


# Endpoints


def _endpoints(before: World, after: World, scope: Scope) -> Iterator[Place]:
    staying = {_id(e): e for e in before.endpoints}
    called = endpoint_names(after.endpoints)
    tell = _Telling(before, after, scope)
    groups: dict[Any, list[Endpoint]] = {}
    for endpoint in after.endpoints:
        old = staying.get(_id(endpoint))
        if old is not None and old.spec.addresses == endpoint.spec.addresses:
            groups.setdefault(tell.kind(old, endpoint), []).append(endpoint)
    for members in groups.values():
        first = members[0]
        node = after.nodes.get(first.spec.node)
        yield Place(
            tuple(called[_id(e)] for e in members),
            tuple(after.parties(e) for e in members[:2]),
            frozenset(d for d in DIRECTIONS if _id(first) in scope.ruled[d]),
            after.parties(node) if node is not None else (),
        )


class _Telling:
    """Tells endpoints and hosts apart as far as policies do."""

    def __init__(self, before: World, after: World, scope: Scope) -> None:
        self._worlds = (before, after)
        self._scope = scope
        every = {
            msgspec.json.encode(p): p for policy in scope.policies for p in _peers_of(policy.spec)
        }
        self._peers = [peer for peer in every.values() if not peer.domains]
        self._deciding = [
            (world, direction, [p for p in policies if _decides(p, direction)])
            for world, policies in zip(self._worlds, scope.deciding, strict=True)
            for direction in DIRECTIONS
        ]
        self._hosts: dict[str, Any] = {}

    def kind(self, old: Endpoint, new: Endpoint) -> Any:
        """All of an endpoint that the policies in question or a network can tell."""
        spec = new.spec
        return (
            spec.network,
            frozenset((n.name, n.protocol, n.port) for n in spec.named_ports),
            bool(spec.ports),
            tuple(_id(new) in self._scope.ruled[d] for d in DIRECTIONS),
            self.matched(self._worlds[1].parties(new)),
            tuple(
                tuple(
                    policy.metadata.name
                    for policy in policies
                    if world.rules_over(
                        policy.spec.subject, old if world is self._worlds[0] else new
                    )
                )
                for world, direction, policies in self._deciding
                if self._matters(new, direction)
            ),
            self._host(spec.node) if _id(new) in self._scope.ruled["egress"] else None,
        )

    def _matters(self, endpoint: Endpoint, direction: Direction) -> bool:
        """Whether its policies in a direction decide about a flow that may change."""
        ruled = self._scope.ruled
        return bool(ruled[_OTHER[direction]]) or _id(endpoint) in ruled[direction]

    def _host(self, name: str) -> Any:
        if name not in self._hosts:
            node = self._worlds[1].nodes.get(name)
            self._hosts[name] = None if node is None else self.of_node(node)
        return self._hosts[name]

    def of_node(self, node: Node) -> Any:
        """All of a host that policies can tell."""
        return self.matched(self._worlds[1].parties(node))

    def matched(self, parties: Parties) -> Any:
        """Families and peers of whoever has these addresses, in each world."""
        found: list[Any] = []
        for party in parties:
            found.append(":" in party.address)
            for world in self._worlds:
                here = world.party(party.address)
                matching = (peer_matches(world, peer, here) for peer in self._peers)
                found.append(tuple(matching))
        return tuple(found)


# Hosts and the outside


def _hosts(before: World, after: World, scope: Scope) -> Iterator[Place]:
    tell = _Telling(before, after, scope)
    groups: dict[Any, list[Node]] = {}
    for name, node in sorted(after.nodes.items()):
        if name in before.nodes:
            groups.setdefault(tell.of_node(node), []).append(node)
    for members in groups.values():
        every = len(members) == len(after.nodes) > 1
        called = ("other hosts",) if every else tuple(f"host {n.metadata.name}" for n in members)
        yield Place(called, tuple(after.parties(node) for node in members[:2]))


def _outside(after: World, scope: Scope, changed: set[str] | None) -> Iterator[Place]:
    yield Place(("outside",), (tuple(map(after.party, OUTSIDE)),))
    cidrs = {
        (peer.cidr, peer.excepted)
        for policy in scope.policies
        if changed is None or policy.metadata.name in changed
        for peer in _peers_of(policy.spec)
        if peer.cidr
    }
    for cidr, holes in sorted(cidrs)[:MAX_CIDRS]:
        address = _sample(cidr, holes, after)
        if address:
            yield Place((f"outside {cidr}",), ((after.party(address),),))


def _sample(cidr: str, holes: Sequence[str], world: World) -> str:
    """An address of a CIDR that is nobody's of ours, or nothing if the first ones are not."""
    parsed = parse_cidr(cidr)
    if parsed is None or parsed.prefixlen == 0:
        return ""
    blocked = [hole for hole in map(parse_cidr, holes) if hole is not None]
    first = 0 if parsed.num_addresses == 1 else 1
    for offset in range(first, min(parsed.num_addresses, SAMPLES)):
        address = parsed[offset]
        party = world.party(str(address))
        inside = any(address in hole for hole in blocked) or world.network_at(str(address))
        if not inside and party.endpoint is None and party.node is None:
            return str(address)
    return ""
