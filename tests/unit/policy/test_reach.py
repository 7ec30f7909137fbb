"""What the networks allow, before and beside policies: own network, outside, hosts, ports."""

from __future__ import annotations

import msgspec
import pytest
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

from plait.model.objects import Workload
from plait.model.policies import Peer
from plait.model.selectors import Selector
from plait.policy.evaluate import Verdict, evaluate
from plait.policy.flow import Flow
from plait.policy.world import Party, World

BASE = (
    network("net", "10.0.0.0/24", "fd00::/64"),
    network("other", "10.0.1.0/24"),
    network("inner", "10.0.2.0/24", internal=True),
    endpoint("web", "10.0.0.1", "fd00::1", published=((8080, 80),)),
    endpoint("far", "10.0.0.2", node="h2", published=((9090, 90),)),
    endpoint("alien", "10.0.1.1", network="other", published=((7070, 70),)),
    endpoint("secret", "10.0.2.1", network="inner", published=((6060, 60),)),
    endpoint("friend", "10.0.2.2", network="inner"),
    node("h1", "192.0.2.1/24", "2001:db8::1/64"),
    node("h2", "192.0.2.2/24"),
)
WEB, FAR, ALIEN, SECRET, FRIEND = "10.0.0.1", "10.0.0.2", "10.0.1.1", "10.0.2.1", "10.0.2.2"
H1, H2, GATEWAY, OUTSIDE = "192.0.2.1", "192.0.2.2", "169.254.1.1", "203.0.113.9"
POD = Workload(runtime="cni", pod="uid")
NODES = Peer(nodes=Selector())


def ask(
    src: str, dst: str, port: int = 80, protocol: str = "TCP", policies: tuple[object, ...] = ()
) -> Verdict:
    world = World.of((*BASE, *policies))
    return evaluate(world, flow(world, src, dst, port, protocol))


@pytest.mark.parametrize(
    ("src", "dst", "kind", "allowed"),
    [
        (WEB, FAR, "own network", True),
        (WEB, "10.0.0.200", "own network", True),
        ("10.0.0.200", WEB, "own network", True),
        (WEB, WEB, "itself", True),
        (WEB, OUTSIDE, "outside", True),
        (WEB, ALIEN, "another network", False),
        (ALIEN, WEB, "another network", False),
        (WEB, "10.0.1.200", "another network", False),
        ("10.0.1.200", WEB, "another network", False),
        (WEB, SECRET, "another network", False),
        (SECRET, FRIEND, "own network", True),
        (SECRET, OUTSIDE, "internal", False),
        (SECRET, "10.0.1.200", "internal", False),
        (OUTSIDE, SECRET, "internal", False),
        (OUTSIDE, WEB, "from outside", False),
        (H2, WEB, "other host", True),
        (H2, SECRET, "internal", False),
        (H1, WEB, "own host", True),
        (GATEWAY, WEB, "own host", True),
        (WEB, H1, "to host", False),
        (WEB, GATEWAY, "to host", False),
        (WEB, H2, "outside", True),
        (WEB, "fd00::1", "no common family", False),
        (H1, OUTSIDE, "not ours", True),
    ],
)
def test_who_reaches_whom_without_a_policy(src: str, dst: str, kind: str, allowed: bool) -> None:
    verdict = ask(src, dst)
    assert verdict.way.kind == kind
    assert verdict.allowed is allowed
    assert verdict.way.text


def test_a_pod_may_call_its_own_host_unless_a_policy_denies_it() -> None:
    out, inner = (
        msgspec.structs.replace(found, spec=msgspec.structs.replace(found.spec, workload=POD))
        for found in (endpoint("pod", "10.0.0.3"), endpoint("in", "10.0.2.3", network="inner"))
    )
    assert ask("10.0.0.3", H1, policies=(out,)).allowed
    assert not ask("10.0.2.3", H1, policies=(inner,)).allowed
    closed = policy("closed", egress=(deny(NODES),))
    verdict = ask("10.0.0.3", H1, policies=(out, closed))
    assert (verdict.way.kind, verdict.allowed) == ("to host", False)


# Published ports


@pytest.mark.parametrize(
    ("src", "dst", "port", "kind", "allowed"),
    [
        (OUTSIDE, H1, 8080, "published", True),
        (OUTSIDE, H1, 8081, "not ours", True),
        (OUTSIDE, H2, 8080, "not ours", True),
        (ALIEN, H1, 8080, "published", True),
        (ALIEN, H2, 9090, "published", True),
        (H2, H1, 8080, "published", True),
        (H1, H1, 8080, "itself", True),
        (SECRET, H1, 8080, "internal", False),
        (SECRET, H2, 9090, "internal", False),
        (ALIEN, GATEWAY, 8080, "published", True),
        (FRIEND, H1, 6060, "to host", False),
        (OUTSIDE, H1, 6060, "not ours", True),
    ],
)
def test_published_ports_are_followed(
    src: str, dst: str, port: int, kind: str, allowed: bool
) -> None:
    verdict = ask(src, dst, port)
    assert (verdict.way.kind, verdict.allowed) == (kind, allowed)


def test_a_published_port_is_of_one_protocol() -> None:
    assert ask(OUTSIDE, H1, 8080, "UDP").way.kind == "not ours"


