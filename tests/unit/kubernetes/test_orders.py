"""State, not path: whatever came in whatever order, with restarts and meddling in between, what
Plait's server has at the end depends on what Kubernetes has at the end alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from plait.client.base import WatchEvent
from plait.client.fake_api import FakeApi, FakeServer
from plait.kubernetes import objects
from plait.kubernetes.held import Held
from plait.kubernetes.marks import is_ours
from plait.kubernetes.replica import Change
from plait.kubernetes.wanted import ROW_OF, Wanted
from plait.kubernetes.writes import Writes
from plait.model.objects import AnyObject, Metadata, Namespace, Node, NodeSpec, Policy
from plait.model.policies import PolicySpec

Name = tuple[str, str, str]
"""Kind, namespace, name."""
NAMES: tuple[Name, ...] = (
    ("Namespace", "", "a"),
    ("Namespace", "", "default"),
    ("Node", "", "n1"),
    ("Node", "", "n2"),
    ("Node", "", "n3"),
    ("Pod", "a", "p1"),
    ("Pod", "a", "p2"),
    ("NetworkPolicy", "a", "x"),
    ("NetworkPolicy", "a", "taken"),
    ("ClusterNetworkPolicy", "", "x"),
    ("Service", "a", "s"),
    ("EndpointSlice", "a", "s-1"),
)
LABELS = ({}, {"app": "web"}, {"app": "db", "site": "x"})
HOSTS = {"n1": "192.0.2.1/24", "h2": "192.0.2.2/24", "n3": "192.0.2.2/24"}
"""Nodes that agents may write; two of them have one address, one after the other."""


def found(name: Name, variant: int) -> Any:
    """An object of Kubernetes in one of three shapes."""
    kind, namespace, own = name
    data: dict[str, Any] = {
        "metadata": {
            "name": own,
            "namespace": namespace,
            "uid": f"{own}-{variant // 2}",
            "resourceVersion": str(variant),
            "labels": LABELS[variant],
        }
    }
    if kind == "Node":
        listed = [{"type": "InternalIP", "address": f"192.0.2.{own[1]}"}]
        data["status"] = {"addresses": listed if variant else []}
    elif kind == "Pod":
        data["spec"] = {"nodeName": f"n{variant + 1}"}
    elif kind == "NetworkPolicy":
        bad = {"ports": [{"port": 9, "endPort": 1}]}
        data["spec"] = {"podSelector": {}, "ingress": [{}, {}, bad][:variant]}
    elif kind == "ClusterNetworkPolicy":
        subject: Any = {"namespaces": {}} if variant else "everybody"
        data["spec"] = {"tier": "Admin", "priority": variant, "subject": subject}
    elif kind == "Service":
        ports = [{"port": 80 + variant}]
        data["spec"] = {"clusterIP": "10.96.0.1", "ports": ports}
        if variant == 2:
            data["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": "other"}
    elif kind == "EndpointSlice":
        data["addressType"] = "IPv4"
        data["metadata"]["labels"] = {objects.SERVICE_NAME_LABEL: "s"}
        data["endpoints"] = [{"addresses": [f"10.0.0.{variant}"], "nodeName": f"n{variant + 1}"}]
    return msgspec.convert(data, ROW_OF[kind].source.type)


class Connector:
    """One life of the connector, driven by hand."""

    def __init__(self, server: FakeServer, world: dict[Name, int]) -> None:
        self.server = server
        self.wanted = Wanted(network="plait", domain="plait.local")
        self.held = Held()
        self.clock = 0.0
        self.writes = Writes(
            FakeApi(server),
            self.wanted,
            self.held,
            known=lambda _kind: True,
            may=lambda: True,
            changed=self.changed,
            clock=lambda: self.clock,
            rng=lambda: 1.0,
        )
        self.queue = server.subscribe()
        for name, variant in world.items():
            self.hear(name, variant)
        events = [WatchEvent(type="begin", revision=server.revision)]
        events += [
            WatchEvent(type="put", revision=obj.metadata.revision, object=obj)
            for obj in server.objects.values()
        ]
        for event in (*events, WatchEvent(type="synced", revision=server.revision)):
            self.changed(self.held.take(event))
        self.writes.touch_all()

    def hear(self, name: Name, variant: int | None) -> None:
        """Kubernetes says that an object is so now, or gone."""
        kind, namespace, own = name
        new = None if variant is None else found(name, variant)
        self.writes.touch(self.wanted.take(kind, [Change((namespace, own), None, new)]))

    def changed(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key.startswith("/nodes/"):
                node = self.held.objects.get(key)
                host = node if isinstance(node, Node) else None
                self.writes.touch(self.wanted.take_host(key.removeprefix("/nodes/"), host))
            self.writes.touch((key,))

    def follow(self, most: int) -> None:
        """Hear some of what Plait's server says."""
        while most and not self.queue.empty():
            event = self.queue.get_nowait()
            assert event is not None
            self.changed(self.held.take(event))
            most -= 1

    async def settle(self) -> None:
        for _ in range(200):
            self.follow(-1)
            self.clock += 100.0
            if not await self.writes.round() and self.queue.empty():
                return
        raise AssertionError("it never comes to rest")


