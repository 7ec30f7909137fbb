"""Services, slices and Pods: what they must satisfy, and what the server gives them."""

from __future__ import annotations

import ipaddress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.server.test_admission import ADMIN, NOW, apply, refused, step

from plait.model.errors import PlaitError
from plait.model.objects import (
    AnyObject,
    Cluster,
    ClusterSpec,
    EndpointSlice,
    Metadata,
    NamedPort,
    Namespace,
    Network,
    NetworkSpec,
    Node,
    NodeSpec,
    Pod,
    Service,
)
from plait.model.pods import PodSpec
from plait.model.policies import Origin
from plait.model.selectors import Selector
from plait.model.services import (
    EndpointSliceSpec,
    FixedBackend,
    ServicePort,
    ServiceSpec,
    SliceEndpoint,
    SlicePort,
)
from plait.server import claims
from plait.server.admission import service as service_module
from plait.server.authorize import Actor
from plait.server.state import State
from plait.server.writes import Plan, plan

FOREIGN = Origin(kind="Service", name="web", namespace="default")
HTTP = (ServicePort(port=80),)


def service(name: str = "web", **spec: Any) -> Service:
    ports = spec.pop("ports", HTTP)
    return Service(metadata=Metadata(name=name), spec=ServiceSpec(ports=ports, **spec))


def balancer(name: str = "web", **spec: Any) -> Service:
    return service(name, type="LoadBalancer", **spec)


def cluster(**spec: Any) -> Cluster:
    fields = {
        "pools": ("10.112.0.0/12", "fd00:1::/48"),
        "service_pools": ("10.79.0.0/16", "fd00:2::/112"),
        "load_balancer_pools": ("192.0.2.240/30",),
        **spec,
    }
    return Cluster(metadata=Metadata(name="plait"), spec=ClusterSpec(**fields))


@pytest.fixture
def state() -> State:
    made = State()
    network = NetworkSpec(pools=("10.112.0.0/16", "fd00:1::/64"))
    apply(made, cluster(), Network(metadata=Metadata(name="plait"), spec=network))
    return made


def stored(state: State, name: str = "web") -> ServiceSpec:
    found = state.get(Service, name, "default")
    assert found is not None
    return found.spec


def message(state: State, name: str = "web") -> str:
    found = state.get(Service, name, "default")
    assert found is not None
    return found.status.message


def delete(state: State, *objects: AnyObject) -> Plan:
    decided = plan(state, ADMIN, [step(obj, "delete") for obj in objects], NOW, lambda: "u" * 8)
    state.revision += 1
    for key, obj in decided.puts.items():
        if obj is None:
            state.delete(key)
        else:
            state.put(key, obj, state.revision)
    return decided


# Cluster addresses


def test_a_service_gets_an_address_of_each_family_out_of_the_service_pools(state: State) -> None:
    apply(state, service("a"), service("b"))
    seen = [ipaddress.ip_address(text) for name in "ab" for text in stored(state, name).addresses]
    assert [address.version for address in seen] == [4, 6, 4, 6]
    assert len(set(seen)) == 4
    for address in seen:
        assert any(address in ipaddress.ip_network(p) for p in cluster().spec.service_pools)
    assert stored(state, "a").families == (4, 6)


def test_an_update_that_names_no_address_keeps_them(state: State) -> None:
    apply(state, service(type="NodePort"))
    before = stored(state)
    assert before.ports[0].node_port in range(30000, 32768)
    apply(state, service(type="NodePort", affinity_seconds=60))
    after = stored(state)
    assert (after.addresses, after.ports) == (before.addresses, before.ports)


def test_what_was_read_can_be_written_back(state: State) -> None:
    apply(state, balancer(external_traffic="Local"))
    found = state.get(Service, "web", "default")
    assert found is not None
    assert not apply(state, found).puts


def test_a_name_that_comes_back_gets_its_address_again_if_it_is_free(state: State) -> None:
    apply(state, service())
    before = stored(state).addresses
    delete(state, service())
    apply(state, service())
    assert stored(state).addresses == before


def test_one_family_alone_and_another_one_later(state: State) -> None:
    apply(state, service(families=(6,)))
    (six,) = stored(state).addresses
    assert ":" in six
    apply(state, service(families=(6, 4)))
    assert stored(state).addresses[0] == six
    assert len(stored(state).addresses) == 2


