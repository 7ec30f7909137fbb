"""What policies and groups must satisfy by themselves, whatever else there is. Pure.

The server refuses others, and so does everything that reads manifests without a server. What is
returned is canonical: CIDRs as their shortest text, domains in lower case without a dot at the
end. A rule that could be read in two ways is refused: whoever writes it may mean the other.
"""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec

from plait.model import syntax
from plait.model.errors import PlaitError
from plait.model.policies import (
    DIRECTIONS,
    MAX_PRIORITY,
    Direction,
    GroupSpec,
    Origin,
    Peer,
    PolicySpec,
    Port,
    Rule,
)
from plait.model.selectors import Requirement, Selector
from plait.model.syntax import Cidr, invalid

MAX_RULES: Final = 200
"""In one direction."""
MAX_PEERS: Final = 1000
MAX_PORTS: Final = 200
MAX_EXCEPTED: Final = 200
MAX_DOMAINS: Final = 100
MAX_RULE_NAME: Final = 100
MAX_CIDRS: Final = 10_000
"""Of a group."""
MAX_EXPRESSIONS: Final = 64
MAX_VALUES: Final = 256

ANYONE: Final = "leave `peers` out for anyone"
EVERY_PORT: Final = "leave `ports` out for every protocol and port"

WAYS: Final = ("group", "network", "cidr", "nodes", "service", "domains")
"""To say who the peer is, beside selectors."""


def selector(value: Selector | None, where: str) -> None:
    """Keys and values in the syntax of labels, values where the operator compares them only: as
    Kubernetes validates a LabelSelector."""
    if value is None:
        return
    syntax.label_map(value.match_labels, f"{where}.matchLabels")
    syntax.items(value.match_expressions, f"{where}.matchExpressions", MAX_EXPRESSIONS)
    for i, requirement in enumerate(value.match_expressions):
        _requirement(requirement, f"{where}.matchExpressions[{i}]")


def _requirement(value: Requirement, where: str) -> None:
    syntax.label_key(value.key, f"{where}.key")
    syntax.items(value.values, f"{where}.values", MAX_VALUES)
    compares = value.operator in ("In", "NotIn")
    if compares and not value.values:
        raise invalid(
            f"{where}.values",
            f"the operator {value.operator} compares with values, and there are none",
            fix="write `Exists` or `DoesNotExist` if any value will do",
        )
    if value.values and not compares:
        raise invalid(
            f"{where}.values",
            f"the operator {value.operator} takes no values",
            fix="leave `values` out, or write `In` or `NotIn`",
        )
    for i, text in enumerate(value.values):
        syntax.label_value(text, f"{where}.values[{i}]")


def policy(spec: PolicySpec, *, domain: str = "") -> PolicySpec:
    """A valid policy. `domain` is the network's own, whose names are no `domains`."""
    syntax.number(spec.priority, "spec.priority", 0, MAX_PRIORITY)
    selector(spec.subject.namespaces, "spec.subject.namespaces")
    selector(spec.subject.endpoints, "spec.subject.endpoints")
    if spec.isolate is not None:
        if spec.tier != "application":
            raise invalid(
                "spec.isolate",
                f"a policy of the tier {spec.tier} does not isolate",
                why="only the tier application closes what no rule accepts",
                fix="write a last rule with `action: Deny`, or `tier: application`",
            )
        if len(set(spec.isolate)) != len(spec.isolate):
            raise invalid("spec.isolate", "a direction stands twice")
    _multiline(spec.description, "spec.description")
    if spec.origin is not None:
        origin(spec.origin)
    rules = {}
    for direction in DIRECTIONS:
        given = spec.rules(direction)
        syntax.items(given, f"spec.{direction}", MAX_RULES)
        rules[direction] = tuple(
            _rule(rule, direction, domain, f"spec.{direction}[{i}]") for i, rule in enumerate(given)
        )
    return msgspec.structs.replace(spec, **rules)


def _multiline(value: str, where: str) -> None:
    """Printable text in lines."""
    syntax.text(value.replace("\n", " ").replace("\t", " "), where)


def origin(value: Origin) -> None:
    """A kind's name, and the name of an object."""
    syntax.text(value.kind, "spec.origin.kind", 63)
    syntax.dns_subdomain(value.name, "spec.origin.name")
    if value.namespace:
        syntax.dns_label(value.namespace, "spec.origin.namespace")


