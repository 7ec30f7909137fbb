from __future__ import annotations

import asyncio
from typing import Any

import pytest

from plait.docker.journal import NetworkRecord
from plait.model.errors import PlaitError
from plait.wire.docker import (
    GENERIC,
    PORT_MAP,
    ConnectivityCall,
    CreateEndpointCall,
    CreateNetworkCall,
    EndpointCall,
    EndpointInterface,
    JoinCall,
    NetworkCall,
    Nothing,
    PoolData,
)

NET = "a" * 64
END = "e" * 64


def create(*pools: str, options: dict[str, Any] | None = None, **more: Any) -> CreateNetworkCall:
    return CreateNetworkCall(
        network_id=NET,
        options=options,
        ipv4_data=tuple(PoolData(pool=p, **more) for p in pools if ":" not in p),
        ipv6_data=tuple(PoolData(pool=p, **more) for p in pools if ":" in p) or None,
    )


async def test_a_new_network_is_checked_and_stored_nowhere(world) -> None:
    await world.driver.create_network(create("172.18.0.0/16", gateway="172.18.0.1/16"))
    assert world.api.networks == {}
    assert world.directory.records[NET].network == ""
    # Repeated by dockerd.
    await world.driver.create_network(create("172.18.0.0/16"))


async def test_an_overlap_names_the_way_out(world) -> None:
    world.api.prefixes.add("172.16.0.0/12")
    with pytest.raises(PlaitError) as caught:
        await world.driver.create_network(create("172.18.0.0/16"))
    assert caught.value.code == "PLAIT-NET-002"
    assert caught.value.fix[0] == "docker network create -d plait --ipam-driver plait NAME"
    assert NET not in world.directory.records


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (create("0.0.0.0/0"), "PLAIT-DOCKER-002"),
        (create("10.1.0.0/16", "10.2.0.0/16"), "PLAIT-DOCKER-002"),
        (create("10.1.0.0/33"), "PLAIT-NET-004"),
        (create("10.1.0.0/16", options={GENERIC: {"x": "y"}}), "PLAIT-DOCKER-002"),
        (create("10.1.0.0/16", options={GENERIC: {"plait.network": "no"}}), "PLAIT-NET-006"),
    ],
)
async def test_refused_networks_leave_nothing(world, call: CreateNetworkCall, code: str) -> None:
    with pytest.raises(PlaitError, match=code):
        await world.driver.create_network(call)
    assert not world.directory.records


async def test_a_named_network_must_have_the_pools(world) -> None:
    await world.network("blue", "10.5.0.0/24")
    options = {GENERIC: {"plait.network": "blue", "plait.namespace": "shop"}}
    await world.driver.create_network(create("10.5.0.0/24", options=options))
    assert world.directory.records[NET].network == "blue"
    assert world.directory.records[NET].namespace == "shop"
    with pytest.raises(PlaitError) as caught:
        await world.driver.create_network(create("172.18.0.0/16", options=options))
    assert "--ipam-opt plait.network=blue" in caught.value.fix[0]


async def test_an_endpoint_waits_for_its_network(world) -> None:
    await world.driver.create_network(create("172.18.0.0/16"))
    call = CreateEndpointCall(network_id=NET, endpoint_id=END)
    with pytest.raises(PlaitError) as caught:
        await world.driver.create_endpoint(call)
    assert caught.value.code == "PLAIT-DOCKER-004"
    world.directory.fail(NET, PlaitError("PLAIT-API-012", "the server is away"))
    with pytest.raises(PlaitError, match="not yet known") as caught:
        await world.driver.create_endpoint(call)
    assert "the server is away" in caught.value.why
    waiting = asyncio.create_task(world.driver.create_endpoint(call))
    await asyncio.sleep(0)
    await world.network("green", "172.18.0.0/16")
    world.directory.put(NET, NetworkRecord(network="green", seen=True))
    assert (await waiting)["Interface"]["MacAddress"]


