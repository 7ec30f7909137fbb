"""A real server over each store, with real clients, for the tests of the API; API servers of
Kubernetes, the fake one and a real one, for those of what follows them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.contract.kube_clusters import Cluster, FakeCluster, RealCluster, Scene
from tests.support import kube_apiserver
from tests.support.kube_apiserver import KubeApiserver

from plait.client import enrol
from plait.client.api import ApiClient
from plait.kubernetes.fake_server import FakeKubernetes
from plait.model.objects import ClusterSpec, Metadata, Node
from plait.server.bootstrap import bootstrap
from plait.server.ca import Authority
from plait.server.clock import Clock
from plait.server.config import Config
from plait.server.server import Server
from plait.store.local import LocalStore
from plait.store.memory import MemoryStore
from plait.store.sqlite import SqliteStore
from plait.wire.api import TokenRequest

SERVED: dict[str, Callable[[Path], LocalStore]] = {
    "memory": lambda _path: MemoryStore(),
    "sqlite": lambda path: SqliteStore(path / "store.db"),
}
POOLS = ("10.112.0.0/12", "fd00:1:2::/48")


class Time:
    """A clock that a test moves; sleeping still takes real time."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:
        return time.time() + self.ahead


class Rig:
    """A store with servers over it, and clients."""

    def __init__(self, path: Path, store: LocalStore) -> None:
        self.path = path
        self.store = store
        self.time = Time()
        self.clock = Clock(now=self.time.now)
        self.authority = Authority.open(path / "ca", self.time.now)
        self.servers: list[Server] = []
        self.clients: list[ApiClient] = []

    async def serve(self, **settings: object) -> Server:
        number = len(self.servers)
        defaults: dict[str, object] = {
            "listen": (("127.0.0.1", 0),),
            "unix_socket": self.path / f"{number}.sock",
            "bookmark_every": 0.05,
        }
        config = Config(**{**defaults, **settings})  # type: ignore[arg-type]
        server = Server(self.store, self.authority, config, self.clock)
        await server.start()
        self.servers.append(server)
        return server

    def url(self, server: Server) -> str:
        return f"https://127.0.0.1:{server.ports[0]}"

    def keep(self, client: ApiClient) -> ApiClient:
        self.clients.append(client)
        return client

    def admin(self, server: Server) -> ApiClient:
        return self.keep(ApiClient("http://localhost", unix_socket=server.config.unix_socket))

    async def token(self, server: Server, **settings: object) -> str:
        request = TokenRequest(**settings)  # type: ignore[arg-type]
        return (await self.admin(server).create_token(request)).token

    async def node(self, server: Server, name: str) -> ApiClient:
        directory = self.path / name
        await enrol.enrol(self.url(server), await self.token(server), name, directory)
        client = self.node_client(server, name)
        await client.update(Node(metadata=Metadata(name=name)))
        return client

    def node_client(self, server: Server, name: str, **settings: object) -> ApiClient:
        directory = self.path / name
        return self.keep(
            ApiClient(
                self.url(server),
                ca_file=directory / "ca.crt",
                cert_file=directory / "node.crt",
                key_file=directory / "node.key",
                **settings,  # type: ignore[arg-type]
            )
        )

    async def close(self) -> None:
        for client in self.clients:
            await client.close()
        for server in self.servers:
            await server.stop()
        await self.store.close()


@pytest.fixture(params=SERVED)
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    store = SERVED[request.param](tmp_path)
    await store.open()
    made = Rig(tmp_path, store)
    await bootstrap(store, ClusterSpec(pools=POOLS), made.clock)
    yield made
    await made.close()


@pytest.fixture
async def server(rig: Rig) -> Server:
    return await rig.serve()


@pytest.fixture
async def api(rig: Rig, server: Server) -> ApiClient:
    return rig.admin(server)


@pytest.fixture(scope="session")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApiserver]:
    if why := kube_apiserver.why_not():
        pytest.skip(why)
    with kube_apiserver.running(tmp_path_factory.mktemp("kube")) as running:
        yield running


@pytest.fixture(params=["fake", "fake like 1.20", "kubernetes"])
async def scene(request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        cluster: Cluster
        if request.param == "kubernetes":
            cluster = RealCluster(request.getfixturevalue("kube"))
        else:
            fake = await stack.enter_async_context(FakeKubernetes())
            cluster = FakeCluster(fake, serves_v1=request.param == "fake")
        yield await stack.enter_async_context(Scene(cluster))
