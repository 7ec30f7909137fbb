from __future__ import annotations

import asyncio

import pytest

from plait.client.locks import Locks


async def test_one_at_a_time_and_others_beside() -> None:
    locks, log = Locks(), list[str]()
    first = asyncio.Event()

    async def work(key: str, name: str, until: asyncio.Event | None = None) -> None:
        async with locks.hold(key):
            log.append(f"{name} begins")
            if until is not None:
                await until.wait()
            log.append(f"{name} ends")

    tasks = [
        asyncio.create_task(work("a", "1", first)),
        asyncio.create_task(work("a", "2")),
        asyncio.create_task(work("b", "3")),
    ]
    await tasks[2]
    assert log == ["1 begins", "3 begins", "3 ends"]
    first.set()
    await asyncio.gather(*tasks)
    assert log[3:] == ["1 ends", "2 begins", "2 ends"]
    assert len(locks) == 0


async def test_who_fails_or_gives_up_lets_the_next_one_in() -> None:
    locks = Locks()

    async def fail() -> None:
        async with locks.hold("a"):
            raise ValueError

    async with locks.hold("a"):
        waits = asyncio.create_task(fail())
        gives_up = asyncio.create_task(fail())
        await asyncio.sleep(0)
        gives_up.cancel()
    with pytest.raises(ValueError):
        await waits
    with pytest.raises(asyncio.CancelledError):
        await gives_up
    assert len(locks) == 0
