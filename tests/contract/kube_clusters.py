"""API servers for the contract of the reflector, a connection to cut, and a witness of changes."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from tests.support.kube_apiserver import KubeApiserver
from tests.support.waiting import until

from plait.kubernetes import kinds
from plait.kubernetes.api import KubernetesApi
from plait.kubernetes.fake_server import FakeKubernetes
from plait.kubernetes.kinds import Kind, Resource
from plait.kubernetes.kubeconfig import Access
from plait.kubernetes.reflector import Reflector, Timing
from plait.kubernetes.refusals import KubernetesError
from plait.kubernetes.replica import Change, Key

QUICK = Timing(first=0.005, longest=0.05, absent=0.05, brief=0.05)
POLICIES = kinds.CLUSTER_NETWORK_POLICIES.resources[0]
NAMESPACES = kinds.NAMESPACES.resources[0]
_CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", namespaced=False)


class Cluster(Protocol):
    """An API server, and the few things that a test does to it beside its API."""

    serves_v1: bool
    """EndpointSlices as v1."""

    def access(self, port: int = 0) -> Access:
        """An administrator's; on another port, for one who stands between."""

    def forgets(self, kind: Kind[Any]) -> bool:
        """A compaction is felt by watches of the kind: they are not served from a cache."""

    @property
    def port(self) -> int:
        """Of 127.0.0.1."""

    async def compact(self, revision: int) -> None:
        """Forget what changed up to a revision."""

    async def restart(self) -> None:
        """Kill the server, and start it again."""

    async def install(self, api: KubernetesApi) -> None:
        """Have ClusterNetworkPolicies."""

    async def uninstall(self, api: KubernetesApi) -> None:
        """Have them no more."""


class FakeCluster:
    """The fake one."""

    def __init__(self, server: FakeKubernetes, *, serves_v1: bool) -> None:
        self._server = server
        self.serves_v1 = serves_v1
        if not serves_v1:
            server.like_1_20()
            server.faults.in_stream = True
        server.withhold(POLICIES)

    @property
    def port(self) -> int:
        return self._server.port

    def access(self, port: int = 0) -> Access:
        return Access(server=f"http://127.0.0.1:{port or self.port}")

    def forgets(self, kind: Kind[Any]) -> bool:
        return True

    async def compact(self, revision: int) -> None:
        self._server.store.compact(max(revision, self._server.store.compacted))

    async def restart(self) -> None:
        port = self._server.port
        await self._server.stop()
        await self._server.start(port)

    async def install(self, api: KubernetesApi) -> None:
        self._server.serve(POLICIES)

    async def uninstall(self, api: KubernetesApi) -> None:
        for policy in self._server.store.list((POLICIES.group, POLICIES.plural)):
            self._server.remove(POLICIES, policy["metadata"]["name"])
        self._server.withhold(POLICIES)


class RealCluster:
    """Kubernetes 1.20."""

    serves_v1 = False

    def __init__(self, server: KubeApiserver) -> None:
        self._server = server

    @property
    def port(self) -> int:
        return self._server.port

    def access(self, port: int = 0) -> Access:
        return self._server.access(port)

    def forgets(self, kind: Kind[Any]) -> bool:
        return kind is kinds.NETWORK_POLICIES

    async def compact(self, revision: int) -> None:
        # What was compacted further already is refused.
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self._server.compact, revision)

    async def restart(self) -> None:
        await asyncio.to_thread(self._server.restart)

    async def install(self, api: KubernetesApi) -> None:
        schema = {
            "type": "object",
            "properties": {
                "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
            },
        }
        await api.create(
            _CRDS,
            {
                "metadata": {
                    "name": str(f"{POLICIES.plural}.{POLICIES.group}"),
                    "annotations": {
                        "api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/network-policy-api"
                    },
                },
                "spec": {
                    "group": POLICIES.group,
                    "scope": "Cluster",
                    "names": {
                        "kind": "ClusterNetworkPolicy",
                        "plural": POLICIES.plural,
                        "singular": "clusternetworkpolicy",
                        "listKind": "ClusterNetworkPolicyList",
                    },
                    "versions": [
                        {
                            "name": POLICIES.version,
                            "served": True,
                            "storage": True,
                            "schema": {"openAPIV3Schema": schema},
                        }
                    ],
                },
            },
        )

    async def uninstall(self, api: KubernetesApi) -> None:
        await api.delete(_CRDS, f"{POLICIES.plural}.{POLICIES.group}")


