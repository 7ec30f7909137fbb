"""The verbs over fake doors: a whole agent, or several on one server."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.support.waiting import until

from plait.agent import fake
from plait.agent.agent import Agent
from plait.agent.ledger import attached
from plait.client.agent import AttachRequest, EndpointIdentity
from plait.client.agent_socket import AgentClient, run
from plait.model.errors import PlaitError
from plait.model.objects import (
    AddressBlock,
    Endpoint,
    Metadata,
    NamedPort,
    Network,
    NetworkSpec,
    Node,
    PublishedPort,
    Workload,
)
from plait.wire.links import RTM_NEWLINK, set_link


@contextlib.asynccontextmanager
async def running(host: fake.FakeHost, **kwargs: Path) -> AsyncIterator[Agent]:
    agent = host.agent(**kwargs)
    await agent.start()
    try:
        yield agent
    finally:
        await agent.stop()


async def settled(host: fake.FakeHost, agent: Agent) -> None:
    """Blocks are claimed ahead for every network."""
    # The node first: before the first listing there is no network, and all of none have blocks.
    await until(lambda: f"/nodes/{host.name}" in host.server.objects)
    await until(lambda: all(s.blocks or s.pool.block_size == 1 for s in agent.state.book.all()))


def request(ident: str = "e1", **more: object) -> AttachRequest:
    return AttachRequest(**{"id": ident, "network": "plait", "name": "web", **more})  # type: ignore[arg-type]


@pytest.fixture
def host(tmp_path: Path) -> fake.FakeHost:
    return fake.FakeHost(fake.server(), tmp_path)


def endpoints(server: fake.FakeServer) -> dict[str, Endpoint]:
    return {o.metadata.name: o for o in server.objects.values() if isinstance(o, Endpoint)}


def blocks(server: fake.FakeServer, node: str) -> list[str]:
    return [
        o.spec.cidr
        for o in server.objects.values()
        if isinstance(o, AddressBlock) and o.spec.node == node
    ]


async def test_attach_is_idempotent_and_reaches_the_server(host: fake.FakeHost) -> None:
    async with running(host) as agent:
        await settled(host, agent)
        one = await agent.service.attach(request(labels={"app": "web"}))
        assert await agent.service.attach(request(labels={"app": "web"})) == one
        assert len(one.addresses) == 2
        assert one.mtu == 1450
        assert one.gateways == ("10.9.0.1", "fd09::1")
        await until(lambda: "e1" in endpoints(host.server))
        stored = endpoints(host.server)["e1"]
        assert stored.spec.addresses == one.addresses
        assert stored.spec.node == "h1"
        assert stored.metadata.labels == {"app": "web"}
        assert stored.status.phase == "ready"
        assert await agent.service.plan() == ""
        assert await agent.service.detach("e1")
        assert not await agent.service.detach("e1")
        await until(lambda: not endpoints(host.server))
        assert await agent.service.plan() == ""


async def test_many_at_once_get_different_addresses(host: fake.FakeHost) -> None:
    async with running(host) as agent:
        await settled(host, agent)
        results = await asyncio.gather(
            *(agent.service.attach(request(f"e{i % 100}")) for i in range(200))
        )
        assert len({r.addresses for r in results}) == 100
        # 64 addresses a block: more were claimed.
        assert len(blocks(host.server, "h1")) >= 4


async def test_the_kernel_refuses_and_nothing_is_left(host: fake.FakeHost) -> None:
    async with running(host) as agent:
        await settled(host, agent)
        before = set(host.netlink.space.links)
        host.netlink.fail_next()
        with pytest.raises(PlaitError) as caught:
            await agent.service.attach(request())
        assert caught.value.code == "PLAIT-KERNEL-001"
        assert await agent.service.endpoints() == ()
        assert await agent.service.plan() == ""
        assert agent.loop.failures == ()
        assert set(host.netlink.space.links) == before
        await agent.service.attach(request())


async def test_a_bad_object_does_not_block_the_rest(host: fake.FakeHost) -> None:
    async with running(host) as agent:
        await settled(host, agent)
        await agent.service.attach(request("good"))
        host.netlink.fail_next()
        with pytest.raises(PlaitError):
            await agent.service.attach(request("bad"))
        await agent.service.attach(request("after"))
        assert {e.request.id for e in await agent.service.endpoints()} == {"good", "after"}


async def test_a_namespace_that_is_not_there(host: fake.FakeHost) -> None:
    async with running(host) as agent:
        await settled(host, agent)
        with pytest.raises(PlaitError) as caught:
            await agent.service.attach(request(netns="/run/netns/none-such"))
        assert caught.value.code == "PLAIT-AGENT-004"
        assert "/run/netns/none-such" in caught.value.render()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"network": "none"}, "PLAIT-NET-006"),
        ({"id": "UPPER"}, "PLAIT-API-002"),
        ({"id": "x" * 65}, "PLAIT-API-002"),
        ({"name": "a\nb"}, "PLAIT-NAME-001"),
        ({"name": "x" * 10_000}, "PLAIT-NAME-001"),
        ({"aliases": ("a b",)}, "PLAIT-NAME-001"),
        ({"ifname": "a/b"}, "PLAIT-API-002"),
        ({"ifname": "all"}, "PLAIT-API-002"),
        ({"mac": "01:00:00:00:00:01"}, "PLAIT-API-002"),
        ({"mac": "00:00:00:00:00:00"}, "PLAIT-API-002"),
        ({"netns": "relative"}, "PLAIT-API-002"),
        ({"addresses": ("nonsense",)}, "PLAIT-IPAM-011"),
        ({"addresses": ("10.8.0.1",)}, "PLAIT-IPAM-011"),
        ({"addresses": ("10.9.0.1",)}, "PLAIT-IPAM-014"),
        ({"ports": (PublishedPort(protocol="tcp", port=0, host_port=1),)}, "PLAIT-API-002"),
    ],
)
async def test_refusals(host: fake.FakeHost, change: dict[str, object], code: str) -> None:
    async with running(host) as agent:
        await settled(host, agent)
        with pytest.raises(PlaitError) as caught:
            await agent.service.attach(request(**change))
        assert caught.value.code == code
        assert await agent.service.endpoints() == ()


async def test_what_the_kernel_refuses_is_said_in_a_line(host: fake.FakeHost) -> None:
    async with running(host) as agent:
        await settled(host, agent)
        host.kernel.host.failures += [(RTM_NEWLINK, errno.EADDRNOTAVAIL)]
        with pytest.raises(PlaitError) as caught:
            await agent.service.attach(request())
        (line,) = caught.value.why.splitlines()
        assert line.startswith("ip link add pl")
        assert line.endswith("(EADDRNOTAVAIL)")


async def test_before_the_first_snapshot_nothing_is_touched(host: fake.FakeHost) -> None:
    host.server.cut()
    async with running(host) as agent:
        with pytest.raises(PlaitError) as caught:
            await agent.service.attach(request())
        assert caught.value.code == "PLAIT-AGENT-008"
        assert host.nft.commits == []
        assert not (await agent.service.status()).ready


async def test_a_restart_without_the_server(host: fake.FakeHost) -> None:
    async with running(host) as agent:
        await settled(host, agent)
        one = await agent.service.attach(request())
    host.server.cut()
    commits = len(host.nft.commits)
    async with running(host) as agent:
        assert await agent.service.plan() == ""
        assert len(host.nft.commits) <= commits
        assert await agent.service.attach(request()) == one
        two = await agent.service.attach(request("e2"))
        assert set(two.addresses).isdisjoint(one.addresses)
        host.server.heal()
        await until(lambda: "e2" in endpoints(host.server))


async def test_blocks_used_up_while_the_server_is_away(host: fake.FakeHost) -> None:
    async with running(host) as agent:
        await settled(host, agent)
        host.server.cut()
        made = 0

        async def fill() -> None:
            nonlocal made
            while True:
                await agent.service.attach(request(f"e{made}"))
                made += 1

        with pytest.raises(PlaitError) as caught:
            await fill()
        assert caught.value.code == "PLAIT-IPAM-013"
        assert made >= 62
        assert len(await agent.service.endpoints()) == made


async def test_a_small_pool_runs_out_and_says_so(tmp_path: Path) -> None:
    tiny = Network(metadata=Metadata(name="tiny"), spec=NetworkSpec(pools=("10.7.0.0/29",)))
    host = fake.FakeHost(fake.server(tiny), tmp_path)
    async with running(host) as agent:
        await settled(host, agent)
        for i in range(5):
            await agent.service.attach(request(f"e{i}", network="tiny"))
        with pytest.raises(PlaitError) as caught:
            await agent.service.attach(request("more", network="tiny"))
        assert caught.value.code == "PLAIT-IPAM-012"
        assert "10.7.0.0/29" in caught.value.render()
        await agent.service.detach("e0")
        with pytest.raises(PlaitError) as caught:
            await agent.service.attach(request("more", network="tiny"))
        assert "1 rest" in caught.value.why
        host.clock.advance(61)
        await agent.service.attach(request("more", network="tiny"))


async def test_requested_addresses_between_hosts(tmp_path: Path) -> None:
    server = fake.server()
    a, b = fake.FakeHost(server, tmp_path, 1), fake.FakeHost(server, tmp_path, 2)
    async with running(a) as one, running(b) as two:
        await settled(a, one)
        await settled(b, two)
        theirs = next(c for c in blocks(server, "h2") if ":" not in c).split("/")[0]
        # Of a block that the other node owns: borrowed.
        got = await one.service.attach(request("e1", addresses=(theirs,)))
        assert theirs in got.addresses
        with pytest.raises(PlaitError) as caught:
            await two.service.attach(request("e2", addresses=(theirs,)))
        assert caught.value.code == "PLAIT-IPAM-010"
        # In use there: refused.
        used = (await two.service.attach(request("e3"))).addresses[0]
        with pytest.raises(PlaitError) as caught:
            await one.service.attach(request("e4", addresses=(used,)))
        assert caught.value.code == "PLAIT-IPAM-010"
        # Of a block that nobody owns: no block is claimed for it.
        await one.service.attach(request("e5", addresses=("10.9.99.99",)))
        lone = next(
            o
            for o in server.objects.values()
            if isinstance(o, AddressBlock) and o.spec.cidr == "10.9.99.64/26"
        )
        assert lone.spec.node == ""
        assert [(n.address, n.node, n.state) for n in lone.spec.loans] == [
            ("10.9.99.99", "h1", "granted")
        ]
        # Given back after a rest.
        for ident in ("e1", "e5"):
            await one.service.detach(ident)
        a.clock.advance(61)
        one.loop.nudge()
        one.loop.resync()
        await until(
            lambda: (
                not any(
                    o.spec.loans for o in server.objects.values() if isinstance(o, AddressBlock)
                )
            )
        )
        await until(lambda: "/addressblocks/plait.10-9-99-64-26" not in server.objects)


async def test_an_address_out_of_a_range(tmp_path: Path) -> None:
    shared = fake.server()
    one, two = fake.FakeHost(shared, tmp_path, 1), fake.FakeHost(shared, tmp_path, 2)
    async with running(one) as first, running(two) as second:
        await settled(one, first)
        await settled(two, second)
        # A block that nobody has is claimed.
        made = await first.service.attach(request("r1", ranges=("10.9.200.0/26",)))
        assert made.addresses[0] == "10.9.200.0"
        assert "10.9.200.0/26" in blocks(shared, "h1")
        # In another's block an address is borrowed.
        made = await second.service.attach(request("r2", ranges=("10.9.200.0/30",)))
        assert made.addresses[0] == "10.9.200.1"
        assert "10.9.200.0/26" not in blocks(shared, "h2")
        again = await second.service.attach(request("r3", ranges=("10.9.200.0/30",)))
        assert again.addresses[0] == "10.9.200.2"
        await first.service.attach(request("r4", ranges=("10.9.200.0/30",)))
        with pytest.raises(PlaitError) as refusal:
            await first.service.attach(request("r5", ranges=("10.9.200.0/30",)))
        assert refusal.value.code == "PLAIT-IPAM-012"


async def test_a_check_tells_what_the_kernel_lacks_of_one_endpoint(host: fake.FakeHost) -> None:
    async with running(host) as agent:
        await settled(host, agent)
        one = await agent.service.attach(request("e1"))
        two = await agent.service.attach(request("e2"))
        assert await agent.service.check("e1") == ()
        index = host.netlink.index(one.interface)
        host.netlink.execute([set_link(index, up=False)])
        (missing, *_) = await agent.service.check("e1")
        assert one.interface in missing
        assert two.interface not in missing
        assert await agent.service.check("e2") == ()
        with pytest.raises(PlaitError) as refusal:
            await agent.service.check("e3")
        assert refusal.value.code == "PLAIT-AGENT-003"


async def test_an_endpoint_whose_block_was_given_away_is_silenced(tmp_path: Path) -> None:
    server = fake.server()
    host = fake.FakeHost(server, tmp_path)
    async with running(host) as agent:
        await settled(host, agent)
        await agent.service.attach(request())
        v4 = next(
            o
            for o in server.objects.values()
            if isinstance(o, AddressBlock) and o.spec.node == "h1" and ":" not in o.spec.cidr
        )
        server.put(msgspec.structs.replace(v4, spec=msgspec.structs.replace(v4.spec, node="other")))
        await until(lambda: agent.state.fenced == {"e1"})
        (endpoint,) = await agent.service.endpoints()
        assert endpoint.phase == "degraded"
        want = agent.state.compute()
        assert want is not None
        assert want.filter.endpoints == {}


async def test_no_traffic_before_identity(host: fake.FakeHost) -> None:
    async with running(host) as agent:
        await settled(host, agent)
        result = await agent.service.attach(request(identified=False))
        state = agent.state.compute()
        assert state is not None
        assert result.interface in state.links
        assert result.interface not in state.filter.endpoints
        await agent.service.identify(
            "e1",
            EndpointIdentity(
                name="db",
                aliases=("store",),
                labels={"a": "b"},
                namespace="prod",
                workload=Workload(runtime="docker", id="c1"),
                named_ports=(NamedPort(name="sql", protocol="tcp", port=5432),),
            ),
        )
        (known,) = await agent.service.endpoints()
        assert known.request.named_ports[0].port == 5432
        state = agent.state.compute()
        assert state is not None
        assert result.interface in state.filter.endpoints
        await until(lambda: "/endpoints/prod/e1" in host.server.objects)
        assert "/endpoints/default/e1" not in host.server.objects
        with pytest.raises(PlaitError) as caught:
            await agent.service.joined("none", "/x")
        assert caught.value.code == "PLAIT-AGENT-003"


async def test_reservations(host: fake.FakeHost) -> None:
    async with running(host) as agent:
        await settled(host, agent)
        held = await agent.service.reserve("plait", 4)
        with pytest.raises(PlaitError):
            await agent.service.reserve("plait", 4, held.address)
    async with running(host) as agent:
        # It is held through a restart.
        result = await agent.service.attach(request(addresses=(held.address,)))
        assert held.address in result.addresses
        await agent.service.release("plait", held.address)
        with pytest.raises(PlaitError):
            await agent.service.reserve("plait", 4, held.address)
        other = await agent.service.reserve("plait", 6)
        await agent.service.release("plait", other.address)
        await agent.service.release("plait", other.address)


async def test_published_ports(host: fake.FakeHost) -> None:
    def port(number: int) -> tuple[PublishedPort, ...]:
        return (PublishedPort(protocol="tcp", port=80, host_port=number, host_ip="127.0.0.1"),)

    async with running(host) as agent:
        await settled(host, agent)
        await agent.service.attach(request())
        (chosen,) = await agent.service.publish("e1", port(0))
        assert chosen.host_port
        state = agent.state.compute()
        assert state is not None
        assert {(p.host_port, p.port, p.family) for p in state.filter.ports} == {
            (chosen.host_port, 80, 4)
        }
        await agent.service.attach(request("e2"))
        with pytest.raises(PlaitError) as caught:
            await agent.service.publish("e2", port(chosen.host_port))
        assert caught.value.code == "PLAIT-AGENT-007"
        assert (await agent.service.endpoints())[1].request.ports == ()
    async with running(host) as agent:
        with pytest.raises(PlaitError):
            await agent.service.publish("e2", port(chosen.host_port))
        await agent.service.detach("e1")
        await agent.service.publish("e2", port(chosen.host_port))


async def test_an_attach_that_was_cut_short_leaves_no_trace(host: fake.FakeHost) -> None:
    async with running(host) as agent:
        await settled(host, agent)
        await agent.service.attach(request("done"))
        await agent.service.attach(request("half"))
        endpoint = agent.state.records.ledger.endpoints["half"]
        agent.state.records.write(attached(endpoint, done=False))
    async with running(host) as agent:
        assert [e.request.id for e in await agent.service.endpoints()] == ["done"]
        assert await agent.service.plan() == ""
        await agent.service.attach(request("half"))


async def test_after_a_reboot_endpoints_are_gone(host: fake.FakeHost) -> None:
    async with running(host) as agent:
        await settled(host, agent)
        await agent.service.attach(request())
        await until(lambda: "e1" in endpoints(host.server))
    host.reboot()
    host.boot = "boot-2"
    async with running(host) as agent:
        assert await agent.service.endpoints() == ()
        await until(lambda: not endpoints(host.server))


async def test_other_nodes_become_routes_and_peers(tmp_path: Path) -> None:
    server = fake.server()
    a, b = fake.FakeHost(server, tmp_path, 1), fake.FakeHost(server, tmp_path, 2)
    async with running(a) as one, running(b) as two:
        await settled(b, two)
        await until(lambda: len(blocks(server, "h2")) == 2)
        await until(lambda: "h2" in one.state.snapshot.nodes)
        (peer,) = await one.service.peers()
        assert (peer.node, peer.encap, peer.address) == ("h2", "direct", "192.0.2.2")
        await until(
            lambda: (
                {
                    r.via
                    for r in one.state.compute().routes  # type: ignore[union-attr]
                    if r.dst in blocks(server, "h2")
                }
                == {"192.0.2.2", "2001:db8::2"}
            )
        )
        node = server.objects["/nodes/h2"]
        assert isinstance(node, Node)
        assert node.spec.link_local == "fe80::2"
        assert node.status.prefixes == ("192.0.2.0/24", "2001:db8::/64")


async def test_the_socket(host: fake.FakeHost, tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    client = AgentClient(path)

    def call(coroutine):  # type: ignore[no-untyped-def]
        return asyncio.to_thread(run, coroutine)

    async with running(host, socket=path) as agent:
        await settled(host, agent)
        assert path.stat().st_mode & 0o777 == 0o600
        result = await call(client.attach(request()))
        assert result == await agent.service.attach(request())
        (endpoint,) = await call(client.endpoints())
        assert endpoint.request.id == "e1"
        held = await call(client.reserve("plait", 4))
        await call(client.release("plait", held.address))
        await call(client.joined("e1", "/x"))
        await call(
            client.identify(
                "e1",
                EndpointIdentity(
                    name="n", aliases=(), labels={}, namespace="s", workload=Workload()
                ),
            )
        )
        assert await call(client.publish("e1", ())) == ()
        assert (await call(client.status())).endpoints == 1
        assert await call(client.peers()) == ()
        assert await call(client.plan()) == ""
        with pytest.raises(PlaitError) as caught:
            await call(client.attach(request("BAD")))
        assert caught.value.code == "PLAIT-API-002"
        status, body = await asyncio.to_thread(client._post, "/v1/none", b"{}")
        assert status == 404
        assert b"PLAIT-API-014" in body
        status, body = await asyncio.to_thread(client._post, "/v1/detach", b'{"endpoint":1}')
        assert (status, b"PLAIT-API-002" in body) == (422, True)
        status, body = await asyncio.to_thread(client._post, "/v1/detach", b"[" * 100_000)
        assert status in (400, 422)
        status, _ = await asyncio.to_thread(client._post, "/v1/detach", b"x" * (2 << 20))
        assert status == 413
        assert await call(client.detach("e1")) is True
        assert await call(client.detach("e1")) is False
    with pytest.raises(PlaitError) as caught:
        await call(client.status())
    assert caught.value.code == "PLAIT-AGENT-001"


async def test_churn_leaks_nothing(host: fake.FakeHost) -> None:
    async with running(host) as agent:
        await settled(host, agent)

        async def round_(count: int) -> None:
            await asyncio.gather(*(agent.service.attach(request(f"e{i}")) for i in range(count)))
            await asyncio.gather(*(agent.service.detach(f"e{i}") for i in range(count)))
            host.clock.advance(61)
            agent.loop.resync()
            await agent.sync.reconcile()
            host.nft.commits.clear()

        await round_(60)
        gc.collect()
        objects, fds = len(gc.get_objects()), len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            await round_(60)
        gc.collect()
        assert len(list(Path("/proc/self/fd").iterdir())) <= fds
        assert len(gc.get_objects()) < objects * 1.05
        assert agent.state.records.lines < 5000
        await until(lambda: not endpoints(host.server))
        assert len(blocks(host.server, "h1")) <= 4
        assert agent.state.records.ledger.resting == {}


async def test_a_block_that_the_server_forgot_is_claimed_again(host: fake.FakeHost) -> None:
    async with running(host) as agent:
        await settled(host, agent)
        await agent.service.attach(request())
        mine = next(c for c in blocks(host.server, "h1") if ":" not in c)
        name = next(
            k for k in host.server.objects if k.endswith(mine.replace(".", "-").replace("/", "-"))
        )
        host.server.remove(name)
        await until(lambda: bool(agent.blocks._lost_blocks) or name in host.server.objects)
        await until(lambda: mine in blocks(host.server, "h1"))
        assert agent.state.fenced == frozenset()


async def test_a_claim_that_did_not_get_through_is_still_due(host: fake.FakeHost) -> None:
    async with running(host) as agent:
        await settled(host, agent)
        await agent.service.attach(request())
        await until(lambda: "e1" in endpoints(host.server))
        mine = next(c for c in blocks(host.server, "h1") if ":" not in c)
        agent.blocks._lost_blocks.add(("plait", "10.9.200.0/26"))
        host.server.away = True
        with pytest.raises(PlaitError):
            await agent.blocks.reconcile()
        assert agent.blocks._lost_blocks == {("plait", "10.9.200.0/26")}
        host.server.heal()
        await agent.blocks.reconcile()
        assert agent.blocks._lost_blocks == set()
        assert {mine, "10.9.200.0/26"} <= set(blocks(host.server, "h1"))


async def test_named_ports_go_to_the_server_with_the_endpoint(host: fake.FakeHost) -> None:
    http = NamedPort(name="http", protocol="tcp", port=80)
    async with running(host) as agent:
        await settled(host, agent)
        await agent.service.attach(request(named_ports=(http,)))
        await until(lambda: "/endpoints/default/e1" in host.server.objects)
        stored = host.server.objects["/endpoints/default/e1"]
        assert isinstance(stored, Endpoint)
        assert stored.spec.named_ports == (http,)
        with pytest.raises(PlaitError) as caught:
            await agent.service.attach(request("e2", named_ports=(http, http)))
        assert caught.value.where == "namedPorts[1].name"
