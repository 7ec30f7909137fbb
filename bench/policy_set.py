"""One member more in a set of 100,000 that a policy names: plan, transaction and bookkeeping.

Beside it, in namespaces of their own: the nft program with the same set, and iptables, which has
no sets, with one rule more in a chain of as many.
"""

from __future__ import annotations

import ipaddress
import os
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from bench.filter import timed
from bench.table import Row, at_most
from plait.agent.programmers.filter import FilterBase
from plait.agent.programmers.filter_table import FilterTable
from plait.agent.programmers.policy import FilterPolicy
from plait.kernel import netns
from plait.kernel.nft import Nft
from plait.model.hoststate import HostState
from plait.model.members import Members
from plait.model.ruleset import ChainRule, Classes, PolicyChain, PolicyClass, Ruleset, Tier

SIZE = 100_000
ROUNDS, PEER_ROUNDS = 200, 10
BUDGET_MS = 1.0


def address(number: int) -> str:
    return str(ipaddress.IPv4Address(0x0A000000 + number))


@contextmanager
def apart() -> Iterator[None]:
    """In a network namespace of its own, gone with the block."""
    namespace = netns.create()
    try:
        with netns.inside(namespace):
            yield
    finally:
        os.close(namespace)


def fed(argv: Sequence[str], text: str = "") -> str:
    """What a program says that is given a text."""
    done = subprocess.run(argv, input=text, text=True, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{argv[0]}: {done.stderr[:500]}")
    return done.stdout


def ours() -> list[float]:
    """Milliseconds of each change."""
    with apart():
        door = Nft()
    table = FilterTable(door)
    programmers = (FilterBase(table), FilterPolicy(table))
    members = Members({address(number) for number in range(SIZE)})
    rule = ChainRule(id="rmember", decision="accept", peers="smember")

    def bring(serial: int) -> None:
        wanted = Ruleset(
            serial=serial,
            chains={"cmember": PolicyChain(direction="ingress", rules=(rule,))},
            classes={
                "kmember": PolicyClass(
                    direction="ingress", tiers=(Tier(chains=("cmember",), deny="imember"),)
                )
            },
            dispatch={"192.0.2.1": Classes("", "kmember")},
            sets={"smember": members},
        )
        for programmer in programmers:
            failures = programmer.apply(programmer.plan(HostState(policy=wanted)))
            assert not failures, failures

    for programmer in programmers:
        programmer.observe()
    bring(1)
    took = []
    for number in range(ROUNDS):
        members.add(address(SIZE + number))
        took.append(timed(partial(bring, 2 + number)))
    door.close()
    return took


def by_nft() -> list[float]:
    """Milliseconds of `nft add element`."""
    elements = ", ".join(map(address, range(SIZE)))
    with apart():
        fed(
            ["nft", "-f", "-"],
            f"table inet t {{\nset s {{\ntype ipv4_addr\nelements = {{ {elements} }}\n}}\n}}\n",
        )
        return _timed_all(lambda n: ["nft", f"add element inet t s {{ {address(SIZE + n)} }}"])


def by_iptables() -> list[float]:
    """Milliseconds of `iptables -A`."""
    rules = [f"-A MEMBERS -s {address(number)} -j ACCEPT" for number in range(SIZE)]
    with apart():
        fed(
            ["iptables-nft-restore"], "\n".join(["*filter", ":MEMBERS - [0:0]", *rules, "COMMIT\n"])
        )
        add = ["iptables-nft", "-A", "MEMBERS", "-j", "ACCEPT", "-s"]
        return _timed_all(lambda n: [*add, address(SIZE + n)])


def _timed_all(command: Callable[[int], list[str]]) -> list[float]:
    return [timed(partial(fed, command(number))) for number in range(PEER_ROUNDS)]


def rows() -> list[Row]:
    mine = statistics.median(ours())
    peers = {"nft add element": by_nft(), "iptables -A": by_iptables()}
    return [
        Row(
            what=f"a member of a policy's set of {SIZE:,}",
            unit="ms",
            ours=mine,
            peer=peer,
            theirs=statistics.median(theirs),
            budget=at_most(BUDGET_MS),
        )
        for peer, theirs in peers.items()
    ]