class Cutter:
    """A TCP relay whose connections break on request."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = 0
        self._allowance: int | None = None
        self.port = 0
        self.shut = False
        """No connection comes about."""
        self.cuts = 0
        """Connections to the server that broke."""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.shut = True
        self.cut()
        await until(lambda: not self._open)

    def cut(self) -> None:
        """Break all connections now."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    def cut_after(self, count: int) -> None:
        """Let so many more bytes of the server's pass, then break all connections."""
        self._allowance = count

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            await self._relay(reader, writer)
        finally:
            self._open -= 1

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.shut:
            writer.transport.abort()
            return
        try:
            upstream, out = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, out}
        self._writers |= both
        tasks = [
            asyncio.create_task(self._pump(reader, out)),
            asyncio.create_task(self._pump(upstream, writer, counted=True)),
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for each in both:
            each.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._writers -= both
        self.cuts += 1

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool = False
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if counted and self._allowance is not None:
                    data, self._allowance = data[: self._allowance], self._allowance - len(data)
                writer.write(data)
                await writer.drain()
                if self._allowance is not None and self._allowance <= 0:
                    self._allowance = None
                    self.cut()


class Meddler(KubernetesApi):
    """A client that meddles with what a reflector asks."""

    def __init__(self, access: Access) -> None:
        super().__init__(access)
        self.ancient = False
        """The next watch is asked from a version that no server has any more."""
        self.watches = 0
        """That were taken."""
        self.before_page: Callable[[], Awaitable[None]] | None = None
        """Happens once, before the second page of a list is asked for."""

    async def read_bytes(self, path: str, query: Mapping[str, str] | None = None) -> bytes:
        if self.before_page is not None and query and "continue" in query:
            happens, self.before_page = self.before_page, None
            await happens()
        return await super().read_bytes(path, query)

    async def watch(
        self, path: str, query: Mapping[str, str], *, silence: float
    ) -> AsyncGenerator[list[bytes], None]:
        if ancient := self.ancient:
            query = {**query, "resourceVersion": "1"}
        try:
            async with aclosing(super().watch(path, query, silence=silence)) as stream:
                async for lines in stream:
                    if not lines:
                        self.watches += 1
                        self.ancient = self.ancient and not ancient
                    yield lines
        except KubernetesError:
            self.ancient = self.ancient and not ancient
            raise


class Scene:
    """A namespace of an API server, a client beside the cut connection and one through it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.namespace = f"t{secrets.token_hex(4)}"
        self.cutter = Cutter(cluster.port)
        self._apis: list[KubernetesApi] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Scene:
        await self.cutter.start()
        self.api = self.client(self.cluster.access())
        await self.api.create(NAMESPACES, {"metadata": {"name": self.namespace}})
        return self

    async def __aexit__(self, *details: object) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        for api in self._apis:
            await api.close()
        await self.cutter.stop()
        failures = [e for e in ended if not isinstance(e, asyncio.CancelledError)]
        if failures and details[0] is None:
            raise failures[0]  # type: ignore[misc]

    def client(self, access: Access) -> Meddler:
        api = Meddler(access)
        self._apis.append(api)
        return api

    def behind(self) -> Meddler:
        """A client whose connections the cutter has."""
        return self.client(self.cluster.access(self.cutter.port))

    async def follow(
        self,
        kind: Kind[Any],
        handler: Callable[[Sequence[Change[Any]]], None],
        *,
        api: KubernetesApi | None = None,
        timing: Timing = QUICK,
        namespaced: bool = True,
        **settings: Any,
    ) -> Reflector[Any]:
        """A reflector of the namespace that has listed once."""
        reflector = Reflector(
            api or self.behind(),
            kind,
            handler,
            namespace=self.namespace if namespaced else "",
            timing=timing,
            **settings,
        )
        task = asyncio.create_task(reflector.run())
        self._tasks.append(task)
        await until(lambda: reflector.synced.is_set() or task.done(), "never synced")
        if task.done():
            task.result()
        return reflector

    def check(self) -> None:
        """Fail if a reflector has."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def create(self, kind: Kind[Any], name: str, **labels: str) -> dict[str, Any]:
        body = {"metadata": {"name": name, "labels": labels}, **SPECS[kind.name]}
        return await self.api.create(kind.resources[0], body, self.namespace)

    async def label(self, kind: Kind[Any], name: str, **labels: str | None) -> dict[str, Any]:
        body = {"metadata": {"labels": labels}}
        return await self.api.patch(kind.resources[0], body, name, self.namespace)

    async def delete(self, kind: Kind[Any], name: str) -> None:
        await self.api.delete(kind.resources[0], name, self.namespace)

    async def revision(self) -> int:
        """Of the newest change of all: one that nobody follows."""
        body = {"metadata": {"labels": {"turn": secrets.token_hex(4)}}}
        made = await self.api.patch(NAMESPACES, body, self.namespace)
        return int(made["metadata"]["resourceVersion"])

    async def truth(self, kind: Kind[Any]) -> dict[Key, tuple[str, str]]:
        """What a fresh list says: uid and version of everything."""
        listed = await self.api.read(
            kind.resources[0].path(namespace=self.namespace), dict[str, Any]
        )
        return {
            (m["namespace"], m["name"]): (m["uid"], m["resourceVersion"])
            for m in (item["metadata"] for item in listed["items"])
        }


SPECS: dict[str, dict[str, Any]] = {
    "Pod": {"spec": {"containers": [{"name": "c", "image": "none"}]}},
    "NetworkPolicy": {"spec": {"podSelector": {}}},
}


def known(reflector: Reflector[Any]) -> dict[Key, tuple[str, str]]:
    """What a reflector has: uid and version of everything."""
    return {
        key: (obj.metadata.uid, obj.metadata.resource_version)
        for key, obj in reflector.objects.items()
    }
