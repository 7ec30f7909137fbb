"""Kubernetes' own answers, by what the connector made of the objects: all cases of NetworkPolicy
and all tests of ClusterNetworkPolicy go through an API server, reflectors and connector into
Plait's server, and the evaluator answers by what is there.

One connector follows from scene to scene, as it does in a cluster. Pods become endpoints as an
agent makes them, by what Plait's server says of them. The cases with ranges of ports (`endPort` in
their id) are only here: the API server of the lab's cluster is 1.20, which drops that field.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from tests.support import oracle, oracle_manifests
from tests.support.connected import unwritten
from tests.support.oracle import Case, Conformance, Manifest, Scene
from tests.support.oracle_answers import differing
from tests.support.worlds import network
from tests.unit.kubernetes.conftest import Stage, staged

from plait.cni.attachment import Identity
from plait.kubernetes import kinds
from plait.kubernetes.held import Held
from plait.kubernetes.kinds import Kind
from plait.model.objects import (
    AnyObject,
    Endpoint,
    EndpointSpec,
    Metadata,
    Namespace,
    Node,
    Object,
    Pod,
    Policy,
    object_key,
)
from plait.policy.world import World

pytestmark = [pytest.mark.asyncio(loop_scope="module"), oracle.needs_oracle]

POOLS = network(oracle.NETWORK, "10.244.0.0/16", "fd00:10:244::/48")
KINDS: dict[str, Kind[Any]] = {
    kind.name: kind
    for kind in (
        kinds.NAMESPACES,
        kinds.NODES,
        kinds.NETWORK_POLICIES,
        kinds.CLUSTER_NETWORK_POLICIES,
        kinds.PODS,
    )
}
OF_OURS: tuple[type[Object], ...] = (Namespace, Node, Policy, Pod)
Key = tuple[str, str, str]
"""Kind, namespace and name."""


class Play:
    """Scenes on a stage, one after the other."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._there: dict[Key, Manifest] = {}
        self._held = Held()
        self._told = asyncio.Event()
        self._follower = asyncio.create_task(self._follow())

    async def close(self) -> None:
        self._follower.cancel()
        await asyncio.gather(self._follower, return_exceptions=True)

    async def _follow(self) -> None:
        async with aclosing(self._stage.plait.watch(OF_OURS)) as events:
            async for event in events:
                if self._held.take(event):
                    self._told.set()

    async def show(self, scene: Scene) -> World:
        """Make Kubernetes so; the world of Plait once it has followed."""
        for node in scene.nodes.values():
            address = node.spec.addresses[0]
            if object_key(Node, node.metadata.name) not in self._held.objects:
                await self._stage.agent(node.metadata.name, address)
        self._write({_key(manifest): manifest for manifest in _manifests(scene)})
        async with asyncio.timeout(30):
            while self._unwritten():
                await self._told.wait()
                self._told.clear()
        return World.of([*self._objects(scene), *scene.own, POOLS])

    def _write(self, wanted: dict[Key, Manifest]) -> None:
        for key in self._there.keys() - wanted.keys():
            kind, namespace, name = key
            self._stage.remove(KINDS[kind], name, namespace)
        for key, manifest in wanted.items():
            if self._there.get(key) != manifest:
                self._stage.kube.put(KINDS[key[0]].resources[0], manifest)
        self._there = wanted

    def _unwritten(self) -> list[str]:
        there = {name: self._kubernetes(kind) for name, kind in KINDS.items()}
        return unwritten(there, self._held.objects.values())

    def _kubernetes(self, kind: Kind[Any]) -> list[Any]:
        """All that the API server has of a kind."""
        resource = kind.resources[0]
        listed = self._stage.kube.store.list((resource.group, resource.plural))
        return [msgspec.convert(obj, kind.type) for obj in listed]

    def _objects(self, scene: Scene) -> Iterator[AnyObject]:
        """What Plait's server has, and the endpoints of the scene's pods."""
        for obj in self._held.objects.values():
            if not isinstance(obj, Pod):
                yield obj
                continue
            identity = Identity.of_pod(obj)
            yield Endpoint(
                metadata=Metadata(
                    name=identity.name, namespace=identity.namespace, labels=identity.labels
                ),
                spec=EndpointSpec(
                    node=obj.spec.node,
                    network=oracle.NETWORK,
                    name=identity.name,
                    addresses=scene.pods[f"{identity.namespace}/{identity.name}"].addresses,
                    named_ports=identity.named_ports,
                ),
            )


def _key(manifest: Manifest) -> Key:
    meta = manifest["metadata"]
    return manifest["kind"], meta.get("namespace", ""), meta["name"]


def _manifests(scene: Scene) -> Iterator[Manifest]:
    for name, labels in scene.namespaces.items():
        yield oracle_manifests.namespace(name, labels)
    for name, node in scene.nodes.items():
        yield {"kind": "Node", "metadata": {"name": name, "labels": node.metadata.labels}}
    for pod in scene.pods.values():
        yield oracle_manifests.pod(pod, pod.node)
    yield from scene.policies.values()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def play(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Play]:
    async with staged(tmp_path_factory.mktemp("oracle")) as stage:
        stage.connect()
        made = Play(stage)
        yield made
        await made.close()


def _name(pair: tuple[Case, Case]) -> str:
    """The number, and what an API server of the lab does not keep."""
    return f"{pair[0].id}-endPort" if pair[0].uses_end_port else str(pair[0].id)


@pytest.mark.parametrize("pair", oracle.pairs(), ids=_name)
async def test_network_policy(play: Play, pair: tuple[Case, Case]) -> None:
    for scene in oracle.dual_scenes(*pair):
        assert differing(await play.show(scene), scene) == [], scene.name


@pytest.mark.parametrize("test", oracle.conformance(), ids=lambda test: test.name)
async def test_cluster_network_policy(play: Play, test: Conformance) -> None:
    for scene in test.scenes():
        assert differing(await play.show(scene), scene) == [], scene.name
