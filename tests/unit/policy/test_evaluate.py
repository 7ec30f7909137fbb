"""The finer points of what decides about a flow; the oracle has the rest."""

from __future__ import annotations

import pytest
from tests.support.worlds import (
    accept,
    deny,
    endpoint,
    flow,
    group,
    labelled,
    namespace,
    network,
    node,
    passing,
    policy,
    tcp,
    where,
)

from plait.model.policies import Peer, Port, Rule, ServiceRef, Subject
from plait.model.selectors import Selector
from plait.policy.evaluate import Verdict, evaluate
from plait.policy.flow import Flow
from plait.policy.world import Party, World

NET = network("net", "10.0.0.0/24", "fd00::/64")
FRONT = endpoint("shop/front", "10.0.0.1", "fd00::1", labels={"app": "front"})
API = endpoint(
    "shop/api",
    "10.0.0.2",
    "fd00::2",
    labels={"app": "api"},
    named=("http=8080/tcp", "dns=53/udp"),
    aliases=("backend",),
)
DB = endpoint("data/db", "10.0.0.3", labels={"app": "db"}, node="h2", named=("http=80/tcp",))
H1 = node("h1", "192.0.2.1/24", zone="a")
H2 = node("h2", "192.0.2.2/24", zone="b")
BASE = (NET, FRONT, API, DB, H1, H2)
ALL = Selector()
FRONTS = Peer(endpoints=labelled(app="front"))


def ask(objects: object, src: str, dst: str, port: int = 80, protocol: str = "TCP") -> Verdict:
    world = World.of((*BASE, *objects))  # type: ignore[misc]
    return evaluate(world, flow(world, src, dst, port, protocol))


def allowed(
    *policies: object, src: str = "10.0.0.1", dst: str = "10.0.0.2", port: int = 80
) -> bool:
    return ask(policies, src, dst, port).allowed


# Who is a peer


@pytest.mark.parametrize(
    ("peer", "front", "db"),
    [
        (Peer(endpoints=labelled(app="front")), True, False),
        (Peer(endpoints=where("app", "NotIn", "front")), False, True),
        (Peer(endpoints=where("tier", "NotIn", "front")), True, True),
        (Peer(endpoints=where("tier", "DoesNotExist")), True, True),
        (Peer(endpoints=where("tier", "Exists")), False, False),
        (Peer(endpoints=Selector()), True, True),
        (Peer(namespaces=Selector()), True, True),
        (Peer(namespaces=labelled(**{"kubernetes.io/metadata.name": "data"})), False, True),
        (Peer(namespaces=labelled(env="prod")), True, False),
        (Peer(namespaces=labelled(env="prod"), endpoints=labelled(app="db")), False, False),
        (Peer(endpoints=where("name.plait/db", "Exists")), False, True),
        (Peer(endpoints=labelled(**{"plait/node": "h2"})), False, True),
        (Peer(endpoints=labelled(**{"plait/network": "net"})), True, True),
        (Peer(network="net"), True, True),
        (Peer(network="other"), False, False),
        (Peer(service=ServiceRef(name="front", namespace="shop")), True, False),
        (Peer(service=ServiceRef(name="front", namespace="data")), False, False),
        (Peer(cidr="10.0.0.0/31"), True, False),
        (Peer(cidr="10.0.0.0/24", excepted=("10.0.0.1/32",)), False, True),
        (Peer(cidr="0.0.0.0/0"), True, True),
        (Peer(cidr="fd00::/64"), False, False),
        (Peer(group="dbs"), False, True),
        (Peer(group="low"), True, False),
        (Peer(nodes=Selector()), False, False),
    ],
)
def test_who_a_peer_is(peer: Peer, front: bool, db: bool) -> None:
    extra = (
        namespace("shop", env="prod"),
        group("dbs", endpoints=labelled(app="db")),
        group("low", "10.0.0.0/31"),
        policy("p", over=labelled(app="api"), ingress=(accept(peer),)),
    )
    assert allowed(*extra) is front
    assert allowed(*extra, src="10.0.0.3") is db


