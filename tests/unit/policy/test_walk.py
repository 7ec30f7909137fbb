"""The meaning of a ruleset, case by case."""

from __future__ import annotations

from typing import Any

import pytest

from plait.model.members import Members
from plait.model.policies import Direction
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
from plait.policy.walk import GUARD, NO_POLICY, Outcome, Packet, walk

HERE, PEER = "10.0.0.1", "10.0.0.2"


def rule(ident: str, decision: Any, **fields: Any) -> ChainRule:
    fields.setdefault("anyone", not fields.keys() & {"peers", "ranges", "domains"})
    return ChainRule(id=ident, decision=decision, **fields)


def ruleset(*tiers: Tier, guard: bool = False, chains: Any = None, **fields: Any) -> Ruleset:
    return Ruleset(
        chains={n: PolicyChain(direction="ingress", rules=r) for n, r in (chains or {}).items()},
        classes={"k": PolicyClass(direction="ingress", tiers=tiers, guard=guard)},
        dispatch={HERE: Classes("", "k"), "fd00::1": Classes("", "k")},
        **fields,
    )


def one(*rules: ChainRule, deny: str = "", **fields: Any) -> Ruleset:
    return ruleset(Tier(chains=("c",), deny=deny), chains={"c": rules}, **fields)


def asked(of: Ruleset, src: str = PEER, direction: Direction = "ingress", **fields: Any) -> Outcome:
    dst = "fd00::1" if ":" in src else HERE
    ends = (src, dst) if direction == "ingress" else (dst, src)
    return walk(of, Packet(direction, *ends, **fields))


def ids(of: Ruleset, *sources: str, **fields: Any) -> list[str]:
    return [asked(of, source, **fields).id for source in sources]


def test_who_has_no_policies_is_open() -> None:
    closed = one(rule("r", "deny"))
    assert asked(closed).decision == "deny"
    assert asked(closed, direction="egress") == Outcome("accept", NO_POLICY, "egress")
    assert walk(closed, Packet("ingress", HERE, PEER)).id == NO_POLICY


def test_the_first_rule_that_matches_decides() -> None:
    both = one(rule("a", "accept", ports=(PortMatch(protocol="udp"),)), rule("b", "deny"))
    assert asked(both, protocol="udp") == Outcome("accept", "a", "ingress")
    assert asked(both, protocol="tcp") == Outcome("deny", "b", "ingress")


def test_chains_and_tiers_come_in_order() -> None:
    of = ruleset(
        Tier(chains=("a", "b")),
        Tier(chains=("c",), deny="i"),
        Tier(chains=("d",)),
        chains={
            "a": (rule("a", "pass", ports=(PortMatch(protocol="udp"),)),),
            "b": (rule("b", "accept", ports=(PortMatch(protocol="udp"),)),),
            "c": (rule("c", "pass", ports=(PortMatch(protocol="sctp"),)),),
            "d": (rule("d", "deny"),),
        },
    )
    assert asked(of, protocol="udp").id == "i"
    assert asked(of, protocol="sctp").id == "d"
    assert asked(of, protocol="tcp").id == "i"


def test_after_the_last_tier_is_accepted() -> None:
    assert asked(one(rule("a", "pass"))) == Outcome("accept", NO_POLICY, "ingress")


def test_refusals_answer_where_they_shall() -> None:
    assert asked(one(rule("r", "deny", reject=True))).reject
    assert not asked(one(deny="i")).reject


def test_peers() -> None:
    of = one(
        rule("s", "accept", peers="s1"),
        rule("r", "accept", ranges=("10.0.1.0-10.0.1.9", "10.0.2.0-10.0.2.255", "fd00::5-fd00::6")),
        rule("d", "accept", domains="d1"),
        deny="i",
        sets={"s1": Members({PEER})},
        domains={"d1": ("example.com",)},
    )
    assert ids(of, PEER, "10.0.0.3") == ["s", "i"]
    sources = ("10.0.0.255", "10.0.1.0", "10.0.1.9", "10.0.1.10", "10.0.2.7", "10.0.3.0")
    assert ids(of, *sources) == ["i", "r", "r", "i", "r", "i"]
    assert ids(of, "fd00::4", "fd00::5", "fd00::6", "fd00::7") == ["i", "r", "r", "i"]
    # An IPv6 address whose number is in a range of IPv4.
    assert ids(of, "::a00:105") == ["i"]
    found = walk(
        of,
        Packet("ingress", "10.9.9.9", HERE),
        in_domain=lambda name, address: (name, address) == ("d1", "10.9.9.9"),
    )
    assert found.id == "d"


