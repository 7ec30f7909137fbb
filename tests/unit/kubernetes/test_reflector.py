"""What a reflector does about each fault, with the fake server and a clock of the test's own.

That nothing is lost is the contract's (tests/contract/test_reflector.py); here it is how long it
waits, where it goes on, and what it says of itself.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from plait.kubernetes import kinds
from plait.kubernetes.api import KubernetesApi
from plait.kubernetes.fake_faults import WatchEnd
from plait.kubernetes.fake_server import FakeKubernetes
from plait.kubernetes.kinds import Kind
from plait.kubernetes.reflector import Reflector, Timing, pause
from plait.kubernetes.replica import Change

PODS = kinds.PODS.resources[0]
POLICIES = kinds.CLUSTER_NETWORK_POLICIES.resources[0]


class Halves(random.Random):
    """Always the middle."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


class Rig:
    """A fake server, and a reflector whose waits are written down and take no time."""

    def __init__(self, server: FakeKubernetes) -> None:
        self.server = server
        self.api = KubernetesApi(server.access())
        self.now = 0.0
        self.waits: list[float] = []
        self.told: list[str] = []
        self.errors: list[str] = []
        """What a reflector said of itself before each wait."""
        self.gate = asyncio.Event()
        """Cleared: waits of more than 10 s do not end."""
        self.gate.set()
        self._reflectors: list[Reflector[Any]] = []
        self._tasks: list[asyncio.Task[None]] = []

    def handler(self, changes: Sequence[Change[Any]]) -> None:
        for key, _, new in changes:
            self.told.append(f"{'-' if new is None else '+'}{key[1]}")

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.errors += [reflector.health.error for reflector in self._reflectors]
        if seconds > 10:
            await self.gate.wait()
        self.now += seconds
        await asyncio.sleep(0)

    async def follow(self, kind: Kind[Any] = kinds.PODS, **settings: Any) -> Reflector[Any]:
        reflector: Reflector[Any] = Reflector(
            self.api,
            kind,
            self.handler,
            clock=lambda: self.now,
            sleep=self.sleep,
            rng=Halves(),
            **settings,
        )
        self._reflectors.append(reflector)
        self._tasks.append(asyncio.create_task(reflector.run()))
        return reflector

    async def watching(self, kind: Kind[Any] = kinds.PODS, **settings: Any) -> Reflector[Any]:
        """A reflector whose watch the server has."""
        reflector = await self.follow(kind, **settings)
        await self.until(lambda: self.server.watches)
        return reflector

    async def until(self, condition: Any) -> None:
        end = asyncio.get_running_loop().time() + 5
        while not condition():
            for task in self._tasks:
                if task.done():
                    task.result()
            assert asyncio.get_running_loop().time() < end, (self.waits, self.told)
            await asyncio.sleep(0.001)

    def pod(self, name: str, **more: Any) -> None:
        self.server.put(PODS, {"metadata": {"name": name, "namespace": "a"}, **more})

    def asked(self, part: str) -> list[str]:
        return [request for request in self.server.requests if part in request]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.api.close()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with FakeKubernetes() as server:
        made = Rig(server)
        yield made
        await made.close()


# What is asked


async def test_lists_are_consistent_reads_and_watches_ask_for_bookmarks(rig: Rig) -> None:
    rig.pod("p")
    await rig.watching(timing=Timing(watch=300))
    assert rig.asked("limit=") == ["GET /api/v1/pods?limit=500"]
    (watch,) = rig.asked("watch=")
    assert "resourceVersion=2" in watch
    assert "allowWatchBookmarks=true" in watch
    assert "timeoutSeconds=450" in watch


async def test_health_says_how_it_is(rig: Rig) -> None:
    rig.pod("p")
    reflector = await rig.watching()
    await rig.until(lambda: reflector.health.phase == "watching")
    rig.now += 7
    health = reflector.health
    assert (health.kind, health.resource, health.phase) == ("Pod", "pods", "watching")
    assert (health.synced, health.objects, health.lists) == (True, 1, 1)
    assert (health.failures, health.error, health.age) == (0, "", 7)
    rig.server.bookmark()
    await rig.until(lambda: reflector.health.age == 0)


# Where it goes on


async def test_a_bookmark_is_where_the_next_watch_begins(rig: Rig) -> None:
    rig.pod("p")
    reflector = await rig.watching()
    for number in range(5):
        rig.server.put(
            kinds.NAMESPACES.resources[0], {"metadata": {"name": "n", "labels": {"n": str(number)}}}
        )
    rig.now += 1
    rig.server.bookmark()
    await rig.until(lambda: reflector.health.age == 0)
    rig.server.store.compact()
    rig.server.drop()
    await rig.until(lambda: len(rig.asked("watch=")) == 2)
    assert f"resourceVersion={rig.server.store.revision}&" in rig.asked("watch=")[1]
    rig.pod("q")
    await rig.until(lambda: rig.told == ["+p", "+q"])
    assert reflector.health.lists == 1


