"""`plait why` finds the backends that hosts lead to: it asks the objects, they an engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.worlds import endpoint, node

from plait.model.objects import (
    AnyObject,
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
from plait.model.selectors import Selector
from plait.model.service_table import Choice, Frontend
from plait.model.services import (
    EndpointSliceSpec,
    FixedBackend,
    ServicePort,
    ServiceSpec,
    SliceEndpoint,
    SlicePort,
)
from plait.policy.find_parties import find
from plait.policy.find_services import find_call
from plait.policy.questions import parse_asked
from plait.policy.world import World
from plait.selection.parties import LocalParty
from plait.services.engine import Engine

HERE, THERE = "h1", "h2"
OUTSIDE = "198.51.100.99"
CLIENT = endpoint("shop/client", "10.1.0.99", "fd00::99", ident="client")
WEB = Selector(match_labels={"app": "web"})
FIXED = tuple(FixedBackend(address=one) for one in ("10.1.0.1", "fd00::2", "203.0.113.7"))

hosts = st.sampled_from((HERE, THERE))
reach = st.sampled_from(("Cluster", "Local"))


@st.composite
def people(draw: st.DrawFn, *phases: Any) -> list[AnyObject]:
    """Endpoints, some of them pods, each with addresses of its own."""
    found: list[AnyObject] = []
    for number in range(1, draw(st.integers(1, 4)) + 1):
        made = endpoint(
            f"shop/e{number}",
            *draw(
                st.sampled_from(((f"10.1.0.{number}", f"fd00::{number}"), (f"10.1.0.{number}",)))
            ),
            node=draw(hosts),
            labels=draw(st.sampled_from(({"app": "web"}, {"app": "web"}, {}))),
            named=draw(st.sampled_from((("http=8080/tcp",), ("http=9090/udp",), ()))),
        )
        uid = draw(st.sampled_from(("", f"u{number}")))
        status = EndpointStatus(
            phase=draw(st.sampled_from(("ready", *phases))),
            condition=draw(st.sampled_from(("", "", "unhealthy", "stopping"))),
        )
        spec = msgspec.structs.replace(made.spec, workload=Workload(pod=uid))
        found.append(msgspec.structs.replace(made, spec=spec, status=status))
        if uid and draw(st.booleans()):
            told = PodSpec(
                uid=uid,
                ready=draw(st.booleans()),
                terminating=draw(st.booleans()),
                finished=draw(st.sampled_from((False, False, True))),
            )
            found.append(Pod(metadata=Metadata(name=f"e{number}", namespace="shop"), spec=told))
    return found


@st.composite
def slices(draw: st.DrawFn) -> list[EndpointSlice]:
    """Slices that may name an address several times, in several states."""
    backends = st.builds(
        SliceEndpoint,
        addresses=st.sampled_from((("10.1.0.1",), ("10.1.0.2", "10.1.0.3"), ("fd00::1",))),
        node=st.sampled_from(("", HERE, HERE, THERE)),
        ready=st.booleans(),
        serving=st.booleans(),
        terminating=st.booleans(),
    )
    return [
        EndpointSlice(
            metadata=Metadata(name=name, namespace="shop"),
            spec=EndpointSliceSpec(
                service="web",
                ports=draw(st.sampled_from(((SlicePort(port=7000),), (SlicePort(port=7001),), ()))),
                endpoints=tuple(draw(st.lists(backends, max_size=3))),
            ),
        )
        for name in ("s1", "s2")
    ]


@st.composite
def scenes(draw: st.DrawFn) -> list[AnyObject]:
    source = draw(st.sampled_from(("selector", "fixed", "slices")))
    targets: Any = (None, 8000) if source == "fixed" else (None, 8000, "http")
    service = Service(
        metadata=Metadata(name="web", namespace="shop", uid="web"),
        spec=ServiceSpec(
            type="LoadBalancer",
            network="net",
            ports=(
                ServicePort(port=80, target_port=draw(st.sampled_from(targets)), node_port=30080),
            ),
            selector=WEB if source == "selector" else None,
            backends=FIXED if source == "fixed" else (),
            addresses=("10.96.0.1", "fd96::1"),
            families=(4, 6),
            load_balancer_addresses=("192.0.2.200",),
            internal_traffic=draw(reach),
            external_traffic=draw(reach),
        ),
    )
    silent = NodeStatus(silent=draw(st.booleans()))
    return [
        service,
        CLIENT,
        Pod(metadata=Metadata(name="other", namespace="shop"), spec=PodSpec(uid="other")),
        node(HERE, "192.0.2.1", "2001:db8::1"),
        msgspec.structs.replace(node(THERE, "192.0.2.2", "2001:db8::2"), status=silent),
        # Where one is that nobody knows yet, its host cannot say.
        *draw(people(*(("pending",) if source == "selector" else ()))),
        *(draw(slices()) if source == "slices" else ()),
    ]


def engine_of(objects: list[AnyObject]) -> Engine:
    """The engine of this host: of its own endpoints it hears by its agent."""
    engine = Engine(HERE)
    for obj in objects:
        engine.put(obj)
        if isinstance(obj, Endpoint) and obj.spec.node == HERE and obj.status.phase != "pending":
            spec = obj.spec
            party = LocalParty(
                namespace=obj.metadata.namespace,
                names=(spec.name,),
                labels=obj.metadata.labels,
                network=spec.network,
                addresses=spec.addresses,
                named_ports=spec.named_ports,
                pod=spec.workload.pod,
            )
            engine.set_local(obj.metadata.name, party, obj.status.condition)
    return engine


def led(world: World, called: str, port: int, sender: str) -> Iterator[tuple[str, int]]:
    """Where `why` says that flows go."""
    call = find_call(world, called, parse_asked(f"{port}/tcp"))
    assert call is not None
    six = ":" in called
    for who in find(world, sender):
        for party in who.parties:
            if (":" in party.address) == six:
                yield from ((one.party.address, one.port) for one in call.met_by(party))


def chosen(choice: Choice) -> set[tuple[str, int]]:
    return {(one.address, one.port) for one in choice.backends}


@given(scenes())
@settings(max_examples=100)
def test_why_names_the_backends_that_a_host_leads_to(objects: list[AnyObject]) -> None:
    world, table = World.of(objects), engine_of(objects).table()

    def entry(address: str, port: int) -> tuple[Choice, Choice]:
        found = table.frontends.get(Frontend(address, "tcp", port))
        assert found is not None
        return found.inside, found.outside or found.inside

    for address in ("10.96.0.1", "fd96::1", "192.0.2.200"):
        inside, _ = entry(address, 80)
        assert set(led(world, address, 80, "shop/client")) == chosen(inside), address
    inside, outside = entry("0.0.0.0", 30080)
    assert set(led(world, "192.0.2.1", 30080, "10.1.0.99")) == chosen(inside)
    assert set(led(world, "192.0.2.1", 30080, OUTSIDE)) == chosen(outside)
