"""The kernel decides about packets as `plait.policy.walk` says, on rulesets drawn at random."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from tests.lab.filter.policy_rig import Rig, Sent, rig
from tests.support.rulesets import (
    ALL,
    LEFT,
    LOCAL,
    MESSAGES,
    OURS,
    PORTS,
    PROTOCOLS,
    REMOTE,
    RIGHT,
    WORLD,
    Draw,
)

from plait.model.policies import Direction
from plait.model.ruleset import Ruleset
from plait.policy.walk import Outcome, Packet, Walker

pytestmark = pytest.mark.root

ROUNDS = 24
PACKETS = 150


class Draws(Draw):
    """Rulesets and packets from one seed."""

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
    draw = Draws(3)
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
