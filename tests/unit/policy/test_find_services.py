"""A receiver that is a Service: who answers there."""

from __future__ import annotations

import msgspec
import pytest
from tests.support.worlds import accept, endpoint, labelled, network, node, policy

from plait.model.errors import PlaitError
from plait.model.objects import (
    Cluster,
    ClusterSpec,
    Condition,
    Endpoint,
    EndpointSlice,
    EndpointStatus,
    Metadata,
    NodeStatus,
    Pod,
    Service,
    Workload,
)
from plait.model.pods import PodSpec
from plait.model.policies import Peer
from plait.model.services import (
    EndpointSliceSpec,
    FixedBackend,
    ServicePort,
    ServiceSpec,
    SliceEndpoint,
    SlicePort,
)
from plait.policy.evaluate import evaluate
from plait.policy.find_parties import find
from plait.policy.find_services import Call, find_call, followed
from plait.policy.questions import parse_asked
from plait.policy.world import World

WEB = {"app": "web"}


def ready(
    *args: object, phase: str = "ready", condition: Condition = "", **more: object
) -> Endpoint:
    made = endpoint(*args, **more)  # type: ignore[arg-type]
    status = EndpointStatus(phase=phase, condition=condition)  # type: ignore[arg-type]
    return msgspec.structs.replace(made, status=status)


def service(name: str = "shop/web", **spec: object) -> Service:
    space, _, short = name.rpartition("/")
    told = {
        "network": "net",
        "addresses": ("10.96.0.1", "fd96::1"),
        "ports": (ServicePort(port=80, name="http", target_port="http"),),
        "selector": labelled(app="web"),
        **spec,
    }
    return Service(
        metadata=Metadata(name=short, namespace=space),
        spec=ServiceSpec(**told),  # type: ignore[arg-type]
    )


ENDPOINTS = (
    ready("shop/a", "10.0.0.1", "fd00::1", labels=WEB, named=("http=8080/tcp",)),
    ready("shop/b", "10.0.0.2", labels=WEB, named=("http=8081/tcp",)),
    ready("shop/c", "10.0.0.3", labels=WEB),
    ready("shop/d", "10.0.0.4", labels=WEB, named=("http=80/tcp",), phase="pending"),
    ready("other/a", "10.0.0.5", labels=WEB, named=("http=80/tcp",)),
)


def led(call: Call | None) -> list[tuple[str, int]]:
    assert call is not None
    return sorted((backend.party.address, backend.port) for backend in call.backends)


@pytest.mark.parametrize(
    "text",
    [
        *("web", "shop/web", "10.96.0.1", "fd96:0::1"),
        *("web.shop", "web.shop.svc", "web.shop.svc.cluster.local.", "WEB.shop.plait.local"),
    ],
)
@pytest.mark.parametrize("port", ["80", "http", "80/tcp"])
def test_is_found_by_name_and_address(text: str, port: str) -> None:
    world = World.of((*ENDPOINTS, service()))
    found = find_call(world, text, parse_asked(port))
    assert led(found) == [("10.0.0.1", 8080), ("10.0.0.2", 8081), ("fd00::1", 8080)]
    assert found is not None
    assert {str(backend.party) for backend in found.backends} == {"shop/a", "shop/b"}


@pytest.mark.parametrize(
    "text", ["db", "other/web", "10.96.0.2", "10.0.0.1", "app=web", "world", "a.web.shop.svc"]
)
def test_others_are_no_services(text: str) -> None:
    world = World.of((*ENDPOINTS, service()))
    assert find_call(world, text, parse_asked("80")) is None


def test_a_name_of_several_namespaces_is_refused() -> None:
    world = World.of((service(), service("other/web")))
    with pytest.raises(PlaitError, match="2 namespaces"):
        find_call(world, "web", parse_asked("80"))
    assert find_call(world, "web", parse_asked("80"), "other") is not None


def test_a_port_that_it_has_not_is_an_endpoints_or_refused() -> None:
    world = World.of((*ENDPOINTS, service("shop/a"), service("shop/x", addresses=("10.96.0.2",))))
    assert find_call(world, "shop/a", parse_asked("443")) is None
    for text in ("shop/x", "10.96.0.2"):
        with pytest.raises(PlaitError, match="has no port `443/tcp`"):
            find_call(world, text, parse_asked("443"))
    assert find_call(world, "shop/x", parse_asked("80/tcp")) is not None
    with pytest.raises(PlaitError, match="80/udp"):
        find_call(world, "shop/x", parse_asked("80/udp"))