def _rule(rule: Rule, direction: Direction, domain: str, where: str) -> Rule:
    syntax.text(rule.name, f"{where}.name", MAX_RULE_NAME)
    if rule.reject and rule.action != "Deny":
        raise invalid(
            f"{where}.reject",
            f"a rule with `action: {rule.action}` cannot reject",
            why="`reject` says how a denied packet is answered",
            fix="leave `reject` out, or write `action: Deny`",
        )
    peers = rule.peers
    if peers is not None:
        _given(peers, f"{where}.peers", MAX_PEERS, ANYONE)
        peers = tuple(
            _peer(peer, rule, direction, domain, f"{where}.peers[{i}]")
            for i, peer in enumerate(peers)
        )
    if rule.ports is not None:
        _given(rule.ports, f"{where}.ports", MAX_PORTS, EVERY_PORT)
        for i, port in enumerate(rule.ports):
            _port(port, f"{where}.ports[{i}]")
    return msgspec.structs.replace(rule, peers=peers)


def _given(value: tuple[object, ...], where: str, limit: int, instead: str) -> None:
    """A list that is given has items: an empty one could mean nobody as well as anyone."""
    if not value:
        raise invalid(where, "the list is empty, so the rule would match nothing", fix=instead)
    syntax.items(value, where, limit)


def _peer(peer: Peer, rule: Rule, direction: Direction, domain: str, where: str) -> Peer:
    selects = peer.namespaces is not None or peer.endpoints is not None
    ways = (["selectors"] if selects else []) + [way for way in WAYS if getattr(peer, way)]
    if not ways:
        raise invalid(where, "the peer says nothing of who it is", fix=ANYONE)
    if len(ways) > 1:
        raise invalid(
            where,
            f"a peer is said in one way, and here are {len(ways)}: {', '.join(ways)}",
            fix="write an item of `peers` for each; they add up",
        )
    if peer.excepted and not peer.cidr:
        raise invalid(f"{where}.except", "only a peer with `cidr` has exceptions")
    for name in ("namespaces", "endpoints", "nodes"):
        selector(getattr(peer, name), f"{where}.{name}")
    if peer.group:
        syntax.dns_label(peer.group, f"{where}.group")
    if peer.network:
        syntax.dns_label(peer.network, f"{where}.network")
    if peer.service is not None:
        syntax.dns_name(peer.service.name, f"{where}.service.name")
        syntax.dns_label(peer.service.namespace, f"{where}.service.namespace")
    if peer.cidr:
        return _cidr(peer, where)
    if peer.domains:
        return _domains(peer, rule, direction, domain, where)
    return peer


def _cidr(peer: Peer, where: str) -> Peer:
    whole = syntax.cidr(peer.cidr, f"{where}.cidr", code="PLAIT-API-002")
    syntax.items(peer.excepted, f"{where}.except", MAX_EXCEPTED)
    parts = []
    for i, text in enumerate(peer.excepted):
        part = syntax.cidr(text, f"{where}.except[{i}]", code="PLAIT-API-002")
        if not strictly_inside(part, whole):
            raise invalid(
                f"{where}.except[{i}]",
                f"{part} is not a part of {whole}",
                why="an exception lies inside `cidr` and is smaller",
            )
        parts.append(str(part))
    return msgspec.structs.replace(peer, cidr=str(whole), excepted=tuple(parts))


def strictly_inside(inner: Cidr, outer: Cidr) -> bool:
    """Whether one range is a part of the other, and not all of it."""
    return inner.version == outer.version and inner != outer and cast(Any, inner).subnet_of(outer)


def _domains(peer: Peer, rule: Rule, direction: Direction, domain: str, where: str) -> Peer:
    if direction != "egress" or rule.action != "Accept":
        raise invalid(
            f"{where}.domains",
            f"an {direction} rule with `action: {rule.action}` cannot name domains",
            why="a name is known by the addresses that it was found at: that is enough to open "
            "the way there, not to close it",
            fix="name domains in `egress` rules with `action: Accept`, or a `cidr` here",
        )
    syntax.items(peer.domains, f"{where}.domains", MAX_DOMAINS)
    names = tuple(
        _domain(text, domain, f"{where}.domains[{i}]") for i, text in enumerate(peer.domains)
    )
    return msgspec.structs.replace(peer, domains=names)


