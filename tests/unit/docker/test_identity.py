from __future__ import annotations

import asyncio

import msgspec
import pytest

from plait.docker.identity import endpoints_of, identity
from plait.model.errors import PlaitError
from plait.model.objects import NamedPort
from plait.wire.docker import (
    Container,
    ContainerConfig,
    ContainerDetail,
    CreateEndpointCall,
    DockerNetwork,
    EndpointSettings,
    NetworkContainer,
    NetworkSettings,
)

CID = "c" * 64


def container(name: str = "web", labels: dict[str, str] | None = None) -> Container:
    return Container(id=CID, names=("/other/link", f"/{name}"), labels=labels)


def test_names_labels_and_aliases() -> None:
    who = identity(
        container("Shop_web_1", {"app": "web", "com.docker.compose.service": "web", "x": "a b"}),
        ("db_main", "web", "shop-web-1", "Db.Main"),
        "",
    )
    assert who.name == "shop-web-1"
    assert who.aliases == ("db_main", "web", "db.main", "shop_web_1")
    assert who.labels == {
        "app": "web",
        "com.docker.compose.service": "web",
        "plait.docker-name": "Shop_web_1",
    }
    assert who.namespace == "default"
    assert who.workload.id == CID


def test_namespace_of_label_then_network_then_default() -> None:
    labelled = container(labels={"plait.namespace": "team"})
    assert identity(labelled, (), "shop").namespace == "team"
    assert identity(container(), (), "shop").namespace == "shop"
    with pytest.raises(PlaitError, match="PLAIT-NAME-001"):
        identity(container(labels={"plait.namespace": "No Good"}), (), "")


def test_a_container_without_a_name_that_dns_knows() -> None:
    assert identity(Container(id=CID, names=None), (), "").name == CID[:12]
    assert identity(container("___"), (), "").name == CID[:12]


def test_endpoints_that_have_not_joined() -> None:
    network = DockerNetwork(
        id="n",
        containers={
            CID: NetworkContainer(endpoint_id="e1"),
            "ep-e2": NetworkContainer(endpoint_id="e2"),
        },
    )
    assert endpoints_of(network) == {"e1": CID, "e2": ""}


async def connected(world, *aliases: str) -> str:
    network_id, _ = await world.bound("blue")
    await world.driver.create_endpoint(CreateEndpointCall(network_id=network_id, endpoint_id="e1"))
    world.container(CID, "web", {"app": "web"})
    world.connect(network_id, CID, "e1")
    settings = EndpointSettings(endpoint_id="e1", aliases=aliases)
    world.engine.details[CID] = ContainerDetail(
        id=CID, network_settings=NetworkSettings(networks={"blue": settings})
    )
    return network_id


async def test_identity_comes_before_the_container_can_be_inspected(world) -> None:
    network_id = await connected(world, "db")
    world.engine.inspectable.clear()
    task = asyncio.create_task(world.identifier.connected(network_id, CID))
    while not world.agent.identified:
        await asyncio.sleep(0)
    endpoint, told = world.agent.identified[0]
    assert (endpoint, told.name, told.aliases) == ("e1", "web", ())
    assert told.workload.id == CID
    world.engine.inspectable.set()
    await task
    assert [t.aliases for _, t in world.agent.identified] == [(), ("db",)]


async def test_the_same_is_not_told_twice(world) -> None:
    network_id = await connected(world)
    for _ in range(2):
        await world.identifier.connected(network_id, CID)
        await world.identifier.resync([world.engine.by_id[network_id]])
        await world.identifier.settle()
    assert len(world.agent.identified) == 1


async def test_rename(world) -> None:
    network_id = await connected(world, "db")
    await world.identifier.connected(network_id, CID)
    world.container(CID, "new_name", {"app": "web"})
    await world.identifier.changed(CID)
    told = world.agent.identified[-1][1]
    assert (told.name, told.aliases) == ("new-name", ("db", "new_name"))
    await world.identifier.changed("unknown")


async def test_no_alias_is_lost_by_a_restart(world) -> None:
    network_id = await connected(world, "db")
    await world.identifier.connected(network_id, CID)
    before = len(world.agent.identified)
    world.restart()
    await world.identifier.connected(network_id, CID)
    assert all(t.aliases == ("db",) for _, t in world.agent.identified[before:])


