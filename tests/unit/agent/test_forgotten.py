"""A node that the server has forgotten falls silent (P2), and speaks again once it is known."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.waiting import until

from plait.agent import fake, sync
from plait.agent.agent import Agent
from plait.client.agent import AttachRequest
from plait.model.errors import PlaitError


def silent(agent: Agent) -> bool:
    want = agent.state.compute()
    return want is not None and not want.filter.endpoints and not agent.loop.failures


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "EXPELLED", 0.01)


async def test_a_forgotten_node_is_silent_until_it_is_known_again(tmp_path: Path) -> None:
    host = fake.FakeHost(fake.server(), tmp_path)
    agent = host.agent()
    await agent.start()
    try:
        await until(agent.sync.first_listing.is_set)
        await agent.service.attach(AttachRequest(id="e1", network="plait", name="web"))
        assert not silent(agent)
        host.server.forget()
        await until(lambda: agent.state.forgotten)
        await agent.loop.settle()
        assert silent(agent)
        (endpoint,) = await agent.service.endpoints()
        assert endpoint.phase == "degraded"
        assert "forgotten" in endpoint.message
        (problem,) = (await agent.service.status()).problems
        assert "plait join" in problem
        assert "plait down --purge" in problem
        # Addresses of blocks that were ours may be others' now.
        with pytest.raises(PlaitError) as caught:
            await agent.service.attach(AttachRequest(id="e2", network="plait", name="late"))
        assert caught.value.code == "PLAIT-AUTH-007"
        with pytest.raises(PlaitError):
            await agent.service.reserve("plait", 4)
        host.server.heal()
        await until(lambda: not agent.state.forgotten)
        await agent.loop.settle()
        assert not silent(agent)
        assert (await agent.service.endpoints())[0].phase == "ready"
        assert (await agent.service.status()).problems == ()
    finally:
        await agent.stop()


async def test_it_stays_silent_over_a_restart_without_server(tmp_path: Path) -> None:
    host = fake.FakeHost(fake.server(), tmp_path)
    agent = host.agent()
    await agent.start()
    await until(agent.sync.first_listing.is_set)
    await agent.service.attach(AttachRequest(id="e1", network="plait", name="web"))
    host.server.forget()
    await until(lambda: agent.state.forgotten)
    await agent.stop()
    host.server.cut()
    again = host.agent()
    await again.start()
    try:
        assert again.state.snapshot.ready
        assert silent(again)
    finally:
        await again.stop()
