"""One policy to its chains: what each field comes to, and what is made of mistakes."""

from __future__ import annotations

from typing import Any

import pytest

from plait.model.objects import Group, Metadata, Policy
from plait.model.policies import Direction, GroupSpec, Peer, PolicySpec, Port, Rule, ServiceRef
from plait.model.ruleset import ChainRule, PolicyClass, PortMatch
from plait.model.selectors import Requirement, Selector
from plait.policy.classes import classify
from plait.policy.compile import SEPARATE, Compiled, compile_policy
from plait.selection.terms import Condition, Term

WEB = Selector(match_labels={"app": "web"})
PROD = Selector(match_labels={"env": "prod"})
GROUPS = {
    "friends": Group(metadata=Metadata(name="friends"), spec=GroupSpec(endpoints=WEB)),
    "offices": Group(
        metadata=Metadata(name="offices"),
        spec=GroupSpec(cidrs=("192.0.2.0/25", "192.0.2.128/25", "2001:db8::/32")),
    ),
    "broken": Group(metadata=Metadata(name="broken"), spec=GroupSpec(cidrs=("192.0.2.1/24",))),
}


def policy(name: str = "p", **spec: Any) -> Policy:
    return Policy(metadata=Metadata(name=name), spec=PolicySpec(**spec))


def compiled(direction: Direction, *rules: Rule, **spec: Any) -> Compiled:
    return compile_policy(policy(**{direction: rules}, **spec), GROUPS)


def chain(found: Compiled, direction: Direction) -> tuple[ChainRule, ...]:
    made = found.chains.get(found.facet(direction).chain)
    return made.rules if made is not None else ()


def ingress(*peers: Peer, **rule: Any) -> tuple[Compiled, tuple[ChainRule, ...]]:
    found = compiled("ingress", Rule(peers=peers or None, **rule))
    return found, chain(found, "ingress")


def terms(found: Compiled, rules: tuple[ChainRule, ...]) -> set[Term]:
    return {term for rule in rules if rule.peers for term in found.sets[rule.peers]}


def label(key: str, *values: str) -> Condition:
    return Condition(key, True, values or None)


# Peers


@pytest.mark.parametrize(
    ("peer", "term"),
    [
        (Peer(endpoints=WEB), Term("endpoints", (), (label("app", "web"),))),
        (Peer(namespaces=PROD), Term("endpoints", (label("env", "prod"),), ())),
        (
            Peer(namespaces=PROD, endpoints=WEB),
            Term("endpoints", (label("env", "prod"),), (label("app", "web"),)),
        ),
        (Peer(namespaces=Selector()), Term("endpoints", (), ())),
        (Peer(group="friends"), Term("endpoints", (), (label("app", "web"),))),
        (Peer(network="shop"), Term("endpoints", (), (label("plait/network", "shop"),))),
        (
            Peer(service=ServiceRef(name="web", namespace="x")),
            Term(
                "endpoints",
                (label("kubernetes.io/metadata.name", "x"),),
                (label("name.plait/web"),),
            ),
        ),
        (Peer(nodes=PROD), Term("nodes", (), (label("env", "prod"),))),
    ],
)
def test_selectors_become_terms(peer: Peer, term: Term) -> None:
    found, rules = ingress(peer)
    assert terms(found, rules) == {term}
    assert not rules[0].anyone
    assert not rules[0].ranges


def test_the_same_selectors_have_the_same_set_however_they_are_written() -> None:
    expression = Requirement(key="app", operator="In", values=("web",))
    one, _ = ingress(Peer(endpoints=WEB), Peer(endpoints=PROD))
    other, _ = ingress(
        Peer(group="friends"),
        Peer(endpoints=PROD),
        Peer(endpoints=Selector(match_expressions=(expression, expression))),
    )
    assert one.sets == other.sets
    assert len(one.sets) == 2