def test_an_alias_stands_for_another_name() -> None:
    far = service("shop/far", type="ExternalName", external_name="web.shop.svc.cluster.local")
    farther = service("shop/farther", type="ExternalName", external_name="far.shop")
    out = service("shop/out", type="ExternalName", external_name="www.example.com")
    ring = service("shop/ring", type="ExternalName", external_name="ring.shop")
    world = World.of((*ENDPOINTS, service(), far, farther, out, ring))
    for text in ("far", "shop/farther", "farther.shop"):
        assert followed(world, text) == "web.shop.svc.cluster.local"
    assert followed(world, "out") == "www.example.com"
    assert followed(world, "shop/web") == "shop/web"
    assert followed(world, "ring") == "ring.shop"


def test_fixed_backends_may_be_anybody() -> None:
    fixed = (FixedBackend(address="10.0.0.1", port=9), FixedBackend(address="192.0.2.1"))
    ports = (ServicePort(port=80, target_port=8000),)
    world = World.of((*ENDPOINTS, service(selector=None, backends=fixed, ports=ports)))
    found = find_call(world, "web", parse_asked("80"))
    assert led(found) == [("10.0.0.1", 9), ("192.0.2.1", 8000)]


def test_of_slices_those_that_drain_serve_when_none_is_ready() -> None:
    def slices(*states: tuple[bool, bool, bool]) -> EndpointSlice:
        return EndpointSlice(
            metadata=Metadata(name="web-1", namespace="shop"),
            spec=EndpointSliceSpec(
                service="web",
                ports=(SlicePort(port=8080, name="http"), SlicePort(port=1, name="other")),
                endpoints=tuple(
                    SliceEndpoint(
                        addresses=(f"10.0.0.{number}",),
                        ready=is_ready,
                        serving=serving,
                        terminating=terminating,
                    )
                    for number, (is_ready, serving, terminating) in enumerate(states, 1)
                ),
            ),
        )

    draining, gone = (False, True, True), (False, False, True)
    for states, addresses in (
        ([draining, gone], ["10.0.0.1"]),
        ([draining, gone, (True, True, False)], ["10.0.0.3"]),
        ([gone], []),
    ):
        world = World.of((*ENDPOINTS, service(selector=None), slices(*states)))
        found = find_call(world, "web", parse_asked("http"))
        assert [address for address, _ in led(found)] == addresses


def test_a_host_and_a_node_port_mean_a_service_unless_an_endpoint_publishes_the_port() -> None:
    ports = (ServicePort(port=80, target_port="http", node_port=30080),)
    made = service(type="NodePort", ports=ports)
    host = node("h1", "192.0.2.1/24")
    world = World.of((*ENDPOINTS, host, made))
    for text in ("192.0.2.1", "node:h1", "h1"):
        assert len(led(find_call(world, text, parse_asked("30080")))) == 3
        assert find_call(world, text, parse_asked("30080/udp")) is None
        assert find_call(world, text, parse_asked("80")) is None
    published = endpoint("shop/p", "10.0.0.9", published=((30080, 80),))
    assert find_call(World.of((host, made, published)), "h1", parse_asked("30080")) is None
    inside = service(ports=ports)
    assert find_call(World.of((host, inside)), "h1", parse_asked("30080")) is None


def test_backends_see_senders_outside_as_the_host_unless_they_are_on_it() -> None:
    ports = (ServicePort(port=80, target_port=80, node_port=30080),)
    hosts = (node("h1", "192.0.2.1/24"), node("h2", "192.0.2.2/24"))
    net = network("net", "10.0.0.0/24", "fd00::/64")
    far = ready("shop/far", "10.0.0.7", labels=WEB, node="h2")
    near = ready("shop/near", "10.0.0.8", labels=WEB, node="h1")
    world = World.of((*hosts, net, far, near, service(type="NodePort", ports=ports)))
    (outside, _) = find(world, "world")
    call = find_call(world, "h1", parse_asked("30080"))
    assert call is not None
    flows = {flow.dst.address: flow for flow in call.flows(world, outside)}
    assert flows["10.0.0.7"].src.address == "192.0.2.1"
    assert flows["10.0.0.8"].src == outside.parties[0]
    assert all(evaluate(world, flow).allowed for flow in flows.values())
    (inside,) = find(world, "shop/far")
    call = find_call(world, "10.96.0.1", parse_asked("80"))
    assert call is not None
    assert {flow.published for flow in call.flows(world, inside)} == {False}
    closed = network("net", "10.0.0.0/24", "fd00::/64", internal=True)
    world = World.of((*hosts, closed, far, near, service(type="NodePort", ports=ports)))
    assert not any(evaluate(world, flow).allowed for flow in call.flows(world, outside))


