"""What the server refuses: an object, or the whole of what was sent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from plait.agent import fake
from plait.client.agent import AttachRequest
from plait.client.base import BatchOp, WatchEvent
from plait.client.fake_api import FakeApi
from plait.model.errors import PlaitError
from plait.model.objects import AnyObject, Endpoint


class Refusing(FakeApi):
    """Refuses batches, by a code, that have an object of one of these names; none: all."""

    code = ""
    names: tuple[str, ...] = ()

    async def batch(self, ops: Sequence[BatchOp]) -> tuple[AnyObject, ...]:
        if self.code and any(not self.names or op.object.metadata.name in self.names for op in ops):
            raise PlaitError(self.code, "no")
        return await super().batch(ops)


@pytest.mark.parametrize(
    ("code", "names", "published"),
    [
        ("PLAIT-API-009", (), {"e0", "e1", "e2"}),
        ("PLAIT-AGENT-002", (), {"e0", "e1", "e2"}),
        ("PLAIT-AUTH-001", (), {"e0", "e1", "e2"}),
        ("PLAIT-API-002", ("e1",), {"e0", "e2"}),
    ],
)
async def test_only_an_object_that_is_bad_itself_is_set_aside(
    tmp_path: Path, code: str, names: tuple[str, ...], published: set[str]
) -> None:
    host = fake.FakeHost(fake.server(), tmp_path)
    agent = host.agent()
    api = Refusing(host.server)
    agent.sync._api = api
    await agent.start()
    try:
        async with asyncio.timeout(5):
            await agent.sync.first_listing.wait()
        api.code, api.names = code, names
        for number in range(3):
            await agent.service.attach(AttachRequest(id=f"e{number}", network="plait", name="x"))
        with contextlib.suppress(PlaitError):
            await agent.sync.reconcile()
        api.code = ""
        await agent.sync.reconcile()
        found = {o.metadata.name for o in host.server.objects.values() if isinstance(o, Endpoint)}
        assert found == published
    finally:
        await agent.stop()


async def test_a_defect_in_one_step_is_a_problem_and_keeps_no_other_step(tmp_path: Path) -> None:
    host = fake.FakeHost(fake.server(), tmp_path)
    agent = host.agent()
    await agent.start()
    try:
        async with asyncio.timeout(5):
            await agent.sync.first_listing.wait()
        whole = agent.sync._steps["our endpoints"]

        async def broken() -> None:
            raise AttributeError("a defect")

        agent.sync._steps["our endpoints"] = broken
        reconciled = []

        async def blocks() -> None:
            reconciled.append(True)

        agent.sync._steps["our blocks"] = blocks
        with pytest.raises(AttributeError):
            await agent.sync.reconcile()
        assert reconciled
        (problem,) = (await agent.service.status()).problems
        assert "our endpoints: not in step with the server" in problem
        assert "a defect" in problem
        agent.sync._steps["our endpoints"] = whole
        await agent.sync.reconcile()
        assert (await agent.service.status()).problems == ()
    finally:
        await agent.stop()


async def test_a_server_that_is_away_is_no_refusal_of_the_node(tmp_path: Path) -> None:
    """`plait status` says that the server is out of reach, and says it once."""
    host = fake.FakeHost(fake.server(), tmp_path)
    agent = host.agent()
    await agent.start()
    try:
        async with asyncio.timeout(5):
            await agent.sync.first_listing.wait()
        host.server.cut()
        host.clock.advance(3600)
        with pytest.raises(PlaitError):
            await agent.sync.reconcile()
        assert (await agent.service.status()).problems == ()
    finally:
        await agent.stop()


async def test_an_endpoint_that_came_back_is_written_though_its_former_self_was_heard_of_late(
    tmp_path: Path,
) -> None:
    """The watch tells of its first coming after it has gone, and of its going when it is back."""
    host = fake.FakeHost(fake.server(), tmp_path)
    agent = host.agent()
    await agent.start()
    try:
        async with asyncio.timeout(5):
            await agent.sync.first_listing.wait()
        for task in agent._tasks:
            if task.get_name() in ("agent: server -> snapshot", "agent: journal -> server"):
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        request, key = AttachRequest(id="e1", network="plait", name="x"), "/endpoints/default/e1"
        await agent.service.attach(request)
        await agent.sync.reconcile()
        stored = host.server.objects[key]
        await agent.service.detach("e1")
        await agent.sync.reconcile()
        assert key not in host.server.objects
        agent.sync.take(WatchEvent(type="put", object=stored, revision=stored.metadata.revision))
        await agent.service.attach(request)
        await agent.sync.reconcile()
        agent.sync._kick.clear()
        agent.sync.take(WatchEvent(type="delete", object=stored, revision=host.server.revision))
        assert agent.sync._kick.is_set()
        await agent.sync.reconcile()
        assert key in host.server.objects
    finally:
        await agent.stop()
