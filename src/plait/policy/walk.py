"""What a ruleset does with a packet: `plait.model.ruleset` word by word, without a kernel.

One side at a time: the sender's host walks its rules for egress, the receiver's for ingress.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Callable
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from plait.model.members import Members
from plait.model.policies import Direction
from plait.model.ruleset import ChainRule, PortMatch, Ruleset, Socket
from plait.selection.ranges import parse

NO_POLICY: Final = "none"
"""Id of what no policy decided."""
GUARD: Final = "guard"
"""Id of what was dropped for coming from or going to an address of ours that nobody has."""


class Packet(NamedTuple):
    """The first packet of a flow, as one side sees it. Addresses are canonical."""

    direction: Direction
    src: str
    dst: str
    protocol: str = "tcp"
    """`tcp`, `udp`, `sctp`, `icmp`, `icmpv6`, or whatever other, which only rules without ports
    match."""
    dport: int = 0
    icmp_type: int = -1
    icmp_code: int = -1

    @property
    def local(self) -> str:
        """The address whose policies are asked."""
        return self.src if self.direction == "egress" else self.dst

    @property
    def peer(self) -> str:
        """The address of the other side."""
        return self.dst if self.direction == "egress" else self.src


class Outcome(NamedTuple):
    """What becomes of a packet, and what decided it."""

    decision: Literal["accept", "deny"]
    id: str
    """Of the rule or the isolation; `NO_POLICY` or `GUARD`."""
    direction: Direction
    reject: bool = False
    """Denied with an answer."""
    staged: tuple[str, ...] = ()
    """Ids of staged rules and isolations that were counted on the way."""

    @property
    def accepted(self) -> bool:
        """Whether it passes this side."""
        return self.decision == "accept"


InDomain = Callable[[str, str], bool]
"""Whether the set of a domain name (`Ruleset.domains`) holds an address at this moment."""
InPools = Callable[[str], bool]
"""Whether an address is in a pool of any network of ours."""


def nowhere(_set: str, _address: str) -> bool:
    """The resolver found nothing."""
    return False


def outside(_address: str) -> bool:
    """No address is ours: guards drop nothing."""
    return False


def walk(
    ruleset: Ruleset,
    packet: Packet,
    *,
    in_domain: InDomain = nowhere,
    in_pools: InPools = outside,
) -> Outcome:
    """What becomes of one packet. For many packets make one `Walker`."""
    return Walker(ruleset, in_domain=in_domain, in_pools=in_pools).walk(packet)


class Walker:
    """Walks many packets through one ruleset; its chains are prepared when first met."""

    def __init__(
        self, ruleset: Ruleset, *, in_domain: InDomain = nowhere, in_pools: InPools = outside
    ) -> None:
        self._ruleset = ruleset
        self._in_domain = in_domain
        self._in_pools = in_pools
        self._chains: dict[str, list[_Prepared]] = {}

    def walk(self, packet: Packet) -> Outcome:
        """What becomes of a packet on the side that its direction tells."""
        direction, ruleset = packet.direction, self._ruleset
        local, peer = packet.local, packet.peer
        classes = ruleset.dispatch.get(local)
        name = "" if classes is None else getattr(classes, direction)
        if not name:
            return Outcome("accept", NO_POLICY, direction)
        found = ruleset.classes[name]
        if found.guard and self._unknown(peer):
            return Outcome("deny", GUARD, direction)
        staged: list[str] = []
        for tier in found.tiers:
            counted = len(staged)
            rule = self._decider(tier.chains, packet, peer, staged)
            if rule is None:
                # What a staged rule matched is not what its isolation would deny.
                if tier.staged_deny and len(staged) == counted:
                    staged.append(tier.staged_deny)
                if tier.deny:
                    return Outcome("deny", tier.deny, direction, False, tuple(staged))
            elif rule.decision != "pass":
                return Outcome(rule.decision, rule.id, direction, rule.reject, tuple(staged))
        return Outcome("accept", NO_POLICY, direction, False, tuple(staged))

    def _decider(
        self, chains: tuple[str, ...], packet: Packet, peer: str, staged: list[str]
    ) -> ChainRule | None:
        """The rule of a tier that decides."""
        for name in chains:
            for rule, members, spans in self._chains.get(name) or self._prepare(name):
                if (
                    (members is not None and peer in members)
                    or rule.anyone
                    or (spans is not None and spans.hold(peer))
                    or (rule.domains and self._in_domain(rule.domains, peer))
                ) and (not rule.ports or any(self._is_port(port, packet) for port in rule.ports)):
                    if not rule.staged:
                        return rule
                    staged.append(rule.id)
                    break
        return None

    def _prepare(self, name: str) -> list[_Prepared]:
        """The rules of a chain, with what they hold a peer against."""
        sets = self._ruleset.sets
        prepared: list[_Prepared] = [
            (rule, sets[rule.peers] if rule.peers else None, _Spans.of(rule.ranges))
            for rule in self._ruleset.chains[name].rules
        ]
        self._chains[name] = prepared
        return prepared

    def _is_port(self, port: PortMatch, packet: Packet) -> bool:
        if port.named:
            socket = Socket(packet.dst, packet.protocol, packet.dport)
            return socket in self._ruleset.sockets[port.named]
        if port.protocol != packet.protocol:
            return False
        if port.first:
            return port.first <= packet.dport <= port.last
        return port.icmp_type in (-1, packet.icmp_type) and port.icmp_code in (-1, packet.icmp_code)

    def _unknown(self, peer: str) -> bool:
        known = self._ruleset.known
        return self._in_pools(peer) and (known is None or peer not in known)


class _Spans:
    """Ranges, ready to be searched."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, ranges: tuple[str, ...]) -> None:
        spans = [parse(text) for text in ranges]
        self._firsts = [(family, first) for family, first, _ in spans]
        self._lasts = [(family, last) for family, _, last in spans]

    @classmethod
    def of(cls, ranges: tuple[str, ...]) -> _Spans | None:
        """None if there are none."""
        return cls(ranges) if ranges else None

    def hold(self, address: str) -> bool:
        value = _value(address)
        place = bisect_right(self._firsts, value) - 1
        return place >= 0 and value <= self._lasts[place]


_Prepared = tuple[ChainRule, Members[str] | None, _Spans | None]


@lru_cache(maxsize=16384)
def _value(address: str) -> tuple[int, int]:
    ip = ipaddress.ip_address(address)
    return ip.version, int(ip)
