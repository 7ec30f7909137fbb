"""What a rule of a policy matches, as nft statements: few rules, one look-up each.

A rule matches any of its peers by any of its ports. Each way to say a peer and each way to say a
port gives one nft rule with one look-up; families are split only where an address is looked at.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from plait.agent.desired.filter_sets import FAMILIES
from plait.agent.desired.policy_sets import (
    Constant,
    Family,
    address_set,
    constant,
    domain_set,
    packed,
    socket_set,
)
from plait.model.policies import Direction
from plait.model.ruleset import ChainRule, PortMatch
from plait.wire import nft_expr as e
from plait.wire import nft_keys as k
from plait.wire.nft_expr import Between, InPrefix, InSet, Match, Statement

_PEER: Final = {"ingress": e.SADDR, "egress": e.DADDR}
_ICMP: Final[dict[str, Family]] = {"icmp": 4, "icmpv6": 6}


class Way(NamedTuple):
    """One way to match: statements, for packets of one family or, with None, of both."""

    family: Family | None
    statements: tuple[Statement, ...]
    constants: tuple[Constant, ...] = ()


def ways(rule: ChainRule, direction: Direction) -> Iterator[Way]:
    """All ways in which the rule matches; none for a rule that matches nothing."""
    by_port = tuple(_ports(rule.ports))
    for peer in _peers(rule, direction):
        for port in by_port:
            if peer.family and port.family and peer.family != port.family:
                continue
            family = peer.family or port.family
            yield Way(
                family,
                ((e.family(family),) if family else ()) + peer.statements + port.statements,
                peer.constants + port.constants,
            )


def _peers(rule: ChainRule, direction: Direction) -> Iterator[Way]:
    if rule.anyone:
        yield Way(None, ())
        return
    field = _PEER[direction]
    for f in FAMILIES:
        if rule.peers:
            yield Way(f, (InSet((field[f],), address_set(rule.peers, f).name),))
        if rule.domains:
            yield Way(f, (InSet((field[f],), domain_set(rule.domains, f).name),))
        ranges = [_range(text) for text in rule.ranges if (":" in text) == (f == 6)]
        if ranges:
            yield _in_ranges(f, field[f], ranges)


def _range(text: str) -> tuple[bytes, bytes]:
    first, _, last = text.partition("-")
    return packed(first), packed(last)


def _in_ranges(family: Family, field: e.Field, ranges: list[tuple[bytes, bytes]]) -> Way:
    if len(ranges) > 1:
        keys = [first + last for first, last in ranges]
        held = constant((k.ADDRESS[family],), keys, interval=True)
        return Way(family, (InSet((field,), held.set.name),), (held,))
    first, last = ranges[0]
    low, high = ipaddress.ip_address(first), ipaddress.ip_address(last)
    (net, *more) = ipaddress.summarize_address_range(low, high)
    if more:
        return Way(family, (Between(field, first, last),))
    return Way(family, (InPrefix(field, str(net)),) if net.prefixlen else ())


def _ports(ports: tuple[PortMatch, ...]) -> Iterator[Way]:
    if not ports:
        yield Way(None, ())
        return
    yield from dict.fromkeys(_whole(port) for port in ports if _is_whole(port))
    spans = [port for port in ports if port.first]
    if spans:
        yield _in_spans(spans)
    for name in dict.fromkeys(port.named for port in ports if port.named):
        for f in FAMILIES:
            fields = (e.DADDR[f], e.L4PROTO, e.DPORT)
            yield Way(f, (InSet(fields, socket_set(name, f).name),))
    yield from dict.fromkeys(_message(port) for port in ports if port.icmp_type >= 0)


def _is_whole(port: PortMatch) -> bool:
    return not (port.first or port.named or port.icmp_type >= 0)


def _whole(port: PortMatch) -> Way:
    return Way(_ICMP.get(port.protocol), (e.protocol(port.protocol),))


def _message(port: PortMatch) -> Way:
    family = _ICMP[port.protocol]
    statements: list[Statement] = [e.protocol(port.protocol)]
    statements.append(Match(e.ICMP_TYPE[family], e.byte(port.icmp_type)))
    if port.icmp_code >= 0:
        statements.append(Match(e.ICMP_CODE[family], e.byte(port.icmp_code)))
    return Way(family, tuple(statements))


def _in_spans(ports: list[PortMatch]) -> Way:
    spans = list(merged((port.protocol, port.first, port.last) for port in ports))
    if len(spans) == 1:
        ((protocol, first, last),) = spans
        if first == last:
            return Way(None, (e.protocol(protocol), Match(e.DPORT, e.port(first))))
        between = Between(e.DPORT, e.port(first), e.port(last))
        return Way(None, (e.protocol(protocol), between))
    kind = (k.PROTO, k.SERVICE)
    if all(first == last for _, first, last in spans):
        held = constant(kind, [_port(name, first) for name, first, _ in spans], interval=False)
    else:
        keys = [_port(name, first) + _port(name, last) for name, first, last in spans]
        held = constant(kind, keys, interval=True)
    return Way(None, (InSet((e.L4PROTO, e.DPORT), held.set.name),), (held,))


def _port(protocol: str, number: int) -> bytes:
    return k.concat(e.byte(e.PROTOCOLS[protocol]), e.port(number))


def merged(spans: Iterable[tuple[str, int, int]]) -> Iterator[tuple[str, int, int]]:
    """Spans of ports by protocol, those that touch or overlap as one: the kernel refuses ranges
    that overlap."""
    protocol, first, last = "", 0, -2
    for name, low, high in sorted(spans):
        if name == protocol and low <= last + 1:
            last = max(last, high)
            continue
        if protocol:
            yield protocol, first, last
        protocol, first, last = name, low, high
    if protocol:
        yield protocol, first, last