HOSTS = (node("h1", "192.0.2.1/24", "fd64::1/64"), node("h2", "192.0.2.2/24"), node("h3"))
NEAR = ready("shop/near", "10.0.0.8", labels=WEB, node="h1")
FAR = ready("shop/far", "10.0.0.7", "fd00::7", labels=WEB, node="h2")
CLIENT = ready("shop/client", "10.0.0.9", "fd00::9", node="h3")
SPACES = (*HOSTS, network("net", "10.0.0.0/24", "fd00::/64"), NEAR, FAR, CLIENT)


def met(world: World, call: Call | None, sender: str) -> list[str]:
    """The backends that a sender meets, or for each of its addresses that meets none, why."""
    assert call is not None
    found = find(world, sender)
    flows = [str(flow.dst) for who in found for flow in call.flows(world, who)]
    told = {call.refusal(party) for who in found for party in who.parties} - {""}
    return sorted({*flows, *told})


def test_external_traffic_that_stays_local_meets_the_backends_of_the_host() -> None:
    ports = (ServicePort(port=80, target_port=80, node_port=30080),)
    made = service(type="NodePort", ports=ports, external_traffic="Local")
    world = World.of((*SPACES, made))
    at = {
        host: find_call(world, f"node:{host}", parse_asked("30080")) for host in ("h1", "h2", "h3")
    }
    assert met(world, at["h1"], "203.0.113.1") == ["shop/near"]
    assert met(world, at["h2"], "203.0.113.1") == met(world, at["h2"], "node:h1") == ["shop/far"]
    none = (
        "node h3 has no backend of its own, and the Service leads traffic from outside to no "
        "other: dropped"
    )
    assert met(world, at["h3"], "world") == [none]
    # Its own pods, and itself, are not outside.
    assert met(world, at["h3"], "shop/client") == ["shop/far", "shop/near"]
    assert met(world, at["h1"], "node:h1") == ["shop/far", "shop/near"]


def test_internal_traffic_that_stays_local_meets_the_backends_of_the_senders_host() -> None:
    made = service(ports=(ServicePort(port=80, target_port=80),), internal_traffic="Local")
    world = World.of((*SPACES, made))
    call = find_call(world, "shop/web", parse_asked("80"))
    assert met(world, call, "shop/near") == ["shop/near"]
    assert met(world, call, "shop/client") == [
        "node h3 has no backend of its own, and the Service leads traffic from the network to no "
        "other: refused"
    ]


def test_source_ranges_are_of_load_balancer_addresses_and_let_hosts_in() -> None:
    made = service(
        type="LoadBalancer",
        ports=(ServicePort(port=80, target_port=80),),
        load_balancer_addresses=("198.51.100.1", "2001:db8:1::1"),
        source_ranges=("203.0.113.0/24", "10.0.0.8/32"),
    )
    world = World.of((*SPACES, made))
    four = find_call(world, "198.51.100.1", parse_asked("80"))
    six = find_call(world, "2001:db8:1::1", parse_asked("80"))
    both = ["shop/far", "shop/near"]
    for sender in ("203.0.113.1", "shop/near", "node:h2"):
        assert met(world, four, sender) == both
    out = "198.51.100.1 takes none but 203.0.113.0/24, 10.0.0.8/32: dropped"
    assert met(world, four, "203.0.114.1") == met(world, four, "shop/client") == [out]
    assert met(world, six, "2001:db8::1") == [out.replace("198.51.100.1", "2001:db8:1::1")]
    assert met(world, six, "203.0.113.1") == []
    assert met(world, find_call(world, "10.96.0.1", parse_asked("80")), "shop/client") == both


def test_an_address_of_the_pools_that_no_service_has_is_refused() -> None:
    spec = ClusterSpec(service_pools=("10.96.0.0/16",), load_balancer_pools=("192.0.2.0/28",))
    world = World.of(
        (
            *ENDPOINTS,
            service(),
            Cluster(metadata=Metadata(name="plait"), spec=spec),
            node("h1", "192.0.2.1"),
        )
    )
    for address in ("10.96.0.9", "192.0.2.9"):
        with pytest.raises(PlaitError, match=f"no Service has the address {address}"):
            find_call(world, address, parse_asked("80"))
    assert find_call(world, "10.96.0.1", parse_asked("80")) is not None
    # A host's own, in a pool for load balancers; and what is nobody's.
    assert find_call(world, "192.0.2.1", parse_asked("80")) is None
    assert find_call(world, "198.51.100.1", parse_asked("80")) is None


