"""The connector between a fake API server of Kubernetes and a real server of Plait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import until

from plait.client.api import ApiClient
from plait.kubernetes import kinds
from plait.kubernetes.api import KubernetesApi
from plait.kubernetes.controller import Controller
from plait.kubernetes.due import ORDER
from plait.kubernetes.fake_server import FakeKubernetes
from plait.kubernetes.kinds import Kind
from plait.kubernetes.marks import is_touched
from plait.model.errors import PlaitError
from plait.model.objects import (
    AnyObject,
    ClusterSpec,
    Metadata,
    Node,
    NodeSpec,
    NodeStatus,
    Object,
)
from plait.server.bootstrap import bootstrap
from plait.server.ca import Authority
from plait.server.clock import Clock
from plait.server.config import Config
from plait.server.server import Server
from plait.store.memory import MemoryStore

CLUSTER = ClusterSpec(
    pools=("10.112.0.0/12", "fd00:1:2::/48"),
    service_pools=("10.111.0.0/16",),
    load_balancer_pools=("192.0.2.0/28",),
)
GONE = "PLAIT-API-004"
OF_OURS: tuple[type[Object], ...] = ORDER


class Running:
    """A connector that runs."""

    def __init__(self, controller: Controller, api: KubernetesApi) -> None:
        self.controller = controller
        self.api = api
        self.tasks = [asyncio.create_task(work, name=name) for name, work in controller.tasks()]

    @property
    def problems(self) -> tuple[str, ...]:
        return self.controller.report().problems

    async def settled(self) -> None:
        """Wait until there is nothing left to write."""
        await until(lambda: self.controller.report().synced)

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        ended = await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks = []
        await self.api.close()
        for error in ended:
            if error is not None and not isinstance(error, asyncio.CancelledError):
                raise error


class Stage:
    """Both servers, and connectors between them."""

    def __init__(self, kube: FakeKubernetes, server: Server) -> None:
        self.kube = kube
        self.server = server
        self.plait = ApiClient("http://localhost", unix_socket=server.config.unix_socket)
        self.running: list[Running] = []

    def connect(self, identity: str = "c1", **settings: Any) -> Running:
        api = KubernetesApi(self.kube.access())
        controller = Controller(
            api,
            self.plait,
            identity=identity,
            lease_namespace="kube-system",
            renew=0.05,
            **settings,
        )
        running = Running(controller, api)
        self.running.append(running)
        return running

    # What Kubernetes has

    def put(self, kind: Kind[Any], name: str, namespace: str = "", **fields: Any) -> dict[str, Any]:
        """An object as it is here; `metadata` besides its name is in the fields."""
        meta = {"name": name, **({"namespace": namespace} if namespace else {})}
        meta |= fields.pop("metadata", {})
        return self.kube.put(kind.resources[0], {"metadata": meta, **fields})

    def remove(self, kind: Kind[Any], name: str, namespace: str = "") -> None:
        self.kube.remove(kind.resources[0], name, namespace)

    def kubernetes(self, kind: Kind[Any], name: str, namespace: str = "") -> dict[str, Any]:
        found = self.kube.get(kind.resources[0], name, namespace)
        assert found is not None
        return found

    def pod(self, name: str, namespace: str = "shop", **spec: Any) -> None:
        status = spec.pop("status", {"phase": "Running"})
        meta = {"labels": spec.pop("labels", {}), "uid": spec.pop("uid", f"uid-{name}")}
        self.put(kinds.PODS, name, namespace, metadata=meta, spec=spec, status=status)

    # What Plait has

    async def find(self, kind: type[Any], name: str, namespace: str = "") -> Any:
        try:
            return await self.plait.get(kind, name, namespace)
        except PlaitError as error:
            if error.code != GONE:
                raise
            return None

    async def comes(
        self,
        kind: type[Any],
        name: str,
        namespace: str = "",
        good: Callable[[Any], object] = bool,
    ) -> Any:
        """The object once it is good; None counts as bad by default."""
        deadline = time.monotonic() + 10
        while not good(found := await self.find(kind, name, namespace)):
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.005)
        return found

    async def goes(self, kind: type[Any], name: str, namespace: str = "") -> None:
        await self.comes(kind, name, namespace, lambda found: found is None)

    async def everything(self) -> dict[str, AnyObject]:
        """All objects but those that the server made itself, untouched."""
        listed = [obj for kind in OF_OURS for obj in await self.plait.list(kind)]
        return {obj.key: obj for obj in listed}

    async def touched(self) -> dict[str, AnyObject]:
        """What the connector has left its mark on."""
        return {k: obj for k, obj in (await self.everything()).items() if is_touched(obj)}

    async def agent(self, name: str, address: str = "192.0.2.77/24", *, ready: bool = True) -> None:
        """What the agent of a node says, which is not put off by others who write its Node."""
        while True:
            have = await self.find(Node, name)
            made = Node(
                metadata=have.metadata if have else Metadata(name=name),
                spec=NodeSpec(addresses=(address,)),
                status=NodeStatus(ready=ready),
            )
            try:
                await self.plait.update(made)
            except PlaitError as error:
                if error.code != "PLAIT-API-006":
                    raise
            else:
                return

    async def close(self) -> None:
        for running in self.running:
            await running.stop()
        await self.plait.close()
        await self.server.stop()
        await self.kube.stop()


@asynccontextmanager
async def staged(directory: Path) -> AsyncIterator[Stage]:
    """Both servers, with what they keep in the directory, until the end of the block."""
    clock = Clock()
    store = MemoryStore()
    await store.open()
    await bootstrap(store, CLUSTER, clock)
    config = Config(
        listen=(("127.0.0.1", 0),), unix_socket=directory / "server.sock", bookmark_every=0.05
    )
    server = Server(store, Authority.open(directory / "ca", clock.now), config, clock)
    await server.start()
    kube = FakeKubernetes()
    await kube.start()
    made = Stage(kube, server)
    for name in ("default", "kube-system", "shop"):
        made.put(kinds.NAMESPACES, name)
    try:
        yield made
    finally:
        await made.close()
        await store.close()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as made:
        yield made