def test_a_service_is_called_in_the_families_in_which_somebody_answers(state: State) -> None:
    four, six = FixedBackend(address="192.0.2.7"), FixedBackend(address="2001:db8::7")
    spec = NetworkSpec(pools=("10.50.0.0/20",))
    apply(state, Network(metadata=Metadata(name="four"), spec=spec))
    apply(
        state,
        service("a", backends=(four,)),
        service("b", backends=(six,)),
        service("c", backends=(four, six)),
        service("d", network="four", selector=Selector()),
        service("e", network="four"),
    )
    assert {name: stored(state, name).families for name in "abcde"} == {
        "a": (4,),
        "b": (6,),
        "c": (4, 6),
        "d": (4,),
        "e": (4, 6),  # Slices may name anybody.
    }
    asked = service("f", network="four", selector=Selector(), families=(6,))
    assert "the network four has no address" in refused("PLAIT-API-002", state, asked).why


def test_a_backend_of_another_family_needs_an_address_of_it(state: State) -> None:
    four, six = FixedBackend(address="192.0.2.7"), FixedBackend(address="2001:db8::7")
    apply(state, service(backends=(four,)))
    before = stored(state)
    refused("PLAIT-API-002", state, service(backends=(four, six)))
    apply(state, service(backends=(four, six), families=(4, 6)))
    after = stored(state)
    assert after.addresses[0] == before.addresses[0]
    assert [":" in address for address in after.addresses] == [False, True]


def test_given_addresses_may_lie_outside_of_the_service_pools(state: State) -> None:
    decided = apply(state, service(addresses=("10.96.0.10",)))
    assert stored(state).addresses == ("10.96.0.10",)
    assert stored(state).families == (4,)
    assert "/guards/pools" in decided.guards


def test_addresses_are_one_services_alone(state: State) -> None:
    apply(state, service("a", addresses=("10.96.0.10",)))
    refused("PLAIT-SERVICE-001", state, service("b", addresses=("10.96.0.10",)))
    refused("PLAIT-SERVICE-001", state, service("b", external_addresses=("10.96.0.10",)))
    apply(state, service("c", external_addresses=("192.0.2.7",)))
    refused("PLAIT-SERVICE-001", state, service("b", addresses=("192.0.2.7",)))
    refused("PLAIT-SERVICE-001", state, service("b", external_addresses=("192.0.2.7",)))
    other = (ServicePort(port=81),)
    apply(state, service("b", external_addresses=("192.0.2.7",), ports=other))


def test_addresses_do_not_change_but_for_whoever_they_belong_to(state: State) -> None:
    apply(state, service("a", addresses=("10.96.0.10",)))
    refused("PLAIT-SERVICE-005", state, service("a", addresses=("10.96.0.11",)))
    apply(state, service("b", addresses=("10.96.0.20",), origin=FOREIGN))
    apply(state, service("b", addresses=("10.96.0.21",), origin=FOREIGN))
    apply(state, service("c", addresses=("10.96.0.20",)))


def test_no_address_of_a_network_is_a_services(state: State) -> None:
    refused("PLAIT-SERVICE-006", state, service(addresses=("10.112.0.1",)))
    refused("PLAIT-SERVICE-006", state, service(external_addresses=("10.112.3.1",)))
    refused("PLAIT-SERVICE-006", state, balancer(load_balancer_addresses=("fd00:1::5",)))


def test_no_address_of_a_host_is_a_services_alone(state: State) -> None:
    node = NodeSpec(addresses=("192.0.2.241/24", "fd00:9::1/64"))
    other = NodeSpec(addresses=("198.51.100.1/24",))
    apply(state, Node(metadata=Metadata(name="h1"), spec=node))
    apply(state, Node(metadata=Metadata(name="h2"), spec=other))
    refused("PLAIT-SERVICE-001", state, service(addresses=("fd00:9::1",)))
    refused("PLAIT-SERVICE-001", state, balancer(load_balancer_addresses=("192.0.2.241",)))
    # It leads to that host, whoever balances.
    apply(state, service("a", external_addresses=("192.0.2.241",)))
    apply(state, balancer("b", load_balancer_addresses=("198.51.100.1",)))
    # A host that comes later does not keep a Service from being written.
    apply(state, service("c", addresses=("10.96.0.9",)))
    late = NodeSpec(addresses=("10.96.0.9/24",))
    apply(state, Node(metadata=Metadata(name="h3"), spec=late))
    apply(state, service("c", addresses=("10.96.0.9",), affinity_seconds=60))


