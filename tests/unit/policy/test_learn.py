"""The policies that are proposed for flows that were seen."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import permutations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.model.flows import FlowEnd, FlowRecord
from plait.model.objects import (
    AnyObject,
    Endpoint,
    EndpointSpec,
    Metadata,
    Network,
    NetworkSpec,
    Node,
    NodeSpec,
    PublishedPort,
)
from plait.model.policies import Policy
from plait.policy import validate
from plait.policy.evaluate import evaluate
from plait.policy.flow import Flow
from plait.policy.flow_records import flow_of
from plait.policy.learn import MAX_ADDRESSES, learn
from plait.policy.reference import parse
from plait.policy.verbs import rule_policy
from plait.policy.words import peers_words, ports_words, subject_words
from plait.policy.workloads import stem, workloads
from plait.policy.world import World

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NETWORK = Network(
    metadata=Metadata(name="plait"), spec=NetworkSpec(pools=("10.0.0.0/16", "fd00::/64"))
)
NODES = [
    Node(metadata=Metadata(name=name), spec=NodeSpec(addresses=(f"192.0.2.{i}/24",)))
    for i, name in enumerate(("h1", "h2"), 1)
]


def endpoint(number: int, namespace: str, name: str, **labels: str) -> Endpoint:
    return Endpoint(
        metadata=Metadata(
            name=f"e{number}",
            namespace=namespace,
            labels={key.replace("__", "-"): value for key, value in labels.items()},
        ),
        spec=EndpointSpec(
            node=f"h{1 + number % 2}",
            network="plait",
            name=name,
            addresses=(f"10.0.0.{number}", f"fd00::{number}"),
            ports=(PublishedPort(protocol="tcp", port=80, host_port=8000 + number),),
        ),
    )


PODS = [
    endpoint(1, "shop", "web-7d4b9-x2x1z", app="web", pod__template__hash="7d4b9"),
    endpoint(2, "shop", "web-7d4b9-abcde", app="web", pod__template__hash="7d4b9"),
    endpoint(3, "shop", "db", app="db"),
    endpoint(4, "shop", "api", app="api"),
    endpoint(5, "ops", "admin"),
    endpoint(6, "ops", "backup"),
    endpoint(7, "ops", "spare"),
]
BASE: tuple[AnyObject, ...] = (NETWORK, *NODES, *PODS)
WORLD = World.of(BASE)


def record(
    src: str, dst: str, port: int = 80, protocol: str = "tcp", **settings: object
) -> FlowRecord:
    def end(address: str) -> FlowEnd:
        party = WORLD.party(address)
        if party.endpoint is None:
            return FlowEnd(address=address, node=party.node.metadata.name if party.node else "")
        meta = party.endpoint.metadata
        return FlowEnd(
            address=address, namespace=meta.namespace, name=party.endpoint.spec.name, id=meta.name
        )

    fields: dict[str, object] = {
        "time": NOW, "node": "h1", "decision": "accept", "direction": "egress",
        "protocol": protocol, "dst_port": port, "src": end(src), "dst": end(dst),
    }  # fmt: skip
    return FlowRecord(**{**fields, **settings})  # type: ignore[arg-type]


def told(policies: tuple[Policy, ...]) -> list[str]:
    return [
        f"{subject_words(p.spec.subject)} | {d} {peers_words(r.peers)} | {ports_words(r.ports)}"
        for p in policies
        for d in ("ingress", "egress")
        for r in p.spec.rules(d)  # type: ignore[arg-type]
    ]


def test_replicas_are_one_workload_by_their_labels() -> None:
    found = workloads(WORLD)
    assert found["shop", "e1"] == found["shop", "e2"]
    assert found["shop", "e1"].selector.match_labels == {"app": "web"}
    assert found["shop", "e3"].selector.match_labels == {"app": "db"}
    assert found["ops", "e5"].selector != found["ops", "e6"].selector
    assert all(workload.exact for workload in found.values())


def test_stems_of_names() -> None:
    def of(name: str, **labels: str) -> str:
        return stem(endpoint(1, "n", name, **labels))

    assert of("web-7d4b9-x2x1z", pod__template__hash="7d4b9") == "web"
    assert of("agent-x2x1z", controller__revision__hash="5c") == "agent"
    assert (of("web-1"), of("web2"), of("web"), of("42")) == ("web", "web", "web", "42")


def test_a_label_that_others_have_too_is_not_enough() -> None:
    world = World.of(
        [NETWORK, endpoint(1, "s", "web", app="x"), endpoint(2, "s", "db", app="x"),
         endpoint(3, "s", "web", app="y")]
    )  # fmt: skip
    found = workloads(world)
    assert found["s", "e1"].selector.matches({"app": "x", "name.plait/web": ""})
    for other in ({"app": "x", "name.plait/db": ""}, {"app": "y", "name.plait/web": ""}):
        assert not found["s", "e1"].selector.matches(other)


def test_flows_become_rules_of_both_ends() -> None:
    learnt = learn(
        WORLD,
        [
            record("10.0.0.1", "10.0.0.3", 5432),
            record("10.0.0.2", "10.0.0.3", 5432, direction="ingress"),
            record("10.0.0.1", "10.0.0.3", 5433),
            record("10.0.0.5", "10.0.0.3", 22, decision="deny"),
        ],
    )
    assert told(learnt.policies) == [
        "endpoints app=db in namespace shop | "
        "ingress endpoints app=web in namespace shop | 5432-5433/tcp",
        "endpoints app=web in namespace shop | "
        "egress endpoints app=db in namespace shop | 5432-5433/tcp",
    ]
    assert learnt.policies[0].metadata.name == "learned.shop"
    assert (learnt.flows, learnt.passed_over, learnt.silent) == (2, 0, ("shop/api",))


def test_what_one_end_accepted_and_the_other_denied_is_not_learnt() -> None:
    sent = record("10.0.0.5", "10.0.0.3", 22, src_port=4000)
    denied = record("10.0.0.5", "10.0.0.3", 22, src_port=4000, direction="ingress", decision="deny")
    got_in = record("10.0.0.5", "10.0.0.3", 22, src_port=4000, direction="ingress")
    another = record("10.0.0.5", "10.0.0.3", 22, src_port=4001)
    for records in ((sent, denied), (denied, sent)):
        assert learn(WORLD, records).flows == 0
    assert learn(WORLD, (sent, denied, another)).flows == 1
    assert learn(WORLD, (sent, denied, got_in)).flows == 1, "later, under other policies"


def test_only_endpoints_of_the_asked_namespaces_are_ruled() -> None:
    learnt = learn(WORLD, [record("10.0.0.1", "10.0.0.5")], ["ops"], staged=True)
    assert told(learnt.policies) == [
        "admin in namespace ops | ingress endpoints app=web in namespace shop | 80/tcp"
    ]
    assert all(policy.spec.staged for policy in learnt.policies)


def test_the_outside_is_meant_by_address_and_many_by_all() -> None:
    few = learn(WORLD, [record(f"198.51.100.{i}", "10.0.0.3") for i in (7, 9)])
    assert told(few.policies)[0].endswith("ingress 198.51.100.7/32 or 198.51.100.9/32 | 80/tcp")
    six = learn(WORLD, [record("2001:db8::7", "fd00::3")])
    assert told(six.policies)[0].endswith("ingress 2001:db8::7/128 | 80/tcp")
    many = learn(WORLD, [record(f"198.51.100.{i}", "10.0.0.3") for i in range(MAX_ADDRESSES + 1)])
    assert "0.0.0.0/0 but 10.0.0.0/16" in told(many.policies)[0]


def test_what_a_name_let_out_is_meant_by_that_name() -> None:
    by_name = rule_policy("allow", parse("*.example.com", ""), parse("shop/app=db", ""))
    world = World.of([*BASE, by_name])
    seen = record(
        "10.0.0.3", "198.51.100.9", 443, policy=by_name.metadata.name, index=0, direction="egress"
    )
    (rule,) = next(p for p in learn(world, [seen]).policies if p.spec.egress).spec.egress
    assert rule.peers is not None
    assert [peer.domains for peer in rule.peers] == [("*.example.com",)]
    stale = msgspec.structs.replace(seen, index=7)
    assert "198.51.100.9/32" in told(learn(world, [stale]).policies)[0]


def test_what_always_passes_needs_no_rule() -> None:
    learnt = learn(
        WORLD,
        [
            record("10.0.0.1", "169.254.1.1", 53, "udp"),
            record("192.0.2.2", "10.0.0.1", 80),  # its own host
            record("10.0.0.1", "192.0.2.2", 0, "icmp", icmp_type=8, icmp_code=0),
        ],
    )
    assert told(learnt.policies) == []


def test_an_endpoint_that_has_gone_is_meant_by_its_name() -> None:
    ends = [
        FlowEnd(address="10.0.9.9", namespace="shop", name="old", id="e99"),
        FlowEnd(address="10.0.9.8", namespace="shop", id="e98"),
    ]
    seen = record("10.0.0.1", "10.0.0.3")
    learnt = learn(WORLD, [msgspec.structs.replace(seen, dst=end) for end in ends])
    assert "learned.shop.old" in {p.metadata.name for p in learnt.policies}
    assert learnt.passed_over == 1


def test_more_rules_than_one_policy_may_hold() -> None:
    records = [record(f"198.51.{i % 5}.{i % 250}", "10.0.0.3", 2 * i + 1) for i in range(1, 1001)]
    learnt = learn(WORLD, records)
    after = World.of([*BASE, *learnt.policies])
    assert len([p for p in learnt.policies if p.metadata.name.startswith("learned.shop.db")]) > 1
    for policy in learnt.policies:
        validate.policy(policy.spec)
    assert all(evaluate(after, flow_of(after, r)).ingress.allowed for r in records)


ADDRESSES = [a for e in PODS for a in e.spec.addresses]
OUTSIDE = ["198.51.100.7", "2001:db8::7"]
PORTS = st.sampled_from([("tcp", 80), ("tcp", 81), ("udp", 53), ("sctp", 7), ("icmp", 8)])


@st.composite
def flows(draw: st.DrawFn) -> FlowRecord:
    src = draw(st.sampled_from(ADDRESSES + OUTSIDE))
    same = [a for a in ADDRESSES + OUTSIDE if (":" in a) == (":" in src) and a != src]
    dst = draw(st.sampled_from([a for a in same if src in ADDRESSES or a in ADDRESSES]))
    protocol, number = draw(PORTS)
    if protocol != "icmp":
        return record(src, dst, number, protocol)
    protocol, kind = ("icmpv6", 128) if ":" in src else ("icmp", 8)
    return record(src, dst, 0, protocol, icmp_type=kind, icmp_code=0)


@settings(max_examples=40)
@given(st.lists(flows(), max_size=12))
def test_what_was_seen_passes_and_what_was_not_is_denied(records: list[FlowRecord]) -> None:
    learnt = learn(WORLD, records, ["shop", "ops"])
    for policy in learnt.policies:
        validate.policy(policy.spec)
        text = msgspec.json.encode(policy)
        assert msgspec.json.decode(text, type=Policy) == policy
    assert len({p.metadata.name for p in learnt.policies}) == len(learnt.policies)
    after = World.of([*BASE, *learnt.policies])
    known = workloads(WORLD)

    def who(address: str) -> object:
        endpoint = WORLD.party(address).endpoint
        if endpoint is None:
            return address
        workload = known[endpoint.metadata.namespace, endpoint.metadata.name]
        return workload.namespace, workload.name

    def passes(flow: Flow) -> bool:
        verdict = evaluate(after, flow)
        return verdict.egress.allowed and verdict.ingress.allowed

    assert all(passes(flow_of(after, r)) for r in records)
    seen = {(who(r.src.address), who(r.dst.address), r.protocol, r.dst_port) for r in records}
    for src, dst in permutations(ADDRESSES, 2):
        if (":" in src) == (":" in dst):
            for protocol, port in (("tcp", 80), ("tcp", 82), ("udp", 53)):
                flow = Flow(after.party(src), after.party(dst), protocol.upper(), port)
                assert passes(flow) == ((who(src), who(dst), protocol, port) in seen)
