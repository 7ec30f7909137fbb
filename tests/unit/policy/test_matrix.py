"""Who may reach whom: groups answer as pairs would, and the answer is told row by row."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.policies import scenes
from tests.support.worlds import accept, endpoint, labelled, policy, tcp

from plait.model.objects import AnyObject
from plait.model.policies import Peer, Port
from plait.policy.matrix import Cell, matrix, ports_named, reaches
from plait.policy.questions import parse_asked
from plait.policy.world import World

FRONT = endpoint("shop/front", "10.0.0.1", "fd00::1", labels={"app": "front"})
API = endpoint("shop/api", "10.0.0.2", "fd00::2", labels={"app": "api"}, named=("http=8080/tcp",))
DB = endpoint("data/db", "10.0.0.3", labels={"app": "db"})
ONLY_FRONT = policy(
    "api",
    over=labelled(app="api"),
    ingress=(accept(Peer(endpoints=labelled(app="front")), ports=(tcp("http"),)),),
)


def cells(*objects: AnyObject, ports: tuple[str, ...] = ("8080/tcp",)) -> list[Cell]:
    return list(matrix(World.of(objects), [parse_asked(p) for p in ports]).cells())


def test_a_row_for_each_pair_and_port() -> None:
    found = cells(FRONT, API, DB, ONLY_FRONT, ports=("8080/tcp", "http"))
    assert len(found) == 3 * 2 * 2
    assert [(c.src, c.dst) for c in found if c.port == "http" and c.allowed] == [
        ("shop/front", "shop/api")
    ]
    assert {(c.src, c.dst) for c in found if c.port == "8080/tcp" and not c.allowed} == {
        ("data/db", "shop/api")
    }


def test_what_cannot_be_asked_says_why() -> None:
    (row,) = [c for c in cells(FRONT, API, ports=("http",)) if c.dst == "shop/front"]
    assert (row.allowed, row.why) == (False, "the receiver has no port named http")
    six = endpoint("shop/six", "fd00::6")
    (row,) = [c for c in cells(DB, six) if c.src == "data/db"]
    assert (row.allowed, row.why) == (False, "no address family in common")


def test_families_that_differ_are_told() -> None:
    four = policy("four", ingress=(accept(Peer(cidr="10.0.0.0/8")),))
    (row,) = [c for c in cells(FRONT, API, four) if c.src == "shop/front"]
    assert (row.allowed, row.why) == (False, "IPv4 allowed but IPv6 denied")


def test_endpoints_of_one_name_are_told_apart() -> None:
    twins = [endpoint("shop/web", f"10.0.0.{i}", ident=f"web-{i}") for i in (1, 2)]
    assert [(c.src, c.dst) for c in cells(*twins)] == [
        ("shop/web@10.0.0.1", "shop/web@10.0.0.2"),
        ("shop/web@10.0.0.2", "shop/web@10.0.0.1"),
    ]


def test_one_namespace_is_asked_with_the_policies_of_all() -> None:
    world = World.of((FRONT, API, DB, ONLY_FRONT))
    found = matrix(world, [parse_asked("http")], ["shop"])
    assert found.endpoints == ("shop/api", "shop/front")
    assert found.allowed(1, 0, 0)


def test_endpoints_that_no_policy_tells_apart_are_asked_once() -> None:
    many = [
        endpoint(
            f"shop/web{i}", f"10.1.{i // 250}.{i % 250}", ident=f"web{i}", labels={"n": str(i)}
        )
        for i in range(500)
    ]
    found = matrix(World.of((*many, API, ONLY_FRONT)), [parse_asked("8080")])
    assert len(found.answers) == 3
    assert not found.allowed(1, 0, 0)
    assert found.allowed(1, 2, 0)


@settings(max_examples=40)
@given(scenes(), st.sampled_from(["80/tcp", "http", "53/udp", "icmp"]))
def test_groups_answer_as_every_pair_would(objects: list[AnyObject], port: str) -> None:
    world = World.of(objects)
    asked = parse_asked(port)
    found = matrix(world, [asked])
    for i, src in enumerate(world.endpoints):
        for j, dst in enumerate(world.endpoints):
            if i != j:
                assert found.allowed(i, j, 0) == reaches(world, src, dst, asked)[0]


def test_the_ports_that_policies_name() -> None:
    ports = (tcp(443), Port(protocol="UDP", port=53), Port(port="http"), tcp(), tcp(80, 90))
    world = World.of((policy("p", ingress=(accept(ports=ports),)),))
    assert [p.text for p in ports_named(world)] == ["53/udp", "80/tcp", "443/tcp", "http"]
    assert [p.text for p in ports_named(World.of(()))] == ["80/tcp"]
