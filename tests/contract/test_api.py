"""What the API promises, with the real server, the real client and real TLS on loopback.

Each promise is shown over every store.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.support.waiting import until

from plait.client.api import ApiClient
from plait.client.base import Api, BatchOp, WatchEvent
from plait.model.errors import PlaitError
from plait.model.objects import (
    AddressBlock,
    AddressBlockSpec,
    AnyObject,
    Cluster,
    ClusterSpec,
    Endpoint,
    EndpointSpec,
    Loan,
    Metadata,
    Namespace,
    Network,
    NetworkSpec,
    Node,
    NodeStatus,
    Object,
    block_name,
)
from plait.server.bootstrap import bootstrap, renew_history
from plait.server.server import Server

if TYPE_CHECKING:
    from tests.contract.conftest import Rig

POOLS = ("10.112.0.0/12", "fd00:1:2::/48")


def network(name: str, *pools: str, **spec: object) -> Network:
    return Network(metadata=Metadata(name=name), spec=NetworkSpec(pools=pools, **spec))  # type: ignore[arg-type]


def endpoint(ident: str, node: str = "h1", network: str = "plait", **spec: object) -> Endpoint:
    return Endpoint(
        metadata=Metadata(name=ident, namespace="default"),
        spec=EndpointSpec(node=node, network=network, **spec),  # type: ignore[arg-type]
    )


def block(cidr: str, node: str = "", network: str = "plait", *loans: Loan) -> AddressBlock:
    return AddressBlock(
        metadata=Metadata(name=block_name(network, cidr)),
        spec=AddressBlockSpec(network=network, cidr=cidr, node=node, loans=loans),
    )


async def refused(code: str, work: Awaitable[object]) -> PlaitError:
    with pytest.raises(PlaitError) as caught:
        await work
    assert caught.value.code == code, caught.value.render()
    return caught.value


class Follower:
    """Reads a watch in a task, as an agent does."""

    def __init__(self, api: ApiClient, *kinds: type[Object]) -> None:
        self.events: list[WatchEvent] = []
        self.objects: dict[str, AnyObject] = {}
        self._fresh: dict[str, AnyObject] | None = None
        self._task = asyncio.create_task(self._run(api, kinds))

    async def _run(self, api: ApiClient, kinds: tuple[type[Object], ...]) -> None:
        async for event in api.watch(kinds):
            self.events.append(event)
            if event.type == "begin":
                self._fresh = {}
            elif event.type == "synced":
                assert self._fresh is not None
                self.objects, self._fresh = self._fresh, None
            elif event.object is not None:
                into = self.objects if self._fresh is None else self._fresh
                if event.type == "put":
                    assert event.object.metadata.revision == event.revision
                    into[event.object.key] = event.object
                else:
                    del into[event.object.key]

    def types(self) -> list[str]:
        return [event.type for event in self.events]

    async def reaches(self, revision: int) -> None:
        await until(lambda: any(event.revision >= revision for event in self.events))

    async def stop(self) -> None:
        self._task.cancel()
        # The one who followed may not be let in any more: its node was forgotten.
        with contextlib.suppress(asyncio.CancelledError, PlaitError):
            await self._task


@pytest.fixture
async def follow(api: ApiClient) -> AsyncIterator[Callable[..., Follower]]:
    made: list[Follower] = []

    def start(client: ApiClient, *kinds: type[Object]) -> Follower:
        made.append(Follower(client, *kinds))
        return made[-1]

    yield start
    for follower in made:
        await follower.stop()


# Objects


async def test_a_new_network_has_its_cluster_namespace_and_network(api: ApiClient) -> None:
    assert (await api.get(Cluster, "plait")).spec.pools == POOLS
    assert await api.get(Namespace, "default")
    assert (await api.get(Network, "plait")).spec == NetworkSpec(
        pools=("10.112.0.0/16", "fd00:1:2::/64"), gateways=("10.112.0.1", "fd00:1:2::1")
    )


async def test_bootstrap_changes_nothing_the_second_time(rig: Rig, api: ApiClient) -> None:
    before = rig.store.revision
    assert not await bootstrap(rig.store, ClusterSpec(pools=("10.0.0.0/8",)), rig.clock)
    assert rig.store.revision == before


async def test_the_client_is_an_api(api: ApiClient) -> None:
    typed: Api = api
    assert typed is api


async def test_an_object_is_written_read_changed_and_removed(api: ApiClient) -> None:
    made = await api.create(network("dev"))
    assert made.metadata.uid
    assert made.metadata.created_at
    assert made.metadata.revision > 0
    assert await api.get(Network, "dev") == made
    labelled = msgspec.structs.replace(
        made, metadata=msgspec.structs.replace(made.metadata, labels={"a": "b"})
    )
    changed = await api.update(labelled)
    assert changed.metadata.revision > made.metadata.revision
    assert changed.metadata.uid == made.metadata.uid
    assert changed in await api.list(Network)
    await api.delete(Network, "dev")
    await refused("PLAIT-API-004", api.get(Network, "dev"))
    await refused("PLAIT-API-004", api.delete(Network, "dev"))


async def test_creating_what_exists_is_refused(api: ApiClient) -> None:
    await api.create(network("dev"))
    await refused("PLAIT-API-005", api.create(network("dev")))


async def test_an_update_of_an_old_revision_is_refused(api: ApiClient) -> None:
    old = await api.create(network("dev", internal=True))
    newer = msgspec.structs.replace(old, spec=msgspec.structs.replace(old.spec, internal=False))
    await api.update(newer)
    error = await refused("PLAIT-API-006", api.update(old))
    assert "networks/dev" in error.where
    await refused("PLAIT-API-006", api.delete(Network, "dev", revision=old.metadata.revision))


async def test_an_update_without_revision_creates_or_overwrites(api: ApiClient) -> None:
    made = await api.update(network("dev"))
    assert (await api.update(network("dev", internal=True))).metadata.uid == made.metadata.uid


async def test_an_update_that_changes_nothing_writes_nothing(rig: Rig, api: ApiClient) -> None:
    made = await api.create(network("dev"))
    before = rig.store.revision
    assert await api.update(network("dev")) == made
    assert rig.store.revision == before


async def test_an_object_of_another_uid_is_not_overwritten(api: ApiClient) -> None:
    old = await api.create(network("dev"))
    await api.delete(Network, "dev")
    await api.create(network("dev"))
    anew = msgspec.structs.replace(old, metadata=msgspec.structs.replace(old.metadata, revision=0))
    await refused("PLAIT-API-006", api.update(anew))


async def test_a_dry_run_answers_and_stores_nothing(rig: Rig, api: ApiClient) -> None:
    before = rig.store.revision
    assert (await api.create(network("dev"), dry_run=True)).spec.pools
    await refused("PLAIT-NET-004", api.create(network("dev", "10.1.2.3/8"), dry_run=True))
    await api.delete(Network, "plait", dry_run=True)
    assert rig.store.revision == before


async def test_a_batch_is_all_or_nothing(rig: Rig, api: ApiClient) -> None:
    before = rig.store.revision
    good = BatchOp(verb="create", object=network("dev"))
    error = await refused("PLAIT-API-005", api.batch([good, good]))
    assert error.where.startswith("ops[1]")
    assert rig.store.revision == before
    made = await api.batch(
        [good, BatchOp(verb="update", object=endpoint("abc", network="dev", name="web"))]
    )
    assert {obj.metadata.revision for obj in made} == {before + 1}
    assert rig.store.revision == before + 1


async def test_a_list_comes_in_pages_in_order(rig: Rig) -> None:
    api = rig.admin(await rig.serve(max_page=3))
    for i in range(10):
        await api.update(Namespace(metadata=Metadata(name=f"n{i}")))
    names = [item.metadata.name for item in await api.list(Namespace)]
    assert names == ["default", *(f"n{i}" for i in range(10))]


async def test_endpoints_are_listed_by_namespace_and_over_all(api: ApiClient) -> None:
    await api.create(endpoint("abc"))
    other = endpoint("def")
    await api.create(msgspec.structs.replace(other, metadata=Metadata(name="def", namespace="dev")))
    assert [e.metadata.name for e in await api.list(Endpoint)] == ["abc", "def"]
    assert [e.metadata.name for e in await api.list(Endpoint, "dev")] == ["def"]
    assert (await api.get(Namespace, "dev")).metadata.uid, "the namespace was made with it"
    assert (await api.get(Endpoint, "def", "dev")).spec.node == "h1"


# Rules that span objects


async def test_pools_never_overlap_however_many_servers_cut_them(rig: Rig) -> None:
    clients = [rig.admin(await rig.serve()) for _ in range(2)]
    made = await asyncio.gather(*(clients[i % 2].create(network(f"n{i}")) for i in range(16)))
    pools = [pool for net in made for pool in net.spec.pools]
    assert len(pools) == len(set(pools)) == 32


async def test_blocks_are_claimed_once(rig: Rig) -> None:
    clients = [rig.admin(await rig.serve()) for _ in range(2)]
    claims = await asyncio.gather(
        *(clients[i % 2].create(block("10.112.0.0/26", f"h{i}")) for i in range(8)),
        return_exceptions=True,
    )
    assert sum(isinstance(claim, AddressBlock) for claim in claims) == 1


async def test_blocks_of_different_sizes_never_overlap(rig: Rig) -> None:
    clients = [rig.admin(await rig.serve()) for _ in range(2)]
    claims = await asyncio.gather(
        *(clients[i % 2].create(block(f"10.112.0.0/{24 + i}", f"h{i}")) for i in range(6)),
        return_exceptions=True,
    )
    assert sum(isinstance(claim, AddressBlock) for claim in claims) == 1


async def test_no_endpoint_outlives_its_network(rig: Rig) -> None:
    clients = [rig.admin(await rig.serve()) for _ in range(2)]
    rng = random.Random(7)
    for round_ in range(12):
        name = f"dev{round_}"
        await clients[0].create(network(name))
        await clients[1].update(network(name))  # The other server has seen it.
        work = [clients[i % 2].create(endpoint(f"e{round_}-{i}", network=name)) for i in range(6)]
        work.insert(rng.randrange(7), clients[round_ % 2].delete(Network, name))  # type: ignore[arg-type]
        await asyncio.gather(*work, return_exceptions=True)
        left = {net.metadata.name for net in await clients[0].list(Network)}
        for kept in await clients[0].list(Endpoint):
            assert kept.spec.network in left
    assert not [key for key in rig.servers[0].service.mirror.state.records if "closing" in key]


async def test_a_network_in_use_stays_and_takes_its_blocks_along_when_it_goes(
    api: ApiClient,
) -> None:
    await api.create(endpoint("abc", name="web"))
    await api.create(block("10.112.0.0/26", "h1"))
    error = await refused("PLAIT-API-011", api.delete(Network, "plait"))
    assert "default/web on h1" in error.why
    await api.delete(Endpoint, "abc")
    await api.delete(Network, "plait")
    assert await api.list(AddressBlock) == ()


async def test_a_namespace_in_use_stays(api: ApiClient) -> None:
    await api.create(
        msgspec.structs.replace(endpoint("abc"), metadata=Metadata(name="abc", namespace="dev"))
    )
    await refused("PLAIT-API-011", api.delete(Namespace, "dev"))
    await api.delete(Endpoint, "abc", "dev")
    await api.delete(Namespace, "dev")
    await refused("PLAIT-API-011", api.delete(Namespace, "default"))


async def test_pools_that_a_host_uses_are_refused_by_name(api: ApiClient) -> None:
    await api.create(
        Node(metadata=Metadata(name="h7"), status=NodeStatus(prefixes=("192.168.0.0/16",)))
    )
    error = await refused("PLAIT-NET-002", api.create(network("dev", "192.168.4.0/24")))
    assert "h7" in error.detail
    assert "192.168.0.0/16" in error.detail


# Forgetting a node


async def test_a_lost_node_is_forgotten_with_all_that_was_its_own(rig: Rig, server: Server) -> None:
    api = rig.admin(server)
    h1, h2 = await rig.node(server, "h1"), await rig.node(server, "h2")
    await h1.create(endpoint("abc", "h1"))
    await h1.create(block("10.112.0.0/26", "h1"))
    await h1.create(block("10.112.0.64/26", "h1"))
    lent = block("10.112.0.64/26", "h1", "plait", Loan(address="10.112.0.70", node="h2"))
    await h2.update(lent)
    granted = Loan(address="10.112.0.70", node="h2", state="granted")
    await h1.update(block("10.112.0.64/26", "h1", "plait", granted))
    await h2.create(endpoint("def", "h2"))
    await h2.create(block("10.112.0.128/26", "h2"))
    asked = Loan(address="10.112.0.130", node="h1")
    await h1.update(block("10.112.0.128/26", "h2", "plait", asked))

    await refused("PLAIT-API-011", api.forget_node("h1"))
    rig.time.ahead += 61
    dry = await api.forget_node("h1", dry_run=True)
    assert (dry.endpoints, dry.blocks, dry.loans) == (1, 2, 1)
    assert await api.get(Node, "h1")
    assert await api.forget_node("h1") == dry
    await refused("PLAIT-API-004", api.get(Node, "h1"))
    assert [e.metadata.name for e in await api.list(Endpoint)] == ["def"]
    blocks = {b.spec.cidr: b.spec for b in await api.list(AddressBlock)}
    assert blocks["10.112.0.64/26"] == AddressBlockSpec(
        network="plait", cidr="10.112.0.64/26", loans=(granted,)
    ), "an address that another node holds is not taken from it"
    assert blocks["10.112.0.128/26"].loans == ()
    assert "10.112.0.0/26" not in blocks
    await refused("PLAIT-AUTH-007", h1.list(Network))
    await refused("PLAIT-API-004", api.forget_node("h1"))
    assert await rig.node(server, "h1"), "the name is free again"


async def test_a_node_that_is_heard_is_forgotten_by_force_only(
    rig: Rig, server: Server, follow: Callable[..., Follower]
) -> None:
    api, node = rig.admin(server), await rig.node(server, "h1")
    follower = follow(node, Network)
    await until(lambda: "synced" in follower.types())
    rig.time.ahead += 3600
    await refused("PLAIT-API-011", api.forget_node("h1"))
    await api.forget_node("h1", force=True)
    await until(lambda: "disconnected" in follower.types())


async def test_a_node_may_leave_by_itself_but_not_push_others_out(rig: Rig, server: Server) -> None:
    h1, _ = await rig.node(server, "h1"), await rig.node(server, "h2")
    await refused("PLAIT-AUTH-006", h1.forget_node("h2", force=True))
    await h1.forget_node("h1")
    assert [n.metadata.name for n in await rig.admin(server).list(Node)] == ["h2"]


# Watch


@pytest.mark.parametrize(
    "kinds", ["Network,Namespace", "networks,namespaces", "networks,Namespace"]
)
async def test_kinds_are_named_as_in_objects_or_as_in_paths(
    server: Server, api: ApiClient, kinds: str
) -> None:
    async with api._open({"kinds": kinds}) as response:
        async with asyncio.timeout(5):
            assert b'"begin"' in await response.content.readline()
        (group,) = server.service.hub._groups
        assert group == {Network, Namespace}
        response.close()


async def test_a_watch_shows_everything_then_every_change_in_order(
    rig: Rig, api: ApiClient, follow: Callable[..., Follower]
) -> None:
    follower = follow(api, Network, Endpoint)
    await until(lambda: "synced" in follower.types())
    assert follower.types()[:3] == ["begin", "put", "synced"]
    await api.create(endpoint("abc"))
    await api.create(Namespace(metadata=Metadata(name="unseen")))
    await api.delete(Endpoint, "abc")
    await follower.reaches(rig.store.revision)
    live = [e for e in follower.events[3:] if e.type != "bookmark"]
    assert [(e.type, e.object.key) for e in live if e.object] == [
        ("put", "/endpoints/default/abc"),
        ("delete", "/endpoints/default/abc"),
    ]
    revisions = [e.revision for e in follower.events[2:]]
    assert revisions == sorted(revisions)


async def test_a_broken_watch_goes_on_where_it_was(
    rig: Rig, server: Server, api: ApiClient, follow: Callable[..., Follower]
) -> None:
    follower = follow(api, Namespace)
    await until(lambda: "synced" in follower.types())
    rng = random.Random(3)
    for i in range(60):
        if rng.random() < 0.2:
            server.service.hub.cut_all()
        if rng.random() < 0.2:
            await asyncio.sleep(0.01)
        await api.batch(
            [
                BatchOp(verb="create", object=Namespace(metadata=Metadata(name=f"n{i}-{j}")))
                for j in range(3)
            ]
        )
    await follower.reaches(rig.store.revision)
    await until(lambda: len(follower.objects) == 181)
    puts = [e for e in follower.events if e.type == "put"]
    assert len(puts) == 181, "none is missing, and none came twice"
    assert follower.types().count("begin") == 1
    assert "disconnected" in follower.types()


async def test_a_watch_goes_on_across_a_restart_of_the_server(
    rig: Rig, follow: Callable[..., Follower]
) -> None:
    first = await rig.serve(unix_socket=rig.path / "one.sock")
    api = rig.admin(first)
    follower = follow(api, Namespace)
    await until(lambda: "synced" in follower.types())
    await api.create(Namespace(metadata=Metadata(name="before")))
    await follower.reaches(rig.store.revision)
    await first.stop()
    again = await rig.serve(unix_socket=rig.path / "one.sock")
    await rig.admin(again).create(Namespace(metadata=Metadata(name="after")))
    await follower.reaches(rig.store.revision)
    await until(lambda: "/namespaces/after" in follower.objects)
    assert follower.types().count("begin") == 1


async def test_a_watch_begins_anew_where_history_is_gone(
    rig: Rig, server: Server, api: ApiClient, follow: Callable[..., Follower]
) -> None:
    node = await rig.node(server, "h1")
    follower = follow(node, Namespace)
    await until(lambda: "synced" in follower.types())
    await renew_history(rig.store)
    await server.service.mirror.wait(rig.store.revision)
    server.service.hub.cut_all()
    await until(lambda: follower.types().count("synced") == 2)
    resync = next(e for e in follower.events if e.type == "resync")
    assert "history" in resync.reason
    server.service.hub.reset(server.service.mirror.state.revision + 1)
    await until(lambda: follower.types().count("synced") == 3)


async def test_a_watcher_that_does_not_read_is_cut_and_holds_up_nobody(
    rig: Rig, server: Server, api: ApiClient, follow: Callable[..., Follower]
) -> None:
    _reader, writer = await asyncio.open_unix_connection(str(server.config.unix_socket), limit=1024)
    writer.write(b"GET /v1/watch HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await writer.drain()
    follower = follow(api, Namespace)
    await until(lambda: server.service.hub.watchers == 2)
    await until(lambda: "synced" in follower.types())
    big = {f"a{i}": "x" * 1000 for i in range(15)}
    i = 0
    while server.service.hub.cut == 0:
        i += 1
        assert i < 400, "a megabyte is more than sockets hold"
        await api.update(Namespace(metadata=Metadata(name="big", annotations={**big, "i": str(i)})))
    await follower.reaches(rig.store.revision)
    assert follower.types().count("begin") == 1
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def test_watchers_leave_nothing_behind(rig: Rig, server: Server, api: ApiClient) -> None:
    for _ in range(5):
        stream = api.watch([Network])
        async for event in stream:
            if event.type == "synced":
                break
        await stream.aclose()  # type: ignore[attr-defined]
    await until(lambda: server.service.hub.watchers == 0)
    assert not server.service.hub._groups


async def test_a_server_out_of_reach_is_named_and_tried_again(
    rig: Rig, follow: Callable[..., Follower]
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    socket = rig.path / "late.sock"
    api = rig.keep(ApiClient("http://localhost", unix_socket=socket, sleep=sleep, rng=lambda: 1.0))
    error = await refused("PLAIT-API-012", api.list(Network))
    assert str(socket) in error.detail
    follower = follow(api, Network)
    await until(lambda: len(slept) > 8)
    await rig.serve(unix_socket=socket)
    await until(lambda: "synced" in follower.types())
    assert slept[:8] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 3.0, 3.0]
    assert follower.types()[0] == "disconnected"
