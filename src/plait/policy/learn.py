"""The narrowest policies that still let through the flows that were seen.

For each workload one policy with what it received and sent; for each namespace one that closes
what is left. Endpoints are meant by what their replicas share, never by address; who is outside
the network is meant by address, or by name where a rule that names names let it out.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2s
from itertools import groupby, islice
from typing import Final, NamedTuple

import msgspec

from plait.model.flows import FlowEnd, FlowRecord
from plait.model.meta import Metadata
from plait.model.policies import (
    DIRECTIONS,
    Direction,
    Peer,
    Policy,
    PolicySpec,
    Port,
    Rule,
    Subject,
)
from plait.model.selectors import ENDPOINT_NODE, Selector
from plait.policy import reach
from plait.policy.flow import Flow
from plait.policy.flow_records import flow_of
from plait.policy.reference import Reference, name_selector, namespace_selector, peers, subject
from plait.policy.workloads import Workload, workloads
from plait.policy.world import Party, World

MAX_ADDRESSES: Final = 100
"""Addresses outside of one rule; when there are more, it is opened to all of the outside."""
MAX_RULES: Final = 200
MAX_PEERS: Final = 1000
MAX_PORTS: Final = 200
"""What one policy and one rule may hold (`plait.policy.validate`)."""
MANY: Final = "many outside"

_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)

PortKey = tuple[str, int, int, int]
"""Protocol, port, ICMP type and code; -1 where there is none, an empty protocol for all."""
ANY: Final[PortKey] = ("", -1, -1, -1)


class Outside(NamedTuple):
    """An address that is nobody's of ours."""

    address: str


class Host(NamedTuple):
    """A node."""

    name: str


class Named(NamedTuple):
    """Names outside the network."""

    domains: tuple[str, ...]


Other = Workload | Outside | Host | Named
Key = tuple[str, str]
"""Namespace and name of a workload."""


class Learnt(NamedTuple):
    """The proposal, and what it is made of."""

    policies: tuple[Policy, ...]
    flows: int
    """Flows that were used; replies and repetitions are one."""
    passed_over: int
    """Accepted records of endpoints that can be called by nothing: they are gone, or nameless."""
    silent: tuple[str, ...]
    """Workloads of these namespaces that no flow was seen of: the proposal closes them."""


