"""One policy to its chains. Pure.

A rule's peers become sets of addresses, one list of ranges and one set of domains; its ports are
joined, protocol by protocol. Each selector has a set of its own, which all rules that name it
share, so that an endpoint that comes is written into few of them; only a rule with very many
selectors has one set for all.

A rule that cannot be understood matches nothing if it accepts or passes, and everything in its
direction if it denies: a mistake never opens anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

import msgspec

from plait.model.policies import (
    DIRECTIONS,
    Action,
    Direction,
    Group,
    Peer,
    Policy,
    Port,
    Rule,
    TierName,
)
from plait.model.ruleset import ChainRule, Decision, PolicyChain, PortMatch
from plait.model.services import ServiceSpec
from plait.model.waist import Part
from plait.policy import opaque_names
from plait.policy.understand import (
    ICMP,
    NotUnderstood,
    check_port,
    check_selector,
    message_of,
    pattern_of,
    range_of,
    selected,
    term_of,
    way_of,
)
from plait.selection import ranges
from plait.selection.parties import canonical
from plait.selection.ranges import Range
from plait.selection.terms import Term, service_endpoints, service_slices

DECISIONS: Final[dict[Action, Decision]] = {"Accept": "accept", "Deny": "deny", "Pass": "pass"}

SEPARATE: Final = 8
"""Selectors of a rule that have a set each: a look-up each for the first packet of a flow."""

_TRANSPORTS: Final[tuple[Literal["tcp", "udp", "sctp"], ...]] = ("tcp", "udp", "sctp")
_NUMBERS: Final = {"TCP": 0, "UDP": 1, "SCTP": 2}
"""Places in `_TRANSPORTS`."""


class Meaning(Part, frozen=True, kw_only=True):
    """What an id in a ruleset stands for."""

    direction: Direction
    action: Action
    staged: bool
    policy: str = ""
    """The rule's; empty for the denial of what isolating policies do not accept."""
    index: int = -1
    """The rule's place in its direction, from 0."""
    name: str = ""
    """The rule's, for people."""
    isolating: tuple[str, ...] = ()
    """The policies that isolate."""


class Facet(NamedTuple):
    """What a policy is to the classes that it is in, in one direction."""

    chain: str = ""
    """Empty: it has no rules there."""
    isolates: bool = False
    guard: bool = False
    """It denies or passes what it knows by endpoints."""

    @property
    def matters(self) -> bool:
        """Whether the policy has a say in this direction."""
        return bool(self.chain) or self.isolates or self.guard


class Compiled(NamedTuple):
    """One policy."""

    name: str
    tier: TierName
    priority: int
    staged: bool
    facets: tuple[Facet, Facet]
    """By direction, in the order of `DIRECTIONS`."""
    chains: dict[str, PolicyChain]
    sets: dict[str, frozenset[Term]]
    """The sets of addresses that the chains name, and what is in them."""
    sockets: dict[str, tuple[str, str]]
    """Likewise the named ports: name and protocol, empty for any."""
    domains: dict[str, tuple[str, ...]]
    meanings: dict[str, Meaning]
    groups: frozenset[str]
    """Named by its rules, whether they exist or not."""
    services: frozenset[tuple[str, str]]
    """Likewise, by namespace and name."""
    problem: str
    """What is wrong with it; empty if nothing is."""

    def facet(self, direction: Direction) -> Facet:
        """What it is in a direction."""
        return self.facets[DIRECTIONS.index(direction)]

    @property
    def shape(self) -> tuple[object, ...]:
        """All that classes depend on."""
        return self.tier, self.priority, self.staged, self.facets


class _Peers(NamedTuple):
    """What a rule's peers come to."""

    terms: frozenset[Term] = frozenset()
    spans: tuple[Range, ...] = ()
    domains: tuple[str, ...] = ()


def compile_policy(
    policy: Policy,
    groups: Mapping[str, Group],
    services: Mapping[tuple[str, str], ServiceSpec] = MappingProxyType({}),
) -> Compiled:
    """The chains of a policy, and what they need; `services` are by namespace and name."""
    return _Compiler(policy, groups, services).run()


