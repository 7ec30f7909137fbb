"""A host whose certificate lapsed comes back; a host that is taken down leaves. Real server."""

from __future__ import annotations

import asyncio

import pytest

from plait.cli import trust
from plait.client import enrol
from plait.client.api import ApiClient
from plait.model.errors import PlaitError
from plait.model.objects import Network, Node
from plait.server.server import Server
from plait.wiring.agent import RENEW_RETRY, keep_certificate

from .conftest import Rig

DAY = 86400.0


class Ended(Exception):
    """Ends an endless task of the agent."""


@pytest.fixture
async def h1(rig: Rig, server: Server) -> ApiClient:
    return await rig.node(server, "h1")


async def test_a_lapsed_certificate_is_renewed_by_the_nodes_secret(rig: Rig, h1: ApiClient) -> None:
    directory = rig.path / "h1"
    before = (directory / enrol.CERT_FILE).read_bytes()
    assert not await trust.renew_lapsed(h1, directory, rig.time.now())
    assert (directory / enrol.CERT_FILE).read_bytes() == before
    rig.time.ahead = 30 * DAY
    assert await trust.renew_lapsed(h1, directory, rig.time.now())
    assert not trust.must_enrol(directory, rig.time.now())


async def test_a_node_without_server_keeps_its_lapsed_certificate(
    rig: Rig, server: Server, h1: ApiClient
) -> None:
    directory = rig.path / "h1"
    await server.stop()
    assert not await trust.renew_lapsed(h1, directory, rig.time.now() + 30 * DAY)


async def test_a_forgotten_node_is_told_to_join(rig: Rig, server: Server, h1: ApiClient) -> None:
    await rig.admin(server).forget_node("h1", force=True)
    with pytest.raises(PlaitError) as caught:
        await trust.renew_lapsed(h1, rig.path / "h1", rig.time.now() + 30 * DAY)
    assert caught.value.code == "PLAIT-AUTH-007"
    assert "plait join SERVER --token TOKEN" in caught.value.fix


async def test_the_watch_of_a_node_that_is_forgotten_ends_with_the_reason(
    rig: Rig, server: Server, h1: ApiClient
) -> None:
    async def follow() -> None:
        async for event in h1.watch((Node,)):
            if event.type == "synced":
                await rig.admin(server).forget_node("h1", force=True)

    with pytest.raises(PlaitError) as caught:
        await asyncio.wait_for(follow(), 10)
    assert caught.value.code == "PLAIT-AUTH-007"


async def test_the_agent_renews_at_its_start_and_again_soon_when_that_failed(
    rig: Rig, server: Server, h1: ApiClient
) -> None:
    directory = rig.path / "h1"
    rig.time.ahead = 30 * DAY
    before = enrol.validity(directory / enrol.CERT_FILE)
    await server.stop()
    missing: dict[str, str] = {}
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 1:
            assert "cannot be reached" in missing["certificate"]
            again = await rig.serve(listen=(("127.0.0.1", server.ports[0]),))
            assert rig.url(again) == h1.url
            return
        raise Ended

    with pytest.raises(Ended):
        async with asyncio.timeout(10):
            await keep_certificate(h1, directory, missing, now=rig.time.now, sleep=sleep)
    assert pauses[0] <= RENEW_RETRY * 1.5 < pauses[1]
    assert missing == {}
    assert enrol.validity(directory / enrol.CERT_FILE) > before


async def test_a_node_leaves_with_all_that_is_its_own(rig: Rig, api: ApiClient) -> None:
    h1 = await rig.node(rig.servers[0], "h1")
    assert await trust.leave(h1, "h1", rig.path / "h1", rig.time.now()) == ""
    assert await api.list(Node) == ()
    with pytest.raises(PlaitError):
        await h1.list(Network)
    # Twice is no error: the second finds a server that does not know it.
    assert await trust.leave(h1, "h1", rig.path / "h1", rig.time.now()) == ""


async def test_a_node_leaves_with_a_lapsed_certificate(rig: Rig, server: Server) -> None:
    directory = rig.path / "h1"
    # OpenSSL looks at the real clock, so the enrolment is put into the past.
    rig.time.ahead = -30 * DAY
    token = await rig.token(server)
    await enrol.enrol(rig.url(server), token, "h1", directory)
    rig.time.ahead = 0.0
    h1 = rig.node_client(server, "h1")
    assert trust.must_enrol(directory, rig.time.now())
    with pytest.raises(PlaitError):
        await h1.list(Network)
    assert await trust.leave(h1, "h1", directory, rig.time.now()) == ""
    assert server.service.trust.node("h1") is None


async def test_leaving_without_a_server_says_why(rig: Rig, server: Server, h1: ApiClient) -> None:
    await server.stop()
    why = await trust.leave(h1, "h1", rig.path / "h1", rig.time.now())
    assert "connection refused" in why