def test_nobody_answers_for_the_servers_of_a_network(state: State) -> None:
    """Whoever could would be shown the credentials of every agent."""
    apply(state, Node(metadata=Metadata(name="h1"), spec=NodeSpec(addresses=("192.0.2.1/24",))))
    servers = (ServicePort(port=6440),)
    refused("PLAIT-SERVICE-001", state, service(external_addresses=("192.0.2.1",), ports=servers))
    held = (ServicePort(port=80, node_port=6440),)
    refused("PLAIT-SERVICE-003", state, service(type="NodePort", ports=held, origin=FOREIGN))
    apply(state, service("a", ports=servers))
    apply(state, service("b", external_addresses=("198.51.100.7",), ports=servers))
    datagrams = (ServicePort(port=6440, protocol="UDP"),)
    apply(state, service("c", external_addresses=("192.0.2.1",), ports=datagrams))


def test_no_network_gets_addresses_of_services(state: State) -> None:
    def network(*pools: str) -> Network:
        return Network(metadata=Metadata(name="x"), spec=NetworkSpec(pools=pools))

    refused("PLAIT-SERVICE-006", state, network("10.79.4.0/24"))
    refused("PLAIT-SERVICE-006", state, network("192.0.2.0/24"))
    apply(state, service(addresses=("10.113.0.10",)))
    refused("PLAIT-SERVICE-006", state, network("10.113.0.0/24"))
    apply(state, network())
    made = state.get(Network, "x")
    assert made is not None
    assert made.spec.pools[0] == "10.113.16.0/20"


def test_without_a_service_pool_a_service_names_its_address(state: State) -> None:
    apply(state, cluster(service_pools=()))
    error = refused("PLAIT-SERVICE-007", state, service())
    assert error.fix == ("plait up --service-pool CIDR   # on the server's host",)
    apply(state, service(addresses=("10.96.0.10",)))
    apply(state, service("free", headless=True))


def test_used_up_service_pools_say_so(state: State) -> None:
    apply(state, cluster(service_pools=("10.79.0.0/29",)))
    apply(state, *(service(f"s{i}") for i in range(6)))
    taken = {stored(state, f"s{i}").addresses for i in range(6)}
    assert taken == {(f"10.79.0.{i}",) for i in range(1, 7)}
    assert "10.79.0.0/29" in refused("PLAIT-SERVICE-002", state, service("more")).detail
    delete(state, service("s3"))
    apply(state, service("more"))


def test_two_services_of_one_batch_get_different_addresses(state: State) -> None:
    apply(state, cluster(service_pools=("10.79.0.0/30",)))
    apply(state, service("a"), service("b"))
    assert {stored(state, n).addresses for n in "ab"} == {("10.79.0.1",), ("10.79.0.2",)}


# Node ports


def test_node_ports_are_one_services_a_protocol(state: State) -> None:
    apply(state, service("a", type="NodePort", ports=(ServicePort(port=80, node_port=30080),)))
    same = service("b", type="NodePort", ports=(ServicePort(port=80, node_port=30080),))
    refused("PLAIT-SERVICE-003", state, same)
    udp = ServicePort(port=80, node_port=30080, protocol="UDP")
    apply(state, service("b", type="NodePort", ports=(udp,)))


def test_one_number_for_both_protocols_of_a_port(state: State) -> None:
    ports = (
        ServicePort(name="dns", port=53, protocol="UDP"),
        ServicePort(name="dns-tcp", port=53, protocol="TCP"),
    )
    apply(state, service(type="NodePort", ports=ports))
    udp, tcp = stored(state).ports
    assert udp.node_port == tcp.node_port