def test_selectors_are_alternatives_of_one_rule_until_there_are_too_many() -> None:
    peers = [Peer(endpoints=Selector(match_labels={"n": str(i)})) for i in range(SEPARATE + 1)]
    _, few = ingress(*peers[:-1], Peer(cidr="10.0.0.0/8"))
    assert len(few) == SEPARATE + 1
    assert len({rule.id for rule in few}) == 1
    found, many = ingress(*peers, Peer(cidr="10.0.0.0/8"))
    assert [bool(rule.peers) for rule in many] == [False, True]
    assert len(terms(found, many)) == SEPARATE + 1


def test_cidrs_become_ranges_without_their_own_exceptions_only() -> None:
    _, rules = ingress(
        Peer(cidr="10.0.0.0/24", excepted=("10.0.0.0/25",)),
        Peer(cidr="10.0.0.8/29"),
        Peer(group="offices"),
    )
    assert [rule.ranges for rule in rules] == [
        (
            "10.0.0.8-10.0.0.15",
            "10.0.0.128-10.0.0.255",
            "192.0.2.0-192.0.2.255",
            "2001:db8::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
        )
    ]


def test_nothing_is_left_of_a_cidr_without_all_of_itself() -> None:
    found, rules = ingress(Peer(cidr="10.0.0.0/24", excepted=("10.0.0.0/8",)), action="Deny")
    assert rules == ()
    assert not found.problem


def test_domains_are_sorted_and_in_lower_case() -> None:
    peer = Peer(domains=("*.Example.com.", "b.test"))
    found = compiled("egress", Rule(peers=(peer, Peer(domains=("b.test",)))))
    (rule,) = chain(found, "egress")
    assert found.domains == {rule.domains: ("*.example.com", "b.test")}


def test_no_peers_is_anyone() -> None:
    _, (rule,) = ingress()
    assert rule.anyone
    assert rule.ports == ()


# Ports


@pytest.mark.parametrize(
    ("ports", "matches"),
    [
        ((Port(protocol="TCP"),), (PortMatch(protocol="tcp"),)),
        (
            (Port(protocol="TCP", port=80),),
            (PortMatch(protocol="tcp", first=80, last=80),),
        ),
        (
            (
                Port(protocol="UDP", port=53),
                Port(protocol="TCP", port=80, end_port=90),
                Port(protocol="TCP", port=85, end_port=99),
                Port(protocol="TCP", port=100),
                Port(protocol="TCP", port=443),
            ),
            (
                PortMatch(protocol="tcp", first=80, last=100),
                PortMatch(protocol="tcp", first=443, last=443),
                PortMatch(protocol="udp", first=53, last=53),
            ),
        ),
        (
            (Port(protocol="SCTP", port=1), Port(protocol="SCTP")),
            (PortMatch(protocol="sctp"),),
        ),
        (
            (Port(protocol="TCP", port=1, end_port=65535),),
            (PortMatch(protocol="tcp", first=1, last=65535),),
        ),
        (
            (
                Port(protocol="ICMPv6", icmp_type=1, icmp_code=4),
                Port(protocol="ICMP", icmp_type=0),
                Port(protocol="ICMP"),
                Port(protocol="ICMP"),
            ),
            (
                PortMatch(protocol="icmp"),
                PortMatch(protocol="icmp", icmp_type=0),
                PortMatch(protocol="icmpv6", icmp_type=1, icmp_code=4),
            ),
        ),
    ],
)
def test_ports_are_joined(ports: tuple[Port, ...], matches: tuple[PortMatch, ...]) -> None:
    _, (rule,) = ingress(ports=ports)
    assert rule.ports == matches
    _, (turned,) = ingress(ports=ports[::-1])
    assert turned.ports == matches


def test_names_of_ports_are_sets_of_their_protocol() -> None:
    ports = (Port(port="http"), Port(protocol="TCP", port="http"), Port(port="http"))
    found, (rule,) = ingress(ports=ports)
    wanted = [found.sockets[match.named] for match in rule.ports]
    assert sorted(wanted) == [("http", ""), ("http", "tcp")]


