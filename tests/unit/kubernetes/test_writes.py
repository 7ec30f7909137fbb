"""Refusals of Plait's server: one object's stays its own, everybody's stops all, and none is
lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from plait.client.base import BatchOp, WatchEvent
from plait.client.fake_api import FakeApi, FakeServer
from plait.kubernetes.due import Due
from plait.kubernetes.held import Held
from plait.kubernetes.marks import marked
from plait.kubernetes.replica import Change
from plait.kubernetes.wanted import ROW_OF, Wanted
from plait.kubernetes.writes import BATCH, PATIENCE, Writes
from plait.model.errors import PlaitError
from plait.model.objects import Metadata, Namespace, Object, Pod, Policy


class Refusing(FakeApi):
    """Refuses what it is told to."""

    def __init__(self, server: FakeServer) -> None:
        super().__init__(server)
        self.bad: dict[str, str] = {}
        """Code by key."""
        self.everything = ""
        self.silent = False
        """It does not say which step it was."""
        self.batches: list[int] = []
        self.due: Callable[[], int] = lambda: 0
        self.seen: list[int] = []
        """What was due at each batch."""

    async def batch(self, ops: Sequence[BatchOp]) -> Any:
        self.batches.append(len(ops))
        self.seen.append(self.due())
        if self.everything:
            raise PlaitError(self.everything, "no")
        for i, op in enumerate(ops):
            if code := self.bad.get(op.object.key):
                where = f"ops[{i}] spec" if len(ops) > 1 and not self.silent else ""
                raise PlaitError(code, "bad", where=where)
        return await super().batch(ops)


class Rig:
    def __init__(self) -> None:
        self.server = FakeServer()
        self.api = Refusing(self.server)
        self.wanted = Wanted(network="plait", domain="plait.local")
        self.held = Held()
        self.now = 0.0
        self.leads = True
        self.writes = Writes(
            self.api,
            self.wanted,
            self.held,
            known=lambda _kind: True,
            may=lambda: self.leads,
            changed=lambda _keys: None,
            clock=lambda: self.now,
            rng=lambda: 1.0,
        )
        self.held.take(WatchEvent(type="begin"))
        self.held.take(WatchEvent(type="synced"))

    def pods(self, *names: str) -> None:
        found = [
            msgspec.convert({"metadata": {"name": n, "namespace": "a"}}, ROW_OF["Pod"].source.type)
            for n in names
        ]
        changes = [Change(pod.metadata.key, None, pod) for pod in found]
        self.writes.touch(self.wanted.take("Pod", changes))

    async def rest(self) -> None:
        for _ in range(100):
            if not await self.writes.round():
                return
        raise AssertionError("it never comes to rest")

    @property
    def there(self) -> set[str]:
        return {key.rpartition("/")[2] for key in self.server.objects}


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.mark.parametrize("silent", [False, True])
async def test_what_is_refused_keeps_back_nothing_else(rig: Rig, silent: bool) -> None:
    rig.api.silent = silent
    rig.api.bad = {"/pods/a/p3": "PLAIT-API-002", "/pods/a/p4": "PLAIT-NAME-001"}
    rig.pods(*(f"p{n}" for n in range(9)))
    await rig.rest()
    assert rig.there == {f"p{n}" for n in (0, 1, 2, 5, 6, 7, 8)}
    assert rig.writes.refused.keys() == rig.api.bad.keys()
    rig.api.bad = {}
    assert not await rig.writes.round()
    rig.now = 61.0
    await rig.rest()
    assert len(rig.there) == 9
    assert rig.writes.refused == {}


async def test_what_is_being_written_is_still_due(rig: Rig) -> None:
    rig.api.due = lambda: rig.writes.due
    rig.pods("p1", "p2")
    await rig.rest()
    assert rig.api.seen == [2]
    assert rig.writes.due == 0


async def test_a_refused_object_is_tried_at_once_when_it_changes(rig: Rig) -> None:
    rig.api.bad = {"/pods/a/p1": "PLAIT-API-002"}
    rig.pods("p1")
    await rig.rest()
    assert rig.writes.refused
    rig.api.bad = {}
    rig.writes.touch(["/pods/a/p1"])
    await rig.rest()
    assert rig.there == {"p1"}


@pytest.mark.parametrize(
    "code", ["PLAIT-API-012", "PLAIT-API-009", "PLAIT-AUTH-004", "PLAIT-AUTH-002"]
)
async def test_what_says_nothing_of_an_object_leaves_all_due(rig: Rig, code: str) -> None:
    rig.api.everything = code
    rig.pods("p1", "p2")
    with pytest.raises(PlaitError):
        await rig.writes.round()
    assert rig.writes.due == 2
    assert rig.api.batches == [2]
    rig.api.everything = ""
    await rig.rest()
    assert rig.there == {"p1", "p2"}


async def test_who_was_faster_decides(rig: Rig) -> None:
    theirs = Pod(metadata=Metadata(name="p1", namespace="a"))
    rig.server.put(theirs)
    rig.server.put(marked(Pod(metadata=Metadata(name="p2", namespace="a", labels={"old": "x"}))))
    rig.pods("p1", "p2", "p3")
    await rig.rest()
    assert rig.there == {"p1", "p2", "p3"}
    assert rig.writes.clashes.keys() == {"/pods/a/p1"}
    assert rig.server.objects["/pods/a/p2"].metadata.labels == {}


async def test_conflicts_without_end_wait(rig: Rig) -> None:
    rig.api.bad = {"/pods/a/p1": "PLAIT-API-006"}
    rig.pods("p1")
    await rig.rest()
    assert len(rig.api.batches) < 10
    assert rig.writes.refused


async def test_a_namespace_that_is_in_use_is_waited_for(rig: Rig) -> None:
    rig.held.take(WatchEvent(type="begin"))
    gone = rig.server.put(marked(Namespace(metadata=Metadata(name="a"))))
    rig.held.take(WatchEvent(type="put", object=gone, revision=2))
    rig.held.take(WatchEvent(type="synced", revision=2))
    rig.api.bad = {gone.key: "PLAIT-API-011"}
    rig.writes.touch_all()
    for _ in range(PATIENCE):
        await rig.rest()
        assert not rig.writes.refused
        rig.now += 61.0
    await rig.rest()
    assert rig.writes.refused
    rig.api.bad = {}
    rig.now += 61.0
    await rig.rest()
    assert rig.there == set()


async def test_only_the_leader_writes_and_batches_are_bounded(rig: Rig) -> None:
    rig.leads = False
    rig.pods(*(f"p{n}" for n in range(2 * BATCH + 1)))
    assert not await rig.writes.round()
    assert rig.there == set()
    rig.leads = True
    await rig.rest()
    assert rig.api.batches == [BATCH, BATCH, 1]


async def test_it_runs_until_it_is_ended_and_tries_again(rig: Rig) -> None:
    rig.api.everything = "PLAIT-API-012"
    rig.pods("p1")
    task = asyncio.create_task(rig.writes.run())
    async with asyncio.timeout(5):
        while not rig.writes.error:
            await asyncio.sleep(0.005)
        rig.api.everything = ""
        while rig.there != {"p1"}:
            await asyncio.sleep(0.005)
        rig.pods("p2")
        while rig.there != {"p1", "p2"}:
            await asyncio.sleep(0.005)
    assert not rig.writes.error
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_what_comes_before_what_goes_and_pods_last() -> None:
    known: set[type[Object]] = {Namespace, Policy, Pod}
    due = Due(lambda kind: kind in known)
    due.add("/pods/a/old", goes=True)
    due.add("/pods/a/new", goes=False)
    due.add("/policies/p", goes=False)
    due.add("/policies/q", goes=True)
    due.add("/namespaces/a", goes=False)
    order = []
    while keys := due.first(10):
        order += keys
        due.done(keys)
    assert order == ["/namespaces/a", "/policies/p", "/pods/a/new", "/pods/a/old", "/policies/q"]
    known.clear()
    due.add("/pods/a/new", goes=False)
    due.add("/pods/a/old", goes=True)
    assert due.first(10) == []
    assert len(due) == 2
    due.add("/policies/p", goes=False)
    assert due.first(10) == ["/policies/p"]
