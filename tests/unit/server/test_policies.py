"""Policies and groups at the server: what they name, and what holds a group."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from plait.model.errors import PlaitError
from plait.model.objects import (
    AnyObject,
    Cluster,
    ClusterSpec,
    Endpoint,
    EndpointSpec,
    Group,
    Metadata,
    NamedPort,
    Namespace,
    Network,
    NetworkSpec,
    Policy,
)
from plait.model.policies import GroupSpec, Peer, PolicySpec, PolicyStatus, Rule
from plait.server.authorize import Actor
from plait.server.state import State
from plait.server.writes import Plan, Step, plan

ADMIN = Actor("admin")
NODE = Actor("node", "h1", "uid-h1")


def steps(*objects: AnyObject, verb: Any = "update", revision: int = 0) -> list[Step]:
    return [
        Step(
            verb,
            type(obj),
            obj.metadata.name,
            (obj.metadata.namespace or "default") if obj.namespaced else "",
            revision,
            obj,
        )
        for obj in objects
    ]


def run(state: State, wanted: list[Step], actor: Actor = ADMIN) -> Plan:
    """Plan steps and show them to the state, as the store would."""
    serial = itertools.count(10_000_000)
    decided = plan(state, actor, wanted, "2030-01-01T00:00:00Z", lambda: str(next(serial)))
    state.revision += 1
    for key, obj in decided.puts.items():
        if obj is None:
            state.delete(key)
        else:
            state.put(key, obj, state.revision)
    return decided


def put(state: State, *objects: AnyObject, actor: Actor = ADMIN) -> Plan:
    return run(state, steps(*objects), actor)


def remove(state: State, obj: AnyObject, actor: Actor = ADMIN) -> Plan:
    return run(state, steps(obj, verb="delete"), actor)


def policy(*peers: Peer, name: str = "p") -> Policy:
    rules = (Rule(peers=peers or None),)
    return Policy(metadata=Metadata(name=name), spec=PolicySpec(ingress=rules))


def group(name: str = "g") -> Group:
    return Group(metadata=Metadata(name=name), spec=GroupSpec(cidrs=("10.0.0.0/8",)))


def network(name: str = "n") -> Network:
    return Network(metadata=Metadata(name=name), spec=NetworkSpec(pools=("10.1.0.0/16",)))


def message(state: State, name: str = "p") -> str:
    found = state.get(Policy, name)
    assert found is not None
    return found.status.message


@pytest.mark.parametrize("name", ["a", "knp.shop.web", "a" * 63 + ".b", "1.2"])
def test_a_policy_may_have_dots_in_its_name(name: str) -> None:
    state = State()
    put(state, policy(name=name))
    assert state.get(Policy, name) is not None


@pytest.mark.parametrize("name", ["", "A", "a..b", ".a", "a_b", "a" * 64, "a." * 127, "a/b"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(PlaitError) as caught:
        put(State(), policy(name=name))
    assert caught.value.code == "PLAIT-NAME-001"
    assert caught.value.where.endswith("metadata.name")


def test_a_group_is_a_name_of_dns() -> None:
    with pytest.raises(PlaitError, match="PLAIT-NAME-001"):
        put(State(), group("a.b"))


def test_the_status_is_the_servers_and_says_what_is_missing() -> None:
    state = State()
    claimed = msgspec.structs.replace(policy(), status=PolicyStatus(message="all is well"))
    put(state, claimed)
    assert message(state) == ""
    put(state, policy(Peer(group="b"), Peer(group="a"), Peer(network="n"), Peer(group="a")))
    assert message(state) == (
        "there is no group a, no group b: a rule that names it accepts nothing, or denies "
        "everything; there is no network n: nobody is on it"
    )
    put(state, policy(*(Peer(group=f"g{i}") for i in range(7)), name="many"))
    assert "no group g4 and 2 more:" in message(state, "many")


def test_what_comes_and_goes_is_told_to_those_who_name_it() -> None:
    state = State()
    put(state, policy(Peer(group="g"), Peer(network="n")), policy(name="other"))
    decided = put(state, group())
    assert sorted(decided.puts) == ["/groups/g", "/policies/p"]
    assert message(state).startswith("there is no network n")
    decided = put(state, network())
    assert sorted(decided.puts) == ["/networks/n", "/policies/p"]
    assert message(state) == ""
    assert sorted(put(state, group()).puts) == []
    decided = remove(state, network())
    assert sorted(decided.puts) == ["/networks/n", "/policies/p"]
    assert message(state).startswith("there is no network n")


def test_a_batch_may_name_what_it_makes_in_whatever_order() -> None:
    state = State()
    put(state, policy(Peer(group="g")), group())
    assert message(state) == ""
    # The group's coming writes the policy too; a later step of the batch is still for the
    # revision that its sender knows.
    put(state, policy(Peer(group="late")))
    stored = state.get(Policy, "p")
    assert stored is not None
    run(
        state,
        [
            *steps(group("late")),
            *steps(policy(Peer(group="late")), revision=stored.metadata.revision),
        ],
    )
    assert message(state) == ""


def test_a_group_that_policies_name_stays() -> None:
    state = State()
    put(state, group(), policy(Peer(group="g"), name="b"), policy(Peer(group="g"), name="a"))
    with pytest.raises(PlaitError) as caught:
        remove(state, group())
    assert caught.value.code == "PLAIT-API-011"
    assert caught.value.why == "policies use it: a, b"
    remove(state, policy(name="a"))
    remove(state, policy(name="b"))
    assert remove(state, group()).closing == {"/closing/groups/g"}
    assert state.get(Group, "g") is None


def test_a_policy_is_not_stored_between_the_look_and_the_removal_of_its_group() -> None:
    """Either sees the other: what is there must not be closing, what is missing not come."""
    state = State()
    assert put(state, policy(Peer(group="g"))).compares["/groups/g"] == 0
    put(state, group())
    assert put(state, policy(Peer(group="g"), Peer(cidr="::/0"))).compares["/closing/groups/g"] == 0
    state.records["/closing/groups/g"] = (b"", 9)
    with pytest.raises(PlaitError, match="PLAIT-API-011"):
        put(state, policy(Peer(group="g"), name="new"))


def test_a_domain_of_this_network_is_no_domain() -> None:
    state = State()
    cluster = Cluster(metadata=Metadata(name="plait"), spec=ClusterSpec(domain="corp.example"))
    put(state, cluster)
    rules = (Rule(peers=(Peer(domains=("web.corp.example",)),)),)
    with pytest.raises(PlaitError, match="a name of this network"):
        put(state, Policy(metadata=Metadata(name="p"), spec=PolicySpec(egress=rules)))


@pytest.mark.parametrize("obj", [policy(), group()])
def test_a_node_writes_neither_policies_nor_groups(obj: AnyObject) -> None:
    state = State()
    with pytest.raises(PlaitError, match="PLAIT-AUTH-006"):
        put(state, obj, actor=NODE)
    put(state, obj)
    with pytest.raises(PlaitError, match="PLAIT-AUTH-006"):
        remove(state, obj, actor=NODE)


def test_a_refusal_names_the_object_and_the_field() -> None:
    with pytest.raises(PlaitError) as caught:
        put(State(), policy(Peer(cidr="10.0.0.1/8")))
    assert caught.value.where == "policies/p spec.ingress[0].peers[0].cidr"
    assert caught.value.fix == ("use 10.0.0.0/8",)


def test_the_implicit_label_of_a_namespace_is_its_name() -> None:
    def made(value: str) -> Namespace:
        labels = {"kubernetes.io/metadata.name": value}
        return Namespace(metadata=Metadata(name="shop", labels=labels))

    put(State(), made("shop"))
    with pytest.raises(PlaitError) as caught:
        put(State(), made("bank"))
    assert caught.value.where.endswith("metadata.labels")


@pytest.mark.parametrize(
    ("ports", "where"),
    [
        ((("", "tcp", 80),), "spec.namedPorts[0].name"),
        ((("80", "tcp", 80),), "spec.namedPorts[0].name"),
        ((("http", "tcp", 0),), "spec.namedPorts[0].port"),
        ((("http", "tcp", 80), ("http", "tcp", 81)), "spec.namedPorts[1].name"),
        ((("http", "tcp", 80), ("http", "udp", 80)), ""),
        ((("serve-80-sctp", "sctp", 80),), ""),
    ],
)
def test_named_ports_of_endpoints(ports: tuple[tuple[str, Any, int], ...], where: str) -> None:
    state = State()
    put(state, network())
    named = tuple(NamedPort(name=n, protocol=proto, port=number) for n, proto, number in ports)
    spec = EndpointSpec(node="h1", network="n", named_ports=named)
    made = Endpoint(metadata=Metadata(name="e"), spec=spec)
    if not where:
        put(state, made, actor=NODE)
        return
    with pytest.raises(PlaitError) as caught:
        put(state, made, actor=NODE)
    assert caught.value.where.endswith(where)
