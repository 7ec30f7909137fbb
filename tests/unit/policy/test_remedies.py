"""What would have to change: steps that were tried, and give the other answer together."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.policies import scenes
from tests.support.worlds import (
    accept,
    deny,
    endpoint,
    flow,
    labelled,
    network,
    node,
    policy,
    tcp,
)

from plait.model.objects import AnyObject
from plait.model.policies import Origin, Peer, Policy
from plait.policy.evaluate import evaluate
from plait.policy.flow import Flow
from plait.policy.remedies import steps
from plait.policy.world import Party, World

BASE = (
    network("net", "10.0.0.0/24"),
    network("inner", "10.0.1.0/24", internal=True),
    endpoint("shop/front", "10.0.0.1", labels={"app": "front"}),
    endpoint("shop/api", "10.0.0.2", labels={"app": "api"}),
    endpoint("shop/vault", "10.0.1.1", network="inner"),
    node("h1", "192.0.2.1/24"),
)
FRONT, API, VAULT, H1, OUTSIDE = "10.0.0.1", "10.0.0.2", "10.0.1.1", "192.0.2.1", "203.0.113.9"
NOBODY = Peer(cidr="198.51.100.0/24")


def told(*policies: Policy, src: str = FRONT, dst: str = API, port: int = 80) -> list[str]:
    """The commands, and texts where there is none."""
    world = World.of((*BASE, *policies))
    found = steps(world, evaluate(world, flow(world, src, dst, port)))
    return [step.command or step.text for step in found]


def test_what_nobody_accepts_is_allowed_by_the_verb() -> None:
    closed = policy("p", over=labelled(app="api"), ingress=(accept(NOBODY),))
    assert told(closed) == ["plait allow shop/api --from shop/front --port 80/tcp"]


def test_one_command_opens_both_sides() -> None:
    closed = policy("p", isolate=("ingress", "egress"))
    assert told(closed) == ["plait allow shop/api --from shop/front --port 80/tcp --both-sides"]


def test_a_sender_alone_is_opened_by_a_policy_that_closes_nobody() -> None:
    closed = policy("p", over=labelled(app="front"), isolate=("egress",))
    world = World.of((*BASE, closed))
    (step,) = steps(world, evaluate(world, flow(world, FRONT, API)))
    assert step.command == "plait allow shop/api --from shop/front --port 80/tcp --egress"
    assert step.policy is not None
    assert step.policy.spec.isolate == ()
    opened = World.of((*BASE, closed, step.policy))
    assert evaluate(opened, flow(opened, FRONT, API)).allowed
    assert not evaluate(opened, flow(opened, FRONT, API, 81)).allowed


def test_to_the_outside_the_verb_opens_the_sender() -> None:
    closed = policy("p", isolate=("egress",))
    assert told(closed, dst=OUTSIDE, port=443) == [
        f"plait allow {OUTSIDE}/32 --from shop/front --port 443/tcp"
    ]


def test_the_own_host_is_opened_without_closing_anything() -> None:
    world = World.of(BASE)
    (step,) = steps(world, evaluate(world, flow(world, FRONT, H1, 22)))
    assert step.policy is not None
    opened = World.of((*BASE, step.policy))
    assert evaluate(opened, flow(opened, FRONT, H1, 22)).allowed
    assert evaluate(opened, flow(opened, FRONT, API)).allowed


def test_a_rule_that_denies_first_is_named() -> None:
    no = policy("no", priority=7, isolate=(), ingress=(accept(NOBODY), deny(name="keep out")))
    assert told(no) == ["plait policy show no"]
    world = World.of((*BASE, no))
    (step,) = steps(world, evaluate(world, flow(world, FRONT, API)))
    assert step.text == (
        'change ingress rule 2 "keep out" of policy no, which denies it in tier application'
    )


def test_every_rule_in_the_way_is_named_and_then_the_policy_that_is_missing() -> None:
    first = policy("first", tier="admin", ingress=(deny(), deny(ports=(tcp(),))))
    second = policy("second", priority=3, egress=(deny(),))
    closed = policy("closed", isolate=("ingress",))
    found = told(first, second, closed)
    assert found[:-1] == ["plait policy show second"] + ["plait policy show first"] * 2
    assert found[-1] == "plait allow shop/api --from shop/front --port 80/tcp"


def test_what_a_baseline_denies_an_ordinary_policy_may_accept() -> None:
    world = World.of((*BASE, policy("base", tier="baseline", ingress=(deny(),))))
    (step,) = steps(world, evaluate(world, flow(world, FRONT, API)))
    # The verb would close the receiver, which is open but for the baseline.
    assert step.command == ""
    assert step.policy is not None


def test_who_a_policy_was_made_of_is_told() -> None:
    origin = Origin(kind="ClusterNetworkPolicy", name="top")
    top = policy("kcnp.top", tier="admin", origin=origin, ingress=(deny(),))
    world = World.of((*BASE, top))
    (step,) = steps(world, evaluate(world, flow(world, FRONT, API)))
    assert "made of ClusterNetworkPolicy top" in step.text


def test_what_is_allowed_is_denied_by_the_verb() -> None:
    assert told() == ["plait deny shop/api --from shop/front --port 80/tcp"]
    assert told(policy("p", ingress=(accept(),))) == [
        "plait deny shop/api --from shop/front --port 80/tcp"
    ]
    assert told(dst=OUTSIDE) == [f"plait deny {OUTSIDE}/32 --from shop/front --port 80/tcp"]


def test_what_the_admin_tier_accepts_only_a_change_of_its_rule_denies() -> None:
    top = policy("top", tier="admin", ingress=(accept(),))
    assert told(top) == [
        "plait policy show top",
        "plait deny shop/api --from shop/front --port 80/tcp",
    ]


def test_beside_the_network_policies_that_deny_are_named() -> None:
    closed = policy("p", over=labelled(app="api"), ingress=(accept(NOBODY),))
    publish, show = told(closed, src=OUTSIDE)
    assert "publish" in publish
    assert show == "plait policy show p"


@pytest.mark.parametrize(
    ("src", "dst", "word"),
    [(FRONT, VAULT, "publish"), (VAULT, OUTSIDE, "not internal"), (OUTSIDE, API, "publish")],
)
def test_what_networks_refuse_no_policy_mends(src: str, dst: str, word: str) -> None:
    (text,) = told(src=src, dst=dst)
    assert word in text


def test_nothing_is_proposed_where_it_depends_on_a_name() -> None:
    named = policy("p", egress=(accept(Peer(domains=("example.com",))),))
    assert told(named, dst=OUTSIDE) == []


def test_a_name_outside_is_allowed_by_name() -> None:
    world = World.of((*BASE, policy("p", isolate=("egress",))))
    asked = Flow(world.party(FRONT), Party("", domain="example.com"), "TCP", 443)
    (step,) = steps(world, evaluate(world, asked))
    assert step.command == "plait allow domain:example.com --from shop/front --port 443/tcp"


def test_a_policy_that_is_there_is_not_written_over() -> None:
    closed = policy("closed", isolate=("ingress",))
    world = World.of((*BASE, closed))
    (step,) = steps(world, evaluate(world, flow(world, FRONT, API)))
    assert step.policy is not None
    again = World.of((*BASE, closed, step.policy))
    (other,) = steps(again, evaluate(again, flow(again, FRONT, API, 81)))
    assert other.policy is not None
    assert other.policy.metadata.name == f"{step.policy.metadata.name}.2"


@settings(max_examples=30)
@given(scenes(), st.sampled_from([80, 443, 8080]))
def test_new_policies_alone_give_the_other_answer(objects: list[AnyObject], port: int) -> None:
    world = World.of(objects)
    for src in world.endpoints[:2]:
        for dst in world.endpoints[-2:]:
            for one, other in zip(world.parties(src), world.parties(dst), strict=False):
                if (":" in one.address) != (":" in other.address):
                    continue
                asked = Flow(one, other, "TCP", port)
                verdict = evaluate(world, asked)
                found = steps(world, verdict)
                made = [s.policy for s in found if s.policy is not None]
                if not found or len(made) != len(found):
                    continue
                after = World.of([*objects, *made])
                assert evaluate(after, asked).allowed is not verdict.allowed