@pytest.mark.parametrize(
    ("port", "packet", "matches"),
    [
        (PortMatch(protocol="tcp"), {"dport": 1}, True),
        (PortMatch(protocol="tcp"), {"protocol": "udp", "dport": 1}, False),
        (PortMatch(protocol="tcp", first=80, last=81), {"dport": 80}, True),
        (PortMatch(protocol="tcp", first=80, last=81), {"dport": 81}, True),
        (PortMatch(protocol="tcp", first=80, last=81), {"dport": 82}, False),
        (PortMatch(protocol="tcp", first=80, last=80), {"dport": 79}, False),
        (PortMatch(named="n"), {"dport": 8080}, True),
        (PortMatch(named="n"), {"dport": 8080, "protocol": "udp"}, False),
        (PortMatch(named="n"), {"dport": 80}, False),
        (PortMatch(protocol="icmp"), {"protocol": "icmp", "icmp_type": 3}, True),
        (PortMatch(protocol="icmp"), {"protocol": "icmpv6", "icmp_type": 3}, False),
        (PortMatch(protocol="icmp", icmp_type=8), {"protocol": "icmp", "icmp_type": 8}, True),
        (PortMatch(protocol="icmp", icmp_type=0), {"protocol": "icmp", "icmp_type": 8}, False),
        (
            PortMatch(protocol="icmp", icmp_type=3, icmp_code=1),
            {"protocol": "icmp", "icmp_type": 3, "icmp_code": 0},
            False,
        ),
        (PortMatch(protocol="tcp"), {"protocol": "gre"}, False),
    ],
)
def test_ports(port: PortMatch, packet: dict[str, Any], matches: bool) -> None:
    sockets = {"n": Members({Socket(HERE, "tcp", 8080), Socket(PEER, "tcp", 80)})}
    of = one(rule("r", "accept", ports=(port,)), deny="i", sockets=sockets)
    assert asked(of, **packet).id == ("r" if matches else "i")


def test_a_rule_without_ports_matches_every_protocol() -> None:
    assert asked(one(rule("r", "deny")), protocol="gre").id == "r"


def test_staged_rules_count_and_decide_nothing() -> None:
    of = ruleset(
        Tier(chains=("a", "b")),
        chains={
            "a": (rule("a", "deny", staged=True), rule("never", "deny", staged=True)),
            "b": (rule("b", "accept"),),
        },
    )
    assert asked(of) == Outcome("accept", "b", "ingress", False, ("a",))


def test_staged_isolation_counts_what_no_rule_matched() -> None:
    udp = (PortMatch(protocol="udp"),)
    of = ruleset(
        Tier(chains=("a",), deny="i", staged_deny="j"),
        chains={"a": (rule("a", "accept", staged=True, ports=udp),)},
    )
    assert asked(of, protocol="udp") == Outcome("deny", "i", "ingress", False, ("a",))
    assert asked(of, protocol="tcp") == Outcome("deny", "i", "ingress", False, ("j",))


def test_the_guard_drops_addresses_of_ours_that_nobody_has() -> None:
    of = ruleset(
        Tier(chains=("a",)),
        guard=True,
        chains={"a": (rule("a", "accept"),)},
        known=Members({PEER}),
    )

    def guarded(source: str) -> str:
        packet = Packet("ingress", source, HERE)
        return walk(of, packet, in_pools=lambda address: address.startswith("10.")).id

    assert [guarded(a) for a in (PEER, "10.0.0.7", "192.0.2.1")] == ["a", GUARD, "a"]
    assert asked(of, "10.0.0.7").id == "a"
