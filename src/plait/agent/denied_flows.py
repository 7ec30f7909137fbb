"""Which flows a change of policies ends. Pure.

The kernel asks policies about the first packet of a flow only. When they change, the flows that
began under the former ones and that the new ones deny are forgotten, so that their next packet is
a first one again. A change that can only open something costs nothing: `Memory.narrows` tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from plait.agent.programmers.comparing import out_and_put
from plait.model.hoststate import FilterEndpoint, HostState
from plait.model.members import Members
from plait.model.policies import Direction
from plait.model.ruleset import Classes, PolicyChain, Ruleset
from plait.policy.walk import (
    NO_POLICY,
    InDomain,
    InPools,
    Outcome,
    Packet,
    Walker,
    nowhere,
    outside,
)
from plait.wire.ctnetlink import Flow

DNS_PORT: Final = 53
_PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
"""IANA protocol numbers, as policies name them."""
_ECHO: Final = {"icmp": 8, "icmpv6": 128}
_NOBODY: Final[frozenset[str]] = frozenset()

Track = tuple[int, str, str, int, int]
"""Protocol, then address and port of sender and receiver: what makes a flow this one."""


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What the rules around policies depend on."""

    host: frozenset[str] = _NOBODY
    """Addresses of this host itself."""
    local: frozenset[str] = _NOBODY
    """Addresses of this host's endpoints."""
    proxied: bool = True
    """DNS packets are led to our resolver whatever policies say, but for those to an endpoint."""
    in_domain: InDomain = nowhere
    """Whether a name that a policy opens has, or had, an address: what a name opened goes on
    until it ends, though the name may have other addresses by now."""
    in_pools: InPools = outside

    def proxies(self, protocol: str, receiver: str, port: int) -> bool:
        """Whether our resolver takes what is sent to a receiver."""
        if not self.proxied or port != DNS_PORT or protocol not in ("tcp", "udp"):
            return False
        return receiver in self.host or not self.in_pools(receiver)


def track(flow: Flow) -> Track:
    """Ends of a flow as its first packet showed them to policies: its true receiver."""
    original, reply = flow.original, flow.reply
    return flow.protocol, original.src, reply.src, original.sport, reply.sport


def reverse(of: Track) -> Track:
    """The flow that an answer makes whose flow was forgotten before it arrived."""
    protocol, sender, receiver, sport, dport = of
    return protocol, receiver, sender, dport, sport


class Judge:
    """Says of flows whether they would be accepted if they began now."""

    def __init__(self, ruleset: Ruleset, around: Surroundings) -> None:
        self._around = around
        self._walker = Walker(ruleset, in_domain=around.in_domain, in_pools=around.in_pools)

    def denies(self, flow: Flow) -> bool:
        """Whether this host would not let the flow begin."""
        _, sender, receiver, _, dport = track(flow)
        protocol = _PROTOCOLS.get(flow.protocol, str(flow.protocol))
        around = self._around

        def walked(direction: Direction) -> Outcome:
            packet = Packet(
                direction, sender, receiver, protocol, dport, flow.icmp_type, flow.icmp_code
            )
            return self._walker.walk(packet)

        if sender in around.local and not around.proxies(protocol, receiver, dport):
            outcome = walked("egress")
            if not outcome.accepted:
                return True
            # The host itself answers echo and what a policy opens, nothing else.
            if receiver in around.host and outcome.id == NO_POLICY:
                return flow.icmp_type != _ECHO.get(protocol)
        # A host reaches its own endpoints whatever their policies: it must know if they live.
        if receiver in around.local and sender not in around.host:
            return not walked("ingress").accepted
        return False


class Memory:
    """The ruleset at the last look, to tell whether one after it may deny more."""

    def __init__(self) -> None:
        self._ruleset: Ruleset | None = None
        self._serials: dict[str, tuple[Members[Any], int]] = {}
        self._closing: frozenset[str] = _NOBODY
        self._endpoints: Mapping[str, FilterEndpoint] | None = None
        self.local: frozenset[str] = _NOBODY
        """Addresses of this host's endpoints, of the last state."""
        self.ruled: frozenset[str] = _NOBODY
        """Those of which policies decide, or decided before the last state."""

    def forget(self) -> None:
        """What the kernel did since is not known: the next state counts as narrower."""
        self._ruleset = None

    def narrows(self, want: HostState) -> bool:
        """Whether a flow that was accepted may be denied now; remembers the state."""
        before, after = self._ruleset, want.policy
        if before is after and self._endpoints is want.filter.endpoints:
            return False
        known, self.local = self.local, self._addresses(want)
        if before is None:
            self.ruled = self.local
            narrower = True
        else:
            self.ruled = frozenset((before.dispatch.keys() | after.dispatch.keys()) & self.local)
            narrower = (
                _other(before.chains, after.chains)
                or _other(before.classes, after.classes)
                or _led_elsewhere(before.dispatch, after.dispatch, known, self.local)
                or self._members_moved(after)
            )
        if before is None or before.chains is not after.chains:
            self._closing = _closing(after.chains.values())
        self._ruleset = after
        self._serials = {
            name: (members, members.serial)
            for sets in (after.sets, after.sockets)
            for name, members in sets.items()
        }
        return narrower and bool(self.ruled)

    def _addresses(self, want: HostState) -> frozenset[str]:
        if self._endpoints is want.filter.endpoints:
            return self.local
        before, self._endpoints = self._endpoints or {}, want.filter.endpoints
        out, put = out_and_put(before, self._endpoints)
        local = self.local
        if out:
            local = local.difference(*(before[link].addresses for link in out))
        if put:
            local = local.union(*(self._endpoints[link].addresses for link in put))
        return local

    def _members_moved(self, after: Ruleset) -> bool:
        for name, (members, serial) in self._serials.items():
            if members.serial == serial:
                continue
            change = members.since(serial)
            # A new member of what only accepting rules name can only open.
            more = change is None or change.removed or (change.added and name in self._closing)
            if more and (name in after.sets or name in after.sockets):
                return True
        return False


def _other(before: Mapping[str, object], after: Mapping[str, object]) -> bool:
    """Something that was there is other. What comes or goes alone decides about no endpoint:
    one that it is for has another class then."""
    return before is not after and any(
        name in before and before[name] is not value and before[name] != value
        for name, value in after.items()
    )


def _led_elsewhere(
    before: Mapping[str, Classes],
    after: Mapping[str, Classes],
    known: frozenset[str],
    local: frozenset[str],
) -> bool:
    """An endpoint has other policies than before. One that came has no flows yet, and those of
    one that went are forgotten with it."""
    return before is not after and any(
        before.get(address) != after.get(address)
        for address in (before.keys() | after.keys()) & known & local
    )


def _closing(chains: Iterable[PolicyChain]) -> frozenset[str]:
    """Sets whose members a rule denies, or leads past rules that would accept them."""
    found: set[str] = set()
    for chain in chains:
        for rule in chain.rules:
            if rule.decision != "accept" and not rule.staged:
                found.add(rule.peers)
                found.update(port.named for port in rule.ports)
    return frozenset(found)