def test_an_exception_holds_for_its_own_peer_only() -> None:
    some = Peer(cidr="10.0.0.0/24", excepted=("10.0.0.1/32",))
    assert not allowed(policy("p", ingress=(accept(some),)))
    assert allowed(policy("p", ingress=(accept(some, FRONTS),)))


def test_nobody_makes_himself_a_peer_by_an_implicit_label() -> None:
    liar = endpoint("shop/liar", "10.0.0.9", labels={"name.plait/db": "", "plait/node": "h2"})
    rule = accept(Peer(endpoints=where("name.plait/db", "Exists")))
    here = accept(Peer(endpoints=labelled(**{"plait/node": "h2"})))
    assert not allowed(liar, policy("p", ingress=(rule, here)), src="10.0.0.9")


def test_an_alias_is_a_name() -> None:
    rule = accept(Peer(endpoints=where("name.plait/backend", "Exists")))
    only = policy("p", over=labelled(app="front"), egress=(rule,))
    assert allowed(only)
    assert not allowed(only, dst="10.0.0.3")


def test_a_namespace_without_an_object_has_its_name() -> None:
    peer = Peer(namespaces=where("kubernetes.io/metadata.name", "In", "shop"))
    assert allowed(policy("p", ingress=(accept(peer),)))


def test_a_namespace_cannot_say_another_name_of_itself() -> None:
    liar = namespace("shop", **{"kubernetes.io/metadata.name": "data"})
    peer = Peer(namespaces=labelled(**{"kubernetes.io/metadata.name": "data"}))
    assert not allowed(liar, policy("p", ingress=(accept(peer),)))


# Ports


@pytest.mark.parametrize(
    ("port", "number", "expected"),
    [
        (tcp(80), 80, True),
        (tcp(80), 81, False),
        (tcp(80, 90), 90, True),
        (tcp(80, 90), 91, False),
        (tcp(), 1, True),
        (Port(protocol="UDP"), 80, False),
        (tcp("http"), 8080, True),
        (tcp("http"), 80, False),
        (Port(port="http"), 8080, True),
        (Port(protocol="UDP", port="http"), 8080, False),
        (Port(port="dns"), 53, False),
        (tcp("none"), 80, False),
    ],
)
def test_which_ports_match(port: Port, number: int, expected: bool) -> None:
    only = policy("p", over=labelled(app="api"), ingress=(accept(ports=(port,)),))
    assert allowed(only, port=number) is expected


def test_a_named_port_is_another_one_for_each_destination() -> None:
    only = policy("p", over=labelled(app="front"), egress=(accept(ports=(tcp("http"),)),))
    assert allowed(only, port=8080)
    assert not allowed(only, port=80)
    assert allowed(only, dst="10.0.0.3", port=80)


@pytest.mark.parametrize(
    ("port", "protocol", "kind", "expected"),
    [
        (Port(protocol="ICMP"), "ICMP", 8, True),
        (Port(protocol="ICMP", icmp_type=8), "ICMP", 8, True),
        (Port(protocol="ICMP", icmp_type=8, icmp_code=1), "ICMP", 8, False),
        (Port(protocol="ICMP", icmp_type=3), "ICMP", 8, False),
        (Port(protocol="ICMPv6"), "ICMP", 8, False),
        (tcp(), "ICMP", 8, False),
    ],
)
def test_kinds_of_messages(port: Port, protocol: str, kind: int, expected: bool) -> None:
    world = World.of((*BASE, policy("p", ingress=(accept(ports=(port,)),))))
    asked = Flow(world.party("10.0.0.1"), world.party("10.0.0.2"), protocol, 0, kind, 0)
    assert evaluate(world, asked).allowed is expected


def test_a_rule_without_ports_is_of_every_protocol() -> None:
    only = policy("p", ingress=(accept(FRONTS),))
    assert ask((only,), "10.0.0.1", "10.0.0.2", 0, "GRE").allowed
    with_ports = policy("p", ingress=(accept(FRONTS, ports=(tcp(), Port(protocol="UDP"))),))
    assert not ask((with_ports,), "10.0.0.1", "10.0.0.2", 0, "GRE").allowed


