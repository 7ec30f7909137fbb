from __future__ import annotations

import pytest

from plait.docker.addressing import of_family
from plait.docker.engine import EngineRefused
from plait.docker.networks import LEAVING
from plait.model.errors import PlaitError
from plait.wire.docker import CreateNetworkCall, IpamConfig, NetworkCall, PoolData


async def test_nothing_is_done_before_the_first_snapshot(world) -> None:
    world.directory.synced = False
    world.engine.fail["networks"] = AssertionError("asked too early")
    assert await world.keeper.round()


async def test_docker_gets_every_network_and_loses_the_deleted(world) -> None:
    network_id, network = await world.bound("blue", "10.5.0.0/24", "fd01::/64")
    made = world.engine.by_id[network_id]
    assert (made.name, made.driver, made.ipam.driver) == ("blue", "plait", "plait")
    assert [c.gateway for c in made.ipam.config or ()] == ["10.5.0.1", "fd01::1"]
    await world.api.delete(type(network), "blue")
    assert await world.keeper.round()
    assert world.engine.by_id == {}
    assert not world.directory.records


async def test_a_network_that_dockerd_is_deleting_is_not_offered_again(world) -> None:
    network_id, _ = await world.bound("blue", "10.5.0.0/24")
    del world.engine.by_id[network_id]
    assert not await world.keeper.round()
    assert world.engine.by_id == {}
    await world.driver.delete_network(NetworkCall(network_id=network_id))
    await world.keeper.round()
    assert "blue" not in world.api.networks
    assert await world.keeper.round()
    assert world.engine.by_id == {}


async def test_a_network_that_docker_lost_comes_back_after_a_while(world) -> None:
    network_id, _ = await world.bound("blue", "10.5.0.0/24")
    del world.engine.by_id[network_id]
    assert not await world.keeper.round()
    world.clock.now += 20
    assert await world.keeper.round()
    assert [n.name for n in world.engine.by_id.values()] == ["blue"]
    assert network_id not in world.directory.records


async def test_a_network_made_by_docker_is_adopted_with_an_ipv6_pool(world) -> None:
    docker = world.docker_network(
        "shop_default", "172.18.0.0/16", labels={"team": "shop", "note": "free text"}
    )
    await world.driver.create_network(_created(docker))
    assert await world.keeper.round()
    stored = world.api.networks["shop-default"]
    assert stored.spec.external_ipam
    assert of_family(stored.spec.pools, 4) == "172.18.0.0/16"
    assert of_family(stored.spec.pools, 6).startswith("fd70:")
    assert stored.spec.gateways[0] == "172.18.0.1"
    assert stored.metadata.annotations == {"plait.docker-name": "shop_default"}
    assert stored.metadata.labels == {"team": "shop"}
    assert await world.keeper.round()
    record = world.directory.records[docker.id]
    assert record.seen
    assert record.on_segment


def _created(docker):
    pools = tuple(PoolData(pool=c.subnet) for c in docker.ipam.config or ())
    return CreateNetworkCall(network_id=docker.id, ipv4_data=pools)


async def test_a_network_that_is_removed_while_it_is_made_does_not_come_back(
    world, monkeypatch
) -> None:
    docker = world.docker_network("blue", "172.18.0.0/16")
    await world.driver.create_network(_created(docker))
    create = world.api.create

    async def slowly(network, **options):
        made = await create(network, **options)
        if not options:
            del world.engine.by_id[docker.id]
            await world.driver.delete_network(NetworkCall(network_id=docker.id))
        return made

    monkeypatch.setattr(world.api, "create", slowly)
    for _ in range(3):
        await world.keeper.round()
    assert world.engine.by_id == {}
    assert "blue" not in world.api.networks
    assert not world.directory.records


async def test_reserved_and_gateway_come_from_docker(world) -> None:
    docker = world.docker_network("blue", ipam="plait", internal=True)
    config = IpamConfig(
        subnet="10.5.0.0/24", gateway="10.5.0.254", auxiliary_addresses={"r": "10.5.0.9"}
    )
    world.engine.by_id[docker.id] = type(docker)(
        id=docker.id,
        name="blue",
        driver="plait",
        internal=True,
        ipam=type(docker.ipam)(driver="plait", config=(config,)),
    )
    assert await world.keeper.round()
    spec = world.api.networks["blue"].spec
    assert spec.gateways[0] == "10.5.0.254"
    assert spec.reserved == ("10.5.0.9",)
    assert spec.internal
    assert not spec.external_ipam


async def test_two_docker_names_with_one_label(world) -> None:
    for name, pool in (("my_net", "10.1.0.0/24"), ("my.net", "10.2.0.0/24")):
        world.docker_network(name, pool, ipam="plait")
    assert await world.keeper.round()
    names = sorted(world.api.networks)
    assert names[0] == "my-net"
    assert names[1].startswith("my-net-")


async def test_the_cut_ipv6_pool_was_taken_meanwhile(world) -> None:
    world.docker_network("blue", "172.18.0.0/16")
    world.api.fail["create"] = PlaitError("PLAIT-NET-001", "overlap")
    assert await world.keeper.round()
    assert "blue" in world.api.networks


async def test_a_name_that_another_host_gave_first(world) -> None:
    """Two hosts create one network at the same time: the later one takes the other's."""
    await world.network("blue", "10.5.0.0/24")
    docker = world.docker_network("blue", "172.18.0.0/16")
    assert await world.keeper.round()
    assert docker.id in world.engine.removed
    assert await world.keeper.round()
    assert [n.ipam.driver for n in world.engine.by_id.values()] == ["plait"]