def test_a_port_keeps_its_node_port_when_others_come_and_names_change(state: State) -> None:
    apply(state, service(type="NodePort"))
    (before,) = stored(state).ports
    ports = (ServicePort(name="https", port=443), ServicePort(name="http", port=80))
    apply(state, service(type="NodePort", ports=ports))
    https, http = stored(state).ports
    assert http.node_port == before.node_port != https.node_port
    moved = (ServicePort(name="https", port=8443), ServicePort(name="plain", port=80))
    apply(state, service(type="NodePort", ports=moved))
    assert [p.node_port for p in stored(state).ports] == [https.node_port, http.node_port]


def test_node_ports_outside_of_the_range_are_an_orchestrators_only(state: State) -> None:
    ports = (ServicePort(port=80, node_port=22),)
    refused("PLAIT-API-002", state, service(type="NodePort", ports=ports))
    apply(state, service(type="NodePort", ports=ports, origin=FOREIGN))


def test_used_up_node_ports_say_so(state: State) -> None:
    apply(state, cluster(node_ports="30000-30001"))
    apply(state, service("a", type="NodePort"), service("b", type="NodePort"))
    refused("PLAIT-SERVICE-004", state, service("c", type="NodePort"))


def test_a_service_loses_node_ports_with_its_type(state: State) -> None:
    apply(state, service(type="NodePort"))
    before = stored(state)
    apply(
        state,
        msgspec.structs.replace(service(), spec=msgspec.structs.replace(before, type="ClusterIP")),
    )
    assert stored(state).ports[0].node_port == 0
    assert stored(state).addresses == before.addresses
    refused("PLAIT-API-002", state, service(ports=(ServicePort(port=80, node_port=30001),)))


def test_a_port_for_health_checks_comes_with_local_traffic(state: State) -> None:
    apply(state, balancer(external_traffic="Local"))
    port = stored(state).health_check_node_port
    assert port in range(30000, 32768)
    clash = ServicePort(port=80, node_port=port)
    refused("PLAIT-SERVICE-003", state, service("b", type="NodePort", ports=(clash,)))
    apply(state, balancer(external_traffic="Local", affinity_seconds=5))
    assert stored(state).health_check_node_port == port
    apply(state, balancer(health_check_node_port=port))
    assert stored(state).health_check_node_port == 0


def test_a_port_for_health_checks_is_asked_by_whoever_balances_over_node_ports(
    state: State,
) -> None:
    local = {"type": "NodePort", "external_traffic": "Local"}
    asked = service(**local, health_check_node_port=30777, origin=FOREIGN)
    apply(state, asked)
    assert stored(state).health_check_node_port == 30777
    apply(state, service(**local, origin=FOREIGN))
    assert stored(state).health_check_node_port == 0
    refused("PLAIT-API-002", state, service(**local, health_check_node_port=30777))


def test_a_balancer_may_go_without_node_ports(state: State) -> None:
    apply(state, balancer(node_ports=False))
    assert stored(state).ports[0].node_port == 0
    apply(state, balancer())
    assert stored(state).ports[0].node_port


# Load-balancer addresses


def test_load_balancer_addresses_are_given_lowest_first_around_hosts(state: State) -> None:
    node = NodeSpec(addresses=("192.0.2.240/24",))
    apply(state, Node(metadata=Metadata(name="h1"), spec=node), balancer("a"), balancer("b"))
    assert stored(state, "a").load_balancer_addresses == ("192.0.2.241",)
    assert stored(state, "b").load_balancer_addresses == ("192.0.2.242",)


def test_no_balancer_gets_what_a_hosts_subnet_has_for_itself(state: State) -> None:
    apply(state, cluster(load_balancer_pools=("192.0.2.0/29", "2001:db8::/126")))
    node = NodeSpec(addresses=("192.0.2.3/29", "2001:db8::9/64"))
    apply(state, Node(metadata=Metadata(name="h1"), spec=node))
    apply(state, *[balancer(name) for name in "abcdef"])
    given = [a for name in "abcdef" for a in stored(state, name).load_balancer_addresses]
    assert sorted(given) == [
        *[f"192.0.2.{number}" for number in (1, 2, 4, 5, 6)],
        *[f"2001:db8::{number}" for number in (1, 2, 3)],
    ]


