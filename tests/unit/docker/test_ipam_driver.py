from __future__ import annotations

import pytest

from plait.docker.addressing import parse_pool
from plait.model.errors import PlaitError
from plait.wire.docker import (
    ReleaseAddressCall,
    ReleasePoolCall,
    RequestAddressCall,
    RequestPoolCall,
)

GATEWAY = {"RequestAddressType": "com.docker.network.gateway"}


async def test_a_free_pool_of_each_family(world) -> None:
    first = (await world.ipam.request_pool(RequestPoolCall()))["Pool"]
    second = (await world.ipam.request_pool(RequestPoolCall()))["Pool"]
    assert first != second
    for pool in (first, second):
        assert parse_pool(pool).subnet_of(parse_pool("10.128.0.0/9"))
        assert parse_pool(pool).prefixlen == 20
    v6 = await world.ipam.request_pool(RequestPoolCall(v6=True))
    assert v6["PoolID"] == v6["Pool"]
    assert parse_pool(v6["Pool"]).prefixlen == 64
    assert not world.api.networks


async def test_a_pool_is_taken_as_said_and_must_fit_its_family(world) -> None:
    said = await world.ipam.request_pool(RequestPoolCall(pool="10.9.0.0/24", options=None))
    assert said == {"PoolID": "10.9.0.0/24", "Pool": "10.9.0.0/24", "Data": {}}
    for call in (RequestPoolCall(pool="10.9.0.0/24", v6=True), RequestPoolCall(pool="10.9.0.1/24")):
        with pytest.raises(PlaitError, match="PLAIT-NET-004"):
            await world.ipam.request_pool(call)
    with pytest.raises(PlaitError, match="PLAIT-DOCKER-002"):
        await world.ipam.request_pool(RequestPoolCall(pool="10.9.0.0/24", sub_pool="10.9.0.0/25"))


async def test_the_pools_of_a_named_network(world) -> None:
    await world.network("blue", "10.5.0.0/24", "fd01::/64")
    options = {"plait.network": "blue"}
    v4 = await world.ipam.request_pool(RequestPoolCall(options=options))
    v6 = await world.ipam.request_pool(RequestPoolCall(options=options, v6=True))
    assert (v4["Pool"], v6["Pool"]) == ("10.5.0.0/24", "fd01::/64")
    with pytest.raises(PlaitError, match="has the pool"):
        await world.ipam.request_pool(RequestPoolCall(pool="10.6.0.0/24", options=options))
    with pytest.raises(PlaitError, match="PLAIT-NET-006"):
        await world.ipam.request_pool(RequestPoolCall(options={"plait.network": "none"}))


async def test_the_cluster_has_no_pool_of_the_family(world) -> None:
    world.api.cluster = type(world.api.cluster)(
        metadata=world.api.cluster.metadata,
        spec=type(world.api.cluster.spec)(pools=("10.128.0.0/9",)),
    )
    with pytest.raises(PlaitError, match="PLAIT-NET-003"):
        await world.ipam.request_pool(RequestPoolCall(v6=True))


async def test_gateways(world) -> None:
    call = RequestAddressCall(pool_id="10.5.0.0/24", options=GATEWAY)
    assert (await world.ipam.request_address(call))["Address"] == "10.5.0.1/24"
    await world.network("blue", "10.5.0.0/24", gateways=("10.5.0.254",))
    assert (await world.ipam.request_address(call))["Address"] == "10.5.0.254/24"
    said = RequestAddressCall(pool_id="10.5.0.0/24", address="10.5.0.9", options=GATEWAY)
    assert (await world.ipam.request_address(said))["Address"] == "10.5.0.9/24"
    assert not world.agent.held


async def test_addresses_are_held_and_given_back(world) -> None:
    await world.network("blue", "10.5.0.0/24")
    free = RequestAddressCall(pool_id="10.5.0.0/24", options=None)
    assert (await world.ipam.request_address(free))["Address"] == "10.5.0.2/32"
    said = RequestAddressCall(pool_id="10.5.0.0/24", address="10.5.0.77")
    assert (await world.ipam.request_address(said))["Address"] == "10.5.0.77/32"
    assert world.agent.held == {("blue", "10.5.0.2"), ("blue", "10.5.0.77")}
    assert {h.address for h in world.directory.held} == {"10.5.0.2", "10.5.0.77"}
    for _ in range(2):
        call = ReleaseAddressCall(pool_id="10.5.0.0/24", address="10.5.0.77")
        assert await world.ipam.release_address(call) == {}
    assert world.agent.held == {("blue", "10.5.0.2")}
    with pytest.raises(PlaitError, match="PLAIT-IPAM-011"):
        await world.ipam.request_address(
            RequestAddressCall(pool_id="10.5.0.0/24", address="10.6.0.1")
        )


async def test_an_address_whose_answer_was_lost_with_the_agent_is_given_again(world) -> None:
    await world.network("blue", "10.5.0.0/24")
    await world.agent.reserve("blue", 4, "10.5.0.77")
    said = RequestAddressCall(pool_id="10.5.0.0/24", address="10.5.0.77")
    assert (await world.ipam.request_address(said))["Address"] == "10.5.0.77/32"
    with pytest.raises(PlaitError, match="PLAIT-IPAM-010"):
        await world.ipam.request_address(said)


async def test_addresses_before_the_network_has_a_name(world) -> None:
    reserved = RequestAddressCall(pool_id="10.5.0.0/24", address="10.5.0.3")
    assert (await world.ipam.request_address(reserved))["Address"] == "10.5.0.3/24"
    with pytest.raises(PlaitError, match="PLAIT-DOCKER-004"):
        await world.ipam.request_address(RequestAddressCall(pool_id="10.5.0.0/24"))


async def test_releases_of_what_is_not_ours(world) -> None:
    assert await world.ipam.release_pool(ReleasePoolCall(pool_id="10.5.0.0/24")) == {}
    # An IPv6 address that CreateEndpoint added has no pool in dockerd's books.
    assert await world.ipam.release_address(ReleaseAddressCall(address="fd01::2")) == {}


async def test_the_pool_is_not_offered_again_while_it_may_be_in_use(world) -> None:
    first = (await world.ipam.request_pool(RequestPoolCall()))["Pool"]
    world.clock.now += 61
    assert first in world.pools._offered
    await world.ipam.request_pool(RequestPoolCall())
    assert first not in world.pools._offered