def content(server: FakeServer) -> dict[str, tuple[Any, ...]]:
    return {
        key: (obj.spec, obj.metadata.labels, obj.metadata.annotations)
        for key, obj in server.objects.items()
    }


def base() -> list[AnyObject]:
    mine = PolicySpec(description="a user's")
    return [
        Namespace(metadata=Metadata(name="default", labels={"site": "mine"})),
        Policy(metadata=Metadata(name="knp.a.taken"), spec=mine),
    ]


def host(name: str) -> Node:
    return Node(metadata=Metadata(name=name), spec=NodeSpec(addresses=(HOSTS[name],)))


variants = st.one_of(st.none(), st.integers(0, 2))
steps = st.one_of(
    st.tuples(st.just("hear"), st.sampled_from(NAMES), variants),
    st.tuples(st.just("host"), st.sampled_from(sorted(HOSTS)), st.booleans()),
    st.tuples(st.just("write"), st.none(), st.none()),
    st.tuples(st.just("follow"), st.none(), st.integers(1, 5)),
    st.tuples(st.just("restart"), st.none(), st.none()),
    st.tuples(st.just("meddle"), st.none(), st.integers(0, 20)),
)


def set_host(server: FakeServer, name: str, there: bool) -> None:
    """An agent joins, or leaves; one that is there keeps what others wrote on its Node."""
    key = f"/nodes/{name}"
    if there and key not in server.objects:
        server.put(host(name))
    elif not there and key in server.objects:
        server.remove(key)


def meddle(server: FakeServer, number: int) -> None:
    """A user deletes or changes something of ours."""
    ours = [obj for obj in server.objects.values() if is_ours(obj)]
    if not ours:
        return
    obj = ours[number % len(ours)]
    if number % 2:
        server.remove(obj.key)
    elif not isinstance(obj, Namespace):
        meta = msgspec.structs.replace(obj.metadata, labels={"meddled": "yes"})
        server.put(msgspec.structs.replace(obj, metadata=meta))


async def walk(path: list[tuple[str, Any, Any]]) -> None:
    server = FakeServer()
    for obj in base():
        server.put(obj)
    world: dict[Name, int] = {}
    connector = Connector(server, world)
    for verb, what, how in path:
        if verb == "hear":
            world = {**world, what: how} if how is not None else _without(world, what)
            connector.hear(what, how)
        elif verb == "host":
            set_host(server, what, how)
        elif verb == "write":
            await connector.writes.round()
        elif verb == "follow":
            connector.follow(how)
        elif verb == "restart":
            connector = Connector(server, world)
        else:
            meddle(server, how)
    await connector.settle()
    straight = FakeServer()
    for obj in base():
        straight.put(obj)
    for name in HOSTS:
        set_host(straight, name, f"/nodes/{name}" in server.objects)
    await Connector(straight, world).settle()
    assert content(server) == content(straight)


def _without(world: dict[Name, int], name: Name) -> dict[Name, int]:
    return {key: value for key, value in world.items() if key != name}


@given(st.lists(steps, max_size=40))
def test_any_way_there_ends_in_the_same_state(path: list[tuple[str, Any, Any]]) -> None:
    asyncio.run(walk(path))
