"""What was learnt since the last copy of the snapshot outlives a kill (P5)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.agent.test_policing import applied, attach, members, policy, rules
from tests.unit.agent.test_service import running, settled

from plait.agent import cache, fake
from plait.agent.agent import SNAPSHOT
from plait.agent.cache import Trail
from plait.agent.snapshot import Snapshot
from plait.model.objects import Metadata, Node


def node(name: str, revision: int) -> Node:
    return Node(metadata=Metadata(name=name, revision=revision))


def kept(path: Path) -> dict[str, int]:
    found = cache.load(path)
    assert found is not None
    return {obj.metadata.name: obj.metadata.revision for obj in found.objects}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abc")),
        st.tuples(st.just("delete"), st.sampled_from("abc")),
        st.tuples(st.sampled_from(["copy", "copy that fails", "slow copy", "kill"]), st.just("")),
    ),
    max_size=20,
)


@settings(max_examples=100)
@given(STEPS)
def test_copy_and_trail_are_the_snapshot_at_every_moment(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("trail") / "snapshot.json"
    trail = Trail(path)
    snapshot = Snapshot(trail)
    cache.save(path, snapshot, 0)
    trail.open()
    for revision, (what, name) in enumerate(steps, 1):
        match what:
            case "put":
                snapshot.put(node(name, revision))
            case "delete":
                snapshot.delete(node(name, 0), revision)
            case "copy":
                learnt = trail.size
                cache.save(path, snapshot, revision)
                trail.drop(learnt)
            case "copy that fails":
                cache.save(path, snapshot, revision)  # Killed before the trail was shortened.
            case "slow copy":
                learnt, objects = trail.size, tuple(snapshot)
                snapshot.put(node("a", revision))
                cache.save(path, objects, revision)
                trail.drop(learnt)
            case "kill":
                trail.close()
                found = cache.load(path)
                assert found is not None
                trail = Trail(path)
                snapshot = Snapshot(trail)
                snapshot.restore(found.objects, found.revision)
                trail.open()
        assert kept(path) == {n: obj.metadata.revision for n, obj in snapshot.nodes.items()}
    trail.close()


def test_what_a_crash_tore_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.json"
    cache.save(path, [node("a", 1)], 1)
    trail = Trail(path)
    trail.open()
    trail.put(node("b", 2))
    trail.put(node("c", 3))
    trail.close()
    file = path.with_suffix(cache.SUFFIX)
    file.write_bytes(file.read_bytes()[:-5])
    assert kept(path) == {"a": 1, "b": 2}
    assert file.stat().st_mode & 0o777 == 0o600


def test_without_a_copy_a_trail_means_nothing(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.json"
    path.with_suffix(cache.SUFFIX).write_bytes(b"-junk\n")
    assert cache.load(path) is None
    trail = Trail(path)
    trail.open()
    assert trail.size == 0
    trail.close()


def test_rather_no_trail_than_half_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "snapshot.json"
    cache.save(path, [], 1)
    trail = Trail(path)
    trail.open()
    trail.put(node("a", 2))

    def full(_fd: int, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "write", full)
    trail.put(node("b", 3))
    monkeypatch.undo()
    trail.put(node("c", 4))
    assert kept(path) == {}
    cache.save(path, [node("c", 4)], 4)
    trail.drop(0)
    trail.put(node("d", 5))
    assert kept(path) == {"c": 4, "d": 5}
    trail.close()


async def test_the_first_copy_is_made_as_soon_as_there_is_something(tmp_path: Path) -> None:
    host = fake.FakeHost(fake.server(), tmp_path)
    host.server.cut()
    async with running(host) as agent:
        agent._housekeeping()
        await agent._saving
        host.server.heal()
        await settled(host, agent)
        agent._housekeeping()
        await agent._saving
        assert cache.load(agent._config.directory / SNAPSHOT) is not None


async def test_a_killed_agent_starts_with_the_rules_that_the_kernel_has(tmp_path: Path) -> None:
    host = fake.FakeHost(fake.server(), tmp_path)
    async with running(host) as agent:
        await settled(host, agent)
        await agent.service.attach(attach())
    victim = host.agent()
    await victim.start()
    await applied(host, victim)
    host.server.put(policy())
    await applied(host, victim)
    before = rules(victim)
    assert before.dispatch
    for task in victim._tasks:  # Killed: nothing is saved, nothing is closed.
        task.cancel()
    await asyncio.gather(*victim._tasks, return_exceptions=True)
    host.server.cut()
    async with running(host) as agent:
        assert rules(agent).dispatch == before.dispatch
        assert rules(agent).chains == before.chains
        assert members(agent) == set()
        assert await agent.service.plan() == ""
        assert agent.loop.repairs == {}
    victim.ports.close()
    victim.state.records.close()
    victim._trail.close()
    for watcher in victim._doors.watchers:
        asyncio.get_running_loop().remove_reader(watcher.fileno())
        watcher.close()
