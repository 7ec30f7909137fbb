"""Expectations of policies: what holds, what does not, and how CI is told."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from tests.support.worlds import accept, endpoint, labelled, network, policy, tcp

from plait.model.policies import Origin, Peer
from plait.policy.expectations import Case, Result, junit, run
from plait.policy.world import World

WORLD = World.of(
    (
        network("net", "10.0.0.0/24", "fd00::/64"),
        network("other", "10.0.1.0/24"),
        endpoint("shop/front", "10.0.0.1", "fd00::1", labels={"app": "front"}),
        endpoint("shop/api", "10.0.0.2", "fd00::2", labels={"app": "api"}, named=("http=80/tcp",)),
        endpoint("ops/admin", "10.0.0.3"),
        endpoint("ops/alien", "10.0.1.1", network="other"),
        policy(
            "knp.shop.api",
            over=labelled(app="api"),
            origin=Origin(kind="NetworkPolicy", namespace="shop", name="api"),
            ingress=(accept(Peer(endpoints=labelled(app="front")), ports=(tcp("http"),)),),
        ),
    )
)


def held(src: Any, dst: Any, port: Any, expect: Any, **more: Any) -> Result:
    case = Case(senders=src, receivers=dst, port=port, expect=expect, **more)
    return run(WORLD, case, "f.yaml:3", "shop")


@pytest.mark.parametrize(
    ("src", "dst", "port", "expect", "by"),
    [
        ("front", "api", 80, "allow", ""),
        ("front", "api", "http", "allow", "knp.shop.api"),
        ("front", "api", "80/tcp", "allow", "shop/api"),
        ("front", "api", 81, "deny", "shop/api"),
        (("ops/admin", "world"), "api", "http", "deny", ""),
        ("ops/admin", ("front", "api"), 81, "deny", ""),
        ("api", "front", 80, "allow", "none"),
        ("ops/alien", "api", 80, "deny", "network"),
        ("ns:shop", "front", "icmp", "allow", ""),
        ("api", "example.com", 443, "allow", ""),
    ],
)
def test_an_expectation_holds_or_not(src: Any, dst: Any, port: Any, expect: str, by: str) -> None:
    wrong = isinstance(dst, tuple)
    assert held(src, dst, port, expect, by=by).passed is not wrong
    other = "deny" if expect == "allow" else "allow"
    assert not held(src, dst, port, other).passed


def test_what_is_wrong_is_told_flow_by_flow() -> None:
    result = held("ops/admin", "api", "http", "allow")
    assert result.wrong == (
        "ops/admin (10.0.0.3) -> shop/api (10.0.0.2) 80/tcp: "
        "denied by policy knp.shop.api, which closes ingress (shop/api)",
    )
    result = held("front", "api", "http", "allow", by="other")
    assert "decided by knp.shop.api, not other" in result.wrong[0]
    assert result.asked == 2


@pytest.mark.parametrize(
    ("src", "dst", "port", "words"),
    [
        ("nobody", "api", 80, "nobody is called `nobody`"),
        ("front", "api", 0, "is no port"),
        ("front", "api", None, "it names no port"),
        ("api", "front", "http", "no receiver has such a port"),
    ],
)
def test_what_cannot_be_asked_does_not_hold(src: str, dst: str, port: Any, words: str) -> None:
    result = held(src, dst, port, "deny")
    assert not result.passed
    assert words in result.error


def test_a_case_without_a_name_says_what_it_expects() -> None:
    case = Case(senders=("a", "b"), receivers="c", ports=("http", 80), expect="deny")
    assert case.title == "a, b does not reach c by http, 80"


def test_junit_tells_failures_and_errors() -> None:
    results = [
        held("front", "api", 80, "allow", name="good"),
        held("front", "api", 80, "deny", name='bad <"&\x07'),
        held("nobody", "api", 80, "deny", name="odd"),
    ]
    top = ElementTree.fromstring(junit("f.yaml", results))
    (suite,) = top
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
    good, bad, odd = suite
    assert len(good) == 0
    assert (good.get("file"), good.get("line")) == ("f.yaml", "3")
    assert bad.get("name") == 'bad <"&?'
    assert bad[0].tag == "failure"
    assert "shop/front" in (bad[0].text or "")
    assert odd[0].tag == "error"