# Order


def test_tiers_decide_in_order_and_pass_leaves_one() -> None:
    baseline = policy("base", tier="baseline", ingress=(deny(),))
    application = policy("app", over=labelled(app="api"), ingress=(accept(FRONTS),))
    admin = policy("top", tier="admin", ingress=(deny(FRONTS),))
    assert not allowed(baseline)
    assert allowed(baseline, application)
    assert not allowed(baseline, application, admin)
    skip = policy("skip", tier="admin", priority=1, ingress=(passing(FRONTS),))
    assert allowed(baseline, application, admin, skip)


def test_pass_leaves_a_tier_that_isolates() -> None:
    closed = policy("closed", isolate=("ingress",), priority=900)
    skip = policy("skip", isolate=(), ingress=(passing(FRONTS),))
    assert not allowed(closed)
    assert allowed(closed, skip)
    assert not allowed(closed, skip, policy("base", tier="baseline", ingress=(deny(),)))


def test_lower_priority_decides_first_then_the_name() -> None:
    yes = {"ingress": (accept(),)}
    no = {"ingress": (deny(),)}
    assert allowed(policy("b", priority=1, **yes), policy("a", priority=2, **no))
    assert not allowed(policy("b", priority=2, **yes), policy("a", priority=1, **no))
    assert allowed(policy("a", **yes), policy("b", **no))
    assert not allowed(policy("b", **yes), policy("a", **no))


def test_only_the_application_tier_isolates() -> None:
    for tier, closed in (("admin", False), ("application", True), ("baseline", False)):
        only = policy("p", tier=tier, ingress=(accept(Peer(cidr="198.51.100.0/24")),))
        assert allowed(only) is not closed, tier


def test_what_isolates_without_saying_so() -> None:
    assert allowed(policy("p", ingress=(deny(Peer(cidr="198.51.100.0/24")),)))
    assert not allowed(policy("p", ingress=(accept(Peer(cidr="198.51.100.0/24")),)))
    assert allowed(policy("p", isolate=(), ingress=(accept(Peer(cidr="198.51.100.0/24")),)))
    assert allowed(policy("p", egress=(accept(),)))


def test_a_subject_needs_both_of_its_selectors() -> None:
    spaces = labelled(**{"kubernetes.io/metadata.name": "shop"})
    subject = Subject(namespaces=spaces, endpoints=labelled(app="api"))
    only = policy("p", over=subject, ingress=(deny(),))
    assert not allowed(only)
    assert allowed(only, src="10.0.0.2", dst="10.0.0.1")
    assert allowed(only, dst="10.0.0.3")


# Staged policies, and rules that nobody understands


def test_a_staged_policy_only_has_an_opinion() -> None:
    verdict = ask(
        (policy("p", over=labelled(app="api"), staged=True, ingress=(deny(),)),),
        "10.0.0.1",
        "10.0.0.2",
    )
    assert verdict.allowed
    assert verdict.ingress.staged is False
    assert verdict.egress.staged is None


def test_staged_isolation_is_told_too() -> None:
    verdict = ask((policy("p", staged=True, isolate=("ingress",)),), "10.0.0.1", "10.0.0.2")
    assert verdict.allowed
    assert verdict.ingress.staged is False
    assert verdict.egress.staged is None


