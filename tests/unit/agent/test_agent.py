"""The agent's own tasks: none ends unnoticed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from plait.agent import fake
from plait.agent.loop import Loop
from plait.client.base import WatchEvent
from plait.model.errors import PlaitError
from plait.model.hoststate import HostState


async def test_a_task_that_fails_is_told_and_the_rest_can_be_stopped(tmp_path: Path) -> None:
    agent = fake.FakeHost(fake.server(), tmp_path).agent()

    def broken(_event: WatchEvent) -> None:
        raise RuntimeError("a defect")

    agent.sync._observe = broken
    await agent.start()
    try:
        with pytest.raises(RuntimeError, match="a defect"):
            async with asyncio.timeout(5):
                await agent.failed()
    finally:
        await agent.stop()
    assert (agent._config.directory / "journal").exists()


async def test_a_start_that_is_refused_says_why(tmp_path: Path) -> None:
    host = fake.FakeHost(fake.server(), tmp_path)
    host.facts = msgspec.structs.replace(host.facts, routes=(), addresses=())
    with pytest.raises(PlaitError, match="PLAIT-HOST-006"):
        await host.agent().start()


async def test_a_removal_that_fails_does_not_end_the_loop() -> None:
    class Reaping:
        name = "links"
        calls = 0

        def observe(self) -> None: ...

        def plan(self, desired: HostState) -> tuple[()]:
            return ()

        def apply(self, ops: object) -> tuple[()]:
            return ()

        def reap(self) -> None:
            self.calls += 1
            raise OSError(24, "too many open files")

    async def inline(work: object) -> object:
        return work()  # type: ignore[operator]

    clock = fake.Clock()
    reaping = Reaping()
    loop = Loop((reaping,), HostState, clock=clock, offload=inline)
    running = asyncio.create_task(loop.run())
    try:
        async with asyncio.timeout(5):
            for calls in (1, 2):
                while reaping.calls < calls:
                    assert not running.done()
                    clock.advance(6)
                    loop.nudge()
                    await asyncio.sleep(0)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
