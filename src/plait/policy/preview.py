"""What a change of policies changes: pairs that come to reach each other, or cease to.

Two worlds are asked the same questions, and only where something that decides differs. Endpoints
that neither world's policies tell apart are asked once, as in `plait.policy.matrix`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from plait.model.objects import Endpoint
from plait.model.policies import DIRECTIONS, Policy, Port
from plait.policy.asking import PortAsked, names
from plait.policy.evaluate import Verdict, evaluate
from plait.policy.flows import Flow, port_text
from plait.policy.matrix import kind_of
from plait.policy.world import Party, World, parse_cidr

OUTSIDE: Final = ("203.0.113.1", "2001:db8::1")
"""Addresses that stand for the rest of the world (RFC 5737, RFC 3849)."""
UNNAMED_PORTS: Final = range(49151, 0, -1)
"""Where a port is looked for that no policy names."""


class Change(NamedTuple):
    """A flow that one world lets through and the other does not."""

    src: str
    dst: str
    port: str
    allowed: bool
    """Afterwards."""
    by: str
    """What decides afterwards: `policy shop-default`, or `no policy`."""
    times: int = 1
    """Flows that were seen, where flows were given."""


class Place(NamedTuple):
    """One side of the flows that are asked about."""

    text: str
    parties: tuple[Party, ...]
    kind: Any
    """Endpoints of one kind answer each other in the same way."""
    at: Any = None
    """Of one kind and at one place, they answer hosts and the outside in the same way."""
    ruled: bool = False
    """Something that rules it differs between the worlds."""


def preview(before: World, after: World, seen: Iterable[tuple[str, int]] = ()) -> list[Change]:
    """The pairs that change, by the ports that policies name and those of `seen`.

    `seen` holds protocols (`TCP`) and ports. Endpoints that are in one world only are left out:
    they change nothing for anybody that was there.
    """
    places = _places(before, after)
    answers: dict[Any, list[tuple[PortAsked, bool, str]]] = {}
    asked = ports_asked((*before.policies, *after.policies), seen)
    found: list[Change] = []
    for src in places:
        for dst in places:
            if src is dst or not (src.ruled or dst.ruled):
                continue
            near = src.at is not None and dst.at is not None
            key = (src.kind, dst.kind) if near else (src.kind, dst.kind, src.at, dst.at)
            if key not in answers:
                answers[key] = list(_differences(before, after, src, dst, asked))
            found += [
                Change(src.text, dst.text, port.text, allowed, by)
                for port, allowed, by in answers[key]
            ]
    return found


def flow_changes(before: World, after: World, flows: Iterable[Flow]) -> list[Change]:
    """The flows, as they were seen, that one world accepts and the other does not."""
    found: dict[tuple[str, str, str, bool, str], int] = {}
    for flow in flows:
        then, now = _passes(before, flow), _passes(after, flow)
        if then[0] != now[0]:
            key = (str(flow.src), str(flow.dst), port_text(flow), now[0], decider(now[1]))
            found[key] = found.get(key, 0) + 1
    return [Change(*key, count) for key, count in found.items()]


def decider(verdict: Verdict) -> str:
    """`policy a`, `policy a and policy b`, `no policy`: what decided a verdict."""
    sides = [side for side in (verdict.egress, verdict.ingress) if side.decided != "not asked"]
    if not verdict.allowed:
        sides = [side for side in sides if not side.allowed]
    by = dict.fromkeys(f"policy {s.by.policy.metadata.name}" for s in sides if s.by is not None)
    return " and ".join(by) or "no policy"


# Who is asked about


def _places(before: World, after: World) -> list[Place]:
    differing = _differing(before, after)
    staying = {_id(e): e for e in before.endpoints}
    called = names(after.endpoints)
    found = []
    for endpoint in after.endpoints:
        old = staying.get(_id(endpoint))
        if old is None:
            continue
        kinds = (kind_of(before, old), kind_of(after, endpoint))
        ruled = differing is None or any(
            _ruling(before, old, d, differing) != _ruling(after, endpoint, d, differing)
            for d in DIRECTIONS
        )
        parties = after.parties(endpoint)
        at = (endpoint.spec.node, bool(endpoint.spec.ports))
        found.append(Place(called[_id(endpoint)], parties, kinds, at, ruled))
    found += [
        Place(f"host {name}", after.parties(node), ("node", name))
        for name, node in after.nodes.items()
    ]
    return [*found, *_outside(before, after)]


def _id(endpoint: Endpoint) -> tuple[str, str]:
    return (endpoint.metadata.namespace, endpoint.metadata.name)


def _differing(before: World, after: World) -> set[str] | None:
    """Names of policies that do not mean the same in both worlds; None: anything may differ."""
    if before.namespaces != after.namespaces or before.networks != after.networks:
        return None
    if before.nodes != after.nodes or before.endpoints != after.endpoints:
        return None
    groups = {
        name
        for name in {*before.groups, *after.groups}
        if before.groups.get(name) != after.groups.get(name)
    }
    specs = [{p.metadata.name: p.spec for p in world.policies} for world in (before, after)]
    return {
        name
        for name in {*specs[0], *specs[1]}
        if specs[0].get(name) != specs[1].get(name) or _groups(specs[1][name]) & groups
    }


def _groups(spec: Any) -> set[str]:
    return {
        peer.group
        for direction in DIRECTIONS
        for rule in spec.rules(direction)
        for peer in rule.peers or ()
        if peer.group
    }


def _ruling(world: World, endpoint: Endpoint, direction: Any, differing: set[str]) -> list[Any]:
    """Policies among the differing ones that rule an endpoint, each with what it says."""
    return [
        (policy.metadata.name, policy.spec, tuple(map(world.groups.get, _groups(policy.spec))))
        for _, policies in world.applicable(endpoint, direction)
        for policy in policies
        if policy.metadata.name in differing
    ]


def _outside(before: World, after: World) -> list[Place]:
    """The rest of the world, and one address of each CIDR that policies name."""
    found = [Place("outside", tuple(map(after.party, OUTSIDE)), "outside")]
    for cidr, holes in sorted(_cidrs((*before.policies, *after.policies))):
        address = _sample(cidr, holes, after)
        if address:
            found.append(Place(f"outside {cidr}", (after.party(address),), ("outside", cidr)))
    return found


def _cidrs(policies: Iterable[Policy]) -> set[tuple[str, tuple[str, ...]]]:
    return {
        (peer.cidr, peer.excepted)
        for policy in policies
        for direction in DIRECTIONS
        for rule in policy.spec.rules(direction)
        for peer in rule.peers or ()
        if peer.cidr
    }


def _sample(cidr: str, holes: Sequence[str], world: World) -> str:
    """An address of a CIDR that is nobody's of ours, or nothing if the first ones are not."""
    parsed = parse_cidr(cidr)
    if parsed is None or parsed.prefixlen == 0:
        return ""
    blocked = [hole for hole in map(parse_cidr, holes) if hole is not None]
    offset = 0 if parsed.num_addresses == 1 else 1
    for step in range(offset, min(parsed.num_addresses, 16)):
        address = parsed[step]
        party = world.party(str(address))
        inside = any(address in hole for hole in blocked) or world.network_at(str(address))
        if not inside and party.endpoint is None and party.node is None:
            return str(address)
    return ""