# Mistakes

MISTAKES = [
    {"peers": (Peer(),)},
    {"peers": ()},
    {"ports": ()},
    {"peers": (Peer(cidr="10.0.0.0/8", network="shop"),)},
    {"peers": (Peer(cidr="10.0.0.1/8"),)},
    {"peers": (Peer(cidr="10.0.0.0/8", excepted=("x",)),)},
    {"peers": (Peer(network="shop", excepted=("10.0.0.0/8",)),)},
    {"peers": (Peer(endpoints=WEB), Peer(group="missing"))},
    {"peers": (Peer(group="broken"),)},
    {"peers": (Peer(domains=("example.com",)),)},
    {
        "peers": (
            Peer(endpoints=Selector(match_expressions=(Requirement(key="a", operator="In"),))),
        )
    },
    {"ports": (Port(),)},
    {"ports": (Port(port=80),)},
    {"ports": (Port(protocol="TCP", port=0),)},
    {"ports": (Port(protocol="TCP", port=80, end_port=79),)},
    {"ports": (Port(protocol="TCP", port=80, end_port=65536),)},
    {"ports": (Port(protocol="TCP", end_port=80),)},
    {"ports": (Port(protocol="TCP", port="http", end_port=80),)},
    {"ports": (Port(protocol="TCP", port=""),)},
    {"ports": (Port(protocol="TCP", icmp_type=8),)},
    {"ports": (Port(protocol="ICMP", port=8),)},
    {"ports": (Port(protocol="ICMP", icmp_type=256),)},
    {"ports": (Port(protocol="ICMP", icmp_code=0),)},
    {"ports": (Port(protocol="TCP", port=80), Port(protocol="TCP", port=0))},
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_mistake_opens_nothing(mistake: dict[str, Any]) -> None:
    good = Rule(peers=(Peer(endpoints=PROD),))
    for action in ("Accept", "Pass", "Deny"):
        found = compiled("ingress", Rule(action=action, **mistake), good)
        first, *rest = chain(found, "ingress")
        assert found.problem.startswith("ingress rule 1: ")
        assert found.sockets == {}
        if action == "Deny":
            assert (first.decision, first.anyone, first.ports) == ("deny", True, ())
            first, *rest = rest
        # The rules beside it are not affected.
        assert terms(found, (first,)) == {Term("endpoints", (), (label("env", "prod"),))}
        assert rest == []


def test_a_policy_of_mistakes_still_isolates() -> None:
    found = compiled("ingress", Rule(peers=(Peer(),)))
    assert found.facet("ingress").isolates
    assert found.facet("ingress").chain == ""
    assert classify("ingress", [found]).definition is not None


@pytest.mark.parametrize("domain", ["", "*", "*.", "a..b", "a b", "exa*mple.com", "-a.test", "a\n"])
def test_what_is_no_domain(domain: str) -> None:
    found = compiled("egress", Rule(peers=(Peer(domains=(domain,)),)))
    assert "is no domain" in found.problem
    assert found.domains == {}


# What a rule is called


def test_a_rule_keeps_its_name_when_others_come_before_it() -> None:
    rule = Rule(action="Deny", peers=(Peer(endpoints=WEB),))
    before = compiled("ingress", rule)
    after = compiled("ingress", Rule(), rule, rule)
    (name,) = (r.id for r in chain(before, "ingress"))
    names = [r.id for r in chain(after, "ingress")]
    assert names[1] == name
    assert len(set(names)) == 3
    assert [after.meanings[n].index for n in names] == [0, 1, 2]


def test_other_rules_have_other_names() -> None:
    rule = Rule(action="Deny")
    found = [
        compiled("ingress", rule),
        compiled("egress", rule),
        compiled("ingress", rule, staged=True),
        compiled("ingress", Rule(action="Deny", reject=True)),
        compile_policy(policy("q", ingress=(rule,)), GROUPS),
    ]
    assert len({name for one in found for name in one.meanings}) == len(found)


# Guards


@pytest.mark.parametrize(
    ("rule", "egress", "ingress"),
    [
        ({"peers": (Peer(endpoints=WEB),)}, True, True),
        ({"peers": (Peer(group="friends"),)}, True, True),
        ({"peers": (Peer(network="shop"),)}, True, True),
        ({"peers": (Peer(service=ServiceRef(name="a", namespace="b")),)}, True, True),
        ({"peers": (Peer(nodes=WEB),)}, False, False),
        ({"peers": (Peer(cidr="10.0.0.0/8"), Peer(group="offices"))}, False, False),
        ({}, False, False),
        ({"ports": (Port(port="http"),)}, True, False),
        ({"ports": (Port(protocol="TCP", port=80),)}, False, False),
    ],
    ids=str,
)
def test_whoever_denies_by_endpoint_guards(
    rule: dict[str, Any], egress: bool, ingress: bool
) -> None:
    for action in ("Deny", "Pass"):
        for direction, guard in (("egress", egress), ("ingress", ingress)):
            made = Rule(action=action, **rule)
            assert compiled(direction, made).facet(direction).guard == guard  # type: ignore[arg-type]
            staged = compiled(direction, made, staged=True)  # type: ignore[arg-type]
            assert not staged.facet(direction).guard  # type: ignore[arg-type]
    accepting = compiled("egress", Rule(**rule))
    assert not accepting.facet("egress").guard


def test_a_rule_that_is_not_understood_guards_what_it_may_mean() -> None:
    rule = Rule(action="Pass", peers=(Peer(endpoints=WEB), Peer()))
    found = classify("ingress", [compiled("ingress", rule)])
    assert found.definition == PolicyClass(direction="ingress", tiers=(), guard=True)


# Classes


def test_tiers_stand_in_order_and_their_policies_by_priority_and_name() -> None:
    def one(name: str, **spec: Any) -> Compiled:
        return compile_policy(policy(name, egress=(Rule(action="Pass"),), **spec), GROUPS)

    members = [
        one("z", tier="admin"),
        one("c", priority=7),
        one("b", priority=7),
        one("a", priority=8),
        one("d", tier="baseline", priority=0),
    ]
    found = classify("egress", members)
    assert found == classify("egress", members[::-1])
    assert found.definition is not None
    by_chain = {p.facet("egress").chain: p.name for p in members}
    order = [[by_chain[chain] for chain in tier.chains] for tier in found.definition.tiers]
    assert order == [["z"], ["b", "c", "a"], ["d"]]
    assert classify("ingress", members).name == ""


def test_isolation_is_of_all_policies_that_isolate() -> None:
    members = [
        compile_policy(policy("b", isolate=("ingress",)), GROUPS),
        compile_policy(policy("a", ingress=(Rule(),)), GROUPS),
        compile_policy(policy("s", isolate=("ingress",), staged=True), GROUPS),
        compile_policy(policy("n", isolate=(), ingress=(Rule(),)), GROUPS),
    ]
    found = classify("ingress", members)
    assert found.definition is not None
    (tier,) = found.definition.tiers
    assert len(tier.chains) == 2
    assert found.meanings[tier.deny].isolating == ("a", "b")
    assert found.meanings[tier.staged_deny].isolating == ("s",)
    assert found.meanings[tier.staged_deny].staged


def test_a_class_is_not_taken_for_another() -> None:
    rule = (Rule(action="Deny"),)
    one = [
        compile_policy(policy("application", tier="admin", ingress=rule), GROUPS),
        compile_policy(policy("x", tier="admin", priority=900, ingress=rule), GROUPS),
    ]
    other = [
        compile_policy(policy("application", tier="admin", ingress=rule), GROUPS),
        compile_policy(policy("x", ingress=rule), GROUPS),
    ]
    assert classify("ingress", one).name != classify("ingress", other).name
