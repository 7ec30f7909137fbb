from __future__ import annotations

from plait.client.agent import AttachRequest
from plait.docker.journal import HeldAddress
from plait.docker.reaper import GRACE, HOLD, expired
from plait.model.objects import Workload


async def attached(world, *ids: str, runtime: str = "docker") -> None:
    if "blue" not in world.api.networks:
        await world.network("blue")
    for ident in ids:
        await world.agent.attach(
            AttachRequest(id=ident, network="blue", workload=Workload(runtime=runtime))
        )


async def test_only_what_was_missing_for_long_is_detached(world) -> None:
    await attached(world, "e1", "e2")
    assert await world.reaper.observe({"e1"}) == ()
    world.clock.now += GRACE - 1
    assert await world.reaper.observe({"e1"}) == ()
    world.clock.now += 1
    assert await world.reaper.observe({"e1"}) == ("e2",)
    assert set(world.agent.local) == {"e1"}


async def test_what_comes_back_is_no_suspect_any_more(world) -> None:
    await attached(world, "e1")
    await world.reaper.observe(set())
    world.clock.now += GRACE
    await world.reaper.observe({"e1"})
    assert await world.reaper.observe(set()) == ()
    assert "e1" in world.agent.local


async def test_endpoints_of_other_runtimes_are_not_ours_to_judge(world) -> None:
    await attached(world, "p1", runtime="process")
    await world.reaper.observe(set())
    world.clock.now += 10 * GRACE
    assert await world.reaper.observe(set()) == ()


async def test_held_addresses_are_given_back_after_a_restart_too(world) -> None:
    await attached(world)
    reservation = await world.agent.reserve("blue", 4)
    world.directory.hold(
        HeldAddress(network="blue", address=reservation.address, since=world.clock.now)
    )
    world.restart()
    await world.reaper.observe(set())
    assert world.agent.held
    world.clock.now += HOLD
    await world.reaper.observe(set())
    assert not world.agent.held
    assert not world.directory.held


def test_a_clock_that_was_set_back_keeps_no_address_for_ever() -> None:
    held = HeldAddress(network="blue", address="10.0.0.1", since=2_000_000.0)
    assert expired([held], 1_000_000.0) == (held,)
    assert expired([held], 2_000_001.0) == ()
