"""What whoever writes a policy is told."""

from __future__ import annotations

import pytest

from plait.model.objects import Endpoint, EndpointSpec, Metadata, Network, NetworkSpec
from plait.model.policies import Peer, Policy, PolicySpec, Rule
from plait.policy.portspec import parse_port
from plait.policy.reference import parse
from plait.policy.verb_effects import MAX_TOLD, Effect, effects
from plait.policy.verbs import isolate_policy, rule_policy
from plait.policy.world import World

NETWORKS = [
    Network(metadata=Metadata(name=name), spec=NetworkSpec(pools=(f"10.{i}.0.0/16",)))
    for i, name in enumerate(("plait", "far"))
]


def endpoint(number: int, name: str, network: int = 0) -> Endpoint:
    spec = EndpointSpec(
        node="h1",
        network=NETWORKS[network].metadata.name,
        name=name,
        addresses=(f"10.{network}.0.{number}",),
    )
    return Endpoint(metadata=Metadata(name=f"e{number}", namespace="shop"), spec=spec)


BASE = [*NETWORKS, endpoint(1, "front"), endpoint(2, "db"), endpoint(3, "away", 1)]


def rule(verb: str, dst: str, src: str, *ports: str) -> Policy:
    asked = map(parse_port, ports)
    return rule_policy(verb, parse(dst, "shop"), parse(src, "shop"), asked)  # type: ignore[arg-type]


def told(policy: Policy, *others: Policy) -> list[Effect]:
    return effects(World.of([*BASE, *others]), World.of([*BASE, *others, policy]), policy)


def test_closing_what_was_open_is_told_once() -> None:
    (effect,) = told(rule("allow", "db", "front"))
    assert "db in namespace shop (1 endpoint) could accept anything before" in effect.text
    assert not effect.warns
    assert told(rule("allow", "db", "front"), isolate_policy("shop")) == []
    assert told(rule("deny", "db", "front")) == []


def test_what_leaves_is_told_as_sending() -> None:
    (effect,) = told(rule("allow", "10.9.0.0/16", "front"))
    assert "could send anything before" in effect.text


@pytest.mark.parametrize(
    ("written", "other", "text"),
    [
        (
            rule("allow", "db", "front", "80"),
            rule("deny", "db", "front"),
            "shop/front to shop/db stays closed: policy deny.shop.db.from.shop.front denies it",
        ),
        (
            rule("allow", "db", "front", "http"),
            isolate_policy("shop"),
            "",
        ),
        (
            rule("deny", "db", "front"),
            Policy(
                metadata=Metadata(name="boss"),
                spec=PolicySpec(tier="admin", ingress=(Rule(peers=(Peer(network="plait"),)),)),
            ),
            "shop/front to shop/db stays open: policy boss accepts it first",
        ),
    ],
)
def test_what_still_decides_otherwise_is_named(written: Policy, other: Policy, text: str) -> None:
    warnings = [effect.text for effect in told(written, other) if effect.warns]
    assert warnings == ([text] if text else [])


def test_a_closed_sender_is_mended_at_the_other_side() -> None:
    only = rule("allow", "10.9.0.0/16", "front")
    warnings = [effect for effect in told(rule("allow", "db", "front"), only) if effect.warns]
    assert [effect.other_side for effect in warnings] == [True]
    assert "closes the sender's egress" in warnings[0].text


def test_networks_come_before_policies() -> None:
    warnings = [effect.text for effect in told(rule("allow", "db", "away")) if effect.warns]
    assert len(warnings) == 1
    assert "networks do not reach each other" in warnings[0]


def test_of_many_pairs_a_few_are_named() -> None:
    many = [endpoint(number, f"w{number}") for number in range(10, 30)]
    policy = rule("allow", "ns:shop", "away")
    found = effects(World.of([*BASE, *many]), World.of([*BASE, *many, policy]), policy)
    assert len([effect for effect in found if effect.warns]) == MAX_TOLD + 1
    assert found[-1].text == f"so it is with {22 - MAX_TOLD} more pairs"


def test_a_staged_policy_says_only_that() -> None:
    staged = rule_policy("allow", parse("db", "shop"), parse("front", "shop"), staged=True)
    (effect,) = told(staged)
    assert effect.fix == (f"plait policy enforce {staged.metadata.name}",)