@pytest.mark.parametrize("in_stream", [False, True])
async def test_without_bookmarks_a_compaction_means_a_new_list(rig: Rig, in_stream: bool) -> None:
    rig.pod("p")
    rig.pod("q")
    rig.server.faults.in_stream = in_stream
    reflector = await rig.watching()
    rig.server.faults.open.clear()
    rig.server.drop()
    await rig.until(lambda: len(rig.asked("watch=")) == 2)
    rig.server.remove(PODS, "p", "a")
    rig.pod("r")
    rig.server.store.compact()
    rig.server.faults.open.set()
    await rig.until(lambda: len(rig.told) == 4)
    assert rig.told == ["+p", "+q", "-p", "+r"]
    assert reflector.health.lists == 2


ENDS: dict[WatchEnd, int] = {
    "end": 1,
    "reset": 1,
    "mid-line": 1,
    "garbage": 1,
    "gone": 2,
    "error": 1,
    "silence": 1,
}
"""How a watch may go wrong, and how often everything was listed afterwards."""


@pytest.mark.parametrize("how", ENDS)
async def test_each_end_of_a_watch_is_followed_by_another(rig: Rig, how: WatchEnd) -> None:
    rig.pod("p")
    rig.server.faults.watch(how, after=2)
    timing = Timing(watch=0.7, slack=-0.9) if how == "silence" else Timing()
    reflector = await rig.watching(timing=timing)
    for name in ("q", "r", "s", "t"):
        rig.pod(name)
    rig.server.remove(PODS, "q", "a")
    await rig.until(lambda: len(rig.told) == 6)
    told = ["+p", "+q", "+r", "+s", "+t", "-q"]
    assert rig.told == told if ENDS[how] == 1 else sorted(rig.told) == sorted(told)
    assert reflector.health.lists == ENDS[how]
    await rig.until(lambda: reflector.health.phase == "watching" and rig.server.watches)


async def test_a_line_that_bars_the_way_twice_means_a_new_list(rig: Rig) -> None:
    rig.server.faults.watch("garbage")
    rig.server.faults.watch("garbage")
    reflector = await rig.follow()
    await rig.until(lambda: reflector.health.lists == 2 and rig.server.watches)
    assert len(rig.waits) == 2


async def test_a_page_that_is_not_understood_is_asked_again(rig: Rig) -> None:
    rig.pod("p")
    rig.server.faults.garble("read", path="pods")
    reflector = await rig.watching()
    assert rig.told == ["+p"]
    assert reflector.health.lists == 1
    assert len(rig.waits) == 1


# How long it waits


@pytest.mark.parametrize("verb", ["read", "watch"])
async def test_pauses_double_and_are_forgotten_once_it_goes_on(rig: Rig, verb: Any) -> None:
    rig.server.faults.refuse(verb, 500, path="pods", times=4)
    reflector = await rig.watching()
    assert rig.waits == pytest.approx([0.15, 0.3, 0.6, 1.2])
    rig.pod("p")
    await rig.until(lambda: rig.told)
    assert all("PLAIT-KUBE-009" in error for error in rig.errors)
    assert (reflector.health.failures, reflector.health.error) == (0, "")
    rig.server.drop()
    await rig.until(lambda: len(rig.waits) == 5)
    assert rig.waits[4] == pytest.approx(0.15)


async def test_a_list_alone_is_no_reason_to_forget_failures(rig: Rig) -> None:
    """Or a server that lists and never lets us watch would be asked to list without a pause."""
    for _ in range(3):
        rig.server.faults.watch("gone")
    reflector = await rig.watching()
    await rig.until(lambda: reflector.health.lists == 4)
    assert rig.waits == pytest.approx([0.15, 0.3, 0.6])


async def test_who_was_long_away_and_forgot_us_is_listed_soon(rig: Rig) -> None:
    """It is 410 where the server was compacted, or began anew, meanwhile."""
    rig.server.faults.refuse("watch", 500, path="pods", times=4)
    rig.server.faults.watch("gone")
    rig.server.faults.watch("gone")
    reflector = await rig.watching()
    await rig.until(lambda: reflector.health.lists == 3)
    assert rig.waits == pytest.approx([0.15, 0.3, 0.6, 1.2, 0.15, 0.3])


def test_pauses_have_jitter_and_an_end() -> None:
    rng = random.Random(1)
    timing = Timing(first=0.2, longest=30)
    found = [[pause(n, timing, rng) for _ in range(50)] for n in (1, 2, 3, 8, 9, 1000)]
    for whole, drawn in zip((0.2, 0.4, 0.8, 25.6, 30, 30), found, strict=True):
        assert whole / 2 <= min(drawn) < max(drawn) <= whole
        assert len(set(drawn)) > 40


@pytest.mark.parametrize("status", [429, 503])
async def test_the_server_says_how_long_it_wants_to_be_left_alone(rig: Rig, status: int) -> None:
    rig.server.faults.refuse("read", status, path="pods", retry_after=8)
    await rig.watching()
    assert rig.waits == pytest.approx([9.0])


async def test_nobody_is_left_alone_for_ever(rig: Rig) -> None:
    rig.server.faults.refuse("read", 429, retry_after=1e6)
    await rig.watching()
    assert rig.waits == pytest.approx([337.5])