# What is asked


def ports_asked(policies: Iterable[Policy], seen: Iterable[tuple[str, int]]) -> list[PortAsked]:
    """Ports that policies name, both ends of ranges, those seen, and others for the rest."""
    found: dict[PortAsked, None] = {}
    for policy in policies:
        for direction in DIRECTIONS:
            for rule in policy.spec.rules(direction):
                for port in rule.ports or ():
                    found.update(dict.fromkeys(asked_of(port)))
    for protocol, number in seen:
        if protocol in {"TCP", "UDP", "SCTP"}:
            found[PortAsked(f"{number}/{protocol.lower()}", protocol, number)] = None
    taken = {port.port for port in found}
    other = next(number for number in UNNAMED_PORTS if number not in taken)
    protocols = ["TCP", "UDP", *(["SCTP"] if any(p.protocol == "SCTP" for p in found) else [])]
    rest = [PortAsked(f"other {p.lower()}", p, other) for p in protocols]
    named = sorted(found, key=lambda p: (p.port, p.name, p.protocol, p.icmp_type))
    return [*named, *rest, PortAsked("icmp", "ICMP")]


def asked_of(port: Port) -> Iterator[PortAsked]:
    """What asks whether a rule's port is open: both ends of a range; all of a protocol: none."""
    protocol = port.protocol or ""
    suffix = f"/{protocol.lower()}" if protocol else ""
    if protocol.startswith("ICMP"):
        if port.icmp_type is not None:
            code = -1 if port.icmp_code is None else port.icmp_code
            tail = "" if code < 0 else f"/{code}"
            text = f"icmp/{port.icmp_type}{tail}"
            yield PortAsked(text, "ICMP", 0, "", port.icmp_type, code)
    elif isinstance(port.port, str):
        yield PortAsked(f"{port.port}{suffix}", protocol, 0, port.port)
    elif port.port is not None:
        for number in dict.fromkeys((port.port, port.end_port or port.port)):
            yield PortAsked(f"{number}{suffix}", protocol, number)