class _Compiler:
    """Work in progress on one policy."""

    def __init__(
        self,
        policy: Policy,
        groups: Mapping[str, Group],
        services: Mapping[tuple[str, str], ServiceSpec],
    ) -> None:
        self._policy = policy
        self._groups = groups
        self._services = services
        self._sets: dict[str, frozenset[Term]] = {}
        self._sockets: dict[str, tuple[str, str]] = {}
        self._domains: dict[str, tuple[str, ...]] = {}
        self._meanings: dict[str, Meaning] = {}
        self._problems: list[str] = []

    def run(self) -> Compiled:
        spec, name = self._policy.spec, self._policy.metadata.name
        chains: dict[str, PolicyChain] = {}
        facets: list[Facet] = []
        for direction in DIRECTIONS:
            given = spec.rules(direction)
            rules = self._rules(direction, given)
            chain = opaque_names.chain_name(name, direction) if rules else ""
            if chain:
                chains[chain] = PolicyChain(direction=direction, rules=rules)
            guard = any(self._guards(rule, direction) for rule in given)
            facets.append(Facet(chain, spec.isolates(direction), guard))
        return Compiled(
            name,
            spec.tier,
            spec.priority,
            spec.staged,
            (facets[0], facets[1]),
            chains,
            self._sets,
            self._sockets,
            self._domains,
            self._meanings,
            groups_of(self._policy),
            services_of(self._policy),
            "; ".join(self._problems),
        )

    def _rules(self, direction: Direction, given: Iterable[Rule]) -> tuple[ChainRule, ...]:
        name, staged = self._policy.metadata.name, self._policy.spec.staged
        same: Counter[str] = Counter()
        rules: list[ChainRule] = []
        for index, rule in enumerate(given):
            first = opaque_names.rule_name(name, direction, rule, again=0, staged=staged)
            again = same[first]
            same[first] += 1
            ident = (
                opaque_names.rule_name(name, direction, rule, again=again, staged=staged)
                if again
                else first
            )
            self._meanings[ident] = Meaning(
                direction=direction,
                action=rule.action,
                staged=staged,
                policy=name,
                index=index,
                name=rule.name,
            )
            rules += self._rule(ident, direction, index, rule)
        return tuple(rules)

    def _rule(
        self, ident: str, direction: Direction, index: int, rule: Rule
    ) -> Iterator[ChainRule]:
        """The alternatives that a rule is made of, in the order of their sets; none if nothing
        can match it."""
        try:
            peers = None if rule.peers is None else self._peers(rule, direction)
            ports = () if rule.ports is None else self._ports(rule.ports)
        except NotUnderstood as error:
            self._problems.append(f"{direction} rule {index + 1}: {error}")
            if rule.action != "Deny":
                return
            peers, ports = None, ()
        base = ChainRule(
            id=ident,
            decision=DECISIONS[rule.action],
            ports=ports,
            reject=rule.reject and rule.action == "Deny",
            staged=self._policy.spec.staged,
        )
        if peers is None:
            yield msgspec.structs.replace(base, anyone=True)
            return
        if peers.spans or peers.domains:
            yield msgspec.structs.replace(
                base,
                ranges=tuple(map(ranges.text, peers.spans)),
                domains=self._domain_set(peers.domains),
            )
        alone = len(peers.terms) <= SEPARATE
        unions = [frozenset({term}) for term in peers.terms] if alone else [peers.terms]
        for name in sorted(map(self._set, unions)):
            yield msgspec.structs.replace(base, peers=name)

    def _set(self, terms: frozenset[Term]) -> str:
        name = opaque_names.set_name(terms)
        self._sets[name] = terms
        return name

    def _domain_set(self, patterns: tuple[str, ...]) -> str:
        if not patterns:
            return ""
        name = opaque_names.domains_name(patterns)
        self._domains[name] = patterns
        return name

    # Peers

    def _peers(self, rule: Rule, direction: Direction) -> _Peers:
        if not rule.peers:
            raise NotUnderstood("its list of peers is empty")
        terms: set[Term] = set()
        spans: list[Range] = []
        domains: set[str] = set()
        for peer in rule.peers:
            match way_of(peer):
                case "group":
                    group = self._group(peer.group)
                    if group.spec.cidrs:
                        spans += map(range_of, group.spec.cidrs)
                    else:
                        terms.add(selected(group.spec.namespaces, group.spec.endpoints))
                case "cidr":
                    spans += ranges.without(range_of(peer.cidr), map(range_of, peer.excepted))
                case "service":
                    found = self._service(peer)
                    terms |= found.terms
                    spans += found.spans
                case "domains":
                    if direction == "ingress" or rule.action != "Accept":
                        raise NotUnderstood("only an egress rule that accepts may name domains")
                    domains.update(map(pattern_of, peer.domains))
                case _:
                    terms.add(term_of(peer))
        return _Peers(frozenset(terms), tuple(ranges.join(spans)), tuple(sorted(domains)))

    def _group(self, name: str) -> Group:
        group = self._groups.get(name)
        if group is None:
            raise NotUnderstood(f"there is no group {name}")
        return group

    def _service(self, peer: Peer) -> _Peers:
        """Who answers for a Service; where there is none, the endpoints of that name."""
        assert peer.service is not None
        key = peer.service.namespace, peer.service.name
        spec = self._services.get(key)
        if spec is None:
            return _Peers(frozenset({term_of(peer)}))
        selects = service_endpoints(key[0], spec)
        if selects is not None:
            check_selector(spec.selector)
            return _Peers(frozenset({selects}))
        if spec.backends:
            addresses = canonical(backend.address for backend in spec.backends)
            return _Peers(spans=tuple(map(ranges.of_cidr, addresses)))
        return _Peers(frozenset({service_slices(*key)}))

    def _guards(self, rule: Rule, direction: Direction) -> bool:
        """Whether it decides other than by accepting, by who an address belongs to."""
        if rule.action == "Accept" or self._policy.spec.staged:
            return False
        # Who sends has no named ports that matter; who receives ingress is known.
        if direction == "egress" and any(isinstance(port.port, str) for port in rule.ports or ()):
            return True
        for peer in rule.peers or ():
            group = self._groups.get(peer.group) if peer.group else None
            if group is not None and not group.spec.cidrs:
                return True
            if peer.namespaces is not None or peer.endpoints is not None:
                return True
            if peer.network or peer.service is not None:
                return True
        return False

    # Ports

    def _ports(self, given: tuple[Port, ...]) -> tuple[PortMatch, ...]:
        """The same ports, joined and sorted. Empty: every protocol and port."""
        if not given:
            raise NotUnderstood("its list of ports is empty")
        spans: list[Range] = []
        others: list[PortMatch] = []
        for port in given:
            check_port(port)
        for port in given:
            if port.protocol in ICMP:
                others.append(message_of(port))
            elif isinstance(port.port, str):
                protocol = (port.protocol or "").lower()
                name = opaque_names.sockets_name(port.port, protocol)
                self._sockets[name] = (port.port, protocol)
                others.append(PortMatch(named=name))
            else:
                assert port.protocol is not None
                first = port.port or 0
                last = (port.end_port or first) if first else 65535
                spans.append(Range(_NUMBERS[port.protocol], first, last))
        numbered = [
            # A span from 0 is of a port that names none: all of the protocol.
            PortMatch(protocol=_TRANSPORTS[span.family], first=span.first, last=span.last)
            if span.first
            else PortMatch(protocol=_TRANSPORTS[span.family])
            for span in ranges.join(spans)
        ]
        unique = {(m.protocol, m.named, m.icmp_type, m.icmp_code): m for m in others}
        return (*numbered, *(unique[key] for key in sorted(unique)))


def groups_of(policy: Policy) -> frozenset[str]:
    """Names of the groups that a policy names."""
    return frozenset(
        peer.group
        for direction in DIRECTIONS
        for rule in policy.spec.rules(direction)
        for peer in rule.peers or ()
        if peer.group
    )


def services_of(policy: Policy) -> frozenset[tuple[str, str]]:
    """The services that a policy names."""
    return frozenset(
        (peer.service.namespace, peer.service.name)
        for direction in DIRECTIONS
        for rule in policy.spec.rules(direction)
        for peer in rule.peers or ()
        if peer.service is not None
    )
