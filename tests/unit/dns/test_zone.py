"""The index: names by scope, kept right through every order of changes."""

from __future__ import annotations

import random
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.dns.zone import Scope, Zone
from plait.model.objects import (
    Endpoint,
    EndpointSpec,
    EndpointStatus,
    Metadata,
    Network,
    NetworkSpec,
    Workload,
)


def endpoint(
    ident: str,
    name: str,
    address: str,
    *,
    network: str = "blue",
    namespace: str = "default",
    node: str = "h1",
    aliases: tuple[str, ...] = (),
    workload: str = "",
    phase: str = "ready",
) -> Endpoint:
    return Endpoint(
        metadata=Metadata(name=ident, namespace=namespace),
        spec=EndpointSpec(
            node=node,
            network=network,
            name=name,
            aliases=aliases,
            addresses=(address,),
            workload=Workload(runtime="docker", id=workload) if workload else Workload(),
        ),
        status=EndpointStatus(phase=phase),  # type: ignore[arg-type]
    )


def network(name: str, *pools: str, internal: bool = False) -> Network:
    return Network(metadata=Metadata(name=name), spec=NetworkSpec(pools=pools, internal=internal))


def found(zone: Zone, scope: Scope, name: str, namespace: str = "default") -> set[str]:
    records = zone.named(scope, namespace.encode(), name.encode())
    return {address for record in records for address in record.addresses}


def test_names_and_aliases_come_and_go_with_their_endpoint() -> None:
    zone = Zone()
    zone.put(endpoint("a", "Web", "10.0.0.1", aliases=("www", "db.prod")))
    for name in ("web", "www", "db.prod"):
        assert found(zone, zone.host, name) == {"10.0.0.1"}
    zone.put(endpoint("a", "renamed", "10.0.0.1"))
    assert not found(zone, zone.host, "web")
    assert found(zone, zone.host, "renamed") == {"10.0.0.1"}
    zone.delete("default", "a")
    zone.delete("default", "a")
    assert not found(zone, zone.host, "renamed")


@pytest.mark.parametrize("name", ["", "a" * 64, "ü", "a..b", ".".join(["a" * 60] * 5)])
def test_names_that_no_query_can_hold_are_passed_over(name: str) -> None:
    zone = Zone()
    zone.put(endpoint("a", name, "10.0.0.1", aliases=("ok",)))
    assert found(zone, zone.host, "ok") == {"10.0.0.1"}
    assert zone.holders(zone.host, "10.0.0.1")[0].names == (b"ok",)


def test_a_pending_endpoint_is_not_there_as_name_nor_as_client() -> None:
    zone = Zone()
    zone.put(endpoint("a", "web", "10.0.0.1", phase="pending"))
    assert not found(zone, zone.host, "web")
    assert zone.scope("10.0.0.1") is None
    zone.put(endpoint("a", "web", "10.0.0.1"))
    assert found(zone, zone.host, "web")
    assert zone.scope("10.0.0.1") is not None


def test_a_client_sees_its_networks_and_those_of_its_workload() -> None:
    zone = Zone()
    zone.put(endpoint("web-blue", "web", "10.0.0.1", network="blue"))
    zone.put(endpoint("web-red", "web", "10.1.0.1", network="red"))
    zone.put(endpoint("c-blue", "c", "10.0.0.9", network="blue", workload="c"))
    scope = zone.scope("10.0.0.9")
    assert scope is not None
    assert found(zone, scope, "web") == {"10.0.0.1"}
    zone.put(endpoint("c-red", "c", "10.1.0.9", network="red", workload="c"))
    both = zone.scope("10.0.0.9")
    assert both is not None
    assert found(zone, both, "web") == {"10.0.0.1", "10.1.0.1"}
    assert zone.scope("10.1.0.9") is both
    zone.delete("default", "c-red")
    assert zone.scope("10.0.0.9") is scope
    assert zone.scope("10.1.0.9") is None