class _Seen:
    """What one workload received and sent: ports by other side."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.ports: dict[Direction, dict[str, tuple[Other, set[PortKey]]]] = {
            "ingress": {},
            "egress": {},
        }

    def add(self, direction: Direction, other: Other, port: PortKey) -> None:
        key = f"{type(other).__name__} {_order(other)}"
        self.ports[direction].setdefault(key, (other, set()))[1].add(port)


def learn(
    world: World,
    records: Iterable[FlowRecord],
    namespaces: Sequence[str] = (),
    *,
    staged: bool = False,
) -> Learnt:
    """Policies for the accepted flows among these; of endpoints of `namespaces`, or of all seen.

    A flow that one end accepted and the other one denied was not accepted. What passes whatever
    policies say needs none: DNS to the host's resolver, echo to the own host, and the own host's
    checks.
    """
    known = workloads(world)
    policies = {policy.metadata.name: policy for policy in world.policies}
    records = tuple(records)
    refused = _refused(records)
    seen: dict[str, _Seen] = {}
    used: set[tuple[str, str, PortKey]] = set()
    passed_over = 0
    for record in records:
        if record.decision == "deny" or _identity(record) in refused:
            continue
        flow, key = flow_of(world, record), _port_key(record)
        ends = [
            _other(known, end, party)
            for end, party in ((record.src, flow.src), (record.dst, flow.dst))
        ]
        src, dst = ends
        if src is None or dst is None:
            passed_over += 1
            continue
        if isinstance(dst, Outside):
            dst = _named(policies, record) or dst
        used.add((_order(src), _order(dst), key))
        for direction, own, other in (("egress", src, dst), ("ingress", dst, src)):
            if not isinstance(own, Workload) or _free(world, flow, direction):
                continue
            if not namespaces or own.namespace in namespaces:
                place = seen.setdefault(_order(own), _Seen(own))
                place.add(direction, other, key)  # type: ignore[arg-type]
    spaces = sorted(set(namespaces) or {place.workload.namespace for place in seen.values()})
    pools = [pool for network in world.networks.values() for pool in network.spec.pools]
    made = [_closing(namespace) for namespace in spaces]
    made += [policy for _, place in sorted(seen.items()) for policy in _policies(place, pools)]
    if staged:
        made = [
            msgspec.structs.replace(p, spec=msgspec.structs.replace(p.spec, staged=True))
            for p in made
        ]
    silent = {
        f"{w.namespace}/{w.name}"
        for w in known.values()
        if w.namespace in spaces and _order(w) not in seen
    }
    return Learnt(tuple(made), len(used), passed_over, tuple(sorted(silent)))


# From a record to who talked to whom


def _identity(record: FlowRecord) -> tuple[str, ...]:
    """By which the records of both ends of a flow are known to be of one flow."""
    ports = (record.src_port, record.dst_port, record.icmp_type, record.icmp_code)
    return (record.protocol, record.src.address, record.dst.address, *map(str, ports))


def _refused(records: Iterable[FlowRecord]) -> set[tuple[str, ...]]:
    """The flows that an end denied and, in these records, never accepted."""
    by_decision: dict[str, set[tuple[str, ...]]] = {"accept": set(), "deny": set()}
    for record in records:
        if record.decision in by_decision:
            by_decision[record.decision].add((record.direction, *_identity(record)))
    return {end[1:] for end in by_decision["deny"] - by_decision["accept"]}


def _other(known: dict[tuple[str, str], Workload], end: FlowEnd, party: Party) -> Other | None:
    """Who an end is; None if nothing but an address of ours that was somebody's is left."""
    if end.id and (end.namespace, end.id) in known:
        return known[end.namespace, end.id]
    if end.id or end.name:
        # It has gone. By its name the next one of that name is meant.
        if not end.name:
            return None
        return Workload(end.namespace, end.name, name_selector(end.name))
    if party.endpoint is not None:
        return known[party.endpoint.metadata.namespace, party.endpoint.metadata.name]
    if end.node or party.node is not None:
        return Host(end.node or party.node.metadata.name)  # type: ignore[union-attr]
    return Outside(end.address)


def _named(policies: Mapping[str, Policy], record: FlowRecord) -> Named | None:
    """The names by which a rule let the flow out, if it did by names alone."""
    policy = policies.get(record.policy)
    if policy is None or record.direction != "egress" or record.index < 0:
        return None
    rule = next(islice(policy.spec.egress, record.index, None), None)
    if rule is None or not rule.peers or not all(peer.domains for peer in rule.peers):
        return None
    return Named(tuple(dict.fromkeys(name for peer in rule.peers for name in peer.domains)))


def _free(world: World, flow: Flow, direction: str) -> bool:
    """Whether it passes whatever policies say, at this end."""
    way = reach.way(world, flow).kind
    if direction == "ingress":
        return way in {"own host", "itself"}
    if way == "to host":
        return reach.is_dns(flow) or reach.is_discovery(flow) or reach.is_echo(flow)
    return way == "itself"


def _port_key(record: FlowRecord) -> PortKey:
    flow_protocol = {"icmp": "ICMP", "icmpv6": "ICMPv6"}.get(record.protocol)
    if flow_protocol:
        return (flow_protocol, -1, record.icmp_type, record.icmp_code)
    if record.protocol in {"tcp", "udp", "sctp"} and record.dst_port:
        return (record.protocol.upper(), record.dst_port, -1, -1)
    return ANY


def _order(other: Other) -> str:
    """A text by which the same other side is found again, and sorted."""
    match other:
        case Workload():
            return f"{other.namespace}/{other.name} {other.selector}"
        case Outside():
            address = ipaddress.ip_address(other.address)
            return f"{address.version} {int(address):039d}"
        case Host():
            return other.name
        case Named():
            return " ".join(other.domains)


# From who talked to whom to policies


def _closing(namespace: str) -> Policy:
    return Policy(
        metadata=Metadata(name=f"learned.{namespace}"),
        spec=PolicySpec(
            subject=subject(Reference("namespace", namespace)),
            isolate=DIRECTIONS,
            description="Closes what no flow was seen of.",
        ),
    )


