"""The kernel decides about packets as `plait.policy.walk` says, on rulesets drawn at random."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from tests.lab.filter.policy_rig import LEFT, REMOTE, RIGHT, WORLD, Rig, Sent, rig

from plait.model.members import Members
from plait.model.policies import DIRECTIONS, Direction
from plait.model.ruleset import (
    ChainRule,
    Classes,
    PolicyChain,
    PolicyClass,
    PortMatch,
    Ruleset,
    Socket,
    Tier,
)
from plait.policy.walk import Outcome, Packet, Walker

pytestmark = pytest.mark.root

ROUNDS = 24
PACKETS = 150
LOCAL = (*LEFT, *RIGHT)
OURS = (*LOCAL, *REMOTE)
ALL = (*OURS, *WORLD)
PROTOCOLS = ("tcp", "udp", "sctp")
PORTS = (80, 81, 443, 8000, 8001, 65535)
MESSAGES = {4: ((8, 0), (3, 1), (13, 0)), 6: ((128, 0), (1, 4), (144, 0))}
RANGES = (
    "10.1.0.2-10.1.1.1",
    "10.1.7.0-10.1.7.255",
    "192.0.2.0-192.0.2.2",
    "192.0.2.3-192.0.2.255",
    "198.51.100.7-198.51.100.7",
    "fd01::-fd01::ff",
    "fd01::702-fd01::703",
    "fd09::-fd09:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
)


class Draw:
    """Rulesets and packets from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._rule = 0

    def some(self, items: tuple[Any, ...], least: int = 0) -> list[Any]:
        return self.random.sample(items, self.random.randint(least, len(items)))

    def maybe(self, chance: float) -> bool:
        return self.random.random() < chance

    def ruleset(self) -> Ruleset:
        pick = self.random
        sets = {f"s{i}": Members(set(self.some(ALL))) for i in range(3)}
        sockets = {
            f"n{i}": Members(
                {Socket(pick.choice(ALL), pick.choice(PROTOCOLS), pick.choice(PORTS))}
                | {Socket(a, "tcp", 80) for a in self.some(ALL)}
            )
            for i in range(2)
        }
        chains = {
            f"c{i}{direction[0]}": self.chain(direction)
            for direction in DIRECTIONS
            for i in range(5)
        }
        classes = {
            f"k{i}{direction[0]}": self.policy_class(direction, chains)
            for direction in DIRECTIONS
            for i in range(3)
        }
        dispatch = {
            address: Classes(
                *(
                    f"k{pick.randint(0, 2)}{d[0]}" if self.maybe(0.8) else ""
                    for d in ("egress", "ingress")
                )
            )
            for address in LOCAL
            if self.maybe(0.9)
        }
        return Ruleset(
            chains=chains,
            classes=classes,
            dispatch=dispatch,
            sets=sets,
            sockets=sockets,
            domains={"d0": ("example.com",), "d1": ("*.example.org",)},
            known=Members({*LOCAL, *self.some(REMOTE)}) if self.maybe(0.7) else None,
        )

    def chain(self, direction: Direction) -> PolicyChain:
        staged = self.maybe(0.25)
        rules = [self.rule(staged=staged) for _ in range(self.random.randint(1, 4))]
        return PolicyChain(direction=direction, rules=tuple(rules))

    def rule(self, *, staged: bool) -> ChainRule:
        pick = self.random
        self._rule += 1
        decision = pick.choice(("accept", "accept", "deny", "deny", "pass"))
        return ChainRule(
            id=f"r{self._rule}",
            decision=decision,
            anyone=self.maybe(0.15),
            peers=pick.choice(("", "s0", "s1", "s2")),
            ranges=tuple(sorted(self.some(RANGES), key=_order)) if self.maybe(0.4) else (),
            domains=pick.choice(("", "", "d0", "d1")),
            ports=tuple(self.port() for _ in range(pick.randint(0, 4))),
            staged=staged,
        )

    def port(self) -> PortMatch:
        pick = self.random
        match pick.randint(0, 5):
            case 0:
                return PortMatch(named=pick.choice(("n0", "n1")))
            case 1:
                return PortMatch(protocol=pick.choice((*PROTOCOLS, "icmp", "icmpv6")))
            case 2:
                family = pick.choice((4, 6))
                kind, code = pick.choice(MESSAGES[family])
                code = code if self.maybe(0.5) else -1
                name: Any = {4: "icmp", 6: "icmpv6"}[family]
                return PortMatch(protocol=name, icmp_type=kind, icmp_code=code)
            case _:
                first = pick.choice(PORTS)
                last = pick.choice([p for p in PORTS if p >= first])
                protocol: Any = pick.choice(PROTOCOLS)
                return PortMatch(protocol=protocol, first=first, last=last)

    def policy_class(self, direction: Direction, chains: dict[str, PolicyChain]) -> PolicyClass:
        names = tuple(name for name, chain in chains.items() if chain.direction == direction)
        tiers = []
        for _ in range(self.random.randint(1, 3)):
            self._rule += 1
            tiers.append(
                Tier(
                    chains=tuple(self.some(names)),
                    deny=f"i{self._rule}" if self.maybe(0.3) else "",
                    staged_deny=f"i{self._rule}s" if self.maybe(0.3) else "",
                )
            )
        return PolicyClass(direction=direction, tiers=tuple(tiers), guard=self.maybe(0.3))

    def packets(self) -> list[Sent]:
        found = {}
        for number in range(PACKETS):
            packet = self.packet(20000 + number)
            found[packet.key] = packet
        return list(found.values())

    def packet(self, number: int) -> Sent:
        pick = self.random
        src = pick.choice((*LEFT, *LEFT, *REMOTE))
        targets = (*RIGHT, *RIGHT, *REMOTE, *WORLD) if src in LEFT else RIGHT
        dst = pick.choice([a for a in targets if (":" in a) == (":" in src)])
        family = 6 if ":" in src else 4
        match pick.randint(0, 9):
            case 0 | 1:
                name = {4: "icmp", 6: "icmpv6"}[family]
                # What conntrack cannot place does not leave our networks, whatever policies say.
                kinds = MESSAGES[family][:1] if dst in WORLD else MESSAGES[family]
                return Sent(src, dst, name, icmp=pick.choice(kinds))
            case 2:
                return Sent(src, dst, "gre")
            case _:
                return Sent(src, dst, pick.choice(PROTOCOLS), number, pick.choice(PORTS))


