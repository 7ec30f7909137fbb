"""Whatever happens in whatever order, the engine says what the words of `model.services` say.

`expected` is written from those words alone: it looks at all objects, keeps nothing, and shares no
code with the engine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.model.objects import (
    AnyObject,
    Endpoint,
    EndpointSlice,
    EndpointSpec,
    EndpointStatus,
    Metadata,
    NamedPort,
    Node,
    NodeSpec,
    Pod,
    Service,
    Workload,
)
from plait.model.pods import PodSpec
from plait.model.selectors import Selector
from plait.model.service_table import BackendAddress, Choice, Entry, Frontend
from plait.model.services import (
    EndpointSliceSpec,
    FixedBackend,
    ServicePort,
    ServiceSpec,
    SliceEndpoint,
    SlicePort,
)
from plait.selection.parties import LocalParty
from plait.services.engine import Engine
from plait.services.frontends import service_id

T = TypeVar("T")

HERE, OTHERS = "h1", ("h2", "h3")
V4 = [f"10.1.0.{number}" for number in range(1, 5)]
V6 = [f"fd00::{number}" for number in range(1, 4)]
SITES = ("", "a", "b")
NAMES = ("web", "db")
THERE = EndpointStatus(phase="ready")
NETWORKS = (ServiceSpec().network, "other")

labels = st.fixed_dictionaries({}, optional={"app": st.sampled_from(NAMES)})
some_addresses = st.tuples(st.sampled_from(V4), st.sampled_from(V6)).flatmap(
    lambda both: st.sampled_from([both, both[:1], both[1:], ()])
)
named_ports = st.lists(
    st.builds(
        NamedPort,
        name=st.just("http"),
        protocol=st.sampled_from(("tcp", "udp")),
        port=st.sampled_from((8080, 9090)),
    ),
    max_size=2,
    unique_by=lambda port: port.protocol,
).map(tuple)
ports = st.lists(
    st.builds(
        ServicePort,
        port=st.sampled_from((80, 81)),
        name=st.sampled_from(("", "", "a")),
        protocol=st.sampled_from(("TCP", "TCP", "UDP")),
        target_port=st.sampled_from((None, None, 8000, "http")),
        node_port=st.sampled_from((0, 30080)),
    ),
    min_size=1,
    max_size=2,
    unique_by=(lambda port: (port.port, port.protocol), lambda port: (port.node_port, port.port)),
).map(tuple)


def subset(of: Sequence[T]) -> st.SearchStrategy[tuple[T, ...]]:
    return st.sampled_from(((), (of[0],), (of[1],), tuple(of[:2])))


FIXED = (FixedBackend(address=V4[0]), FixedBackend(address="192.0.2.1", port=7))
selectors = st.sampled_from(({}, {}, {"app": "web"}, {"app": "db"})).map(
    lambda wanted: Selector(match_labels=wanted)
)
policies = st.sampled_from(("Cluster", "Local"))
specs = st.builds(
    ServiceSpec,
    type=st.sampled_from(("LoadBalancer", "LoadBalancer", "NodePort", "ClusterIP", "ExternalName")),
    ports=ports,
    headless=st.sampled_from((False, False, False, False, False, True)),
    external_addresses=subset(("198.51.100.1", "2001:db8::1")),
    affinity_seconds=st.sampled_from((0, 60)),
    internal_traffic=policies,
    external_traffic=policies,
    source_ranges=subset(("192.0.2.0/24", "2001:db8::/64")),
    prefer=st.sampled_from(("", "node", "site")),
)


@st.composite
def services(draw: st.DrawFn, source: str) -> Service:
    name, spec = draw(st.sampled_from(("web", "web", "db"))), draw(specs)
    number = NAMES.index(name) + 1
    changed = {
        **{field: getattr(spec, field) for field in spec.__struct_fields__},
        # No two Services claim the same frontend: who has it then is another test's.
        "addresses": draw(st.sampled_from(((f"10.96.0.{number}", f"fd96::{number}"), ()))),
        "load_balancer_addresses": (f"203.0.113.{number}",),
        "external_addresses": spec.external_addresses if name == "web" else (),
        "type": "ClusterIP" if name == "db" and spec.type == "NodePort" else spec.type,
        "families": draw(st.sampled_from(((), (4,), (6, 4)))),
        "selector": draw(selectors) if source == "selector" else None,
        "backends": draw(subset(FIXED)) if source == "fixed" else (),
    }
    if name == "db":
        changed["ports"] = tuple(
            ServicePort(port=port.port, protocol=port.protocol) for port in spec.ports
        )
    return Service(
        metadata=Metadata(name=name, namespace="shop", uid=name), spec=ServiceSpec(**changed)
    )


UIDS = {"p": ("p1", "p2"), "q": ("q1", "q2")}
uids = st.sampled_from(("", "", "p1", "p2", "q1", "q2"))
endpoints = st.builds(
    Endpoint,
    metadata=st.builds(
        Metadata,
        name=st.sampled_from(("e1", "e2", "e3")),
        namespace=st.sampled_from(("shop", "shop", "shop", "other")),
        labels=labels,
    ),
    spec=st.builds(
        EndpointSpec,
        node=st.sampled_from((HERE, *OTHERS)),
        network=st.sampled_from((NETWORKS[0], *NETWORKS)),
        name=st.just("x"),
        addresses=some_addresses,
        named_ports=named_ports,
        workload=st.builds(Workload, pod=uids),
    ),
    status=st.builds(
        EndpointStatus,
        phase=st.sampled_from(("pending", "ready", "degraded")),
        condition=st.sampled_from(("", "", "", "unhealthy", "stopping")),
    ),
)
locals_ = st.one_of(
    st.none(),
    st.builds(
        LocalParty,
        namespace=st.sampled_from(("shop", "other")),
        labels=labels,
        network=st.sampled_from((NETWORKS[0], *NETWORKS)),
        addresses=some_addresses,
        named_ports=named_ports,
        pod=uids,
    ),
)
pods = st.builds(
    Pod,
    metadata=st.builds(
        Metadata,
        name=st.sampled_from(("p", "q")),
        namespace=st.sampled_from(("shop", "shop", "shop", "other")),
    ),
    spec=st.builds(
        PodSpec,
        ready=st.sampled_from((True, True, False)),
        terminating=st.booleans(),
        finished=st.sampled_from((False, False, True)),
    ),
).flatmap(
    # No two pods of a namespace have a uid.
    lambda pod: st.sampled_from(UIDS[pod.metadata.name]).map(
        lambda uid: msgspec.structs.replace(pod, spec=msgspec.structs.replace(pod.spec, uid=uid))
    )
)
STATES = {
    "ready": (True, True, False),
    "draining": (False, True, True),
    "gone": (False, False, True),
    "starting": (False, False, False),
}


@st.composite
def slice_endpoints(draw: st.DrawFn) -> SliceEndpoint:
    ready, serving, terminating = STATES[draw(st.sampled_from(("ready", "ready", *STATES)))]
    hint = draw(st.sampled_from(("sites", "none", "nodes")))
    return SliceEndpoint(
        addresses=draw(st.sampled_from((*((one,) for one in V4), (V4[0], V4[1], V6[0])))),
        node=draw(st.sampled_from(("", HERE, HERE, *OTHERS))),
        site=draw(st.sampled_from(SITES)),
        ready=ready,
        serving=serving,
        terminating=terminating,
        for_nodes=draw(subset((HERE, *OTHERS))) if hint == "nodes" else (),
        for_sites=draw(subset(SITES[1:])) if hint == "sites" else (),
    )


slices = st.builds(
    EndpointSlice,
    metadata=st.builds(Metadata, name=st.sampled_from(("s1", "s2")), namespace=st.just("shop")),
    spec=st.builds(
        EndpointSliceSpec,
        service=st.sampled_from(("web", "web", "db")),
        ports=subset((SlicePort(port=8001), SlicePort(port=8002, name="a"))).map(
            lambda told: told or (SlicePort(port=8003),)
        ),
        endpoints=st.lists(slice_endpoints(), min_size=1, max_size=4).map(tuple),
    ),
)
nodes = st.builds(
    Node,
    metadata=st.builds(Metadata, name=st.sampled_from((HERE, *OTHERS))),
    spec=st.builds(
        NodeSpec, site=st.sampled_from(SITES), addresses=subset(("192.0.2.1/24", "192.0.2.2/24"))
    ),
)
verbs = st.sampled_from(("put", "put", "put", "delete"))


def stories(source: str) -> st.SearchStrategy[list[Any]]:
    """What is told, one after the other."""
    told: dict[str, st.SearchStrategy[Any]] = {
        "selector": st.one_of(
            st.tuples(verbs, endpoints),
            st.tuples(verbs, pods),
            st.tuples(st.sampled_from(("x", "y")), locals_),
        ),
        "slices": st.tuples(verbs, slices),
        "fixed": st.tuples(st.sampled_from(("x", "y")), locals_),
    }
    step = st.one_of(
        st.tuples(st.just("put"), services(source)),
        st.tuples(verbs, services(source)),
        told[source],
        told[source],
        st.tuples(verbs, nodes),
    )
    return st.lists(step, min_size=6, max_size=20)


class World:
    """Everything there is."""

    def __init__(self) -> None:
        self.objects: dict[str, AnyObject] = {}
        self.locals: dict[str, LocalParty] = {}

    def of(self, kind: type) -> list:  # type: ignore[type-arg]
        return [obj for obj in self.objects.values() if isinstance(obj, kind)]

    def conditions(
        self, namespace: str, uid: str, status: EndpointStatus
    ) -> tuple[bool, bool, bool]:
        """(ready, serving, terminating) of an endpoint of a pod, or of none (no uid); `status`:
        what its agent says."""
        if status.phase == "pending":
            return False, False, False
        if status.condition:
            stopping = status.condition == "stopping"
            return False, stopping, stopping
        if not uid:
            return True, True, False
        for pod in self.of(Pod):
            if (pod.metadata.namespace, pod.spec.uid) == (namespace, uid) and not pod.spec.finished:
                leaves = pod.spec.terminating
                return pod.spec.ready and not leaves, pod.spec.ready, leaves
        return False, False, True

    def site(self, node: str) -> str:
        return next((n.spec.site for n in self.of(Node) if n.metadata.name == node), "")


def is6(address: str) -> bool:
    return ipaddress.ip_address(address).version == 6


def candidates(world: World, service: Service, port: ServicePort) -> Iterator[tuple]:  # type: ignore[type-arg]
    """(address, port, node, site, ready, serving, terminating, for_nodes, for_sites)."""
    spec, namespace = service.spec, service.metadata.namespace
    people = [
        (e.metadata.namespace, e.spec.network, e.metadata.labels, e.spec.node, e.spec.addresses,
         e.spec.named_ports, e.spec.workload.pod, e.status)
        for e in world.of(Endpoint)
        if e.spec.node != HERE
    ] + [
        (p.namespace, p.network, p.labels, HERE, p.addresses, p.named_ports, p.pod, THERE)
        for p in world.locals.values()
    ]  # fmt: skip
    if spec.selector is not None:
        for space, network, labels, node, addresses, named, pod, status in people:
            state = world.conditions(space, pod, status)
            if (space, network) == (namespace, spec.network) and spec.selector.matches(labels):
                number = port.target_port or port.port
                if isinstance(number, str):
                    told = [
                        p for p in named if (p.name, p.protocol.upper()) == (number, port.protocol)
                    ]
                    number = told[0].port if told else 0
                for address in addresses:
                    yield address, number, node, world.site(node), *state, (), ()
    elif spec.backends:
        for fixed in spec.backends:
            number = fixed.port or (port.target_port or port.port)
            homes = [p[3] for p in people if fixed.address in p[4]] + [
                n.metadata.name
                for n in world.of(Node)
                if fixed.address in [a.partition("/")[0] for a in n.spec.addresses]
            ]
            node = HERE if HERE in homes else min(homes, default="")
            if isinstance(number, int):
                yield fixed.address, number, node, world.site(node), True, True, False, (), ()
    else:
        for one in world.of(EndpointSlice):
            for told_port in one.spec.ports:
                if (one.spec.service, told_port.name, told_port.protocol) != (
                    service.metadata.name,
                    port.name,
                    port.protocol,
                ):
                    continue
                for e in one.spec.endpoints:
                    for six in (False, True):
                        first = [a for a in e.addresses if is6(a) is six][:1]
                        for address in first:
                            yield (
                                address, told_port.port, e.node, e.site or world.site(e.node),
                                e.ready, e.serving, e.terminating, e.for_nodes, e.for_sites,
                            )  # fmt: skip


def choice(
    world: World, service: Service, port: ServicePort, six: bool, local: bool, outside: bool
) -> Choice:
    everybody = [c for c in candidates(world, service, port) if is6(c[0]) is six and c[1]]

    def served(some: list) -> list:  # type: ignore[type-arg]
        return [c for c in some if c[4]] or [c for c in some if c[5] and c[6]]

    site, prefer = world.site(HERE), service.spec.prefer
    if local:
        found = served([c for c in everybody if c[2] == HERE])
    else:
        found = served(everybody)
        hints = [
            [c for c in found if HERE in c[7]] if all(c[7] for c in found) else [],
            [c for c in found if site in c[8]] if all(c[8] for c in found) else [],
            [c for c in found if c[2] == HERE] if prefer == "node" else [],
            [c for c in found if site and c[3] == site] if prefer else [],
            found,
        ]
        found = next((some for some in hints if some), [])
    lost = outside and local and not found and served(everybody)
    backends = tuple(sorted({BackendAddress(c[0], c[1]) for c in found}))
    return Choice(backends, service.spec.affinity_seconds, "drop" if lost else "reject")


def expected(world: World) -> dict[tuple[str, Frontend], Entry]:
    """By the Service's name and the frontend; the opaque id is left out."""
    found: dict[tuple[str, Frontend], Entry] = {}
    for service in world.of(Service):
        spec = service.spec
        if spec.headless or spec.type == "ExternalName":
            continue
        called = spec.families or tuple({6 if is6(a) else 4 for a in spec.addresses}) or (4, 6)
        for port in spec.ports:
            faces = [(a, port.port, "cluster") for a in spec.addresses]
            faces += [(a, port.port, "external") for a in spec.external_addresses]
            if spec.type == "LoadBalancer":
                faces += [(a, port.port, "balancer") for a in spec.load_balancer_addresses]
            if spec.type in ("NodePort", "LoadBalancer") and port.node_port:
                faces += [
                    (a, port.node_port, "node")
                    for a, number in (("0.0.0.0", 4), ("::", 6))
                    if number in called
                ]
            for address, number, face in faces:
                six = is6(address)
                mine = face == "cluster" and spec.internal_traffic == "Local"
                theirs = face != "cluster" and spec.external_traffic == "Local"
                inside = choice(world, service, port, six, mine, False)
                outside = choice(world, service, port, six, theirs, True) if theirs else inside
                sources: tuple[str, ...] = ()
                if face == "balancer" and spec.source_ranges:
                    sources = tuple(
                        f"{net[0]}-{net[-1]}"
                        for net in map(ipaddress.ip_network, spec.source_ranges)
                        if (net.version == 6) is six
                    ) or (("::-::",) if six else ("0.0.0.0-0.0.0.0",))
                frontend = Frontend(address, port.protocol.lower(), number)
                found[service.metadata.name, frontend] = Entry(
                    "", inside, None if outside == inside else outside, sources
                )
    return found


