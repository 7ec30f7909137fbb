"""Whether a rule matches a flow, straight from what its fields mean (`plait.model.policies`).

A rule that cannot be understood is broken: it matches nothing if it accepts or passes and
everything if it denies, so that a mistake never opens anything.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Final, Literal

from plait.model.policies import Direction, Group, Peer, Port, Rule
from plait.model.selectors import Selector
from plait.policy.flow import Flow
from plait.policy.world import Cidr, Party, World, parse_cidr

Match = Literal["matches", "peer", "port", "depends", "broken"]
"""`peer`, `port`: what did not match. `depends`: it matches if the receiver's address is one
that a name of the rule resolves to, which nobody here knows. `broken`: it cannot be understood."""

InDomain = Callable[[tuple[str, ...], str], bool | None]
"""Whether an address is one that the resolver found for one of the patterns; None: unknown."""

_PATTERN: Final = re.compile(r"(\*\.)?([a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9_])?\.?)+", re.IGNORECASE)
_ICMP: Final = frozenset({"ICMP", "ICMPv6"})


def rule_matches(
    world: World, rule: Rule, direction: Direction, flow: Flow, in_domain: InDomain | None = None
) -> Match:
    """Whether the rule matches the flow, or the first reason why it does not.

    A broken rule is never `matches`: `decides` says what it does.
    """
    known = world.broken.get((id(rule), direction))
    if known[1] if known else broken(world, rule, direction):
        return "broken"
    if rule.ports is not None:
        for port in rule.ports:
            if port_matches(world, port, flow):
                break
        else:
            return "port"
    if rule.peers is None:
        return "matches"
    other = flow.src if direction == "ingress" else flow.dst
    depends = False
    for peer in rule.peers:
        found = _remembered(world, peer, other, in_domain)
        if found:
            return "matches"
        if found is None:
            depends = True
    return "depends" if depends else "peer"


def decides(match: Match, rule: Rule) -> bool:
    """Whether a rule with this match applies to the flow."""
    return match == "matches" or (match == "broken" and rule.action == "Deny")


# Peers


def _remembered(world: World, peer: Peer, party: Party, in_domain: InDomain | None) -> bool | None:
    if peer.domains:
        return _is_named(peer.domains, party, in_domain)
    key = (id(peer), party.address)
    if key not in world.memo:
        world.memo[key] = peer_matches(world, peer, party)
    return world.memo[key]


def peer_matches(world: World, peer: Peer, party: Party) -> bool:
    """Whether a party is a peer that is said by anything but names."""
    if not party.address:
        return False
    if peer.cidr:
        address = _address(party.address)
        return _inside(address, peer.cidr) and not any(
            _inside(address, hole) for hole in peer.excepted
        )
    if peer.nodes is not None:
        return party.node is not None and peer.nodes.matches(world.node_labels(party.node))
    if peer.group:
        group = world.groups.get(peer.group)
        return group is not None and _in_group(world, group, party)
    if peer.service is not None:
        service = world.services.get((peer.service.namespace, peer.service.name))
        if service is not None:
            return world.answers_for(service, party)
    for endpoint in world.at.get(party.address, ()):
        if peer.network:
            found = endpoint.spec.network == peer.network
        elif peer.service is not None:
            found = endpoint.metadata.namespace == peer.service.namespace and (
                peer.service.name in (endpoint.spec.name, *endpoint.spec.aliases)
            )
        else:
            found = (
                peer.namespaces is None
                or peer.namespaces.matches(world.namespace_labels(endpoint.metadata.namespace))
            ) and (peer.endpoints is None or peer.endpoints.matches(world.labels(endpoint)))
        if found:
            return True
    return False


def _in_group(world: World, group: Group, party: Party) -> bool:
    spec = group.spec
    if spec.cidrs:
        address = _address(party.address)
        return any(_inside(address, cidr) for cidr in spec.cidrs)
    return peer_matches(world, Peer(namespaces=spec.namespaces, endpoints=spec.endpoints), party)


@lru_cache(maxsize=65536)
def _network(text: str) -> Cidr | None:
    return parse_cidr(text)


@lru_cache(maxsize=65536)
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(text)


def _inside(address: ipaddress.IPv4Address | ipaddress.IPv6Address, cidr: str) -> bool:
    network = _network(cidr)
    return network is not None and address in network


def _is_named(patterns: tuple[str, ...], party: Party, in_domain: InDomain | None) -> bool | None:
    if party.domain:
        return any(name_matches(pattern, party.domain) for pattern in patterns)
    if in_domain is not None:
        return in_domain(patterns, party.address)
    return False if party.endpoint or party.node else None


def name_matches(pattern: str, name: str) -> bool:
    """Whether a name is the pattern's: itself, or below it for `*.example.com`."""
    pattern, name = pattern.lower().rstrip("."), name.lower().rstrip(".")
    return name.endswith(pattern[1:]) if pattern.startswith("*.") else name == pattern


