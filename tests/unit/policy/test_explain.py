"""An answer in words: everything that decided is in it, and what did not match says why."""

from __future__ import annotations

import json

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.policies import OUTSIDE, UNKNOWN, scenes
from tests.support.worlds import (
    accept,
    deny,
    endpoint,
    flow,
    labelled,
    network,
    passing,
    policy,
    tcp,
)

from plait.model.objects import AnyObject
from plait.model.policies import Origin, Peer, Policy, Port
from plait.policy.evaluate import evaluate
from plait.policy.explain import answer, as_data, headline, text
from plait.policy.questions import parse_asked
from plait.policy.world import World

FRONT = endpoint("shop/front", "10.0.0.1", labels={"app": "front"})
API = endpoint("shop/api", "10.0.0.2", labels={"app": "api"}, named=("http=8080/tcp",))
NET = network("net", "10.0.0.0/24")
TO_API = labelled(app="api")
STRANGERS = Peer(endpoints=labelled(app="stranger"))


def explained(*policies: Policy, port: int = 80, dst: str = "10.0.0.2") -> str:
    world = World.of((NET, FRONT, API, *policies))
    return text(world, evaluate(world, flow(world, "10.0.0.1", dst, port)))


def test_nothing_decides_where_there_is_no_policy() -> None:
    found = explained()
    assert found.startswith("shop/front (10.0.0.1) -> shop/api (10.0.0.2) 80/tcp: allowed\n")
    assert "network: allowed: both are on network net" in found
    assert "egress of shop/front: allowed, no policy decided" in found
    assert "ingress of shop/api: allowed, no policy decided" in found


def test_every_tier_policy_and_rule_is_told() -> None:
    found = explained(
        policy("top", tier="admin", over=TO_API, ingress=(passing(),)),
        policy(
            "web",
            over=TO_API,
            origin=Origin(kind="NetworkPolicy", namespace="shop", name="web"),
            ingress=(
                accept(STRANGERS),
                accept(ports=(tcp("http"), Port(protocol="UDP"))),
                accept(Peer(group="gone")),
            ),
        ),
        policy("base", tier="baseline", over=TO_API, ingress=(deny(),)),
    )
    lines = [line.strip() for line in found.splitlines()]
    assert lines[0].endswith("denied by policy web, which closes ingress (shop/api)")
    assert "tier admin: passed on to the next tier" in lines
    assert "policy top (priority 500)" in lines
    assert "* 1 Pass from anyone on any port: matches" in lines
    closed = "tier application: denied: no rule accepts it, and the endpoint is closed by web"
    assert closed in lines
    assert "policy web (priority 500, NetworkPolicy shop/web, closes ingress)" in lines
    assert any("10.0.0.1) is not endpoints app=stranger in every namespace" in x for x in lines)
    assert any(
        "80/tcp is not http/tcp and all of udp; of shop/api http is 8080/tcp" in x for x in lines
    )
    assert any("there is no group `gone`, so it matches nothing" in x for x in lines)
    # What is not reached has no part in it.
    assert "base" not in found


def test_a_rule_that_decides_is_named_by_number_and_name() -> None:
    found = explained(policy("no", over=TO_API, ingress=(accept(STRANGERS), deny(name="shut"))))
    assert 'denied by policy no (ingress rule 2 "shut")' in found.splitlines()[0]


def test_what_did_not_match_is_told_in_short_when_it_is_much() -> None:
    rules = tuple(accept(STRANGERS, ports=(tcp(n),)) for n in range(1, 20))
    idle = [policy(f"p{i:02}", isolate=(), ingress=(accept(STRANGERS),)) for i in range(20)]
    many = policy("z", over=TO_API, ingress=(*rules, deny(name="last")))
    found = explained(many, *idle)
    assert "      - 19 rules do not match; --all shows them" in found
    assert '      * 20 "last" Deny from anyone on any port: matches' in found
    assert "    14 more policies do not match; --all shows them" in found
    world = World.of((NET, FRONT, API, many, *idle))
    verdict = evaluate(world, flow(world, "10.0.0.1", "10.0.0.2"))
    assert "--all" not in text(world, verdict, whole=True)


