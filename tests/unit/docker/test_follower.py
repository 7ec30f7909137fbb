from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import pytest
from structlog.testing import capture_logs

from plait.docker.engine import EngineUnavailable
from plait.docker.follower import AWAY, BACKOFF, Follower, pause
from plait.wire.docker import Actor, ContainerDetail, CreateEndpointCall, DockerEvent

CID = "c" * 64


async def until(look: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not look():
            await asyncio.sleep(0)


class Pauses:
    """Sleeps that end when the test says so."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.go = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        await self.go.wait()


@pytest.fixture
async def pauses(world) -> AsyncIterator[Pauses]:
    pauses = Pauses()
    world.follower = Follower(
        world.engine,
        world.directory,
        world.keeper,
        world.identifier,
        world.reaper,
        clock=world.clock,
        rng=world.rng,
        sleep=pauses,
    )
    task = asyncio.create_task(world.follower.run())
    yield pauses
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_networks_follow_the_snapshot(world, pauses: Pauses) -> None:
    await until(lambda: world.follower.connected)
    await world.network("blue")
    await until(lambda: world.engine.by_id)
    await until(lambda: world.directory.records)


async def test_events_make_names_and_identity(world, pauses: Pauses) -> None:
    docker = world.docker_network("blue", "172.18.0.0/16")
    put = world.engine.queue.put_nowait
    put(DockerEvent(type="network", action="create", actor=Actor(id=docker.id)))
    await until(lambda: "blue" in world.api.networks)
    await world.directory.resolve(docker.id, 1)
    await world.driver.create_endpoint(CreateEndpointCall(network_id=docker.id, endpoint_id="e1"))
    world.container(CID, "web")
    world.connect(docker.id, CID, "e1")
    attributes = {"container": CID, "type": "plait", "name": "blue"}
    put(
        DockerEvent(
            type="network", action="connect", actor=Actor(id=docker.id, attributes=attributes)
        )
    )
    await until(lambda: world.agent.identified)
    world.container(CID, "shop")
    put(DockerEvent(type="container", action="rename", actor=Actor(id=CID)))
    await until(lambda: world.agent.identified[-1][1].name == "shop")


@pytest.mark.parametrize(
    ("action", "state", "status", "condition"),
    [
        ("pause", "paused", "Up 3 minutes (Paused)", "paused"),
        ("health_status: unhealthy", "running", "Up 3 minutes (unhealthy)", "unhealthy"),
        ("kill", "running", "Up 3 minutes", "stopping"),
    ],
)
async def test_events_tell_how_a_container_is(
    world, pauses: Pauses, action: str, state: str, status: str, condition: str
) -> None:
    await test_events_make_names_and_identity(world, pauses)
    world.engine.details[CID] = ContainerDetail(id=CID)

    def tell(action: str) -> None:
        actor = Actor(id=CID, attributes={"signal": "15"})
        world.engine.queue.put_nowait(DockerEvent(type="container", action=action, actor=actor))

    def told() -> str:
        return world.agent.identified[-1][1].condition

    world.container(CID, "shop", state=state, status=status)
    tell(action)
    await until(lambda: told() == condition)
    world.container(CID, "shop")
    world.clock.now += 61
    for back in ("unpause", "health_status: healthy"):
        tell(back)
    await until(lambda: told() == "")


async def test_a_lost_event_is_made_good_after_a_reconnection(world, pauses: Pauses) -> None:
    network_id, _ = await world.bound("blue")
    await world.driver.create_endpoint(CreateEndpointCall(network_id=network_id, endpoint_id="e1"))
    world.container(CID, "web")
    world.connect(network_id, CID, "e1")
    world.engine.queue.put_nowait(EngineUnavailable("gone"))
    await until(lambda: pauses.asked)
    assert not world.follower.connected
    pauses.go.set()
    await until(lambda: world.follower.connected)
    await until(lambda: world.agent.identified)


async def test_a_failing_event_stops_nothing(world, pauses: Pauses) -> None:
    world.engine.fail["containers"] = RuntimeError("defect")
    await test_events_make_names_and_identity(world, pauses)


@pytest.mark.parametrize(
    ("error", "longest"),
    [(EngineUnavailable("no such file"), AWAY), (RuntimeError("defect"), BACKOFF[1])],
    ids=["away", "defect"],
)
async def test_it_waits_longer_each_time(world, error: Exception, longest: float) -> None:
    asked: list[float] = []

    async def sleep(seconds: float) -> None:
        asked.append(seconds)
        world.engine.fail["connect"] = error
        await asyncio.sleep(0)

    world.engine.fail["connect"] = error
    world.follower._sleep = sleep
    with capture_logs():  # Tracebacks take half a second each to draw.
        task = asyncio.create_task(world.follower.run())
        await until(lambda: len(asked) >= 8)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not world.follower.connected
    assert asked[0] <= BACKOFF[0]
    assert longest / 2 <= asked[7] <= longest


def test_pauses_are_bounded() -> None:
    rng = random.Random(1)
    assert all(0 < pause(n, rng) <= BACKOFF[1] for n in range(1, 200))
