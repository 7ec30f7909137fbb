"""Policies in words: how a list, an explanation or a command names endpoints, peers and ports."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from plait.model.policies import DIRECTIONS, Direction, Origin, Peer, Policy, Port, Rule, Subject
from plait.model.selectors import (
    ENDPOINT_NAME,
    ENDPOINT_NETWORK,
    ENDPOINT_NODE,
    NAMESPACE_NAME,
    Requirement,
    Selector,
)

ANY_PORT = "any port"


def joined(words: Iterable[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, end = words
    return f"{', '.join(first)} {last} {end}" if first else end


def _conditions(selector: Selector) -> Iterable[Requirement]:
    for key, value in sorted(selector.match_labels.items()):
        yield Requirement(key=key, operator="In", values=(value,))
    yield from selector.match_expressions


def requirement_words(requirement: Requirement) -> str:
    """A condition as kubectl's `-l` writes it: `app=web`, `app in (a,b)`, `!debug`."""
    key, values = requirement.key, requirement.values
    match requirement.operator:
        case "In" if len(values) == 1:
            return f"{key}={values[0]}"
        case "In":
            return f"{key} in ({','.join(values)})"
        case "NotIn" if len(values) == 1:
            return f"{key}!={values[0]}"
        case "NotIn":
            return f"{key} not in ({','.join(values)})"
        case "Exists":
            return key
        case "DoesNotExist":
            return f"!{key}"


def namespaces_words(selector: Selector | None) -> str:
    """`namespace shop`, `namespaces env=prod`, `every namespace`."""
    conditions = list(_conditions(selector)) if selector else []
    if not conditions:
        return "every namespace"
    if len(conditions) == 1:
        (only,) = conditions
        if only.key == NAMESPACE_NAME and only.operator == "In":
            if len(only.values) == 1:
                return f"namespace {only.values[0]}"
            return f"namespaces {joined(only.values)}"
    return f"namespaces {', '.join(map(requirement_words, conditions))}"


_LABELS: dict[str, Callable[[str], str]] = {
    ENDPOINT_NETWORK: lambda value: f"on network {value}",
    ENDPOINT_NODE: lambda value: f"on host {value}",
}


def endpoints_words(selector: Selector | None) -> str:
    """`web`, `endpoints app=web`, `all endpoints`."""
    conditions = list(_conditions(selector)) if selector else []
    if not conditions:
        return "all endpoints"
    names, labels, places = [], [], []
    for condition in conditions:
        key = condition.key
        if key.startswith(ENDPOINT_NAME) and condition.operator == "Exists":
            names.append(key.removeprefix(ENDPOINT_NAME))
        elif key in _LABELS and condition.operator == "In" and len(condition.values) == 1:
            places.append(_LABELS[key](condition.values[0]))
        else:
            labels.append(requirement_words(condition))
    if names and not labels and not places:
        return joined(names)
    return " ".join(["endpoints", *names, *([", ".join(labels)] if labels else []), *places])


def subject_words(subject: Subject) -> str:
    """`web in namespace shop`, `all endpoints in every namespace`."""
    return f"{endpoints_words(subject.endpoints)} in {namespaces_words(subject.namespaces)}"


def peer_words(peer: Peer) -> str:
    """`front in namespace shop`, `10.0.0.0/8 but 10.9.0.0/16`, `group office`."""
    if peer.group:
        return f"group {peer.group}"
    if peer.network:
        return f"network {peer.network}"
    if peer.cidr:
        return f"{peer.cidr} but {joined(peer.excepted)}" if peer.excepted else peer.cidr
    if peer.nodes is not None:
        conditions = ", ".join(map(requirement_words, _conditions(peer.nodes)))
        return f"hosts {conditions}" if conditions else "every host"
    if peer.service is not None:
        return f"service {peer.service.namespace}/{peer.service.name}"
    if peer.domains:
        return joined(peer.domains)
    return f"{endpoints_words(peer.endpoints)} in {namespaces_words(peer.namespaces)}"


def port_words(port: Port) -> str:
    """`80/tcp`, `8000-8080/udp`, `all of tcp`, `http/tcp`, `icmp type 8`."""
    protocol = port.protocol.lower() if port.protocol else ""
    if port.protocol in {"ICMP", "ICMPv6"}:
        kind = "" if port.icmp_type is None else f" type {port.icmp_type}"
        code = "" if port.icmp_code is None else f" code {port.icmp_code}"
        return f"{protocol}{kind}{code}"
    if port.port is None:
        return f"all of {protocol}"
    last = f"-{port.end_port}" if port.end_port else ""
    return f"{port.port}{last}/{protocol}" if protocol else f"port {port.port}"


def peers_words(peers: Iterable[Peer] | None) -> str:
    """Alternatives; `anyone` for None."""
    return "anyone" if peers is None else joined(map(peer_words, peers), "or")


def ports_words(ports: Iterable[Port] | None) -> str:
    """`80/tcp and 443/tcp`; `any port` for None."""
    return ANY_PORT if ports is None else joined(map(port_words, ports))


def direction_word(direction: Direction) -> str:
    """`from` before a peer of ingress, `to` before one of egress."""
    return "from" if direction == "ingress" else "to"


def rule_words(rule: Rule, direction: Direction) -> str:
    """`Accept from front in namespace shop on 80/tcp`."""
    way = direction_word(direction)
    reject = " (with an answer)" if rule.reject else ""
    return f"{rule.action} {way} {peers_words(rule.peers)} on {ports_words(rule.ports)}{reject}"


def origin_words(origin: Origin) -> str:
    """`NetworkPolicy shop/web`."""
    return f"{origin.kind} {origin.namespace + '/' if origin.namespace else ''}{origin.name}"


def isolation_words(policy: Policy) -> str:
    """`ingress`, `ingress and egress`, or nothing: what the policy closes."""
    closed = [direction for direction in DIRECTIONS if policy.spec.isolates(direction)]
    return joined(closed) if closed else ""


def policy_words(policy: Policy) -> list[str]:
    """A policy in lines: whom it rules, its rules, and what is left when none matches."""
    spec = policy.spec
    lines = [f"{subject_words(spec.subject)}:"]
    for direction in DIRECTIONS:
        for rule in spec.rules(direction):
            called = f"{rule.name}: " if rule.name else ""
            lines.append(f"  {direction}: {called}{rule_words(rule, direction)}")
        if spec.isolates(direction):
            lines.append(f"  {direction}: nothing else, but what other policies accept")
    return lines
