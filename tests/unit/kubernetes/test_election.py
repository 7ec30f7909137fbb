"""Of several connectors one writes, and another takes over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import pytest

from plait.kubernetes import kinds
from plait.kubernetes.api import KubernetesApi
from plait.kubernetes.election import DEADLINE, DURATION, LEASES, NAME, Election
from plait.kubernetes.fake_server import FakeKubernetes
from plait.model.objects import Pod

if TYPE_CHECKING:
    from tests.unit.kubernetes.conftest import Stage


class Hands:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Candidate:
    def __init__(self, kube: FakeKubernetes, name: str, clock: Hands) -> None:
        self.api = KubernetesApi(kube.access())
        self.turns: list[bool] = []
        self._go = asyncio.Semaphore(0)
        self._idle = asyncio.Event()
        self.election = Election(
            self.api,
            namespace="kube-system",
            identity=name,
            changed=self.turns.append,
            status=lambda: "fine",
            clock=clock,
            wall=clock,
            sleep=self._sleep,
            rng=lambda: 0.5,
        )
        self.task = asyncio.create_task(self.election.run())

    async def _sleep(self, _seconds: float) -> None:
        self._idle.set()
        await self._go.acquire()

    async def turn(self) -> bool:
        """One look at the lease."""
        if self._idle.is_set():
            self._idle.clear()
            self._go.release()
        await asyncio.wait_for(self._idle.wait(), 5)
        return self.election.leads

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.api.close()


Join = Callable[[str], Candidate]


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
async def kube() -> AsyncIterator[FakeKubernetes]:
    async with FakeKubernetes() as server:
        yield server


@pytest.fixture
async def join(kube: FakeKubernetes, clock: Hands) -> AsyncIterator[Join]:
    made: list[Candidate] = []

    def one(name: str) -> Candidate:
        made.append(Candidate(kube, name, clock))
        return made[-1]

    yield one
    for candidate in made:
        await candidate.stop()


async def test_the_first_leads_and_renews(join: Join, kube: FakeKubernetes, clock: Hands) -> None:
    first, second = join("a"), join("b")
    assert await first.turn()
    for _ in range(10):
        clock.now += 3
        assert await first.turn()
        assert not await second.turn()
    lease = kube.get(LEASES, NAME, "kube-system")
    assert lease is not None
    assert lease["spec"]["holderIdentity"] == "a"
    assert lease["metadata"]["annotations"] == {"plait/status": "fine"}
    assert first.turns == [True]
    assert second.election.leader == "a"


async def test_who_is_silent_stops_before_another_begins(join: Join, clock: Hands) -> None:
    first, second = join("a"), join("b")
    assert await first.turn()
    assert not await second.turn()
    clock.now += DEADLINE
    assert not first.election.leads
    assert not await second.turn()
    clock.now += DURATION - DEADLINE
    assert await second.turn()
    assert not await first.turn()
    assert first.turns == [True, False]


async def test_who_stops_lets_go_and_who_starts_again_goes_on(join: Join, clock: Hands) -> None:
    first, second = join("a"), join("b")
    assert await first.turn()
    again = join("a")
    assert await again.turn()
    await again.stop()
    assert await second.turn()


async def test_an_api_server_that_is_away_ends_the_lead_in_time(
    join: Join, kube: FakeKubernetes, clock: Hands
) -> None:
    first = join("a")
    assert await first.turn()
    await kube.stop()
    clock.now += 3
    assert await first.turn()
    clock.now += DEADLINE
    assert not await first.turn()
    assert first.election.error


async def test_a_lead_that_lapsed_begins_anew(join: Join, clock: Hands) -> None:
    first = join("a")
    assert await first.turn()
    clock.now += DEADLINE
    assert not first.election.leads
    assert await first.turn()
    assert first.turns == [True, False, True]


async def test_a_lease_that_somebody_wrote_by_hand_is_taken_over(
    join: Join, kube: FakeKubernetes
) -> None:
    spec = {"holderIdentity": "a"}
    meta = {"name": NAME, "namespace": "kube-system"}
    kube.put(LEASES, {"metadata": meta, "spec": spec})
    assert await join("a").turn()


async def test_one_connector_writes_and_the_next_goes_on(stage: Stage) -> None:
    first = stage.connect("a")
    stage.pod("web-0")
    await stage.comes(Pod, "web-0", "shop")
    second = stage.connect("b")
    await first.settled()
    assert not second.controller.report().leads
    await first.stop()
    stage.remove(kinds.PODS, "web-0", "shop")
    stage.pod("web-1")
    await stage.comes(Pod, "web-1", "shop")
    await stage.goes(Pod, "web-0", "shop")