def test_the_receiver_rules_what_comes_by_its_published_port() -> None:
    closed = policy("p", over=labelled(**{"plait/network": "net"}), isolate=("ingress",))
    assert not ask(OUTSIDE, H1, 8080, policies=(closed,)).allowed
    opened = policy("q", ingress=(accept(Peer(cidr=f"{OUTSIDE}/32"), ports=(tcp(80),)),))
    assert ask(OUTSIDE, H1, 8080, policies=(closed, opened)).allowed
    assert not ask("203.0.113.10", H1, 8080, policies=(closed, opened)).allowed


def test_the_sender_on_the_same_host_is_asked_about_the_endpoint_behind_the_port() -> None:
    # Its host puts the receiver in before its filter sees the packet.
    no_web = policy(
        "p", over=labelled(**{"plait/network": "other"}), egress=(deny(Peer(network="net")),)
    )
    assert not ask(ALIEN, H1, 8080, policies=(no_web,)).allowed


def test_the_sender_on_another_host_is_asked_about_the_host() -> None:
    no_far = policy(
        "p", over=labelled(**{"plait/network": "other"}), egress=(deny(Peer(network="net")),)
    )
    no_hosts = policy("p", over=labelled(**{"plait/network": "other"}), egress=(deny(NODES),))
    assert ask(ALIEN, H2, 9090, policies=(no_far,)).allowed
    assert not ask(ALIEN, H2, 9090, policies=(no_hosts,)).allowed


def test_the_receiver_sees_the_host_of_a_sender_elsewhere() -> None:
    only_hosts = policy("p", over=labelled(**{"plait/node": "h2"}), ingress=(accept(NODES),))
    verdict = ask(ALIEN, H2, 9090, policies=(only_hosts,))
    assert verdict.ingress.flow.src.address == H1
    assert verdict.allowed


# Hosts


def test_a_host_reaches_its_own_endpoints_whatever_policies_say() -> None:
    closed = policy("p", ingress=(deny(),))
    assert ask(H1, WEB, policies=(closed,)).allowed
    assert not ask(FAR, WEB, policies=(closed,)).allowed


@pytest.mark.parametrize(
    ("policies", "port", "protocol", "allowed"),
    [
        ((), 80, "TCP", False),
        ((), 53, "UDP", True),
        ((), 53, "TCP", True),
        ((policy("p", egress=(deny(),)),), 53, "UDP", True),
        ((policy("p", egress=(accept(NODES),)),), 80, "TCP", True),
        ((policy("p", egress=(accept(NODES, ports=(tcp(81),)),)),), 80, "TCP", False),
        ((policy("p", tier="baseline", egress=(accept(),)),), 80, "TCP", True),
        ((policy("p", ingress=(accept(),)),), 80, "TCP", False),
    ],
)
def test_what_an_endpoint_reaches_of_its_host(
    policies: tuple[object, ...], port: int, protocol: str, allowed: bool
) -> None:
    assert ask(WEB, H1, port, protocol, policies).allowed is allowed


@pytest.mark.parametrize(
    ("policies", "kind", "allowed"),
    [
        ((), 8, True),
        ((), 13, False),
        ((policy("p", egress=(deny(NODES),)),), 8, False),
        ((policy("p", isolate=("egress",)),), 8, False),
    ],
)
def test_an_endpoint_may_ping_its_host(
    policies: tuple[object, ...], kind: int, allowed: bool
) -> None:
    world = World.of((*BASE, *policies))
    asked = Flow(world.party(WEB), world.party(H1), "ICMP", 0, kind, 0)
    assert evaluate(world, asked).allowed is allowed


def test_neighbour_discovery_always_reaches_the_host() -> None:
    world = World.of((*BASE, policy("p", egress=(deny(),))))
    asked = Flow(world.party("fd00::1"), world.party("fe80::1"), "ICMPv6", 0, 135, 0)
    assert evaluate(world, asked).allowed


def test_the_resolver_asks_another_one_for_a_client_only_where_policies_let_the_client() -> None:
    assert ask(WEB, OUTSIDE, 53, "UDP").way.kind == "resolver"
    assert ask(WEB, OUTSIDE, 53, "UDP").allowed
    closed = policy("p", isolate=("egress",))
    assert not ask(WEB, OUTSIDE, 53, "UDP", (closed,)).allowed
    # An endpoint that serves DNS is asked itself.
    assert not ask(WEB, FAR, 53, "UDP", (closed,)).allowed


# From manifests alone


def test_without_networks_policies_alone_decide_about_hosts_and_the_outside() -> None:
    pod, host = endpoint("pod", "10.9.0.1", network="plait"), node("h1", f"{H1}/24")
    for closed in (False, True):
        rules = policy("p", isolate=("ingress", "egress") if closed else ())
        world = World.of((pod, host, rules))
        for src, dst in (("10.9.0.1", H1), ("10.9.0.1", OUTSIDE), (OUTSIDE, "10.9.0.1")):
            for port in (53, 80):
                assert evaluate(world, flow(world, src, dst, port)).allowed is not closed
        assert evaluate(world, flow(world, H1, "10.9.0.1")).allowed


def test_a_name_outside_is_outside() -> None:
    world = World.of(BASE)
    asked = Flow(world.party(WEB), Party("", domain="example.com"), "TCP", 443)
    assert evaluate(world, asked).way.kind == "outside"
    inner = Flow(world.party(SECRET), Party("", domain="example.com"), "TCP", 443)
    assert evaluate(world, inner).way.kind == "internal"


def test_what_is_no_address_is_nobodys() -> None:
    world = World.of((endpoint("odd", "not an address", "10.0.0.7"), *BASE))
    assert world.party("10.0.0.7").endpoint is not None
    with pytest.raises(ValueError, match="not an address"):
        world.party("not an address")