@pytest.mark.parametrize(
    "bad",
    [
        {"peers": (Peer(),)},
        {"peers": ()},
        {"ports": ()},
        {"peers": (Peer(group="nobody's"),)},
        {"peers": (Peer(cidr="10.0.0.0/33"),)},
        {"peers": (Peer(cidr="10.0.0.1/24"),)},
        {"peers": (Peer(cidr="10.0.0.0/24", network="net"),)},
        {"peers": (Peer(endpoints=where("a", "In")),)},
        {"peers": (Peer(endpoints=where("a", "Exists", "b")),)},
        {"peers": (Peer(domains=("example.com",)),)},
        {"peers": (Peer(endpoints=ALL), Peer(network="net", excepted=("10.0.0.0/25",)))},
        {"ports": (Port(protocol="TCP", port=70000),)},
        {"ports": (Port(protocol="TCP", port=90, end_port=80),)},
        {"ports": (Port(protocol="TCP", port="http", end_port=80),)},
        {"ports": (Port(protocol="TCP", end_port=80),)},
        {"ports": (Port(port=80),)},
        {"ports": (Port(protocol="ICMP", port=80),)},
        {"ports": (Port(protocol="ICMP", icmp_code=0),)},
        {"ports": (Port(protocol="ICMP", icmp_type=256),)},
        {"ports": (Port(protocol="TCP", icmp_type=8),)},
    ],
)
def test_a_rule_that_cannot_be_understood_never_opens_anything(bad: dict[str, object]) -> None:
    def rule(action: str) -> Rule:
        return Rule(action=action, **bad)  # type: ignore[arg-type]

    for action in ("Accept", "Pass"):
        assert not allowed(policy("p", isolate=("ingress",), ingress=(rule(action),))), action
    assert not allowed(policy("p", isolate=(), ingress=(rule("Deny"),)))
    # Nothing else is affected: neither the rest of its policy nor another one.
    assert allowed(policy("p", isolate=(), ingress=(rule("Accept"), accept(FRONTS))))


# Names outside

NAMED = policy(
    "names",
    over=labelled(app="front"),
    egress=(accept(Peer(domains=("example.com", "*.example.org")), ports=(tcp(443),)),),
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("example.com", True),
        ("EXAMPLE.com.", True),
        ("www.example.com", False),
        ("a.b.example.org", True),
        ("example.org", False),
        ("badexample.org", False),
    ],
)
def test_a_receiver_may_be_a_name(name: str, expected: bool) -> None:
    world = World.of((*BASE, NAMED))
    asked = Flow(world.party("10.0.0.1"), Party("", domain=name), "TCP", 443)
    assert evaluate(world, asked).allowed is expected


def test_what_an_address_stands_for_is_asked_or_left_open() -> None:
    world = World.of((*BASE, NAMED))
    asked = flow(world, "10.0.0.1", "203.0.113.9", 443)
    unknown = evaluate(world, asked)
    assert not unknown.allowed
    assert unknown.depends == ("example.com", "*.example.org")
    assert evaluate(world, asked, lambda _names, _address: True).allowed
    known = evaluate(world, asked, lambda _names, _address: False)
    assert not known.allowed
    assert known.depends == ()
    assert evaluate(world, flow(world, "10.0.0.1", "203.0.113.9", 80)).depends == ()
    assert evaluate(world, flow(world, "10.0.0.1", "10.0.0.2", 443)).depends == ()


# An address of ours that is nobody's


def test_an_unknown_address_of_ours_is_refused_where_it_could_matter() -> None:
    naming = policy("p", over=labelled(app="api"), ingress=(deny(FRONTS),))
    by_address = policy("p", over=labelled(app="api"), ingress=(deny(Peer(cidr="10.0.0.9/32")),))
    assert ask((naming,), "10.0.0.77", "10.0.0.2").ingress.decided == "guard"
    assert ask((by_address,), "10.0.0.77", "10.0.0.2").allowed
    accepting = policy("p", over=labelled(app="api"), isolate=(), ingress=(accept(FRONTS),))
    assert ask((accepting,), "10.0.0.77", "10.0.0.2").allowed


def test_two_endpoints_of_one_address_are_both_meant() -> None:
    twin = endpoint("shop/twin", "10.0.0.1", labels={"app": "twin"})
    only = policy("p", over=labelled(app="api"), ingress=(accept(FRONTS),))
    assert allowed(twin, only)


def test_a_denial_may_answer() -> None:
    verdict = ask((policy("p", ingress=(deny(reject=True),)),), "10.0.0.1", "10.0.0.2")
    assert verdict.ingress.reject
    assert not verdict.egress.reject
