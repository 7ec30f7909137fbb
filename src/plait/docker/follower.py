"""Follows one dockerd: its events as they come, and the whole picture every so often.

Events make things quick; the listing makes them right. What an event would have said is found
by the next listing, so a lost event costs time and nothing else.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import structlog

from plait.docker.directory import Changes, Directory
from plait.docker.engine import DRIVER, Engine, EngineRefused, EngineUnavailable
from plait.docker.identity import Identifier, endpoints_of
from plait.docker.networks import NetworkKeeper
from plait.docker.reaper import Reaper
from plait.model.errors import PlaitError
from plait.wire.docker import DockerEvent, DockerNetwork

RESYNC: Final = 30.0
"""Seconds between two listings when nothing happens."""
BACKOFF: Final = (0.5, 15.0)
"""First and longest pause, in seconds, while work fails."""
AWAY: Final = 1.0
"""Longest pause, in seconds, while dockerd is away: asking costs one connect(2), and what dockerd
starts by itself when it comes back has no traffic before we have heard of it."""
OVERLAP: Final = 2_000_000_000
"""Nanoseconds before the connection from which events are asked for."""

log: Final = structlog.get_logger("plait.docker")


def pause(failures: int, rng: random.Random, longest: float = BACKOFF[1]) -> float:
    """Seconds to wait after so many failures in a row: doubling, with jitter, bounded."""
    first = BACKOFF[0]
    return min(longest, first * 2.0 ** min(failures - 1, 10)) * rng.uniform(0.5, 1.0)


class Follower:
    """`clock` gives Unix time in seconds; `sleep` waits for seconds."""

    def __init__(
        self,
        engine: Engine,
        directory: Directory,
        keeper: NetworkKeeper,
        identifier: Identifier,
        reaper: Reaper,
        *,
        clock: Callable[[], float],
        rng: random.Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        resync: float = RESYNC,
    ) -> None:
        self._engine = engine
        self._directory = directory
        self._keeper = keeper
        self._identifier = identifier
        self._reaper = reaper
        self._clock = clock
        self._rng = rng
        self._sleep = sleep
        self._resync = resync
        self._kicked = asyncio.Event()
        self._work: set[asyncio.Task[None]] = set()
        self.connected = False
        self.changes = Changes()
        """Told when `connected` changes."""
        self._reactions: dict[tuple[str, str], Callable[[DockerEvent], None]] = {
            ("network", "create"): self._look,
            ("network", "destroy"): self._look,
            ("network", "connect"): self._on_connect,
            ("container", "rename"): self._on_change,
            ("container", "pause"): self._on_change,
            ("container", "unpause"): self._on_change,
            ("container", "health_status: healthy"): self._on_change,
            ("container", "health_status: unhealthy"): self._on_change,
            ("container", "kill"): self._on_signal,
        }

    async def run(self) -> None:
        """Follow for ever; returns only by being cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow())
                group.create_task(self._watch_directory())
                group.create_task(self._keep())
        finally:
            for task in tuple(self._work):
                task.cancel()
            await asyncio.gather(*self._work, return_exceptions=True)
            await self._identifier.close()
            await self._engine.close()

    # -- events

    async def _follow(self) -> None:
        failures = 0
        while True:
            longest = BACKOFF[1]
            try:
                await self._engine.connect()
                self._set_connected(True)
                since = int(self._clock() * 1e9) - OVERLAP
                self._kicked.set()
                async for event in self._engine.events(since):
                    failures = 0
                    self._react(event)
            except (EngineUnavailable, EngineRefused) as error:
                if self.connected or failures == 0:
                    log.info("docker is not reachable", error=str(error))
                if isinstance(error, EngineUnavailable):
                    longest = AWAY
            except Exception:
                log.exception("docker events")
            self._set_connected(False)
            failures += 1
            await self._sleep(pause(failures, self._rng, longest))

    def _set_connected(self, connected: bool) -> None:
        if connected != self.connected:
            self.connected = connected
            self.changes.notify()

    def _react(self, event: DockerEvent) -> None:
        reaction = self._reactions.get((event.type, event.action))
        if reaction is not None:
            reaction(event)

    def _look(self, _: DockerEvent) -> None:
        self._kicked.set()

    def _on_connect(self, event: DockerEvent) -> None:
        if event.attribute("type") == DRIVER:
            self._spawn(
                self._identifier.connected(event.actor.id, event.attribute("container")), event
            )

    def _on_change(self, event: DockerEvent) -> None:
        self._spawn(self._identifier.changed(event.actor.id), event)

    def _on_signal(self, event: DockerEvent) -> None:
        self._spawn(self._identifier.signalled(event.actor.id, event.attribute("signal")), event)

    def _spawn(self, work: Coroutine[Any, Any, None], event: DockerEvent) -> None:
        """Beside the stream: a call to dockerd may wait for a container that is starting."""
        task = asyncio.create_task(self._guard(work, event))
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _guard(self, work: Coroutine[Any, Any, None], event: DockerEvent) -> None:
        try:
            await work
        except (PlaitError, EngineRefused, EngineUnavailable) as error:
            log.warning("docker event", type=event.type, action=event.action, error=str(error))
        except Exception:
            log.exception("docker event", type=event.type, action=event.action)

    # -- the whole picture

    async def _watch_directory(self) -> None:
        while True:
            await self._directory.changes.wait()
            self._kicked.set()

    async def _keep(self) -> None:
        failures = 0
        while True:
            done = await self.round() if self.connected else True
            failures = 0 if done else failures + 1
            wait = pause(failures, self._rng) if failures else self._resync
            try:
                async with asyncio.timeout(wait):
                    await self._kicked.wait()
            except TimeoutError:
                pass
            self._kicked.clear()

    async def round(self) -> bool:
        """One comparison of everything; False when something is left to be done."""
        try:
            done = await self._keeper.round()
            networks = await self._details()
            await self._identifier.resync(networks)
            await self._reaper.observe({e for n in networks for e in endpoints_of(n)})
        except (EngineUnavailable, EngineRefused, PlaitError) as error:
            log.warning("docker resync", error=str(error))
            return False
        except Exception:
            log.exception("docker resync")
            return False
        return done

    async def _details(self) -> tuple[DockerNetwork, ...]:
        """Our networks with their containers."""
        listed = [n for n in await self._engine.networks() if n.driver == DRIVER]
        found = [await self._engine.network(n.id) for n in listed]
        return tuple(n for n in found if n is not None)