def test_who_gets_none_is_told_and_gets_the_next_that_comes_free(state: State) -> None:
    apply(state, *(balancer(f"s{i}") for i in range(6)))
    assert stored(state, "s3").load_balancer_addresses == ("192.0.2.243",)
    for name in ("s4", "s5"):
        assert stored(state, name).addresses
        assert "used up" in message(state, name)
    decided = delete(state, balancer("s1"))
    assert stored(state, "s4").load_balancer_addresses == ("192.0.2.241",)
    assert not message(state, "s4")
    assert decided.guards
    assert message(state, "s5")
    apply(state, service("s0"))
    assert stored(state, "s5").load_balancer_addresses == ("192.0.2.240",)
    assert not state.claimants(claims.LACKING)


def test_who_begins_to_lack_and_who_frees_meet_in_a_guard(state: State) -> None:
    """Otherwise one could wait for what another frees at the same moment."""
    for i in range(4):
        assert service_module.BALANCERS_GUARD not in apply(state, balancer(f"s{i}")).guards
    assert service_module.BALANCERS_GUARD in apply(state, balancer("s4")).guards
    assert service_module.BALANCERS_GUARD in delete(state, balancer("s0")).guards
    assert service_module.BALANCERS_GUARD in apply(state, service("s1")).guards
    more = cluster(load_balancer_pools=("192.0.2.240/30", "192.0.2.0/30"))
    assert service_module.BALANCERS_GUARD in apply(state, more).guards


def test_pools_that_come_later_serve_those_who_wait(state: State) -> None:
    apply(state, cluster(load_balancer_pools=()))
    apply(state, balancer())
    assert "no pool" in message(state)
    apply(state, cluster(load_balancer_pools=("192.0.2.7/32", "fd00:3::/120")))
    assert stored(state).load_balancer_addresses == ("192.0.2.7", "fd00:3::")


def test_given_load_balancer_addresses_are_taken_and_may_be_shared_by_port(state: State) -> None:
    apply(state, balancer("a", load_balancer_addresses=("198.51.100.5",)))
    both = balancer("b", load_balancer_addresses=("198.51.100.5",))
    refused("PLAIT-SERVICE-001", state, both)
    ports = (ServicePort(port=443),)
    apply(state, balancer("b", load_balancer_addresses=("198.51.100.5",), ports=ports))
    apply(state, balancer("a"))
    assert stored(state, "a").load_balancer_addresses == ("198.51.100.5",)


# Fields


@pytest.mark.parametrize(
    "wrong",
    [
        service(ports=()),
        service(ports=(ServicePort(port=0),)),
        service(ports=(ServicePort(port=80, name="a"), ServicePort(port=80, name="b"))),
        service(ports=(ServicePort(port=80), ServicePort(port=81))),
        service(ports=(ServicePort(port=80, name="a"), ServicePort(port=81, name="a"))),
        service(ports=(ServicePort(port=80, name="A"),)),
        service(ports=(ServicePort(port=80, target_port=0),)),
        service(ports=(ServicePort(port=80, target_port="8080"),)),
        service(selector=Selector(), backends=(FixedBackend(address="192.0.2.1"),)),
        service(backends=(FixedBackend(address="127.0.0.1"),)),
        service(backends=(FixedBackend(address="169.254.169.254"),)),
        service(backends=(FixedBackend(address="10.79.0.9"),)),
        service(backends=(FixedBackend(address="192.0.2.9"),), addresses=("192.0.2.9",)),
        service(backends=(FixedBackend(address="192.0.2.9"),), families=(6,)),
        service(backends=(FixedBackend(address="192.0.2.9"),), families=(4, 6)),
        service(backends=(FixedBackend(address="::ffff:127.0.0.1"),)),
        service(
            backends=(FixedBackend(address="192.0.2.1"),),
            ports=(ServicePort(port=80, target_port="http"),),
        ),
        service(addresses=("10.96.0.1", "10.96.0.2")),
        service(addresses=("10.96.0.1",), families=(6,)),
        service(addresses=("224.0.0.1",)),
        service(addresses=("0.0.0.0",)),
        service(families=(4, 4)),
        service(headless=True, addresses=("10.96.0.1",)),
        service(type="NodePort", headless=True),
        service(affinity_seconds=86401),
        service(source_ranges=("192.0.2.0/24",)),
        balancer(source_ranges=("192.0.2.1/24",)),
        balancer(health_check_node_port=30000),
        service(load_balancer_addresses=("192.0.2.240",)),
        service(external_name="example.com"),
        service(type="ExternalName", ports=()),
        service(type="ExternalName", ports=(), external_name="-"),
        service(type="ExternalName", ports=(), external_name="a.b", addresses=("10.96.0.1",)),
        service(
            type="NodePort",
            ports=(
                ServicePort(port=80, name="a", node_port=30001),
                ServicePort(port=81, name="b", node_port=30001),
            ),
        ),
    ],
)
def test_what_is_no_service(state: State, wrong: Service) -> None:
    with pytest.raises(PlaitError, match=r"PLAIT-(API-002|NAME-001)"):
        apply(state, wrong)