async def test_a_network_with_containers_is_not_removed(world) -> None:
    docker = world.docker_network("blue", "172.18.0.0/16")
    await world.network("blue", "10.5.0.0/24")
    world.connect(docker.id, "c1", "e1")
    assert not await world.keeper.round()
    assert docker.id in world.engine.by_id
    assert "containers are on it" in world.keeper.problems[0]


async def test_the_server_is_away_while_docker_creates(world) -> None:
    docker = world.docker_network("blue", "172.18.0.0/16", "fd01::/64")
    world.api.fail["create"] = PlaitError("PLAIT-API-012", "the server cannot be reached")
    assert not await world.keeper.round()
    with pytest.raises(PlaitError, match="PLAIT-DOCKER-004") as caught:
        await world.directory.resolve(docker.id, 0.01)
    assert "PLAIT-API-012" in caught.value.why
    assert await world.keeper.round()
    assert await world.keeper.round()
    assert world.keeper.problems == ()
    await world.directory.resolve(docker.id, 0.01)


async def test_a_snapshot_behind_the_server_deletes_nothing(world) -> None:
    world.api.behind = True
    docker = world.docker_network("blue", "172.18.0.0/16", "fd01::/64")
    for _ in range(3):
        assert await world.keeper.round()
    assert docker.id in world.engine.by_id
    world.api.behind = False
    world.api.publish()
    assert await world.keeper.round()
    assert world.directory.records[docker.id].seen


async def test_removed_here_and_used_elsewhere_comes_back(world) -> None:
    network_id, _ = await world.bound("blue")
    world.api.busy.add("blue")
    await world.engine.remove_network(network_id)
    await world.driver.delete_network(NetworkCall(network_id=network_id))
    assert not await world.keeper.round()
    assert not world.engine.by_id
    world.clock.now += LEAVING
    assert await world.keeper.round()
    assert await world.keeper.round()
    assert [n.name for n in world.engine.by_id.values()] == ["blue"]


async def test_removed_here_right_after_its_containers_it_does_not_come_back(world) -> None:
    """The server hears a moment later that they went, from whatever host."""
    network_id, _ = await world.bound("blue")
    world.api.busy.add("blue")
    await world.engine.remove_network(network_id)
    await world.driver.delete_network(NetworkCall(network_id=network_id))
    assert not await world.keeper.round()
    world.clock.now += 1
    world.api.busy.discard("blue")
    assert await world.keeper.round()
    assert "blue" not in world.api.networks
    assert await world.keeper.round()
    assert not world.engine.by_id


async def test_a_network_that_others_delete_meanwhile_is_waited_for_no_more(world) -> None:
    network_id, network = await world.bound("blue")
    world.api.busy.add("blue")
    await world.engine.remove_network(network_id)
    await world.driver.delete_network(NetworkCall(network_id=network_id))
    assert not await world.keeper.round()
    world.api.busy.discard("blue")
    await world.api.delete(type(network), "blue")
    assert await world.keeper.round()


async def test_the_ready_made_network_comes_back(world) -> None:
    network_id, _ = await world.bound("plait")
    await world.engine.remove_network(network_id)
    await world.driver.delete_network(NetworkCall(network_id=network_id))
    assert await world.keeper.round()
    assert await world.keeper.round()
    assert [n.name for n in world.engine.by_id.values()] == ["plait"]
    assert "plait" in world.api.networks


async def test_a_deletion_outlives_the_server_and_the_plugin(world) -> None:
    network_id, _ = await world.bound("blue")
    await world.engine.remove_network(network_id)
    await world.driver.delete_network(NetworkCall(network_id=network_id))
    world.api.fail["delete"] = PlaitError("PLAIT-API-012", "the server cannot be reached")
    assert not await world.keeper.round()
    assert not world.engine.by_id
    world.restart()
    assert await world.keeper.round()
    assert "blue" not in world.api.networks
    assert await world.keeper.round()
    assert not world.directory.deletions


async def test_removed_before_the_snapshot_had_it(world) -> None:
    """`docker network create` and `rm` while the agent is cut off from the server in between."""
    world.api.publish()
    world.api.behind = True
    docker = world.docker_network("blue", "172.18.0.0/16")
    await world.driver.create_network(_created(docker))
    assert await world.keeper.round()
    await world.engine.remove_network(docker.id)
    await world.driver.delete_network(NetworkCall(network_id=docker.id))
    world.api.fail["get"] = PlaitError("PLAIT-API-012", "the server cannot be reached")
    assert not await world.keeper.round()
    assert await world.keeper.round()
    assert "blue" not in world.api.networks
    world.api.behind = False
    world.api.publish()
    assert await world.keeper.round()
    assert not world.engine.by_id
    assert not world.directory.deletions


async def test_a_deletion_spares_a_later_network_of_that_name(world) -> None:
    world.directory.delete("blue", "uid-of-another")
    world.api.publish()
    world.api.behind = True
    await world.network("blue", "10.5.0.0/24")
    assert await world.keeper.round()
    assert "blue" in world.api.networks
    assert not world.directory.deletions


async def test_what_dockerd_refuses_is_told_and_tried_again(world) -> None:
    await world.network("blue")
    world.engine.fail["create_network"] = EngineRefused(500, "no")
    assert not await world.keeper.round()
    assert world.keeper.problems == ("dockerd refuses: no",)
    assert await world.keeper.round()
    assert world.keeper.problems == ()


async def test_a_clash_of_names_is_told(world) -> None:
    await world.network("blue")
    docker = world.docker_network("blue", "172.18.0.0/16")
    world.engine.by_id[docker.id] = type(docker)(id=docker.id, name="blue", driver="bridge")
    assert not await world.keeper.round()
    assert "driver bridge has that name" in world.keeper.problems[0]
