"""Rulesets drawn at random: all that a rule can say, of addresses of two hosts and the world."""

from __future__ import annotations

import random
from typing import Any, Final

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

POOLS: Final = ("10.1.0.0/16", "fd01::/64")
LEFT: Final = ("10.1.0.1", "10.1.0.2", "10.1.0.3", "fd01::1", "fd01::2", "fd01::3")
RIGHT: Final = ("10.1.1.1", "10.1.1.2", "10.1.1.3", "fd01::101", "fd01::102", "fd01::103")
REMOTE: Final = ("10.1.7.1", "10.1.7.2", "10.1.7.3", "fd01::701", "fd01::702", "fd01::703")
"""Of other hosts; by `out`."""
WORLD: Final = ("192.0.2.2", "192.0.2.3", "198.51.100.7", "fd09::2", "fd09::3", "fd08::7")
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


def _order(text: str) -> tuple[int, str]:
    return RANGES.index(text), text
