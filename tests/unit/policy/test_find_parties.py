"""Who is meant by what people type."""

from __future__ import annotations

import pytest
from tests.support.worlds import endpoint, labelled, namespace, node

from plait.model.errors import PlaitError
from plait.model.meta import Metadata
from plait.model.objects import Cluster, ClusterSpec
from plait.model.policies import Group, GroupSpec
from plait.policy.find_parties import find, meetings
from plait.policy.world import World

WORLD = World.of(
    (
        endpoint("shop/web", "10.0.0.1", "fd00::1", ident="web-1", labels={"app": "web"}),
        endpoint("shop/web", "10.0.0.2", ident="web-2", labels={"app": "web"}),
        endpoint("shop/db", "10.0.0.3", ident="db-1", aliases=("store",)),
        endpoint("ops/db", "10.0.0.4", ident="db-2", network="other"),
        endpoint("ops/waiting", ident="w"),
        node("h1", "192.0.2.1/24"),
        node("h2"),
        namespace("empty"),
        Group(metadata=Metadata(name="webs"), spec=GroupSpec(endpoints=labelled(app="web"))),
    )
)


@pytest.mark.parametrize("text", ["no.shop.plait.local", "no.shop.svc", "shop.svc.cluster.local"])
def test_names_below_a_domain_of_ours_are_nobody_elses(text: str) -> None:
    with pytest.raises(PlaitError, match=f"nobody is called `{text}`"):
        find(WORLD, text)


def test_the_domains_are_those_of_the_cluster() -> None:
    spec = ClusterSpec(domain="net.example", kubernetes_domain="kube.example")
    cluster = Cluster(metadata=Metadata(name="plait"), spec=spec)
    world = World.of((cluster, endpoint("shop/db", "10.0.0.3")))
    for text in ("db.shop.net.example", "db.shop.svc.kube.example"):
        assert [who.text for who in find(world, text)] == ["shop/db"]
    assert [who.text for who in find(world, "db.shop.plait.local")] == [
        "domain:db.shop.plait.local"
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("shop/web", ["shop/web@10.0.0.1", "shop/web@10.0.0.2"]),
        ("web", ["shop/web@10.0.0.1", "shop/web@10.0.0.2"]),
        ("shop/web@10.0.0.2", ["shop/web@10.0.0.2"]),
        ("web-2", ["shop/web@10.0.0.2"]),
        ("shop/web-2", ["shop/web@10.0.0.2"]),
        ("shop/db", ["shop/db"]),
        ("store", ["shop/db"]),
        ("app=web", ["shop/web@10.0.0.1", "shop/web@10.0.0.2"]),
        ("ns:ops", ["ops/db"]),
        ("network:other", ["ops/db"]),
        ("group:webs", ["shop/web@10.0.0.1", "shop/web@10.0.0.2"]),
        ("10.0.0.3", ["shop/db"]),
        ("FD00::0001", ["shop/web@10.0.0.1"]),
        ("192.0.2.1", ["node:h1"]),
        ("h1", ["node:h1"]),
        ("node:h1", ["node:h1"]),
        ("198.51.100.1", ["198.51.100.1"]),
        ("example.com", ["domain:example.com"]),
        ("db.shop", ["shop/db"]),
        ("store.shop", ["shop/db"]),
        ("db.ops.plait.local", ["ops/db"]),
        ("db.shop.svc.cluster.local", ["shop/db"]),
        ("db.any.shop.svc", ["shop/db"]),
        ("db.shop.example.com", ["domain:db.shop.example.com"]),
        ("domain:localhost", ["domain:localhost"]),
        ("world", ["203.0.113.1", "2001:db8::1"]),
        (
            "anyone",
            ["ops/db", "shop/db", "shop/web@10.0.0.1", "shop/web@10.0.0.2"],
        ),
    ],
)
def test_who_is_meant(text: str, found: list[str]) -> None:
    assert [who.text for who in find(WORLD, text)] == found


def test_what_is_found_is_found_again_by_its_text() -> None:
    for text in ("anyone", "world", "h1", "example.com", "198.51.100.1"):
        for who in find(WORLD, text):
            (again,) = find(WORLD, who.text)
            assert again.parties[0] == who.parties[0]


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("db", "PLAIT-API-004", "in 2 namespaces"),
        ("nobody", "PLAIT-API-004", "nobody is called"),
        ("shop/wbe", "PLAIT-API-004", "nobody is called"),
        ("shop/web@10.0.0.9", "PLAIT-API-004", "nobody is called"),
        ("shop/db@10.0.0.1", "PLAIT-API-004", "nobody is called"),
        ("ns:empty", "PLAIT-API-004", "nobody is called"),
        ("node:h3", "PLAIT-API-004", "nobody is called"),
        ("node:h2", "PLAIT-API-004", "has no address"),
        ("ops/waiting", "PLAIT-API-004", "has no address yet"),
        ("10.0.0.0/24", "PLAIT-CLI-001", "many addresses"),
        ("*.example.com", "PLAIT-CLI-001", "many names"),
        ("a b", "PLAIT-CLI-001", "names nobody"),
        ("", "PLAIT-CLI-001", "names nobody"),
    ],
)
def test_who_is_not(text: str, code: str, words: str) -> None:
    with pytest.raises(PlaitError) as caught:
        find(WORLD, text)
    assert caught.value.code == code
    assert words in caught.value.detail


def test_a_mistake_names_the_nearest() -> None:
    with pytest.raises(PlaitError) as caught:
        find(WORLD, "shop/wbe")
    assert caught.value.fix[0] == "write shop/web"


def test_a_namespace_of_names_may_be_said() -> None:
    assert [who.text for who in find(WORLD, "db", "ops")] == ["ops/db"]


def test_parties_meet_in_every_family_that_both_have() -> None:
    one, other = find(WORLD, "shop/web")
    assert [a.address for a, _ in meetings(one, one)] == ["10.0.0.1", "fd00::1"]
    assert [(a.address, b.address) for a, b in meetings(one, other)] == [("10.0.0.1", "10.0.0.2")]
    (v4,) = find(WORLD, "shop/db")
    (v6,) = find(WORLD, "2001:db8::9")
    assert len(meetings(v4, v6)) == 1
    (name,) = find(WORLD, "example.com")
    assert len(meetings(one, name)) == 2