def _policies(place: _Seen, pools: Sequence[str]) -> Iterator[Policy]:
    """One, or several if it would hold more than a policy may."""
    workload = place.workload
    ruled = Subject(namespaces=namespace_selector(workload.namespace), endpoints=workload.selector)
    ingress = _rules(place.ports["ingress"].values(), pools)
    egress = _rules(place.ports["egress"].values(), pools)
    name = f"learned.{workload.namespace}.{_slug(workload)}"
    for start in range(0, max(len(ingress), len(egress)), MAX_RULES):
        part = slice(start, start + MAX_RULES)
        yield Policy(
            metadata=Metadata(name=f"{name}.{start // MAX_RULES + 1}" if start else name),
            spec=PolicySpec(
                subject=ruled, isolate=DIRECTIONS, ingress=ingress[part], egress=egress[part]
            ),
        )


def _slug(workload: Workload) -> str:
    """Its part of the policy's name; with a hash unless the name alone says it."""
    if workload.selector == name_selector(workload.name) and _LABEL.fullmatch(workload.name):
        return workload.name
    readable = re.sub(r"[^a-z0-9]+", "-", workload.name.lower()).strip("-")[:40].strip("-")
    digest = blake2s(str(workload.selector).encode(), digest_size=3).hexdigest()
    return f"{readable}-{digest}" if readable else digest


def _rules(seen: Iterable[tuple[Other, set[PortKey]]], pools: Sequence[str]) -> tuple[Rule, ...]:
    """Other sides with the same ports share a rule."""
    by_ports: dict[tuple[PortKey, ...], list[Other]] = {}
    for other, ports in seen:
        by_ports.setdefault(tuple(sorted(ports)), []).append(other)
    return tuple(
        Rule(name=name, peers=peered, ports=chunk)
        for ports, others in sorted(by_ports.items())
        for name, peered in _peers(others, pools)
        for chunk in _ports(ports)
    )


def _peers(others: list[Other], pools: Sequence[str]) -> Iterator[tuple[str, tuple[Peer, ...]]]:
    inside = sorted((o for o in others if not isinstance(o, Outside)), key=_order)
    outside = sorted((o for o in others if isinstance(o, Outside)), key=_order)
    for start in range(0, len(inside), MAX_PEERS):
        yield "", tuple(map(_peer, inside[start : start + MAX_PEERS]))
    if len(outside) > MAX_ADDRESSES:
        yield MANY, peers(Reference("world"), pools) or ()
    elif outside:
        yield "", tuple(map(_peer, outside))


def _peer(other: Other) -> Peer:
    match other:
        case Workload():
            return Peer(namespaces=namespace_selector(other.namespace), endpoints=other.selector)
        case Outside():
            return Peer(cidr=str(ipaddress.ip_network(other.address)))
        case Host():
            return Peer(nodes=Selector(match_labels={ENDPOINT_NODE: other.name}))
        case Named():
            return Peer(domains=other.domains)


def _ports(keys: tuple[PortKey, ...]) -> Iterator[tuple[Port, ...] | None]:
    """Ports for as many rules as are needed; neighbours become ranges."""
    if ANY in keys:
        yield None
        return
    found = [*_ranges(keys), *(_icmp(key) for key in keys if key[1] < 0)]
    for start in range(0, len(found), MAX_PORTS):
        yield tuple(found[start : start + MAX_PORTS])


def _ranges(keys: tuple[PortKey, ...]) -> Iterator[Port]:
    numbers = sorted((protocol, port) for protocol, port, _, _ in keys if port > 0)
    for _, group in groupby(enumerate(numbers), lambda item: (item[1][0], item[1][1] - item[0])):
        run = [number for _, number in group]
        protocol, first, last = run[0][0], run[0][1], run[-1][1]
        end = last if last > first else None
        yield Port(protocol=protocol, port=first, end_port=end)  # type: ignore[arg-type]


def _icmp(key: PortKey) -> Port:
    protocol, _, kind, code = key
    return Port(
        protocol=protocol,  # type: ignore[arg-type]
        icmp_type=kind if kind >= 0 else None,
        icmp_code=code if kind >= 0 and code >= 0 else None,
    )
