"""Deadlines on a clock that jumps, and the task that lets leases lapse."""

from __future__ import annotations

import asyncio

import pytest

from plait.model.errors import PlaitError
from plait.store.leases import Deadlines, lapse_for_ever


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_clock_that_runs_backwards_keeps_leases_to_their_life() -> None:
    clock = Clock()
    clock.now = 5000
    deadlines = Deadlines(clock, stall=10)
    deadlines.begin(1, 5)
    clock.now = 1000
    assert deadlines.lapsed() == ()
    clock.now = 1005
    assert deadlines.lapsed() == (1,)


def test_a_long_gap_is_given_back_but_no_more_than_a_life() -> None:
    clock = Clock()
    deadlines = Deadlines(clock, stall=10)
    deadlines.begin(1, 30)
    clock.now = 8
    assert deadlines.lapsed() == ()
    deadlines.begin(2, 30)
    clock.now = 1008
    assert deadlines.lapsed() == ()
    for now, lapsed in ((1017, ()), (1026, ()), (1030, (1,)), (1038, (1, 2))):
        clock.now = now
        assert deadlines.lapsed() == lapsed


def test_an_ended_lease_is_not_renewed() -> None:
    deadlines = Deadlines(Clock())
    deadlines.begin(1, 5)
    assert deadlines.renew(1)
    deadlines.end(1)
    deadlines.end(1)
    assert not deadlines.renew(1)
    assert deadlines.lapsed() == ()


class Flaky:
    """Full at first, then well, then closed."""

    def __init__(self) -> None:
        self.codes = ["PLAIT-STORE-001", "", "PLAIT-STORE-003"]

    async def lapse(self) -> tuple[int, ...]:
        code = self.codes.pop(0)
        if code:
            raise PlaitError(code, "as asked")
        return ()


async def test_the_task_outlives_a_full_disk_and_ends_with_the_store() -> None:
    store = Flaky()
    await asyncio.wait_for(lapse_for_ever(store, interval=0), 5)
    assert store.codes == []


async def test_the_task_shows_a_defect() -> None:
    class Broken:
        async def lapse(self) -> tuple[int, ...]:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await lapse_for_ever(Broken())