def _order(text: str) -> tuple[int, str]:
    return RANGES.index(text), text


@pytest.fixture(scope="module")
def host() -> Iterator[Rig]:
    with rig() as made:
        yield made


class Expected:
    """What the ruleset says of packets, and what is to be logged and counted of that."""

    def __init__(self, wanted: Ruleset, open_now: dict[str, set[str]]) -> None:
        self._wanted = wanted
        self._walker = Walker(
            wanted,
            in_domain=lambda name, address: address in open_now[name],
            in_pools=lambda address: address in OURS,
        )
        self._rules = {r.id: r for c in wanted.chains.values() for r in c.rules}
        self.counts: Counter[str] = Counter()
        self.passed: set[Any] = set()

    def of(self, packet: Sent) -> list[str]:
        found: list[str] = []
        if packet.src in LOCAL:
            outcome = self._walk(packet, "egress")
            found += self._records(outcome)
            if not outcome.accepted:
                return found
        if packet.dst in LOCAL:
            outcome = self._walk(packet, "ingress")
            found += self._records(outcome)
            if not outcome.accepted:
                return found
        self.passed.add(packet.key)
        return found

    def _walk(self, packet: Sent, direction: Direction) -> Outcome:
        kind, code = packet.icmp if packet.protocol.startswith("icmp") else (-1, -1)
        return self._walker.walk(
            Packet(direction, packet.src, packet.dst, packet.protocol, packet.dport, kind, code)
        )

    def _records(self, outcome: Outcome) -> list[str]:
        d = outcome.direction[0]
        self.counts.update((*outcome.staged, outcome.id))
        staged = [
            f"{ident}.{d}s"
            for ident in outcome.staged
            if ident not in self._rules or self._rules[ident].decision == "deny"
        ]
        return [*staged, f"{outcome.id}.{d}{outcome.decision[0]}"]


def test_the_kernel_decides_as_the_ruleset_says(host: Rig) -> None:
    draw = Draw(3)
    met: Counter[str] = Counter()
    for _ in range(ROUNDS):
        wanted = draw.ruleset()
        host.apply(wanted)
        open_now = {"d0": set(draw.some(WORLD)), "d1": set(draw.some(ALL))}
        before = host.counts()
        for name, addresses in open_now.items():
            open_now[name] |= host.domains.live(name).keys()
            if addresses:
                assert host.domains.open(name, addresses, 300)
        expected = Expected(wanted, open_now)
        packets = draw.packets()
        host.heard()
        records = {packet.key: expected.of(packet) for packet in packets}
        host.send(packets)
        logged = host.logged(sum(map(len, records.values())))
        for packet in packets:
            assert logged.get(packet.key, []) == records[packet.key], (packet, wanted)
        heard = host.heard()
        for packet in packets:
            # What leaves our networks does so under another address.
            if packet.dst not in WORLD:
                assert (packet.key in heard) == (packet.key in expected.passed), packet
        counts = host.counts()
        for ident, count in expected.counts.items():
            if ident in counts:
                assert counts[ident] - before.get(ident, 0) == count, ident
        met.update(record[-2:] for found in records.values() for record in found)
        met.update(expected.counts.keys() & {"none", "guard"})
    # All ways to end were met, so that the test shows something.
    assert min(met[key] for key in ("ea", "ed", "es", "ia", "id", "is", "none", "guard")) > 0