async def test_an_endpoint_keeps_what_docker_chose_and_gets_the_rest(world) -> None:
    network_id, _ = await world.bound("blue", "10.5.0.0/24", "fd01::/64")
    call = CreateEndpointCall(
        network_id=network_id,
        endpoint_id=END,
        interface=EndpointInterface(address="10.5.0.7/24", mac_address="02:42:0A:05:00:07"),
    )
    first = await world.driver.create_endpoint(call)
    assert first == {"Interface": {"AddressIPv6": "fd01::2/128"}}
    assert await world.driver.create_endpoint(call) == first
    (endpoint,) = world.agent.local.values()
    assert endpoint.addresses == ("10.5.0.7", "fd01::2")
    assert endpoint.mac == "02:42:0a:05:00:07"
    assert endpoint.phase == "pending"
    assert not endpoint.request.identified


async def test_join(world) -> None:
    network_id, _ = await world.bound("blue", "10.5.0.0/24", "fd01::/64")
    await world.driver.create_endpoint(CreateEndpointCall(network_id=network_id, endpoint_id=END))
    call = JoinCall(network_id=network_id, endpoint_id=END, sandbox_key="/run/netns/x")
    reply = await world.driver.join(call)
    assert reply["InterfaceName"] == {
        "SrcName": world.agent.results[END].peer_name,
        "DstPrefix": "eth",
    }
    assert (reply["Gateway"], reply["GatewayIPv6"]) == ("10.5.0.1", "fd01::1")
    assert reply["StaticRoutes"][0] == {
        "Destination": "10.5.0.1/32",
        "RouteType": 1,
        "NextHop": "",
    }
    assert world.agent.local[END].sandbox == "/run/netns/x"
    assert await world.driver.join(call) == reply
    with pytest.raises(PlaitError, match="PLAIT-AGENT-003"):
        await world.driver.join(JoinCall(network_id=network_id, endpoint_id="f"))


async def test_late_and_repeated_farewells_succeed(world) -> None:
    call = EndpointCall(network_id=NET, endpoint_id=END)
    for handler in (world.driver.leave, world.driver.delete_endpoint, world.driver.revoke):
        assert await handler(call) == {}
    assert await world.driver.delete_network(NetworkCall(network_id=NET)) == {}


async def test_an_attach_that_was_cut_is_undone(world) -> None:
    network_id, _ = await world.bound("blue")
    world.agent.stuck.clear()
    call = CreateEndpointCall(network_id=network_id, endpoint_id=END)
    task = asyncio.create_task(world.driver.create_endpoint(call))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await world.driver.settle()
    assert not world.agent.local


async def test_ports(world) -> None:
    network_id, _ = await world.bound("blue")
    await world.driver.create_endpoint(CreateEndpointCall(network_id=network_id, endpoint_id=END))
    options = {PORT_MAP: [{"Proto": 6, "Port": 80, "HostPort": 8080, "HostPortEnd": 8080}]}
    call = ConnectivityCall(network_id=network_id, endpoint_id=END, options=options)
    assert await world.driver.program(call) == {}
    assert [p.host_port for p in world.agent.ports[END]] == [8080]
    assert await world.driver.revoke(EndpointCall(network_id=network_id, endpoint_id=END)) == {}
    assert world.agent.ports[END] == ()


async def test_an_internal_network_publishes_nothing(world) -> None:
    network_id, _ = await world.bound("inner", internal=True)
    options = {PORT_MAP: [{"Proto": 6, "Port": 80, "HostPort": 8080}]}
    call = ConnectivityCall(network_id=network_id, endpoint_id=END, options=options)
    assert await world.driver.program(call) == {}
    assert not world.agent.ports


async def test_swarm_services_are_refused_with_the_reason(world) -> None:
    with pytest.raises(PlaitError) as caught:
        await world.driver.refuse_swarm(Nothing())
    assert caught.value.code == "PLAIT-DOCKER-003"
    assert "managed plugin" in caught.value.why


async def test_deleting_here_deletes_for_all_once_the_keeper_has_asked(world) -> None:
    network_id, network = await world.bound("blue")
    await world.engine.remove_network(network_id)
    await world.driver.delete_network(NetworkCall(network_id=network_id))
    assert world.directory.deletions == {"blue": network.metadata.uid}
    assert await world.keeper.round()
    assert "blue" not in world.api.networks
