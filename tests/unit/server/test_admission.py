"""What each kind must satisfy, decided without a server."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from plait.model.errors import PlaitError
from plait.model.objects import (
    AddressBlock,
    AddressBlockSpec,
    AnyObject,
    Cluster,
    ClusterSpec,
    Endpoint,
    EndpointSpec,
    EndpointStatus,
    Loan,
    Metadata,
    Namespace,
    Network,
    NetworkSpec,
    Node,
    NodeSpec,
    NodeStatus,
    PublishedPort,
    block_name,
)
from plait.server.authorize import Actor
from plait.server.state import State
from plait.server.writes import Plan, Step, plan

ADMIN = Actor("admin")
OWN_PORTS = frozenset((6440,))
NOW = "2030-01-01T00:00:00Z"


def step(obj: AnyObject, verb: Any = "update", revision: int = 0) -> Step:
    kind = type(obj)
    namespace = (obj.metadata.namespace or "default") if kind.namespaced else ""
    return Step(verb, kind, obj.metadata.name, namespace, revision, obj)


def apply(state: State, *objects: AnyObject, actor: Actor = ADMIN) -> Plan:
    """Plan writes and show them to the state, as the store would."""
    serial = itertools.count(10_000_000)
    steps = [step(obj) for obj in objects]
    decided = plan(state, actor, steps, NOW, lambda: str(next(serial)), OWN_PORTS)
    state.revision += 1
    for key, obj in decided.puts.items():
        if obj is None:
            state.delete(key)
        else:
            state.put(key, obj, state.revision)
    return decided


def refused(code: str, state: State, *objects: AnyObject, actor: Actor = ADMIN) -> PlaitError:
    with pytest.raises(PlaitError) as caught:
        apply(state, *objects, actor=actor)
    assert caught.value.code == code, caught.value.render()
    return caught.value


def network(name: str = "dev", *pools: str, **spec: Any) -> Network:
    return Network(metadata=Metadata(name=name), spec=NetworkSpec(pools=pools, **spec))


def endpoint(name: str = "abc", **spec: Any) -> Endpoint:
    settings = {"node": "h1", "network": "dev", **spec}
    return Endpoint(metadata=Metadata(name=name), spec=EndpointSpec(**settings))


def block(cidr: str, node: str = "h1", *loans: Loan, network: str = "dev") -> AddressBlock:
    return AddressBlock(
        metadata=Metadata(name=block_name(network, cidr)),
        spec=AddressBlockSpec(network=network, cidr=cidr, node=node, loans=loans),
    )


@pytest.fixture
def state() -> State:
    made = State()
    pools = ("10.0.0.0/16", "fd00:1::/48")
    apply(made, Cluster(metadata=Metadata(name="plait"), spec=ClusterSpec(pools=pools)))
    apply(made, network("dev", "10.9.0.0/16", "fd00:9::/64"))
    return made


def stored(state: State, name: str) -> NetworkSpec:
    found = state.get(Network, name)
    assert found is not None
    return found.spec


# Networks


def test_pools_are_cut_from_the_lowest_free_part(state: State) -> None:
    apply(state, network("a"), network("b"))
    assert stored(state, "a").pools == ("10.0.0.0/20", "fd00:1::/64")
    assert stored(state, "a").gateways == ("10.0.0.1", "fd00:1::1")
    assert stored(state, "b").pools == ("10.0.16.0/20", "fd00:1:0:1::/64")


def test_what_a_host_uses_is_cut_around(state: State) -> None:
    status = NodeStatus(prefixes=("10.0.0.0/18", "0.0.0.0/0", "::/0"))
    spec = NodeSpec(addresses=("10.0.70.1/24",))
    apply(state, Node(metadata=Metadata(name="h1"), spec=spec, status=status))
    apply(state, network("a"))
    assert stored(state, "a").pools[0] == "10.0.80.0/20"


def test_used_up_pools_are_named(state: State) -> None:
    apply(state, *(network(f"n{i}") for i in range(16)))
    error = refused("PLAIT-NET-003", state, network("more"))
    assert "10.0.0.0/16" in error.why


def test_a_network_without_cluster_pools_must_name_its_own() -> None:
    refused("PLAIT-NET-003", State(), network("a"))
    bare = State()
    apply(bare, network("a", "10.0.0.0/24"))
    assert stored(bare, "a").gateways == ("10.0.0.1",)


def test_dockers_own_pool_is_adopted_and_gets_an_ipv6_one(state: State) -> None:
    apply(state, network("web", "172.18.0.0/16", external_ipam=True, gateways=("172.18.0.1",)))
    assert stored(state, "web").pools == ("172.18.0.0/16", "fd00:1::/64")
    assert stored(state, "web").gateways == ("172.18.0.1", "fd00:1::1")


def test_a_network_of_one_family_stays_so(state: State) -> None:
    apply(state, network("four", "172.18.0.0/16"))
    assert stored(state, "four").pools == ("172.18.0.0/16",)


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("PLAIT-NET-001", network("x", "10.9.4.0/24")),
        ("PLAIT-NET-001", network("x", "10.0.0.0/8")),
        ("PLAIT-NET-004", network("x", "10.1.2.3/8")),
        ("PLAIT-NET-004", network("x", "10.1.0.0/16", "10.2.0.0/16")),
        ("PLAIT-NET-004", network("x", "127.0.0.0/16")),
        ("PLAIT-NET-004", network("x", "10.1.0.0/31")),
        ("PLAIT-IPAM-011", network("x", "10.1.0.0/16", gateways=("10.2.0.1",))),
        ("PLAIT-IPAM-011", network("x", "10.1.0.0/16", gateways=("fd00::1",))),
        ("PLAIT-IPAM-014", network("x", "10.1.0.0/16", gateways=("10.1.0.0",))),
        ("PLAIT-IPAM-014", network("x", "10.1.0.0/16", gateways=("10.1.255.255",))),
        ("PLAIT-IPAM-011", network("x", "10.1.0.0/16", reserved=("10.2.0.0/24",))),
        ("PLAIT-API-002", network("x", "10.1.0.0/16", reserved=("10.1.0.1/24",))),
        ("PLAIT-NAME-001", network("X")),
        ("PLAIT-NAME-001", network("x" * 64)),
    ],
)
def test_bad_networks_are_refused(state: State, code: str, wrong: Network) -> None:
    refused(code, state, wrong)


def test_two_networks_of_one_batch_do_not_overlap_either(state: State) -> None:
    refused("PLAIT-NET-001", state, network("a", "10.1.0.0/16"), network("b", "10.1.0.0/24"))


def test_pools_and_gateways_stay_and_the_rest_may_change(state: State) -> None:
    refused("PLAIT-NET-005", state, network("dev", "10.1.0.0/16"))
    refused("PLAIT-NET-005", state, network("dev", gateways=("10.9.0.9",)))
    apply(state, network("dev", internal=True, reserved=("10.9.0.8/29",)))
    assert stored(state, "dev").pools == ("10.9.0.0/16", "fd00:9::/64")
    assert stored(state, "dev").internal


# Blocks


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("PLAIT-NET-006", block("10.9.0.0/26", network="nothing")),
        ("PLAIT-IPAM-011", block("10.8.0.0/26")),
        ("PLAIT-NET-004", block("10.9.0.1/26")),
        ("PLAIT-API-002", block("10.9.0.0/26", "")),
        ("PLAIT-NAME-001", block("10.9.0.0/26", "H1")),
        (
            "PLAIT-API-002",
            msgspec.structs.replace(
                block("10.9.0.0/26"), metadata=Metadata(name="dev.10-9-0-64-26")
            ),
        ),
        ("PLAIT-IPAM-011", block("10.9.0.0/26", "h1", Loan(address="10.9.0.64", node="h2"))),
        (
            "PLAIT-IPAM-010",
            block(
                "10.9.0.0/26",
                "h1",
                Loan(address="10.9.0.7", node="h2", state="granted"),
                Loan(address="10.9.0.7", node="h3", state="granted"),
            ),
        ),
        (
            "PLAIT-API-002",
            block(
                "10.9.0.0/26",
                "h1",
                Loan(address="10.9.0.7", node="h2"),
                Loan(address="10.9.0.7", node="h2", state="granted"),
            ),
        ),
    ],
)
def test_bad_blocks_are_refused(state: State, code: str, wrong: AddressBlock) -> None:
    refused(code, state, wrong)


def test_blocks_do_not_overlap(state: State) -> None:
    apply(state, block("10.9.0.0/26"))
    refused("PLAIT-API-005", state, block("10.9.0.0/24"))
    refused("PLAIT-API-005", state, block("10.9.0.32/27"))
    apply(state, block("10.9.0.64/26"), block("fd00:9::/122"))


def test_a_block_with_lent_addresses_is_not_removed(state: State) -> None:
    lent = block("10.9.0.0/26", "h1", Loan(address="10.9.0.7", node="h2", state="granted"))
    apply(state, lent)
    with pytest.raises(PlaitError, match="PLAIT-API-011"):
        plan(state, ADMIN, [step(lent, "delete")], NOW, str)


NODE = Actor("node", "h1", "uid-of-h1")


def test_a_node_claims_no_more_than_a_block(state: State) -> None:
    apply(state, block("10.9.0.0/26"), actor=NODE)
    apply(state, block("fd00:9::/122"), actor=NODE)
    for cidr in ("10.9.128.0/17", "10.9.1.0/24", "10.9.1.0/27", "fd00:9:0:0:8000::/65"):
        refused("PLAIT-API-002", state, block(cidr), actor=NODE)


def test_a_block_is_not_taken_from_under_endpoints(state: State) -> None:
    held = block("10.9.0.0/26")
    apply(state, held, block("10.9.0.64/26"), endpoint(addresses=("10.9.0.7",)))
    for actor in (ADMIN, NODE):
        with pytest.raises(PlaitError, match="PLAIT-API-011"):
            plan(state, actor, [step(held, "delete")], NOW, str)
    refused("PLAIT-API-011", state, block("10.9.0.0/26", "h2"))
    plan(state, NODE, [step(block("10.9.0.64/26"), "delete")], NOW, str)
    apply(state, block("10.9.0.64/26", "h2"))


def test_a_node_takes_no_address_that_is_lent_to_another(state: State) -> None:
    def lent(address: str) -> Loan:
        return Loan(address=address, node="h2", state="granted")

    apply(state, block("10.9.0.0/26", "", lent("10.9.0.7")))
    apply(state, block("10.9.0.64/26", "h1", lent("10.9.0.70")))
    for address in ("10.9.0.7", "10.9.0.70"):
        refused("PLAIT-AUTH-006", state, endpoint(addresses=(address,)), actor=NODE)
    apply(state, endpoint(addresses=("10.9.0.71",)), actor=NODE)


# Endpoints


def test_a_new_endpoint_brings_its_namespace(state: State) -> None:
    decided = apply(state, endpoint(addresses=("fd00:9::7", "10.9.0.7")))
    assert state.get(Namespace, "default") is not None
    found = state.get(Endpoint, "abc", "default")
    assert found is not None
    assert found.spec.addresses == ("10.9.0.7", "fd00:9::7")
    assert decided.compares["/closing/networks/dev"] == 0
    assert decided.compares["/networks/dev"] == state.revision_of("/networks/dev")


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("PLAIT-NET-006", endpoint(network="nothing")),
        ("PLAIT-NAME-001", endpoint(".")),
        ("PLAIT-NAME-001", endpoint(name="a", node="H")),
        ("PLAIT-NAME-001", endpoint("abc", aliases=("a..b",))),
        ("PLAIT-IPAM-011", endpoint(addresses=("10.8.0.1",))),
        ("PLAIT-IPAM-014", endpoint(addresses=("10.9.0.1",))),
        ("PLAIT-API-002", endpoint(addresses=("10.9.0.7", "10.9.0.8"))),
        ("PLAIT-API-002", endpoint(addresses=("nonsense",))),
        ("PLAIT-API-002", endpoint(mac="zz")),
        ("PLAIT-API-002", endpoint(ports=(PublishedPort(protocol="tcp", port=0, host_port=1),))),
        (
            "PLAIT-API-002",
            endpoint(ports=(PublishedPort(protocol="tcp", port=1, host_port=65536),)),
        ),
        ("PLAIT-API-002", endpoint(aliases=tuple(f"a{i}" for i in range(65)))),
    ],
)
def test_bad_endpoints_are_refused(state: State, code: str, wrong: Endpoint) -> None:
    refused(code, state, wrong)


def test_an_endpoint_stays_on_its_node_and_network(state: State) -> None:
    apply(state, endpoint(), network("other"))
    refused("PLAIT-API-002", state, endpoint(node="h2"))
    refused("PLAIT-API-002", state, endpoint(network="other"))
    ready = msgspec.structs.replace(endpoint(), status=EndpointStatus(phase="ready"))
    apply(state, ready)


# Nodes and the cluster


@pytest.mark.parametrize(
    "wrong",
    [
        Node(metadata=Metadata(name="h"), spec=NodeSpec(addresses=("10.0.0.1",))),
        Node(metadata=Metadata(name="h"), spec=NodeSpec(addresses=("10.0.0.1/8", "10.0.0.2/8"))),
        Node(metadata=Metadata(name="h"), spec=NodeSpec(link_local="10.0.0.1")),
        Node(metadata=Metadata(name="h"), spec=NodeSpec(mtu=500)),
        Node(metadata=Metadata(name="h"), status=NodeStatus(prefixes=("10.0.0.1/8",))),
        Node(metadata=Metadata(name="h"), status=NodeStatus(conditions=("a\nb",))),
        Node(metadata=Metadata(name="h", namespace="default")),
        Node(metadata=Metadata(name="h", uid="?")),
        Cluster(metadata=Metadata(name="other")),
        Cluster(metadata=Metadata(name="plait"), spec=ClusterSpec(vni=1 << 24)),
        Cluster(
            metadata=Metadata(name="plait"), spec=ClusterSpec(pools=("10.0.0.0/8", "10.1.0.0/16"))
        ),
    ],
)
def test_bad_nodes_and_clusters_are_refused(state: State, wrong: AnyObject) -> None:
    refused("PLAIT-API-002", state, wrong)


def test_a_node_does_not_choose_its_labels(state: State) -> None:
    me = Actor("node", "h1", "uid-of-h1")
    labelled = Node(metadata=Metadata(name="h1", labels={"trusted": "yes"}))
    refused("PLAIT-AUTH-006", state, labelled, actor=me)
    apply(state, Node(metadata=Metadata(name="h1")), actor=me)
    refused("PLAIT-AUTH-006", state, labelled, actor=me)
    apply(state, labelled)
    node = state.get(Node, "h1")
    assert node is not None
    apply(state, node, actor=me)
    bare = msgspec.structs.replace(node, metadata=msgspec.structs.replace(node.metadata, labels={}))
    refused("PLAIT-AUTH-006", state, bare, actor=me)


def test_what_changed_since_a_node_looked_is_no_offence(state: State) -> None:
    """Nodes take addresses of a block that nobody owns; who is slower shall look again."""
    cidr = "10.9.0.64/26"
    first, second, mine = (
        Loan(address=f"10.9.0.{70 + n}", node=f"h{n}", state="granted") for n in (3, 2, 1)
    )
    apply(state, block(cidr, "", first))
    seen = state.revision
    apply(state, block(cidr, "", first, second), actor=Actor("node", "h2", "uid-of-h2"))
    changed = block(cidr, "", first, mine)
    cases = {
        "PLAIT-API-006": step(changed, revision=seen),
        "PLAIT-API-004": step(block("10.9.0.128/26", "", first), revision=seen),
        # It takes the second one's loan away, and meant what there is.
        "PLAIT-AUTH-006": step(changed),
    }
    for code, late in cases.items():
        with pytest.raises(PlaitError, match=code):
            plan(state, NODE, [late], NOW, str)
    other_kind = step(Cluster(metadata=Metadata(name="plait")), revision=seen)
    with pytest.raises(PlaitError, match="PLAIT-AUTH-006"):
        plan(state, NODE, [other_kind], NOW, str)


def test_the_server_says_when_a_node_was_seen(state: State) -> None:
    me = Actor("node", "h1", "uid-of-h1")
    apply(state, Node(metadata=Metadata(name="h1")), actor=me)
    node = state.get(Node, "h1")
    assert node is not None
    assert node.metadata.uid == "uid-of-h1"
    assert node.status.last_seen == NOW
    lied = msgspec.structs.replace(node, status=NodeStatus(last_seen="2099-01-01T00:00:00Z"))
    apply(state, lied, actor=me)
    labelled = msgspec.structs.replace(
        node, metadata=msgspec.structs.replace(node.metadata, labels={"a": "b"})
    )
    later = plan(state, ADMIN, [step(labelled)], "2031-01-01T00:00:00Z", str)
    (changed,) = later.results
    assert isinstance(changed, Node)
    assert changed.status.last_seen == NOW, "an administrator's label is no sign of life"
    silent = msgspec.structs.replace(node, status=msgspec.structs.replace(node.status, silent=True))
    later = plan(state, ADMIN, [step(silent)], "2031-01-01T00:00:00Z", str)
    assert later.results[0].status == silent.status, "nor is it that nothing is heard"  # type: ignore[union-attr]
    apply(state, silent, actor=me)
    heard = state.get(Node, "h1")
    assert heard is not None
    assert not heard.status.silent


def test_a_node_of_another_uid_is_not_written(state: State) -> None:
    apply(state, Node(metadata=Metadata(name="h1", uid="uid-before")))
    refused(
        "PLAIT-AUTH-002",
        state,
        Node(metadata=Metadata(name="h1")),
        actor=Actor("node", "h1", "uid-of-h1"),
    )


def test_a_node_that_holds_something_is_not_deleted(state: State) -> None:
    node = Node(metadata=Metadata(name="h1"))
    apply(state, node, block("10.9.0.0/26"))
    with pytest.raises(PlaitError, match="PLAIT-API-011") as caught:
        plan(state, ADMIN, [step(node, "delete")], NOW, str)
    assert caught.value.fix == ("plait node forget h1",)


def test_a_plan_leaves_the_state_alone(state: State) -> None:
    before = [entry.line for entry in state.page(Network)[0]]
    plan(state, ADMIN, [step(network("a")), step(network("dev"), "delete")], NOW, lambda: "u" * 8)
    assert [entry.line for entry in state.page(Network)[0]] == before