def test_an_alias_has_no_address_and_can_become_a_service(state: State) -> None:
    apply(state, service(type="ExternalName", ports=(), external_name="db.example.com"))
    assert not stored(state).addresses
    apply(state, service())
    assert stored(state).addresses
    assert not stored(state).external_name


def test_a_service_is_in_a_network_that_stays_as_long(state: State) -> None:
    refused("PLAIT-NET-006", state, service(network="nowhere"))
    apply(state, service())
    network = state.get(Network, "plait")
    assert network is not None
    with pytest.raises(PlaitError, match="PLAIT-API-011") as caught:
        delete(state, network)
    assert "default/web" in caught.value.why


def test_a_namespace_is_made_and_stays_as_long_as_anything_is_in_it(state: State) -> None:
    apply(state, Pod(metadata=Metadata(name="web-1", namespace="shop")))
    shop = state.get(Namespace, "shop")
    assert shop is not None
    with pytest.raises(PlaitError, match="PLAIT-API-011") as caught:
        delete(state, shop)
    assert caught.value.why == "objects use it: Pod web-1"


# Clusters


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("PLAIT-API-002", {"service_pools": ("10.79.0.0/16", "10.80.0.0/16")}),
        ("PLAIT-SERVICE-006", {"service_pools": ("10.112.0.0/16",)}),
        ("PLAIT-SERVICE-006", {"service_pools": ("10.0.0.0/8",)}),
        ("PLAIT-SERVICE-006", {"service_pools": ("192.0.2.0/24",)}),
        ("PLAIT-SERVICE-006", {"load_balancer_pools": ("10.79.3.0/24",)}),
        ("PLAIT-SERVICE-006", {"load_balancer_pools": ("192.0.2.0/29", "192.0.2.4/30")}),
        ("PLAIT-NET-004", {"service_pools": ("127.0.0.0/16",)}),
        ("PLAIT-NET-004", {"load_balancer_pools": ("169.254.0.0/24",)}),
        ("PLAIT-NET-004", {"service_pools": ("10.79.0.1/16",)}),
        ("PLAIT-API-002", {"node_ports": "32767-30000"}),
        ("PLAIT-API-002", {"node_ports": "30000"}),
        ("PLAIT-API-002", {"node_ports": "30000-70000"}),
        ("PLAIT-NAME-001", {"kubernetes_domain": "cluster..local"}),
        ("PLAIT-API-002", {"kubernetes_domain": "k.plait.local"}),
        ("PLAIT-API-002", {"kubernetes_domain": "local"}),
    ],
)
def test_what_is_no_cluster(state: State, code: str, wrong: dict[str, Any]) -> None:
    node = NodeSpec(addresses=("198.51.100.1/24",))
    apply(state, Node(metadata=Metadata(name="h1"), spec=node))
    refused(code, state, cluster(**wrong))


def test_service_pools_are_no_hosts_own_but_balancers_may_be(state: State) -> None:
    node = NodeSpec(addresses=("198.51.100.1/24",))
    apply(state, Node(metadata=Metadata(name="h1"), spec=node))
    refused("PLAIT-SERVICE-006", state, cluster(service_pools=("198.51.0.0/16",)))
    apply(state, cluster(load_balancer_pools=("198.51.100.64/28",)))


# Slices and Pods


def slices(**spec: Any) -> EndpointSlice:
    fields = {"service": "web", **spec}
    return EndpointSlice(metadata=Metadata(name="web-x1"), spec=EndpointSliceSpec(**fields))


def pod(**spec: Any) -> Pod:
    return Pod(metadata=Metadata(name="web-1"), spec=PodSpec(**spec))


