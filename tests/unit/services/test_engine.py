"""The engine in examples: what each kind of Service makes of the table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from plait.cli.service_words import state_text
from plait.model.objects import (
    AnyObject,
    Condition,
    Endpoint,
    EndpointSlice,
    EndpointSpec,
    EndpointStatus,
    Metadata,
    NamedPort,
    Network,
    NetworkSpec,
    Node,
    NodeSpec,
    NodeStatus,
    Pod,
    Service,
    Workload,
)
from plait.model.pods import PodSpec
from plait.model.selectors import Selector
from plait.model.service_table import BackendAddress, Choice, Entry, Frontend, ServiceTable
from plait.model.services import (
    EndpointSliceSpec,
    FixedBackend,
    ServicePort,
    ServiceSpec,
    SliceEndpoint,
    SlicePort,
)
from plait.selection.parties import LocalParty
from plait.services.engine import Engine, HealthCheck

HERE = "h1"
WEB = Selector(match_labels={"app": "web"})
NETWORK = ServiceSpec().network


def service(name: str = "web", **spec: object) -> Service:
    spec = {"addresses": ("10.96.0.1",), "ports": (ServicePort(port=80),), **spec}
    return Service(
        metadata=Metadata(name=name, namespace="shop", uid=name),
        spec=ServiceSpec(**spec),  # type: ignore[arg-type]
    )


def endpoint(
    address: str,
    node: str = "h2",
    *,
    app: str = "web",
    phase: str = "ready",
    condition: Condition = "",
    ports: tuple[NamedPort, ...] = (),
    network: str = NETWORK,
    namespace: str = "shop",
    pod: str = "",
) -> Endpoint:
    return Endpoint(
        metadata=Metadata(
            name=f"e-{address.replace(':', '-')}", namespace=namespace, labels={"app": app}
        ),
        spec=EndpointSpec(
            node=node,
            network=network,
            name="w" + address.replace(".", "-"),
            addresses=(address,),
            named_ports=ports,
            workload=Workload(pod=pod),
        ),
        status=EndpointStatus(phase=phase, condition=condition),  # type: ignore[arg-type]
    )


def pod(name: str, *, namespace: str = "shop", **spec: object) -> Pod:
    """A pod that is ready, whose uid is its name."""
    spec = {"uid": name, "ready": True, **spec}
    return Pod(
        metadata=Metadata(name=name, namespace=namespace),
        spec=PodSpec(**spec),  # type: ignore[arg-type]
    )


def local(*addresses: str, app: str = "web", pod: str = "") -> LocalParty:
    return LocalParty(
        namespace="shop",
        names=("mine",),
        labels={"app": app},
        network=NETWORK,
        addresses=addresses,
        pod=pod,
    )


def slices(*endpoints: SliceEndpoint, name: str = "web-1", port: int = 8080) -> EndpointSlice:
    return EndpointSlice(
        metadata=Metadata(name=name, namespace="shop"),
        spec=EndpointSliceSpec(service="web", ports=(SlicePort(port=port),), endpoints=endpoints),
    )


_OTHER = FixedBackend(address="10.1.0.3")
_OUTSIDE = FixedBackend(address="192.0.2.7")


def silent(name: str, *, silent: bool = True) -> Node:
    return Node(metadata=Metadata(name=name), status=NodeStatus(ready=True, silent=silent))


def internal(closed: bool) -> Network:
    return Network(metadata=Metadata(name=NETWORK), spec=NetworkSpec(internal=closed))


def told(*objects: AnyObject) -> Engine:
    engine = Engine(HERE)
    for obj in objects:
        engine.put(obj)
    return engine


def entry(table: ServiceTable, address: str = "10.96.0.1", port: int = 80) -> Entry:
    found = table.frontends.get(Frontend(address, "tcp", port))
    assert found is not None
    return found


def addresses(choice: Choice | None) -> list[str]:
    assert choice is not None
    return [backend.address for backend in choice.backends]


class TestBackends:
    def test_of_a_selector_are_endpoints_of_its_network_and_namespace(self) -> None:
        engine = told(
            service(selector=WEB, ports=(ServicePort(port=80, target_port=8080),)),
            endpoint("10.1.0.2"),
            endpoint("10.1.0.1"),
            endpoint("10.1.0.3", app="db"),
            endpoint("10.1.0.4", network="other"),
            endpoint("10.1.0.5", namespace="other"),
            endpoint("10.1.0.6", phase="pending"),
        )
        assert entry(engine.table()).inside.backends == (
            BackendAddress("10.1.0.1", 8080),
            BackendAddress("10.1.0.2", 8080),
        )

    def test_of_this_host_are_those_that_its_agent_tells(self) -> None:
        engine = told(service(selector=WEB), endpoint("10.1.0.1", HERE))
        assert addresses(entry(engine.table()).inside) == []
        engine.set_local("x", local("10.1.0.9"))
        assert addresses(entry(engine.table()).inside) == ["10.1.0.9"]
        engine.set_local("x", None)
        assert addresses(entry(engine.table()).inside) == []

    @pytest.mark.parametrize("there", ["here", "elsewhere"])
    @pytest.mark.parametrize(
        ("condition", "beside", "alone", "word"),
        [
            ("", ["10.1.0.1", "10.1.0.2"], ["10.1.0.2"], "ready"),
            ("starting", ["10.1.0.1"], [], "starting"),
            ("unhealthy", ["10.1.0.1"], [], "unhealthy"),
            ("paused", ["10.1.0.1"], [], "paused"),
            ("stopping", ["10.1.0.1"], ["10.1.0.2"], "draining"),
        ],
    )
    def test_stand_as_their_runtime_says(
        self, there: str, condition: Condition, beside: list[str], alone: list[str], word: str
    ) -> None:
        engine = told(service(selector=WEB), other := endpoint("10.1.0.1"))
        for said in ("", condition):
            if there == "here":
                engine.set_local("x", local("10.1.0.2"), said)
            else:
                engine.put(endpoint("10.1.0.2", "h3", condition=said))
        assert addresses(entry(engine.table()).inside) == beside
        shown = {one.address: state_text(one) for one in engine.backends("shop", "web")}
        assert shown == {"10.1.0.1": "ready", "10.1.0.2": word}
        engine.delete(other)
        inside = entry(engine.table()).inside
        assert (addresses(inside), inside.unavailable) == (alone, "reject")

    @pytest.mark.parametrize(
        ("second", "expected"),
        [
            ({}, ["10.1.0.1", "10.1.0.2"]),
            ({"ready": False}, ["10.1.0.1"]),
            ({"terminating": True}, ["10.1.0.1"]),
            ({"finished": True}, ["10.1.0.1"]),
            (None, ["10.1.0.1"]),
        ],
    )
    def test_that_are_pods_stand_as_their_orchestrator_says(
        self, second: dict[str, Any] | None, expected: list[str]
    ) -> None:
        engine = told(service(selector=WEB), pod("a"), endpoint("10.1.0.1", pod="a"))
        engine.set_local("x", local("10.1.0.2", pod="b"))
        engine.put(pod("b"))
        assert addresses(entry(engine.table()).inside) == ["10.1.0.1", "10.1.0.2"]
        if second is None:
            engine.delete(pod("b"))
        else:
            engine.put(pod("b", **second))
        assert addresses(entry(engine.table()).inside) == expected

    def test_that_terminate_serve_while_no_other_does(self) -> None:
        engine = told(
            service(selector=WEB),
            *(endpoint(f"10.1.0.{n}", pod=str(n)) for n in (1, 2, 3, 4)),
            pod("1", ready=False),
            pod("2", terminating=True),
            pod("3", terminating=True, ready=False),
        )
        assert addresses(entry(engine.table()).inside) == ["10.1.0.2"]
        engine.put(pod("1"))
        assert addresses(entry(engine.table()).inside) == ["10.1.0.1"]

    def test_a_pod_of_another_namespace_says_nothing_by_a_uid(self) -> None:
        engine = told(
            service(selector=WEB),
            endpoint("10.1.0.1", pod="a"),
            pod("a"),
            pod("a", namespace="evil", ready=False),
        )
        assert addresses(entry(engine.table()).inside) == ["10.1.0.1"]
        engine.delete(pod("a", namespace="evil"))
        assert addresses(entry(engine.table()).inside) == ["10.1.0.1"]

    def test_a_pods_successor_of_the_same_name_is_another(self) -> None:
        engine = told(
            service(selector=WEB),
            endpoint("10.1.0.1", pod="db-0"),
            pod("db-0"),
            pod("db-0", uid="next"),
        )
        assert addresses(entry(engine.table()).inside) == []
        engine.put(endpoint("10.1.0.2", pod="next"))
        assert addresses(entry(engine.table()).inside) == ["10.1.0.2"]

    def test_a_named_port_is_each_endpoints_own(self) -> None:
        engine = told(
            service(selector=WEB, ports=(ServicePort(port=80, target_port="http"),)),
            endpoint("10.1.0.1", ports=(NamedPort(name="http", protocol="tcp", port=8080),)),
            endpoint("10.1.0.2", ports=(NamedPort(name="http", protocol="tcp", port=9090),)),
            endpoint("10.1.0.3", ports=(NamedPort(name="http", protocol="udp", port=80),)),
            endpoint("10.1.0.4"),
        )
        assert entry(engine.table()).inside.backends == (
            BackendAddress("10.1.0.1", 8080),
            BackendAddress("10.1.0.2", 9090),
        )

    def test_that_were_written_down_have_their_own_port_or_the_target(self) -> None:
        engine = told(
            service(
                ports=(ServicePort(port=80, target_port=8080),),
                backends=(
                    FixedBackend(address="192.0.2.1"),
                    FixedBackend(address="192.0.2.2", port=1),
                ),
            )
        )
        assert entry(engine.table()).inside.backends == (
            BackendAddress("192.0.2.1", 8080),
            BackendAddress("192.0.2.2", 1),
        )

    def test_of_several_slices_are_each_once(self) -> None:
        one, two = SliceEndpoint(addresses=("10.1.0.1",)), SliceEndpoint(addresses=("10.1.0.2",))
        engine = told(slices(one, two), slices(one, name="web-2"), service())
        assert addresses(entry(engine.table()).inside) == ["10.1.0.1", "10.1.0.2"]
        assert len(engine.backends("shop", "web")) == 2

    def test_a_frontend_gets_those_of_its_family(self) -> None:
        engine = told(
            service(addresses=("10.96.0.1", "fd00:96::1")),
            slices(SliceEndpoint(addresses=("10.1.0.1", "fd00:0:0::1", "10.1.0.99"))),
        )
        table = engine.table()
        assert addresses(entry(table).inside) == ["10.1.0.1"]
        assert addresses(entry(table, "fd00:96::1").inside) == ["fd00::1"]

    def test_ports_of_slices_are_matched_by_name(self) -> None:
        ports = (ServicePort(port=80, name="a"), ServicePort(port=81, name="b"))
        told_ports = (SlicePort(port=8081, name="b"), SlicePort(port=9, name="a", protocol="UDP"))
        engine = told(
            service(ports=ports),
            EndpointSlice(
                metadata=Metadata(name="x", namespace="shop"),
                spec=EndpointSliceSpec(
                    service="web",
                    ports=told_ports,
                    endpoints=(SliceEndpoint(addresses=("10.1.0.1",)),),
                ),
            ),
        )
        assert entry(engine.table()).inside.backends == ()
        assert entry(engine.table(), port=81).inside.backends == (BackendAddress("10.1.0.1", 8081),)


class TestChoice:
    def test_those_that_terminate_serve_only_while_none_is_ready(self) -> None:
        going = SliceEndpoint(addresses=("10.1.0.1",), ready=False, terminating=True)
        gone = SliceEndpoint(addresses=("10.1.0.2",), ready=False, serving=False, terminating=True)
        starting = SliceEndpoint(addresses=("10.1.0.3",), ready=False, serving=False)
        engine = told(service(), slices(going, gone, starting))
        assert addresses(entry(engine.table()).inside) == ["10.1.0.1"]
        engine.put(slices(SliceEndpoint(addresses=("10.1.0.4",)), name="web-2"))
        assert addresses(entry(engine.table()).inside) == ["10.1.0.4"]

    def test_of_this_host_those_that_terminate_come_before_ready_ones_elsewhere(self) -> None:
        going = SliceEndpoint(addresses=("10.1.0.1",), node=HERE, ready=False, terminating=True)
        engine = told(
            service(internal_traffic="Local"),
            slices(going, SliceEndpoint(addresses=("10.1.0.2",), node="h2")),
        )
        assert addresses(entry(engine.table()).inside) == ["10.1.0.1"]

    def test_local_outside_drops_while_others_have_some(self) -> None:
        engine = told(
            service(
                type="LoadBalancer",
                external_traffic="Local",
                load_balancer_addresses=("203.0.113.1",),
                health_check_node_port=30999,
                ports=(ServicePort(port=80, node_port=30080),),
            ),
            slices(SliceEndpoint(addresses=("10.1.0.1",), node="h2")),
        )
        cluster, balanced, node = (
            entry(engine.table()),
            entry(engine.table(), "203.0.113.1"),
            entry(engine.table(), "0.0.0.0", 30080),
        )
        assert cluster.outside is None
        for opened in (balanced, node):
            assert addresses(opened.inside) == ["10.1.0.1"]
            assert opened.outside == Choice((), unavailable="drop")
        assert engine.health() == {30999: HealthCheck("shop", "web", 0)}
        engine.put(slices(SliceEndpoint(addresses=("10.1.0.2",), node=HERE)))
        assert addresses(entry(engine.table(), "203.0.113.1").inside) == ["10.1.0.2"]
        assert entry(engine.table(), "203.0.113.1").outside is None
        assert engine.health() == {30999: HealthCheck("shop", "web", 1)}
        engine.put(slices())
        refused = entry(engine.table(), "203.0.113.1")
        assert (refused.inside.unavailable, refused.outside) == ("reject", None)

    def test_hints_count_only_when_all_carry_them(self) -> None:
        site = Node(metadata=Metadata(name=HERE), spec=NodeSpec(site="a"))
        near = SliceEndpoint(addresses=("10.1.0.1",), for_sites=("a",))
        far = SliceEndpoint(addresses=("10.1.0.2",), for_sites=("b",))
        engine = told(site, service(), slices(near, far))
        assert addresses(entry(engine.table()).inside) == ["10.1.0.1"]
        engine.put(slices(near, SliceEndpoint(addresses=("10.1.0.2",))))
        assert len(addresses(entry(engine.table()).inside)) == 2
        engine.put(slices(SliceEndpoint(addresses=("10.1.0.1",), for_sites=("b",))))
        assert addresses(entry(engine.table()).inside) == ["10.1.0.1"]

    def test_prefers_the_node_then_the_site_then_anybody(self) -> None:
        nodes = [
            Node(metadata=Metadata(name=name), spec=NodeSpec(site=site))
            for name, site in ((HERE, "a"), ("h2", "a"), ("h3", "b"))
        ]
        engine = told(
            *nodes,
            service(selector=WEB, prefer="node"),
            endpoint("10.1.0.3", "h3"),
        )
        assert addresses(entry(engine.table()).inside) == ["10.1.0.3"]
        engine.put(endpoint("10.1.0.2", "h2"))
        assert addresses(entry(engine.table()).inside) == ["10.1.0.2"]
        engine.set_local("x", local("10.1.0.1"))
        assert addresses(entry(engine.table()).inside) == ["10.1.0.1"]
        engine.put(service(selector=WEB, prefer="site"))
        assert addresses(entry(engine.table()).inside) == ["10.1.0.1", "10.1.0.2"]
        engine.put(Node(metadata=Metadata(name="h2"), spec=NodeSpec(site="b")))
        assert addresses(entry(engine.table()).inside) == ["10.1.0.1"]

    @pytest.mark.parametrize(
        "spec",
        [{"selector": WEB}, {"backends": (FixedBackend(address="10.1.0.2"), _OTHER, _OUTSIDE)}],
        ids=["selected", "fixed"],
    )
    def test_nobody_on_a_silent_host_gets_new_flows_while_others_do(
        self, spec: dict[str, object]
    ) -> None:
        engine = told(service(**spec), endpoint("10.1.0.2", "h2"), endpoint("10.1.0.3", "h3"))
        outside = ["192.0.2.7"] if "backends" in spec else []
        engine.put(silent("h3"))
        assert addresses(entry(engine.table()).inside) == ["10.1.0.2", *outside]
        shown = {b.address: (b.ready, b.silent) for b in engine.backends("shop", "web")}
        assert shown["10.1.0.3"] == (False, True)
        engine.put(silent("h3", silent=False))
        assert addresses(entry(engine.table()).inside) == ["10.1.0.2", "10.1.0.3", *outside]

    def test_silent_hosts_are_used_where_there_are_no_others(self) -> None:
        engine = told(service(selector=WEB), endpoint("10.1.0.2", "h2"), silent("h2"))
        assert addresses(entry(engine.table()).inside) == ["10.1.0.2"]
        engine.put(endpoint("10.1.0.3", "h3"))
        assert addresses(entry(engine.table()).inside) == ["10.1.0.3"]
        engine.put(endpoint("10.1.0.3", "h3", phase="pending"))
        assert addresses(entry(engine.table()).inside) == ["10.1.0.2"]

    def test_a_host_hears_itself(self) -> None:
        engine = told(service(selector=WEB), endpoint("10.1.0.2", "h2"), silent(HERE))
        engine.set_local("x", local("10.1.0.1"))
        assert addresses(entry(engine.table()).inside) == ["10.1.0.1", "10.1.0.2"]

    def test_an_orchestrator_knows_of_silent_hosts(self) -> None:
        engine = told(
            service(),
            slices(
                SliceEndpoint(addresses=("10.1.0.2",), node="h2"),
                SliceEndpoint(addresses=("10.1.0.3",), node="h3"),
            ),
            silent("h3"),
        )
        assert addresses(entry(engine.table()).inside) == ["10.1.0.2", "10.1.0.3"]

    def test_a_fixed_backend_is_local_where_its_address_is(self) -> None:
        engine = told(
            service(
                internal_traffic="Local",
                backends=(FixedBackend(address="10.1.0.1"), FixedBackend(address="192.0.2.1")),
            ),
            Node(metadata=Metadata(name=HERE), spec=NodeSpec(addresses=("192.0.2.1/24",))),
        )
        assert addresses(entry(engine.table()).inside) == ["192.0.2.1"]
        engine.set_local("x", local("10.1.0.1", app="other"))
        assert addresses(entry(engine.table()).inside) == ["10.1.0.1", "192.0.2.1"]


class TestFrontends:
    def test_of_an_internal_network_are_closed_to_the_outside(self) -> None:
        ports = (ServicePort(port=80, node_port=30080),)
        engine = told(
            service(type="NodePort", ports=ports, selector=WEB),
            endpoint("10.1.0.1"),
            internal(True),
        )
        for frontend in (("10.96.0.1", 80), ("0.0.0.0", 30080)):
            opened = entry(engine.table(), *frontend)
            assert addresses(opened.inside) == ["10.1.0.1"]
            assert opened.outside == Choice(())
        engine.put(internal(False))
        assert entry(engine.table()).outside is None
        engine.put(internal(True))
        engine.delete(internal(True))
        assert entry(engine.table()).outside is None

    def test_headless_and_aliases_have_none(self) -> None:
        engine = told(
            service(headless=True),
            service("alias", type="ExternalName", external_name="example.com"),
            slices(SliceEndpoint(addresses=("10.1.0.1",))),
        )
        assert engine.table() == ServiceTable()
        assert [backend.address for backend in engine.backends("shop", "web")] == ["10.1.0.1"]

    def test_source_ranges_are_of_balancers_alone_and_closed_in_a_family_not_named(self) -> None:
        engine = told(
            service(
                type="LoadBalancer",
                families=(4, 6),
                load_balancer_addresses=("203.0.113.1", "2001:db8::1"),
                external_addresses=("198.51.100.1",),
                source_ranges=("192.0.2.0/25", "192.0.2.128/25", "10.0.0.0/8"),
            )
        )
        table = engine.table()
        assert entry(table, "203.0.113.1").sources == (
            "10.0.0.0-10.255.255.255",
            "192.0.2.0-192.0.2.255",
        )
        assert entry(table, "2001:db8::1").sources == ("::-::",)
        assert entry(table).sources == entry(table, "198.51.100.1").sources == ()
        assert set(table.addresses) == {"10.96.0.1", "203.0.113.1", "2001:db8::1"}

    def test_the_whole_family_is_no_limit(self) -> None:
        engine = told(
            service(
                type="LoadBalancer",
                load_balancer_addresses=("203.0.113.1",),
                source_ranges=("0.0.0.0/0",),
            )
        )
        assert entry(engine.table(), "203.0.113.1").sources == ()

    def test_node_ports_are_of_the_services_families(self) -> None:
        ports = (ServicePort(port=80, node_port=30080),)
        engine = told(service(type="NodePort", ports=ports))
        nodes = {frontend.address for frontend in engine.table().frontends if frontend.port != 80}
        assert nodes == {"0.0.0.0"}
        engine.put(service(type="NodePort", ports=ports, families=(4, 6)))
        nodes = {frontend.address for frontend in engine.table().frontends if frontend.port != 80}
        assert nodes == {"0.0.0.0", "::"}
        engine.put(service(ports=ports))
        assert len(engine.table().frontends) == 1

    def test_of_two_services_with_one_address_it_is_always_the_same(self) -> None:
        one, two = service("one"), service("two")
        first, second, third = told(one, two), told(two, one), told(one, two)
        assert first.table() == second.table()
        ident = entry(first.table()).service
        for loser, winner in ((one, two), (two, one)):
            third.delete(loser)
            assert entry(third.table()).service == entry(told(winner).table()).service
            third.put(loser)
            assert entry(third.table()).service == ident
        third.delete(one)
        third.delete(two)
        assert third.table() == ServiceTable(serial=third.table().serial)

    def test_ids_are_opaque_and_others_after_a_deletion(self) -> None:
        engine = told(service())
        before = entry(engine.table()).service
        assert before.isalnum()
        assert len(before) <= 16
        engine.delete(service())
        again = service()
        engine.put(
            Service(metadata=Metadata(name="web", namespace="shop", uid="other"), spec=again.spec)
        )
        assert entry(engine.table()).service != before


class TestChanges:
    def test_a_table_is_the_same_while_nothing_changed(self) -> None:
        engine = told(service(selector=WEB), endpoint("10.1.0.1"), endpoint("10.9.0.1", app="db"))
        table = engine.table()
        engine.put(service(selector=WEB))
        engine.put(endpoint("10.1.0.1"))
        engine.put(endpoint("10.9.0.2", app="db"))
        engine.put(Node(metadata=Metadata(name="h2"), spec=NodeSpec(site="a")))
        assert engine.table() is table
        engine.put(endpoint("10.1.0.2"))
        again = engine.table()
        assert again is not table
        assert again.serial > table.serial
        assert again.frontends is table.frontends

    def test_one_change_touches_one_element(self) -> None:
        objects: list[AnyObject] = []
        for number in range(200):
            objects.append(
                service(
                    f"s{number}",
                    addresses=(f"10.96.1.{number}",),
                    selector=Selector(match_labels={"app": f"a{number}"}),
                )
            )
            objects.append(endpoint(f"10.1.0.{number}", app=f"a{number}"))
        engine = told(*objects)
        serial = engine.table().frontends.serial
        engine.put(endpoint("10.1.1.7", app="a7"))
        assert engine.table().frontends.since(serial) == frozenset(
            (Frontend("10.96.1.7", "tcp", 80),)
        )

    def test_who_follows_names_hears_of_each_service_that_may_have_moved(self) -> None:
        heard: list[tuple[str, str]] = []
        engine = Engine(HERE, moved=lambda namespace, name: heard.append((namespace, name)))

        def hears(objects: Iterable[AnyObject]) -> set[tuple[str, str]]:
            heard.clear()
            for obj in objects:
                engine.put(obj)
            return set(heard)

        assert hears([service(selector=WEB)]) == {("shop", "web")}
        assert hears([endpoint("10.1.0.1")]) == {("shop", "web")}
        assert hears([endpoint("10.1.0.1"), endpoint("10.1.0.2", app="db")]) == set()
        assert hears([endpoint("10.1.0.1", phase="pending")]) == {("shop", "web")}


@pytest.mark.parametrize("family", [4, 6])
def test_backends_tell_all_of_a_headless_service(family: int) -> None:
    address = "10.1.0.1" if family == 4 else "fd00::1"
    engine = told(
        service(headless=True, selector=WEB, publish_not_ready=True),
        endpoint(address, phase="pending"),
    )
    (backend,) = engine.backends("shop", "web")
    assert (backend.address, backend.ready, backend.node) == (address, False, "h2")
    assert backend.ports == (80,)
    assert backend.name.startswith("w")
