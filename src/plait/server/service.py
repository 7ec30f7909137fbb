"""The server's parts, put together over one store; no HTTP here."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from plait import __version__
from plait.server.auth import Authenticator
from plait.server.authorize import Actor
from plait.server.bootstrap import HISTORY_KEY
from plait.server.ca import Authority
from plait.server.clock import Clock
from plait.server.config import Config
from plait.server.doorman import Doorman
from plait.server.flows import FlowStore
from plait.server.forget import Forgetter
from plait.server.hub import Hub
from plait.server.metrics import Metrics
from plait.server.mirror import Mirror
from plait.server.silence import Listener
from plait.server.tokens import NODES, Trust
from plait.server.writes import Writer
from plait.store.base import Store


class Service:
    """Owns the mirror and the hub; everything else is without state."""

    def __init__(
        self,
        store: Store,
        authority: Authority,
        config: Config,
        clock: Clock,
        new_uid: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self.authority = authority
        self.config = config
        self.clock = clock
        self.version = __version__
        self.mirror = Mirror(store)
        self.hub = Hub(clock, bookmark_every=config.bookmark_every)
        self.trust = Trust(store, self.mirror, clock, authority.hash)
        self.authenticator = Authenticator(self.trust, clock, config.allowed_uids)
        self.writer = Writer(
            store,
            self.mirror,
            clock,
            new_uid,
            self.authenticator.fence,
            own_ports=frozenset(port for _, port in config.listen if port),
        )
        self.listener = Listener(self.writer, self.mirror, clock)
        self.forgetter = Forgetter(store, self.mirror, self.trust, clock)
        self.doorman = Doorman(config.max_strangers)
        self.flows = FlowStore(clock.now)
        self.metrics = Metrics()
        self._heard: dict[str, float] = {}
        self.mirror.on_changes = self.hub.publish
        self.mirror.on_past = self.hub.remember
        self.mirror.on_reset = self.hub.reset
        self.mirror.on_record = self._record_changed

    async def start(self) -> None:
        """Read the store and follow it."""
        await self.mirror.start()
        self._record_changed(HISTORY_KEY)
        await self.hub.start()

    async def stop(self) -> None:
        """Cut watchers and let go of the store, which stays open."""
        self.flows.close()
        await self.hub.stop()
        await self.mirror.stop()

    def saw(self, actor: Actor) -> None:
        """Remember that a node spoke."""
        if actor.role == "node":
            self._heard[actor.name] = self.clock.now()

    def heard(self, node: str) -> float:
        """Unix time at which a node was last heard; 0 when it was not since the start."""
        return self.clock.now() if self.hub.watched_by(node) else self._heard.get(node, 0.0)

    def _record_changed(self, key: str) -> None:
        records = self.mirror.state.records
        if key.startswith(NODES):
            # Forgotten, or another one of the same name: the old one follows no more.
            self.hub.cut_all(node=key.removeprefix(NODES))
            if key not in records:
                self._heard.pop(key.removeprefix(NODES), None)
                self.flows.forget(key.removeprefix(NODES))
        elif key == HISTORY_KEY:
            value = records.get(key)
            self.hub.history = "" if value is None else value[0].decode()
