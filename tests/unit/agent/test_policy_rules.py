"""The nft rules of policies: what each rule says, and how few there are."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.agent.desired import policy_match, policy_rules, policy_sets
from plait.model.ruleset import (
    ChainRule,
    Classes,
    PolicyChain,
    PolicyClass,
    PortMatch,
    Socket,
    Tier,
)
from plait.wire import nft_expr as e


def texts(rule: ChainRule, direction: Any = "ingress", *, log: bool = False) -> list[str]:
    chain = PolicyChain(direction=direction, rules=(rule,))
    made = policy_rules.policy_chain("c1", chain, log=log).chains[0].chain
    return [r.text().split(" comment")[0] for r in made.rules]


def accept(**fields: Any) -> ChainRule:
    return ChainRule(id="r1", decision="accept", **fields)


def tcp(first: int, last: int | None = None) -> PortMatch:
    return PortMatch(protocol="tcp", first=first, last=last or first)


END = 'counter name "r1" accept'
CASES: list[tuple[str, ChainRule, list[str]]] = [
    ("anyone", accept(anyone=True), [END]),
    ("nobody", accept(), []),
    ("a port", accept(anyone=True, ports=(tcp(80),)), [f"meta l4proto tcp th dport 80 {END}"]),
    (
        "a range",
        accept(anyone=True, ports=(tcp(80, 90), tcp(91, 99))),
        [f"meta l4proto tcp th dport 80-99 {END}"],
    ),
    (
        "peers",
        accept(peers="s1", ports=(tcp(80),)),
        [
            f"meta nfproto ipv4 ip saddr @p-s-s1-4 meta l4proto tcp th dport 80 {END}",
            f"meta nfproto ipv6 ip6 saddr @p-s-s1-6 meta l4proto tcp th dport 80 {END}",
        ],
    ),
    (
        "one CIDR",
        accept(ranges=("10.0.0.0-10.255.255.255",)),
        [f"meta nfproto ipv4 ip saddr 10.0.0.0/8 {END}"],
    ),
    (
        "not quite a CIDR",
        accept(ranges=("10.0.0.1-10.0.0.9",)),
        [f"meta nfproto ipv4 ip saddr 10.0.0.1-10.0.0.9 {END}"],
    ),
    (
        "a whole family",
        accept(ranges=("::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",)),
        [f"meta nfproto ipv6 {END}"],
    ),
    (
        "whole protocols",
        accept(anyone=True, ports=(PortMatch(protocol="sctp"), PortMatch(protocol="icmpv6"))),
        [f"meta l4proto sctp {END}", f"meta nfproto ipv6 meta l4proto icmpv6 {END}"],
    ),
    (
        "messages",
        accept(
            anyone=True,
            ports=(
                PortMatch(protocol="icmp", icmp_type=8, icmp_code=0),
                PortMatch(protocol="icmpv6", icmp_type=128),
            ),
        ),
        [
            f"meta nfproto ipv4 meta l4proto icmp icmp type 8 icmp code 0 {END}",
            f"meta nfproto ipv6 meta l4proto icmpv6 icmpv6 type 128 {END}",
        ],
    ),
    (
        "messages of the other family",
        accept(ranges=("10.0.0.0-10.0.0.255",), ports=(PortMatch(protocol="icmpv6"),)),
        [],
    ),
    (
        "named ports",
        accept(anyone=True, ports=(PortMatch(named="n1"),)),
        [
            f"meta nfproto ipv4 ip daddr . meta l4proto . th dport @p-n-n1-4 {END}",
            f"meta nfproto ipv6 ip6 daddr . meta l4proto . th dport @p-n-n1-6 {END}",
        ],
    ),
    (
        "domains",
        accept(domains="d1"),
        [
            f"meta nfproto ipv4 ip saddr @p-d-d1-4 {END}",
            f"meta nfproto ipv6 ip6 saddr @p-d-d1-6 {END}",
        ],
    ),
]


@pytest.mark.parametrize(("rule", "wanted"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_rule_as_nft_writes_it(rule: ChainRule, wanted: list[str]) -> None:
    assert texts(rule) == wanted


def test_many_ports_are_one_look_up_in_one_set() -> None:
    ports = tuple(tcp(n) for n in range(80, 120, 2))
    (only,) = texts(accept(anyone=True, ports=ports))
    assert only.startswith("meta l4proto . th dport @p-v-")
    ranged = texts(accept(anyone=True, ports=(tcp(80), tcp(100, 200), tcp(150, 300))))
    assert len(ranged) == 1
    # Two rules that say the same ports share the set.
    assert texts(accept(anyone=True, ports=ports[::-1])) == [only]


def test_what_each_decision_does() -> None:
    deny = {"decision": "deny", "anyone": True}
    assert texts(ChainRule(id="r1", **deny), log=True) == [  # type: ignore[arg-type]
        'counter name "r1" log prefix "r1.id" group 28780 snaplen 96 drop'
    ]
    assert texts(ChainRule(id="r1", reject=True, **deny)) == [  # type: ignore[arg-type]
        'counter name "r1" goto refused'
    ]
    assert texts(ChainRule(id="r1", staged=True, **deny), log=True) == [  # type: ignore[arg-type]
        'counter name "r1" log prefix "r1.is" group 28780 snaplen 96 return'
    ]
    assert texts(accept(anyone=True, staged=True), log=True) == ['counter name "r1" return']
    assert texts(accept(anyone=True), "egress", log=True) == [
        'counter name "r1" log prefix "r1.ea" group 28780 snaplen 96 accept'
    ]


def test_the_sender_is_asked_for_in_ingress_and_the_receiver_in_egress() -> None:
    assert "ip saddr @" in texts(accept(peers="s1"), "ingress")[0]
    assert "ip daddr @" in texts(accept(peers="s1"), "egress")[0]


def test_a_policy_that_passes_stands_in_the_chain_of_its_tier() -> None:
    chains = {
        "a": PolicyChain(direction="ingress", rules=(accept(anyone=True),)),
        "p": PolicyChain(
            direction="ingress", rules=(ChainRule(id="r2", decision="pass", anyone=True),)
        ),
    }
    wish = PolicyClass(
        direction="ingress", tiers=(Tier(chains=("a", "p"), deny="i1"), Tier(chains=("a",)))
    )
    tier, whole = policy_rules.class_chains("k1", wish, chains, log=False).chains
    assert (tier.chain.name, whole.chain.name) == ("pt-k1-0", "pk-k1")
    assert [r.text().split(" comment")[0] for r in tier.chain.rules] == [
        "jump pc-a",
        'counter name "r2" return',
        'counter name "i1" drop',
    ]
    assert [r.text().split(" comment")[0] for r in whole.chain.rules[1:]] == [
        "jump pt-k1-0",
        "jump pc-a",
    ]


def test_a_staged_isolation_counts_what_no_staged_rule_matched() -> None:
    staged = ChainRule(id="r2", decision="accept", anyone=True, staged=True)
    chains = {"s": PolicyChain(direction="ingress", rules=(staged,))}
    wish = PolicyClass(direction="ingress", tiers=(Tier(chains=("s",), staged_deny="i1"),))
    end, whole = policy_rules.class_chains("k1", wish, chains, log=False).chains
    assert [r.text().split(" comment")[0] for r in end.chain.rules] == [
        "return",
        'counter name "i1"',
    ]
    assert whole.chain.rules[-1].statements == (e.jump("ps-k1-0"),)


def test_an_address_without_policies_in_a_direction_is_still_checked_for_pick_up() -> None:
    elements = policy_rules.dispatch_elements("fd00::1", Classes("k1", ""))
    assert {(name, data.text()) for name, _, data in elements if isinstance(data, e.Verdict)} == {
        ("pe6", "jump pk-k1"),
        ("pi6", "jump pickup-ingress"),
    }
    assert {(name, key) for name, key, _ in elements} == set(policy_rules.dispatch_keys("fd00::1"))


@pytest.mark.parametrize("ident", ['x"', "a b", "", "a;b", "x" * 17, "ä", "A", "a\n"])
def test_no_users_text_becomes_a_name(ident: str) -> None:
    rule = ChainRule(id=ident, decision="accept", anyone=True)
    chain = PolicyChain(direction="ingress", rules=(rule,))
    with pytest.raises(ValueError, match="opaque"):
        policy_rules.policy_chain("c1", chain, log=True)
    with pytest.raises(ValueError, match="opaque"):
        policy_rules.policy_chain(ident, PolicyChain(direction="ingress", rules=()), log=True)
    with pytest.raises(ValueError, match="opaque"):
        policy_sets.address_set(ident, 4)


def test_a_set_is_known_by_its_name() -> None:
    for made in (policy_sets.address_set, policy_sets.socket_set, policy_sets.domain_set):
        for family in (4, 6):
            declared = made("x1", family)  # type: ignore[arg-type]
            assert policy_sets.declared(declared.name) == declared
            assert policy_sets.ident_of(declared.name) == "x1"
    assert policy_sets.declared("peers4") is not None
    assert policy_sets.ident_of("peers4") == ""
    assert policy_sets.declared("p-v-0123") is None


def test_keys() -> None:
    assert policy_sets.packed("10.0.0.1") == b"\x0a\0\0\x01"
    assert policy_sets.packed("fd00::1")[-1] == 1
    key = policy_sets.socket_key(Socket("10.0.0.1", "tcp", 80))
    assert key == b"\x0a\0\0\x01\x06\0\0\0\0\x50\0\0"
    assert policy_sets.keys_by_family(["10.0.0.1", "::1"])[6] == {bytes(15) + b"\x01"}


SPANS = st.lists(
    st.tuples(st.sampled_from(["tcp", "udp"]), st.integers(1, 40), st.integers(0, 10)).map(
        lambda x: (x[0], x[1], x[1] + x[2])
    )
)


@given(SPANS)
def test_spans_are_merged_and_say_the_same(spans: list[tuple[str, int, int]]) -> None:
    merged = list(policy_match.merged(spans))
    said = {(p, n) for p, first, last in merged for n in range(first, last + 1)}
    assert said == {(p, n) for p, first, last in spans for n in range(first, last + 1)}
    for (p, _, last), (q, first, _) in pairwise(merged):
        assert p < q or last + 1 < first