# The answers


def _differences(
    before: World, after: World, src: Place, dst: Place, asked: Sequence[PortAsked]
) -> Iterator[tuple[PortAsked, bool, str]]:
    for port in asked:
        then, _ = _reached(before, src, dst, port)
        now, verdict = _reached(after, src, dst, port)
        if then is not None and now is not None and then != now and verdict is not None:
            yield port, now, decider(verdict)


def _reached(
    world: World, src: Place, dst: Place, port: PortAsked
) -> tuple[bool | None, Verdict | None]:
    """Whether all flows pass, in every family; None if there is none to ask about."""
    result: tuple[bool | None, Verdict | None] = (None, None)
    for one in src.parties:
        for other in dst.parties:
            if (":" in one.address) != (":" in other.address):
                continue
            here, there = world.party(one.address), world.party(other.address)
            for flow in port.flows(world, here, there):
                passes, verdict = _passes(world, flow)
                if verdict.way.kind == "not ours":
                    continue
                result = (passes, verdict)
                if not passes:
                    return result
    return result


def _passes(world: World, flow: Flow) -> tuple[bool, Verdict]:
    """Whether it passes. What comes from outside is taken to come through a published port."""
    verdict = evaluate(world, flow)
    if verdict.way.kind == "from outside" and _publishes(flow.dst):
        verdict = verdict._replace(way=verdict.way._replace(kind="published"))
    return verdict.allowed, verdict


def _publishes(party: Party) -> bool:
    return party.endpoint is not None and bool(party.endpoint.spec.ports)


def summary(changes: Sequence[Change]) -> list[tuple[str, str, str, bool, str]]:
    """Changes with the ports and then the senders put together: senders, receiver, ports."""
    ports: dict[tuple[str, str, bool, str], list[str]] = {}
    for change in changes:
        ports.setdefault((change.src, change.dst, change.allowed, change.by), []).append(
            change.port
        )
    senders: dict[tuple[str, str, bool, str], list[str]] = {}
    for (src, dst, allowed, by), texts in ports.items():
        senders.setdefault((dst, ", ".join(texts), allowed, by), []).append(src)
    return [
        (", ".join(sources), dst, texts, allowed, by)
        for (dst, texts, allowed, by), sources in senders.items()
    ]