def test_containers_that_are_told_to_end_serve_when_none_is_ready() -> None:
    def met(*conditions: Condition) -> list[tuple[str, int]]:
        some = (
            ready(
                f"shop/e{i}",
                f"10.0.0.{i}",
                labels=WEB,
                named=("http=80/tcp",),
                condition=condition,
            )
            for i, condition in enumerate(conditions, 1)
        )
        return led(find_call(World.of((*some, service())), "shop/web", parse_asked("80")))

    assert met("stopping", "unhealthy", "") == [("10.0.0.3", 80)]
    assert met("stopping", "unhealthy") == [("10.0.0.1", 80)]
    assert met("unhealthy") == []


def test_pods_stand_as_their_orchestrator_says() -> None:
    def met(*pods: PodSpec | None) -> list[tuple[str, int]]:
        some = []
        for i, pod in enumerate(pods, 1):
            made = ready(f"shop/e{i}", f"10.0.0.{i}", labels=WEB, named=("http=80/tcp",))
            spec = msgspec.structs.replace(made.spec, workload=Workload(pod=f"u{i}"))
            some.append(msgspec.structs.replace(made, spec=spec))
            if pod is not None:
                told = msgspec.structs.replace(pod, uid=f"u{i}")
                some.append(Pod(metadata=Metadata(name=f"e{i}", namespace="shop"), spec=told))
        return led(find_call(World.of((*some, service())), "shop/web", parse_asked("80")))

    answers, fails = PodSpec(ready=True), PodSpec()
    leaves = PodSpec(ready=True, terminating=True)
    over = PodSpec(ready=True, finished=True)
    assert met(answers, fails, leaves, over, None) == [("10.0.0.1", 80)]
    assert met(fails, leaves, over) == [("10.0.0.2", 80)]
    assert met(fails, over) == []
    # Manifests say nothing of pods.
    assert met(None) == [("10.0.0.1", 80)]


def test_backends_of_silent_hosts_are_the_last() -> None:
    near, far = (
        ready(f"shop/{name}", address, labels=WEB, node=host, named=("http=80/tcp",))
        for name, address, host in (("a", "10.0.0.1", "h1"), ("b", "10.0.0.2", "h2"))
    )
    lost = node("h2", "192.0.2.2")
    lost = msgspec.structs.replace(lost, status=NodeStatus(silent=True))
    call = find_call(World.of((near, far, service(), lost)), "shop/web", parse_asked("80"))
    assert led(call) == [("10.0.0.1", 80)]
    call = find_call(World.of((far, service(), lost)), "shop/web", parse_asked("80"))
    assert led(call) == [("10.0.0.2", 80)]


def test_who_calls_a_node_port_of_another_host_leaves_with_the_address_of_his_own() -> None:
    ports = (ServicePort(port=80, target_port=8080, node_port=30080),)
    world = World.of((*SPACES, service(type="NodePort", ports=ports)))
    call = find_call(world, "h1", parse_asked("30080"))
    assert call is not None

    def seen(sender: str, call: Call = call) -> list[tuple[str, str, int]]:
        return [
            (flow.src.address, flow.dst.address, flow.port)
            for who in find(world, sender)
            for flow in call.flows(world, who)
            if ":" not in flow.dst.address
        ]

    assert seen("shop/far") == [
        ("10.0.0.7", "192.0.2.1", 30080),
        ("192.0.2.1", "10.0.0.7", 8080),
        ("192.0.2.2", "10.0.0.8", 8080),
    ]
    elsewhere = call._replace(node=HOSTS[1])  # It has no IPv6.
    (both,) = find(world, "shop/client")
    assert {":" in flow.dst.address for flow in elsewhere.flows(world, both)} == {False}
    assert seen("shop/near") == [("10.0.0.8", "10.0.0.7", 8080), ("10.0.0.8", "10.0.0.8", 8080)]
    to_pods = policy("out", egress=(accept(Peer(endpoints=labelled(app="web"))),))
    world = World.of((*SPACES, service(type="NodePort", ports=ports), to_pods))
    (sender,) = find(world, "shop/far")
    told = {str(flow.dst): evaluate(world, flow).allowed for flow in call.flows(world, sender)}
    assert told == {"node h1": False, "shop/near": True, "shop/far": True}
