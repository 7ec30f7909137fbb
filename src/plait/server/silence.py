"""Noticing nodes of which nothing is heard.

A host that lost its power says nothing more, and its endpoints stay as they were: their addresses
are theirs until somebody forgets the node. But new flows of Services need not go there, so every
agent is told, by the Node's `status.silent`. The node's next word takes it back (`admission.node`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
import structlog

from plait.model.errors import PlaitError
from plait.model.objects import Node
from plait.server.authorize import Actor
from plait.server.clock import Clock
from plait.server.forget import SILENCE
from plait.server.mirror import Mirror
from plait.server.writes import Step, Writer

log = structlog.get_logger("plait.server")

LISTEN_EVERY: Final = 5.0
"""Seconds between two looks."""
_SERVER: Final = Actor("admin", "server")


class Listener:
    """Tells all which nodes are silent.

    A node is when what it last said was seen to stand for `SILENCE` seconds by this server's own
    monotonic clock: neither a clock that is set nor a server that was away makes any silent.
    """

    def __init__(self, writer: Writer, mirror: Mirror, clock: Clock) -> None:
        self._writer = writer
        self._mirror = mirror
        self._clock = clock
        self._heard: dict[str, tuple[str, float]] = {}
        """By node: its `lastSeen`, and when that was seen first."""

    async def listen_for_ever(self) -> None:
        """Look again and again."""
        while True:
            await self._clock.sleep(LISTEN_EVERY)
            await self.listen()

    async def listen(self) -> None:
        """Look once."""
        for node in tuple(self._fallen_silent()):
            status = msgspec.structs.replace(node.status, silent=True)
            silent = msgspec.structs.replace(node, status=status)
            name, revision = node.metadata.name, node.metadata.revision
            try:
                await self._writer.write(
                    _SERVER, [Step("update", Node, name, "", revision, silent)]
                )
            except PlaitError as error:
                # It spoke just now, or the next look tries it again.
                log.info("node.silent.untold", node=name, error=str(error))
            else:
                log.warning("node.silent", node=name, last_seen=node.status.last_seen)

    def _fallen_silent(self) -> Iterator[Node]:
        now, before = self._clock.monotonic(), self._heard
        self._heard = {}
        for node in self._mirror.state.nodes():
            name, said = node.metadata.name, node.status.last_seen
            known = before.get(name)
            since = now if known is None or known[0] != said else known[1]
            self._heard[name] = (said, since)
            if now - since >= SILENCE and not node.status.silent:
                yield node
