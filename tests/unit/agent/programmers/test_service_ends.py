"""Clients are looked for beside the loop, and nobody waits long while they are forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.support.nft_hosts import FILTER

from plait.agent.desired.filter_sets import AFFINITY
from plait.agent.desired.service_fill import key_of
from plait.agent.programmers.aside import InThread
from plait.agent.programmers.filter import FilterBase
from plait.agent.programmers.filter_table import FilterTable
from plait.agent.programmers.service_ends import SLICE, ServiceEnds
from plait.kernel.conntrack import FakeConntrack
from plait.kernel.fake_nft import FakeNft
from plait.kernel.nft_elements import ElementDoor
from plait.model.hoststate import HostState
from plait.model.service_table import BackendAddress, Choice, Entry, Frontend
from plait.wire import nft
from plait.wire import nft_expr as e
from plait.wire import nft_keys as k

WEB = Frontend("10.96.0.10", "tcp", 80)
OTHER = Frontend("10.96.0.11", "tcp", 80)
MAP = AFFINITY["address", 4]


def entry(*hosts: int) -> Entry:
    backends = tuple(BackendAddress(f"10.1.0.{host}", 8080) for host in hosts)
    return Entry("s1", Choice(backends, 600), None)


class Later:
    """Looks when it is told to."""

    def __init__(self, door: ElementDoor) -> None:
        self._door = door
        self._asked: list[tuple[Callable[[ElementDoor], Any], Callable[[Any], None]]] = []

    def __call__(self, look: Callable[[ElementDoor], Any], then: Callable[[Any], None]) -> None:
        self._asked.append((look, then))

    def turn(self, between: Callable[[], None] = lambda: None) -> bool:
        """One look; `between` happens before it is told. False: none was asked for."""
        if not self._asked:
            return False
        look, then = self._asked.pop(0)
        found = look(self._door)
        between()
        then(found)
        return True


class World:
    def __init__(self) -> None:
        self.door = FakeNft()
        self.table = FilterTable(self.door)
        base = FilterBase(self.table)
        base.observe()
        assert base.apply(base.plan(HostState(filter=FILTER))) == ()
        self.aside = Later(self.door)
        self.ends = ServiceEnds(self.table, FakeConntrack(), self.aside)

    def remember(self, backend: int, clients: range, frontend: Frontend = WEB) -> None:
        data = k.concat(bytes((10, 1, 0, backend)), e.port(8080))
        keys = tuple(
            (key_of(frontend) + bytes((10, 2, *n.to_bytes(2, "big"))), data) for n in clients
        )
        assert not self.door.commit([nft.AddTimed(MAP, keys, 60_000)])

    def change(self, have: Entry | None, want: Entry | None) -> None:
        self.ends.changed(WEB, have, want)
        self.ends.end()

    @property
    def backends(self) -> set[int]:
        """With which clients stay."""
        found = self.door.elements(MAP.name).values()
        return {data[3] for data in found if isinstance(data, bytes)}


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    while made.aside.turn():
        pass


def test_many_are_forgotten_some_at_a_time(world: World) -> None:
    count = 4 * SLICE + 1
    world.remember(1, range(count))
    world.remember(2, range(count, count + 5))
    world.change(entry(1, 2), entry(2))
    left = []
    while world.aside.turn():
        left.append(len(world.door.elements(MAP.name)))
    assert left == [count + 5 - done for done in (*range(SLICE, count, SLICE), count)]
    assert world.backends == {2}


def test_changes_meanwhile_are_one_more_look(world: World) -> None:
    world.remember(1, range(3))
    world.remember(2, range(3, 6))
    world.remember(1, range(6, 9), OTHER)
    world.change(entry(1, 2, 3), entry(2, 3))
    world.change(entry(2, 3), entry(3))
    world.change(entry(3), entry(3, 4))
    looks = 0
    while world.aside.turn():
        looks += 1
    assert looks == 2
    # Nothing of it is another frontend's.
    assert len(world.door.elements(MAP.name)) == 3


def test_a_backend_that_came_meanwhile_keeps_its_clients(world: World) -> None:
    world.remember(1, range(3))
    world.change(entry(1, 2), entry(2))

    def back() -> None:
        world.change(entry(2), entry(1, 2))

    assert world.aside.turn(between=back)
    assert world.backends == {1}
    while world.aside.turn():
        pass
    assert world.backends == {1}
    # A new one, and the look that comes a while after the change.
    world.change(entry(1, 2), entry(1, 2, 3))
    world.remember(3, range(5, 8))
    world.ends.look_again()
    while world.aside.turn():
        pass
    assert world.backends == {1, 3}


def test_one_that_ended_by_itself_is_no_failure(world: World) -> None:
    world.remember(1, range(3))
    world.change(entry(1, 2), entry(2))
    first = min(world.door.elements(MAP.name))

    def gone() -> None:
        assert not world.door.commit([nft.DeleteElements(MAP, ((first, None),))])

    assert world.aside.turn(between=gone)
    assert world.backends == set()


def test_a_table_that_went_has_no_clients(world: World) -> None:
    world.remember(1, range(3))
    world.change(entry(1, 2), entry(2))
    assert world.aside.turn(between=world.table.purge)
    assert not world.aside.turn()


async def test_a_look_in_a_thread_is_told_in_the_loop() -> None:
    door = FakeNft()
    aside = InThread(door)
    told: asyncio.Future[tuple[bool, bool]] = asyncio.Future()
    loop = asyncio.get_running_loop()

    def look(asked: ElementDoor) -> bool:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return asked is door

    aside(look, lambda found: told.set_result((found, asyncio.get_running_loop() is loop)))
    assert await told == (True, True)
    aside.close()


async def test_nobody_is_told_after_the_end() -> None:
    aside = InThread(FakeNft())
    told: list[int] = []
    aside(lambda _door: 1, told.append)
    aside.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert told == []