def said(engine: Engine) -> dict[tuple[str, Frontend], Entry]:
    known = [engine.service("shop", name) for name in NAMES]
    names = {service_id(one): one.metadata.name for one in known if one is not None}
    return {
        (names[entry.service], frontend): entry._replace(service="")
        for frontend, entry in engine.table().frontends.items()
    }


def apply(engine: Engine, world: World, verb: str, what: AnyObject | LocalParty | None) -> None:
    if verb == "put":
        engine.put(what)  # type: ignore[arg-type]
        world.objects[what.key] = what  # type: ignore[union-attr, assignment]
    elif verb == "delete":
        there = world.objects.pop(what.key, None)  # type: ignore[union-attr]
        if there is not None:
            engine.delete(there)
    else:
        engine.set_local(verb, what)  # type: ignore[arg-type]
        world.locals.pop(verb, None)
        if isinstance(what, LocalParty):
            world.locals[verb] = what


@pytest.mark.parametrize("source", ["selector", "slices", "fixed"])
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_engine_says_what_the_words_say(source: str, data: st.DataObject) -> None:
    engine, world = Engine(HERE), World()
    for name, site in ((HERE, "a"), ("h2", "a"), ("h3", "b")):
        node = Node(metadata=Metadata(name=name), spec=NodeSpec(site=site))
        apply(engine, world, "put", node)
    for verb, what in data.draw(stories(source)):
        apply(engine, world, verb, what)
        if verb != "delete":
            assert said(engine) == expected(world)
    assert said(engine) == expected(world)
    fresh = Engine(HERE)
    for ident, party in world.locals.items():
        fresh.set_local(ident, party)
    for obj in reversed(world.objects.values()):
        fresh.put(obj)
    assert fresh.table().frontends == engine.table().frontends
    assert fresh.table().addresses == engine.table().addresses
    assert fresh.health() == engine.health()
    for obj in list(world.objects.values()):
        engine.delete(obj)
    for ident in list(world.locals):
        engine.set_local(ident, None)
    table = engine.table()
    assert (len(table.frontends), len(table.addresses)) == (0, 0)