def _domain(text: str, ours: str, where: str) -> str:
    found = domain_name(text, where)
    name = found.removeprefix("*.")
    if ours and (name == ours or name.endswith(f".{ours}")):
        raise invalid(
            where,
            f"{syntax.shown(text)} is a name of this network",
            why="domains are names outside of it",
            fix="write `endpoints`, `namespaces`, `service` or `group`",
        )
    return found


def domain_name(text: str, where: str) -> str:
    """A name, or `*.` and a name; in lower case, without the dot of the root."""
    lowered = text.lower().removesuffix(".")
    name = lowered.removeprefix("*.")
    if "*" in name:
        raise invalid(
            where,
            f"{syntax.shown(text)} is not a domain",
            why="`*` stands for any labels, and only as the first one: `*.example.com`",
            fix="write `cidr: 0.0.0.0/0` and `cidr: ::/0` for every address",
        )
    try:
        syntax.dns_name(name, where)
    except PlaitError as error:
        raise invalid(where, f"{syntax.shown(text)} is not a domain", why=error.why) from None
    return lowered


def _port(port: Port, where: str) -> None:
    if port.protocol in ("ICMP", "ICMPv6"):
        _icmp(port, where)
        return
    for name in ("icmp_type", "icmp_code"):
        if getattr(port, name) is not None:
            wire = "icmpType" if name == "icmp_type" else "icmpCode"
            raise invalid(
                f"{where}.{wire}",
                f"`{wire}` is of the protocols ICMP and ICMPv6 only",
                fix="write `protocol: ICMP` or `protocol: ICMPv6`",
            )
    if isinstance(port.port, str):
        syntax.port_name(port.port, f"{where}.port")
    elif port.port is not None:
        syntax.number(port.port, f"{where}.port", 1, 65535)
    if port.protocol is None and not isinstance(port.port, str):
        raise invalid(
            f"{where}.protocol",
            "the protocol is missing",
            why="only a port's name says by itself which protocol it is of",
            fix="write `protocol: TCP`",
        )
    if port.end_port is None:
        return
    if not isinstance(port.port, int):
        raise invalid(
            f"{where}.endPort",
            "a range begins at `port`, and there is no number",
            fix="write the first port as `port`",
        )
    syntax.number(port.end_port, f"{where}.endPort", port.port, 65535)


def _icmp(port: Port, where: str) -> None:
    for name, wire in (("port", "port"), ("end_port", "endPort")):
        if getattr(port, name) is not None:
            raise invalid(
                f"{where}.{wire}",
                f"{port.protocol} has no ports",
                fix="write `icmpType` and `icmpCode`",
            )
    if port.icmp_type is not None:
        syntax.number(port.icmp_type, f"{where}.icmpType", 0, 255)
    if port.icmp_code is None:
        return
    if port.icmp_type is None:
        raise invalid(
            f"{where}.icmpCode",
            "a code has a meaning with its type only",
            fix="write `icmpType` too",
        )
    syntax.number(port.icmp_code, f"{where}.icmpCode", 0, 255)


def group(spec: GroupSpec) -> GroupSpec:
    """A valid group: said by selectors or by CIDRs."""
    selects = spec.namespaces is not None or spec.endpoints is not None
    if selects and spec.cidrs:
        raise invalid(
            "spec.cidrs",
            "a group has selectors or cidrs, not both",
            fix="make two groups, and name both in the rule's peers",
        )
    if not selects and not spec.cidrs:
        raise invalid(
            "spec",
            "the group has neither selectors nor cidrs",
            fix="write `endpoints: {}` for every endpoint",
        )
    selector(spec.namespaces, "spec.namespaces")
    selector(spec.endpoints, "spec.endpoints")
    syntax.items(spec.cidrs, "spec.cidrs", MAX_CIDRS)
    cidrs = tuple(
        str(syntax.cidr(text, f"spec.cidrs[{i}]", code="PLAIT-API-002"))
        for i, text in enumerate(spec.cidrs)
    )
    return msgspec.structs.replace(spec, cidrs=cidrs)
