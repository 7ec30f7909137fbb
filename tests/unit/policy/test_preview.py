"""What a change of policies changes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.model.objects import (
    AnyObject,
    Endpoint,
    EndpointSpec,
    Group,
    Metadata,
    NamedPort,
    Network,
    NetworkSpec,
    Node,
    NodeSpec,
    PublishedPort,
)
from plait.model.policies import GroupSpec, Policy
from plait.policy.flow import Flow
from plait.policy.matrix import reaches
from plait.policy.portspec import parse_port
from plait.policy.preview import Change, flow_changes, preview
from plait.policy.questions import parse_asked, ports_asked
from plait.policy.reference import parse
from plait.policy.verbs import isolate_policy, rule_policy
from plait.policy.world import World

NETWORK = Network(
    metadata=Metadata(name="plait"), spec=NetworkSpec(pools=("10.0.0.0/16", "fd00::/64"))
)
NODES = [
    Node(metadata=Metadata(name=name), spec=NodeSpec(addresses=(f"192.0.2.{i}/24",)))
    for i, name in enumerate(("h1", "h2"), 1)
]


def endpoint(number: int, name: str, namespace: str = "shop", **settings: object) -> Endpoint:
    spec = EndpointSpec(
        node=f"h{1 + number % 2}",
        network="plait",
        name=name,
        addresses=(f"10.0.0.{number}", f"fd00::{number}"),
        **settings,  # type: ignore[arg-type]
    )
    return Endpoint(metadata=Metadata(name=f"e{number}", namespace=namespace), spec=spec)


FRONT, API, DB = endpoint(1, "front"), endpoint(2, "api"), endpoint(3, "db")
ADMIN = endpoint(4, "admin", "ops")
BASE: tuple[AnyObject, ...] = (NETWORK, *NODES, FRONT, API, DB, ADMIN)


def allow(dst: str, src: str, *ports: str) -> Policy:
    return rule_policy(
        "allow", parse(dst, "shop"), parse(src, "shop"), [parse_port(p) for p in ports]
    )


def pairs(changes: list[Change]) -> set[tuple[str, str, bool]]:
    return {(src, dst, c.allowed) for c in changes for src, dst, _ in c.pairs()}


def test_nothing_changes_if_nothing_differs() -> None:
    world = World.of([*BASE, allow("db", "api")])
    assert preview(world, World.of([*BASE, allow("db", "api")])) == []


def test_an_allowing_policy_closes_the_receiver_for_the_others() -> None:
    changes = preview(World.of(BASE), World.of([*BASE, allow("db", "api", "5432")]))
    assert pairs(changes) == {
        ("shop/front", "shop/db", False),
        ("shop/api", "shop/db", False),
        ("ops/admin", "shop/db", False),
        ("other hosts", "shop/db", False),
    }
    ports = {src: c.ports for c in changes for src in c.srcs}
    assert ports["shop/api"] == ("other tcp", "other udp", "icmp")
    assert ports["shop/front"] == ("5432/tcp", "other tcp", "other udp", "icmp")
    assert {c.by for c in changes} == {"policy allow.shop.db.from.shop.api"}


def test_a_policy_that_goes_opens_again() -> None:
    isolated = World.of([*BASE, isolate_policy("shop")])
    assert {c.by for c in preview(isolated, World.of(BASE))} == {"no policy"}
    assert pairs(preview(isolated, World.of(BASE))) == {
        (src, f"shop/{dst}", True)
        for src in ("ops/admin", "other hosts")
        for dst in ("front", "api", "db")
    }


def test_the_outside_is_asked_about_where_a_port_is_published() -> None:
    web = endpoint(9, "web", ports=(PublishedPort(protocol="tcp", port=80, host_port=8080),))
    changes = preview(World.of([*BASE, web]), World.of([*BASE, web, allow("web", "10.9.0.0/16")]))
    assert {src for src, _, _ in pairs(changes) if src.startswith("outside")} == {"outside"}
    inside = preview(World.of([*BASE, web]), World.of([*BASE, web, allow("192.88.0.0/24", "web")]))
    assert {(s, d) for s, d, _ in pairs(inside) if "outside" in d} == {("shop/web", "outside")}


def test_a_group_that_changes_changes_what_names_it() -> None:
    def office(*cidrs: str) -> Group:
        return Group(metadata=Metadata(name="office"), spec=GroupSpec(cidrs=cidrs))

    rule = allow("db", "group:office")
    before = World.of([*BASE, rule, office("10.0.0.1/32", "fd00::1/128")])
    after = World.of([*BASE, rule, office("10.0.0.2/32", "fd00::2/128")])
    assert pairs(preview(before, after)) == {
        ("shop/front", "shop/db", False),
        ("shop/api", "shop/db", True),
    }


def test_named_ports_are_asked_at_those_that_have_them() -> None:
    http = (NamedPort(name="http", protocol="tcp", port=8080),)
    web, other = endpoint(9, "web", named_ports=http), endpoint(10, "plain")
    base = [*BASE, web, other]
    deny = rule_policy("deny", parse("ns:shop", ""), parse("ns:ops", ""), [parse_port("http")])
    assert preview(World.of(base), World.of([*base, deny])) == [
        Change(("ops/admin",), ("shop/web",), ("http",), False, "policy deny.shop.from.ops")
    ]


def test_flows_that_were_seen() -> None:
    before, after = World.of(BASE), World.of([*BASE, allow("db", "api", "5432")])
    flows = [
        Flow(before.party(src), before.party("10.0.0.3"), "TCP", 5432)
        for src in ("10.0.0.1", "10.0.0.1", "10.0.0.2")
    ]
    assert flow_changes(before, after, flows) == [
        Change(
            ("shop/front",),
            ("shop/db",),
            ("5432/tcp",),
            False,
            "policy allow.shop.db.from.shop.api",
            times=2,
        )
    ]


def test_replicas_are_told_together_and_none_to_itself() -> None:
    many = [endpoint(number, "web") for number in range(20, 30)]
    changes = preview(
        World.of([NETWORK, *NODES, *many]), World.of([NETWORK, *NODES, *many, isolate_policy("ops"),
        rule_policy("deny", parse("web", "shop"), parse("web", "shop"))])
    )  # fmt: skip
    (change,) = changes
    assert len(change.srcs) == len(change.dsts) == 10
    assert len({(src, dst) for src, dst, _ in change.pairs()}) == 90


def test_what_leads_to_the_own_host() -> None:
    closed = isolate_policy("shop", egress=True)
    changes = preview(World.of(BASE), World.of([*BASE, closed]))
    own = [c for c in changes if c.dsts == ("their own host",)]
    assert [(set(c.srcs), c.ports) for c in own] == [
        ({"shop/front", "shop/api", "shop/db"}, ("icmp",))
    ]


def test_ports_are_those_named_and_seen_and_one_that_is_not() -> None:
    texts = [
        port.text
        for port in ports_asked([allow("a", "b", "80", "8000-8010/udp", "http")], [("SCTP", 7)])
    ]
    assert texts == [
        "http", "7/sctp", "80/tcp", "8000/udp", "8010/udp",
        "other tcp", "other udp", "other sctp", "icmp",
    ]  # fmt: skip


SIDES = st.sampled_from(["db", "api", "front", "ns:shop", "ns:ops", "ops/admin"])
PEERS = SIDES | st.sampled_from(["10.0.0.0/30", "fd00::/126", "anyone", "world", "network:plait"])
POLICIES = st.lists(
    st.builds(
        lambda verb, dst, src, ports, staged: rule_policy(
            verb, parse(dst, "shop"), parse(src, "shop"), ports, staged=staged
        ),
        st.sampled_from(["allow", "deny"]),
        SIDES,
        PEERS,
        st.lists(st.sampled_from([parse_port(p) for p in ("80", "53/udp", "icmp")]), max_size=2),
        st.booleans(),
    )
    | st.builds(isolate_policy, st.sampled_from(["shop", "ops"]), egress=st.booleans()),
    max_size=4,
    unique_by=lambda policy: policy.metadata.name,
)


@settings(max_examples=30)
@given(POLICIES, POLICIES)
def test_a_preview_is_the_difference_of_two_matrices(
    before: list[Policy], after: list[Policy]
) -> None:
    ports = [parse_asked(text) for text in ("80/tcp", "53/udp", "icmp", "81/tcp")]
    worlds = [World.of([*BASE, *policies]) for policies in (before, after)]
    expected = {
        (f"{s.metadata.namespace}/{s.spec.name}", f"{d.metadata.namespace}/{d.spec.name}", p.text)
        for s in (FRONT, API, DB, ADMIN)
        for d in (FRONT, API, DB, ADMIN)
        for p in ports
        if s is not d and reaches(worlds[0], s, d, p)[0] != reaches(worlds[1], s, d, p)[0]
    }
    found = preview(*worlds, [("TCP", 80), ("UDP", 53), ("TCP", 81)])
    asked_about = {port.text for port in ports}
    assert expected == {
        (src, dst, port)
        for c in found
        for src, dst, port in c.pairs()
        if port in asked_about and " " not in src + dst and "/" in src and "/" in dst
    }


@pytest.mark.parametrize("staged", [False, True])
def test_what_is_staged_changes_nothing(staged: bool) -> None:
    made = allow("db", "api")
    made = msgspec.structs.replace(made, spec=msgspec.structs.replace(made.spec, staged=staged))
    assert bool(preview(World.of(BASE), World.of([*BASE, made]))) != staged


def test_a_rule_for_hosts() -> None:
    web = endpoint(9, "web", ports=(PublishedPort(protocol="tcp", port=80, host_port=8080),))
    deny = rule_policy("deny", parse("web", "shop"), parse("node:h1", ""))
    changes = preview(World.of([*BASE, web]), World.of([*BASE, web, deny]))
    # It is on h2, and its own host may always.
    assert pairs(changes) == {("host h1", "shop/web", False)}