def test_what_is_staged_is_told_and_how_to_enforce_it() -> None:
    found = explained(policy("soon", over=TO_API, staged=True, ingress=(deny(),)))
    assert "policy soon (priority 500, staged: counts, decides nothing)" in found
    assert "ingress would be denied if what is staged were enforced:" in found
    assert "  plait policy enforce soon" in found


def test_the_network_is_told_before_policies() -> None:
    world = World.of((NET, FRONT, endpoint("x/alien", "10.1.0.1", network="other")))
    verdict = evaluate(world, flow(world, "10.0.0.1", "10.1.0.1"))
    assert answer(verdict).startswith("denied by the network: shop/front is on network net")
    assert "DENIED: shop/front is on network net and x/alien on other" in text(world, verdict)


def test_an_address_that_a_name_may_stand_for_depends_on_it() -> None:
    named = policy(
        "names", over=labelled(app="front"), egress=(accept(Peer(domains=("a.b", "*.c"))),)
    )
    found = explained(named, dst="203.0.113.9")
    assert "denied, unless 203.0.113.9 is an address of a.b or *.c" in found.splitlines()[0]
    assert "allowed if the address is one of *.c: ask with the name instead" in found


def test_a_policy_to_apply_is_printed_as_one_command() -> None:
    found = explained(policy("base", tier="baseline", ingress=(deny(),)))
    line = next(x.strip() for x in found.splitlines() if x.strip().startswith("echo"))
    manifest = line.removeprefix("echo '").removesuffix("' | plait apply -f -")
    assert json.loads(manifest)["kind"] == "Policy"


def test_the_answer_as_data_is_json() -> None:
    world = World.of((NET, FRONT, API, policy("p", over=TO_API, ingress=(accept(STRANGERS),))))
    data = as_data(world, evaluate(world, flow(world, "10.0.0.1", "10.0.0.2")))
    back = json.loads(msgspec.json.encode(data))
    assert back["allowed"] is False
    assert back["network"]["allowed"] is True
    assert back["egress"]["decided"] == "default"
    ingress = back["ingress"]
    assert (ingress["decided"], ingress["policy"], ingress["tier"], ingress["index"]) == (
        "isolation",
        "p",
        "application",
        -1,
    )
    (tier,) = ingress["tiers"]
    assert tier["outcome"] == "isolated"
    assert tier["policies"][0]["rules"][0]["matches"] is False
    assert back["change"][0]["command"].startswith("plait allow shop/api")


@settings(max_examples=40)
@given(scenes(), st.data())
def test_there_is_an_answer_for_whoever_talks_to_whomever(
    objects: list[AnyObject], data: st.DataObject
) -> None:
    world = World.of(objects)
    addresses = [*world.at, *OUTSIDE, *UNKNOWN, "169.254.1.1", "192.0.2.1"]
    src, dst = data.draw(st.sampled_from(addresses)), data.draw(st.sampled_from(addresses))
    port = parse_asked(data.draw(st.sampled_from(["80/tcp", "53/udp", "icmp", "9/sctp"])))
    for asked in port.flows(world, world.party(src), world.party(dst)):
        verdict = evaluate(world, asked)
        found = as_data(world, verdict)
        assert json.loads(msgspec.json.encode(found))["allowed"] is verdict.allowed
        assert text(world, verdict, whole=True).splitlines()[0] == headline(verdict)
        assert answer(verdict).startswith("allowed" if verdict.allowed else "denied")


def test_a_headline_is_one_line() -> None:
    world = World.of((NET, FRONT, API))
    assert headline(evaluate(world, flow(world, "10.0.0.1", "10.0.0.2"))) == (
        "shop/front (10.0.0.1) -> shop/api (10.0.0.2) 80/tcp: allowed"
    )