async def test_who_heeds_no_signal_is_a_backend_again(world) -> None:
    network_id = await connected(world, "db")
    detail = world.engine.details[CID]
    config = ContainerConfig(stop_signal="SIGWINCH", stop_timeout=90)
    world.engine.details[CID] = msgspec.structs.replace(detail, config=config)
    await world.identifier.connected(network_id, CID)

    async def condition(later: float) -> str:
        world.clock.now += later
        await world.identifier.resync([world.engine.by_id[network_id]])
        await world.identifier.settle()
        return world.agent.identified[-1][1].condition

    await world.identifier.signalled("unknown", "15")
    await world.identifier.signalled(CID, "1")
    assert await condition(0) == ""
    await world.identifier.signalled(CID, "28")
    assert world.agent.identified[-1][1].condition == "stopping"
    assert await condition(89) == "stopping"
    assert await condition(1) == ""


async def test_a_container_that_has_ended_already_is_no_trouble(world) -> None:
    network_id = await connected(world)
    await world.identifier.connected(network_id, CID)
    world.agent.fail["identify"] = PlaitError("PLAIT-AGENT-003", "there is no endpoint e1")
    await world.identifier.signalled(CID, "15")
    assert world.identifier.problems == ()
    world.agent.fail["identify"] = PlaitError("PLAIT-STORE-001", "the disk is full")
    with pytest.raises(PlaitError, match="disk"):
        await world.identifier.signalled(CID, "15")


async def test_events_of_what_is_gone(world) -> None:
    network_id = await connected(world)
    await world.identifier.connected("unknown", CID)
    await world.identifier.connected(network_id, "")
    await world.identifier.connected(network_id, "gone")
    assert world.agent.identified == []


async def test_a_failure_is_made_good_by_the_next_resync(world) -> None:
    network_id = await connected(world)
    world.agent.fail["identify"] = PlaitError("PLAIT-AGENT-006", "not in time")
    for expected in (0, 1):
        await world.identifier.resync([world.engine.by_id[network_id]])
        await world.identifier.settle()
        assert len(world.agent.identified) == expected
        assert len(world.identifier.problems) == 1 - expected


async def test_a_container_whose_namespace_is_no_label_stays_closed(world) -> None:
    network_id = await connected(world)
    world.container(CID, "web", {"plait.namespace": "No Good"})
    await world.identifier.connected(network_id, CID)
    assert world.agent.identified == []
    assert world.agent.local["e1"].phase == "pending"
    assert "PLAIT-NAME-001" in world.identifier.problems[0]


async def test_nothing_is_kept_of_what_docker_forgot(world) -> None:
    network_id = await connected(world, "db")
    await world.identifier.connected(network_id, CID)
    await world.identifier.signalled(CID, "15")
    await world.identifier.resync([])
    memory = (world.identifier._told, world.identifier._aliases, world.identifier._locks)
    assert memory == ({}, {}, {})
    assert not world.identifier._inspected
    assert not world.identifier._stopping


def test_labels_name_ports() -> None:
    labels = {"plait.port.http": "80", "plait.port.dns": "53/udp,53/tcp", "app": "web"}
    who = identity(container(labels=labels), (), "")
    assert who.named_ports == (
        NamedPort(name="dns", protocol="udp", port=53),
        NamedPort(name="dns", protocol="tcp", port=53),
        NamedPort(name="http", protocol="tcp", port=80),
    )


@pytest.mark.parametrize(("name", "port"), [("http", "x"), ("80", "80"), ("", "80")])
async def test_a_container_whose_named_port_is_none_stays_closed(
    world, name: str, port: str
) -> None:
    network_id = await connected(world)
    world.container(CID, "web", {f"plait.port.{name}": port})
    await world.identifier.connected(network_id, CID)
    assert world.agent.identified == []
    assert "PLAIT-API-002" in world.identifier.problems[0]
    world.container(CID, "web", {"plait.port.http": "80/tcp"})
    await world.identifier.connected(network_id, CID)
    assert world.agent.local["e1"].request.named_ports[0].port == 80
    assert world.identifier.problems == ()
