"""A node of which nothing is heard is known as silent to all until it speaks. Real server."""

from __future__ import annotations

from plait.model.objects import Node
from plait.server.clock import Clock
from plait.server.forget import SILENCE
from plait.server.server import Server
from plait.server.silence import Listener

from .conftest import Rig


class Ear:
    """A server's listener, to whom time passes as a test says."""

    def __init__(self, server: Server) -> None:
        self.now = 1000.0
        clock = Clock(monotonic=lambda: self.now)
        self._listener = Listener(server.service.writer, server.service.mirror, clock)

    async def listen(self, later: float) -> None:
        self.now += later
        await self._listener.listen()


async def test_a_node_that_says_nothing_is_silent_until_it_speaks(rig: Rig, server: Server) -> None:
    h1, h2 = await rig.node(server, "h1"), await rig.node(server, "h2")
    ear = Ear(server)
    await ear.listen(0)
    await ear.listen(SILENCE - 1)
    rig.time.ahead += SILENCE
    await h2.update(await h2.get(Node, "h2"))
    before = await h2.get(Node, "h1")
    assert not before.status.silent
    await ear.listen(1)
    lost = await h2.get(Node, "h1")
    assert lost.status.silent
    assert lost.status.last_seen == before.status.last_seen
    assert not (await h2.get(Node, "h2")).status.silent
    await ear.listen(SILENCE / 2)
    assert await h2.get(Node, "h1") == lost, "it is said once"
    await h1.update(lost)
    assert not (await h2.get(Node, "h1")).status.silent


async def test_a_server_that_was_away_waits_for_its_nodes(rig: Rig, server: Server) -> None:
    h1 = await rig.node(server, "h1")
    rig.time.ahead += 3600
    ear = Ear(server)
    await ear.listen(3600)
    await ear.listen(SILENCE - 1)
    assert not (await h1.get(Node, "h1")).status.silent