def test_slices_and_pods_are_kept_in_canonical_form(state: State) -> None:
    backend = SliceEndpoint(addresses=("FD00:1:0::5",), hostname="web-0", pod="web-1", node="h1")
    apply(state, slices(endpoints=(backend,), ports=(SlicePort(port=80),)))
    found = state.get(EndpointSlice, "web-x1", "default")
    assert found is not None
    assert found.spec.endpoints[0].addresses == ("fd00:1::5",)
    apply(state, pod(uid="u", addresses=("FD00:1::5",), named_ports=(), hostname="web-0"))
    known = state.get(Pod, "web-1", "default")
    assert known is not None
    assert known.spec.addresses == ("fd00:1::5",)


@pytest.mark.parametrize(
    "wrong",
    [
        slices(service=""),
        slices(ports=(SlicePort(port=0),)),
        slices(ports=(SlicePort(port=80), SlicePort(port=81))),
        slices(endpoints=(SliceEndpoint(addresses=("127.0.0.1",)),)),
        slices(endpoints=(SliceEndpoint(addresses=("10.0.0.1",), hostname="A"),)),
        slices(endpoints=(SliceEndpoint(addresses=("10.0.0.1",), site="\n"),)),
        slices(endpoints=(SliceEndpoint(addresses=()),) * 1001),
        pod(uid="x" * 129),
        pod(node="-"),
        pod(hostname="a.b"),
        pod(addresses=("nowhere",)),
        pod(named_ports=(NamedPort(name="a", protocol="tcp", port=0),)),
    ],
)
def test_what_is_no_slice_and_no_pod(state: State, wrong: AnyObject) -> None:
    with pytest.raises(PlaitError, match=r"PLAIT-(API-002|NAME-001)"):
        apply(state, wrong)


# Claims


@settings(max_examples=60, deadline=None)
@given(size=st.integers(0, 400), low=st.integers(0, 400), seed=st.text(max_size=8))
def test_scattered_numbers_come_once_each_and_low_ones_last(size: int, low: int, seed: str) -> None:
    low = min(low, size)
    found = list(claims.scattered(size, low, seed))
    assert sorted(found) == list(range(size))
    assert all(number >= low for number in found[: size - low])


def test_claims_of_the_same_thing_meet_in_a_guard() -> None:
    (first,) = claims.guards([claims.cluster("10.0.0.1")])
    assert claims.guards([claims.outside("10.0.0.1")]) == (first,)
    assert claims.guards([claims.frontend("10.0.0.1", "TCP", 80)]) == (first,)
    assert claims.guards([claims.LACKING]) == ()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdef"),
            st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName", "gone"]),
            st.booleans(),
        ),
        max_size=25,
    )
)
def test_nothing_is_ever_two_services_own(changes: list[tuple[str, str, bool]]) -> None:
    """Whatever comes, changes and goes: claims are unique, and who waits does so with reason."""
    state = State()
    small = cluster(service_pools=("10.79.0.0/28",), node_ports="30000-30007")
    network = NetworkSpec(pools=("10.112.0.0/16",))
    apply(state, small, Network(metadata=Metadata(name="plait"), spec=network))
    for name, kind, local in changes:
        if kind == "gone":
            if state.get(Service, name, "default"):
                delete(state, service(name))
            continue
        alias = kind == "ExternalName"
        wanted = service(
            name,
            type=kind,
            ports=() if alias else HTTP,
            external_name="a.example" if alias else "",
            external_traffic="Local" if local else "Cluster",
        )
        apply(state, wanted)
        everyone = list(state.all(Service))
        held = [c for s in everyone for c in claims.claims(s) if c != claims.LACKING]
        assert len(held) == len(set(held))
        balancers = [s for s in everyone if s.spec.type == "LoadBalancer"]
        served = [s for s in balancers if s.spec.load_balancer_addresses]
        assert len(served) == min(4, len(balancers))
        assert all(
            bool(s.status.message) != bool(s.spec.load_balancer_addresses) for s in balancers
        )


def test_nodes_write_no_services(state: State) -> None:
    node = Actor("node", "h1", "u" * 8)
    for obj in (service(), slices(), pod()):
        refused("PLAIT-AUTH-006", state, obj, actor=node)