def test_a_scope_is_external_unless_all_its_networks_are_internal_or_unknown() -> None:
    zone = Zone()
    zone.put(endpoint("a", "a", "10.0.0.1", network="blue", workload="w"))
    assert zone.scope("10.0.0.1") is not None
    assert not zone.scope("10.0.0.1").external  # type: ignore[union-attr]
    zone.put_network(network("blue", "10.0.0.0/24"))
    assert zone.scope("10.0.0.1").external  # type: ignore[union-attr]
    zone.put_network(network("blue", "10.0.0.0/24", internal=True))
    assert not zone.scope("10.0.0.1").external  # type: ignore[union-attr]
    zone.put_network(network("red", "10.1.0.0/24"))
    zone.put(endpoint("b", "a", "10.1.0.1", network="red", workload="w"))
    assert zone.scope("10.0.0.1").external  # type: ignore[union-attr]
    zone.delete_network("red")
    assert not zone.scope("10.0.0.1").external  # type: ignore[union-attr]


def test_the_agent_knows_its_own_endpoints_better_than_the_server() -> None:
    zone = Zone(node="h1")
    zone.put(endpoint("stale", "web", "10.0.0.1", node="h1"))
    zone.put(endpoint("other", "web", "10.0.0.2", node="h2"))
    assert found(zone, zone.host, "web") == {"10.0.0.2"}
    zone.put_local(endpoint("mine", "web", "10.0.0.3", node="h1"))
    zone.replace([endpoint("other", "web", "10.0.0.2", node="h2")], [])
    assert found(zone, zone.host, "web") == {"10.0.0.2", "10.0.0.3"}
    zone.replace_local([endpoint("next", "web", "10.0.0.4", node="h1")])
    assert found(zone, zone.host, "web") == {"10.0.0.2", "10.0.0.4"}
    zone.replace_local([])
    zone.replace([], [])
    assert not found(zone, zone.host, "web")


def test_pools_tell_the_network_of_a_prefix() -> None:
    zone = Zone()
    zone.replace([], [network("blue", "10.0.0.0/24", "fd00::/64"), network("red", "10.1.0.0/16")])
    assert zone.network_of(ip_network("10.0.0.7/32")) == "blue"
    assert zone.network_of(ip_network("10.0.0.0/24")) == "blue"
    assert zone.network_of(ip_network("10.1.128.0/17")) == "red"
    assert zone.network_of(ip_network("fd00::9/128")) == "blue"
    for outside in ("10.0.0.0/16", "10.0.1.1/32", "fd00:1::/128"):
        assert not zone.network_of(ip_network(outside))


def test_an_odd_object_does_not_stop_the_others() -> None:
    zone = Zone()
    zone.replace(
        [endpoint("a", "odd", "not-an-address"), endpoint("b", "web", "10.0.0.1")],
        [network("odd", "not-a-pool"), network("blue", "10.0.0.0/24")],
    )
    assert found(zone, zone.host, "web") == {"10.0.0.1"}
    assert zone.network_of(ip_network("10.0.0.1/32")) == "blue"


CHOICES = [
    endpoint(ident, name, address, network=net, workload=work)
    for ident in "ab"
    for name in ("web", "db")
    for address, net in (("10.0.0.1", "blue"), ("10.1.0.1", "red"))
    for work in ("", "w")
]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(CHOICES)), max_size=30), st.randoms())
def test_any_path_ends_in_the_state_that_replace_makes(
    steps: list[tuple[bool, Endpoint]], rng: random.Random
) -> None:
    zone, there = Zone(), dict[str, Endpoint]()
    for put, obj in steps:
        zone.scope("10.0.0.1")
        if put:
            zone.put(obj)
            there[obj.metadata.name] = obj
        else:
            zone.delete("default", obj.metadata.name)
            there.pop(obj.metadata.name, None)
    fresh = Zone()
    objects = list(there.values())
    rng.shuffle(objects)
    fresh.replace(objects, [])
    for address in ("10.0.0.1", "10.1.0.1"):
        ours, theirs = zone.scope(address), fresh.scope(address)
        assert (ours and ours.networks) == (theirs and theirs.networks)
    for name in ("web", "db"):
        assert found(zone, zone.host, name) == found(fresh, fresh.host, name)
    fresh.replace([], [])
    for ident in list(there):
        zone.delete("default", ident)
    for emptied in (zone, fresh):
        assert not emptied._sources
        assert not emptied._records
        assert not emptied._names
        assert not emptied._addresses
        assert not emptied._workloads
        assert not emptied.has_namespace(emptied.host, b"default")