@pytest.mark.parametrize("status", [401, 403])
async def test_who_is_not_let_in_asks_on_and_says_so(rig: Rig, status: int) -> None:
    rig.server.faults.refuse("read", status, path="pods", times=3)
    reflector = await rig.follow()
    await rig.until(lambda: reflector.health.phase == "watching")
    code = {401: "PLAIT-KUBE-003", 403: "PLAIT-KUBE-004"}[status]
    assert [error[:14] for error in rig.errors] == [code] * 3
    assert reflector.health.error == ""


async def test_a_watch_that_ends_at_once_is_not_asked_again_at_once(rig: Rig) -> None:
    rig.server.faults.watch("end")
    rig.server.faults.watch("end")
    reflector = await rig.watching()
    await rig.until(lambda: len(rig.waits) == 2)
    assert reflector.health.lists == 1


async def test_a_watch_whose_time_is_over_is_asked_again_at_once(rig: Rig) -> None:
    await rig.watching(timing=Timing(watch=0.7, brief=0))
    await rig.until(lambda: len(rig.asked("watch=")) == 3)
    assert rig.waits == []


async def test_a_server_that_is_away_is_found_again(rig: Rig) -> None:
    rig.pod("p")
    reflector = await rig.watching()
    port = rig.server.port
    await rig.server.stop()
    await rig.until(lambda: reflector.health.failures >= 3)
    assert "PLAIT-KUBE-002" in reflector.health.error
    rig.server.remove(PODS, "p", "a")
    await rig.server.start(port)
    await rig.until(lambda: rig.told == ["+p", "-p"])


# Objects that are not understood


async def test_an_object_of_another_form_is_set_aside(rig: Rig) -> None:
    rig.pod("good")
    rig.pod("bad", spec={"hostNetwork": "yes"})
    rig.pod("turns")
    reflector = await rig.watching()
    assert rig.told == ["+good", "+turns"]
    assert set(reflector.health.quarantined) == {("a", "bad")}
    rig.pod("turns", spec={"nodeName": 7})
    rig.pod("last")
    await rig.until(lambda: rig.told[-1] == "+last")
    assert rig.told == ["+good", "+turns", "+last"]
    assert "nodeName" in reflector.health.quarantined["a", "turns"]
    # Its last good state stands, through a new list too.
    rig.server.expire()
    await rig.until(lambda: reflector.health.lists == 2)
    assert ("a", "turns") in reflector.objects
    rig.pod("turns", spec={"nodeName": "n"})
    rig.server.remove(PODS, "bad", "a")
    await rig.until(lambda: not reflector.health.quarantined)
    assert rig.told[-1] == "+turns"


# Kinds that come and go


async def test_a_kind_that_must_be_there_is_asked_for_until_it_is(rig: Rig) -> None:
    rig.server.withhold(PODS)
    reflector = await rig.follow()
    await rig.until(lambda: reflector.health.failures >= 3)
    assert "PLAIT-KUBE-013" in reflector.health.error
    assert not reflector.synced.is_set()
    rig.server.serve(PODS)
    await rig.until(lambda: reflector.synced.is_set())


async def test_a_kind_that_may_be_missing_is_looked_for_now_and_then(rig: Rig) -> None:
    rig.server.withhold(POLICIES)
    reflector = await rig.follow(kinds.CLUSTER_NETWORK_POLICIES)
    await rig.until(lambda: len(rig.waits) >= 2)
    assert rig.waits[:2] == [22.5, 22.5]
    assert reflector.synced.is_set()
    assert reflector.health.phase == "not served"
    assert reflector.health.error == ""


async def test_what_a_starting_server_does_not_know_yet_is_not_gone(rig: Rig) -> None:
    rig.server.put(POLICIES, {"metadata": {"name": "deny"}})
    reflector = await rig.watching(kinds.CLUSTER_NETWORK_POLICIES)
    rig.gate.clear()
    rig.server.withhold(POLICIES)
    await rig.until(lambda: reflector.health.phase == "not served")
    rig.server.serve(POLICIES)
    rig.gate.set()
    await rig.until(lambda: rig.server.watches)
    assert rig.told == ["+deny"]


async def test_what_stays_missing_is_gone(rig: Rig) -> None:
    rig.server.put(POLICIES, {"metadata": {"name": "deny"}})
    reflector = await rig.watching(kinds.CLUSTER_NETWORK_POLICIES)
    rig.server.withhold(POLICIES)
    await rig.until(lambda: rig.told == ["+deny", "-deny"])
    assert sum(rig.waits) >= 30
    assert reflector.health.objects == 0


async def test_another_version_takes_over_where_one_is_served_no_more(rig: Rig) -> None:
    new, old = kinds.ENDPOINT_SLICES.resources
    rig.server.like_1_20()
    rig.server.put(new, {"metadata": {"name": "s", "namespace": "a"}})
    reflector = await rig.watching(kinds.ENDPOINT_SLICES)
    assert reflector.health.resource == str(old)
    rig.server.serve(new)
    rig.server.withhold(old)
    await rig.until(lambda: reflector.health.resource == str(new) and rig.server.watches)
    assert rig.told == ["+s"]
