"""What one peer and one port of a rule mean, or that they mean nothing."""

from __future__ import annotations

import re
from typing import Final, Literal

from plait.model.policies import Peer, Port
from plait.model.ruleset import PortMatch
from plait.model.selectors import ENDPOINT_NAME, ENDPOINT_NETWORK, NAMESPACE_NAME, Selector
from plait.selection import ranges
from plait.selection.ranges import Range
from plait.selection.terms import Condition, Term, endpoints, nodes

ICMP: Final = frozenset({"ICMP", "ICMPv6"})
"""Protocols that have kinds of messages in the place of ports."""
_MESSAGES: Final[dict[str, Literal["icmp", "icmpv6"]]] = {"ICMP": "icmp", "ICMPv6": "icmpv6"}
_LABEL: Final = r"[a-z0-9_](?:[-a-z0-9_]*[a-z0-9_])?"
_DOMAIN: Final = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")


class NotUnderstood(ValueError):
    """A rule makes no sense; the text says why."""


Way = Literal["selectors", "group", "network", "cidr", "nodes", "service", "domains"]


def way_of(peer: Peer) -> Way:
    """How a peer is said; NotUnderstood unless it is in exactly one way."""
    used: dict[Way, bool] = {
        "selectors": peer.namespaces is not None or peer.endpoints is not None,
        "group": bool(peer.group),
        "network": bool(peer.network),
        "cidr": bool(peer.cidr),
        "nodes": peer.nodes is not None,
        "service": peer.service is not None,
        "domains": bool(peer.domains),
    }
    ways = [way for way, is_used in used.items() if is_used]
    if len(ways) != 1:
        raise NotUnderstood(f"a peer is said in {len(ways)} ways, not in one")
    if peer.excepted and not peer.cidr:
        raise NotUnderstood("a peer has exceptions but no CIDR")
    return ways[0]


def term_of(peer: Peer) -> Term:
    """Whom a peer selects that is said by labels, a network, a name or nodes."""
    if peer.network:
        return Term("endpoints", (), (Condition(ENDPOINT_NETWORK, True, (peer.network,)),))
    if peer.service is not None:
        return Term(
            "endpoints",
            (Condition(NAMESPACE_NAME, True, (peer.service.namespace,)),),
            (Condition(f"{ENDPOINT_NAME}{peer.service.name}", True, None),),
        )
    if peer.nodes is not None:
        check_selector(peer.nodes)
        return nodes(peer.nodes)
    return selected(peer.namespaces, peer.endpoints)


def selected(namespaces: Selector | None, labels: Selector | None) -> Term:
    """The endpoints that both selectors select."""
    for selector in (namespaces, labels):
        check_selector(selector)
    return endpoints(namespaces, labels)


def check_selector(selector: Selector | None) -> None:
    """NotUnderstood if an operator has the wrong values."""
    for requirement in selector.match_expressions if selector is not None else ():
        if bool(requirement.values) != (requirement.operator in {"In", "NotIn"}):
            raise NotUnderstood(f"the operator {requirement.operator} has wrong values")


def range_of(text: str) -> Range:
    """The addresses of a CIDR."""
    try:
        return ranges.of_cidr(text)
    except ValueError:
        raise NotUnderstood(f"{text!r} is no CIDR") from None


def pattern_of(pattern: str) -> str:
    """A domain, or `*.` and a domain, in lower case and without the dot of the root."""
    lowered = pattern.lower().removesuffix(".")
    if _DOMAIN.fullmatch(lowered) is None:
        raise NotUnderstood(f"{pattern!r} is no domain")
    return lowered


def check_port(port: Port) -> None:
    """NotUnderstood if its fields do not fit each other."""
    if port.protocol in ICMP:
        numbers = [n for n in (port.icmp_type, port.icmp_code) if n is not None]
        if port.port is not None or port.end_port is not None:
            raise NotUnderstood(f"{port.protocol} has no ports")
        if port.icmp_code is not None and port.icmp_type is None:
            raise NotUnderstood("an ICMP code has no type")
        if any(not 0 <= number <= 255 for number in numbers):
            raise NotUnderstood("an ICMP type or code is out of range")
        return
    if port.icmp_type is not None or port.icmp_code is not None:
        raise NotUnderstood("only ICMP has types and codes")
    if isinstance(port.port, str):
        if not port.port or port.end_port is not None:
            raise NotUnderstood("a port's name is empty, or begins a range")
        return
    if port.protocol is None:
        raise NotUnderstood("a port has no protocol")
    last = port.end_port
    if port.port is None:
        if last is not None:
            raise NotUnderstood("a range of ports has no begin")
    elif not 1 <= port.port <= (port.port if last is None else last) <= 65535:
        raise NotUnderstood("a port is out of range")


def message_of(port: Port) -> PortMatch:
    """A kind of ICMP message."""
    assert port.protocol is not None
    return PortMatch(
        protocol=_MESSAGES[port.protocol],
        icmp_type=-1 if port.icmp_type is None else port.icmp_type,
        icmp_code=-1 if port.icmp_code is None else port.icmp_code,
    )