# Ports


def port_matches(world: World, port: Port, flow: Flow) -> bool:
    """Whether protocol and port, or the kind of message, are the flow's."""
    if port.protocol is not None and port.protocol != flow.protocol:
        return False
    if port.protocol in _ICMP:
        return (port.icmp_type is None or port.icmp_type == flow.icmp_type) and (
            port.icmp_code is None or port.icmp_code == flow.icmp_code
        )
    if port.port is None:
        return True
    if isinstance(port.port, str):
        return any(
            named.name == port.port
            and named.port == flow.port
            and named.protocol.upper() == flow.protocol
            for endpoint in world.at.get(flow.dst.address, ())
            for named in endpoint.spec.named_ports
        )
    return port.port <= flow.port <= (port.end_port or port.port)


# What cannot be understood


def broken(world: World, rule: Rule, direction: Direction) -> str:
    """Why a rule cannot be understood; empty if it can."""
    key = (id(rule), direction)
    found = world.broken.get(key)
    if found is None:
        why = next(filter(None, _faults(world, rule, direction)), "")
        found = world.broken[key] = (rule, why)
    return found[1]


def _faults(world: World, rule: Rule, direction: Direction) -> Iterator[str]:
    """What is wrong with each part of a rule; empty where nothing is."""
    if rule.peers == ():
        yield "its list of peers is empty"
    if rule.ports == ():
        yield "its list of ports is empty"
    for peer in rule.peers or ():
        yield _bad_peer(world, peer, rule, direction)
        yield from map(_bad_selector, (peer.namespaces, peer.endpoints, peer.nodes))
    yield from map(_bad_port, rule.ports or ())


def _bad_peer(world: World, peer: Peer, rule: Rule, direction: Direction) -> str:
    ways = (
        peer.namespaces is not None or peer.endpoints is not None,
        bool(peer.group),
        bool(peer.network),
        bool(peer.cidr),
        peer.nodes is not None,
        peer.service is not None,
        bool(peer.domains),
    )
    if sum(ways) != 1:
        return "a peer is said in no way" if not any(ways) else "a peer is said in several ways"
    if peer.excepted and not peer.cidr:
        return "a peer has exceptions of no CIDR"
    for text in (peer.cidr, *peer.excepted) if peer.cidr else ():
        if _network(text) is None:
            return f"`{text}` is no CIDR"
    if peer.group and peer.group not in world.groups:
        return f"there is no group `{peer.group}`"
    if peer.group:
        return _bad_group(world.groups[peer.group])
    if peer.service is not None:
        service = world.services.get((peer.service.namespace, peer.service.name))
        return _bad_selector(service.spec.selector) if service is not None else ""
    if peer.domains and (direction == "ingress" or rule.action != "Accept"):
        return "names are peers of egress rules that accept only"
    for pattern in peer.domains:
        if _PATTERN.fullmatch(pattern) is None:
            return f"`{pattern}` is no name"
    return ""


def _bad_group(group: Group) -> str:
    name, spec = group.metadata.name, group.spec
    for text in spec.cidrs:
        if _network(text) is None:
            return f"`{text}` of group `{name}` is no CIDR"
    if spec.cidrs:
        return ""
    return _bad_selector(spec.namespaces) or _bad_selector(spec.endpoints)


def _bad_selector(selector: Selector | None) -> str:
    for requirement in selector.match_expressions if selector else ():
        compares = requirement.operator in {"In", "NotIn"}
        if bool(requirement.values) != compares:
            return f"the operator {requirement.operator} has {'no ' if compares else ''}values"
    return ""


def _bad_port(port: Port) -> str:
    number, last = port.port, port.end_port
    if port.protocol in _ICMP:
        if number is not None or last is not None:
            return "ICMP has no ports"
        if port.icmp_code is not None and port.icmp_type is None:
            return "an ICMP code needs a type"
        kinds = [v for v in (port.icmp_type, port.icmp_code) if v is not None]
        return "" if all(0 <= v <= 255 for v in kinds) else "an ICMP type or code is out of range"
    if port.icmp_type is not None or port.icmp_code is not None:
        return "only ICMP has types and codes"
    if port.protocol is None and not isinstance(number, str):
        return "a port needs a protocol"
    if last is not None and not isinstance(number, int):
        return "a range begins with a number"
    if isinstance(number, int):
        if not 1 <= number <= 65535:
            return f"there is no port {number}"
        if last is not None and not number <= last <= 65535:
            return f"{number} to {last} is no range of ports"
    return "a port's name is empty" if number == "" else ""
