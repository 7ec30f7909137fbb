"""What Docker has forgotten: endpoints and held addresses that nobody will give back.

dockerd ignores errors of Leave and DeleteEndpoint on `rm -f`, and loses its own memory when it is
killed; so what it does not list is detached, but only after it was missing for longer than any
call takes: an endpoint that is being made is not listed yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from typing import Final

import structlog

from plait.client.agent import Agent
from plait.docker.directory import Directory
from plait.docker.journal import HeldAddress

GRACE: Final = 20.0
"""Seconds between the two observations after which an endpoint counts as forgotten."""
HOLD: Final = 60.0
"""Seconds after which an address that no endpoint uses is given back."""

log: Final = structlog.get_logger("plait.docker")


def suspects(
    before: Mapping[str, float], ours: Iterable[str], listed: Set[str], now: float
) -> dict[str, float]:
    """Endpoints of ours that Docker does not list, with the time when that was first seen."""
    return {e: before.get(e, now) for e in ours if e not in listed}


def overdue(since: Mapping[str, float], now: float) -> tuple[str, ...]:
    """Suspects that have been missing for the whole grace."""
    return tuple(e for e, first in since.items() if now - first >= GRACE)


def expired(held: Iterable[HeldAddress], now: float) -> tuple[HeldAddress, ...]:
    """Addresses held for too long. One from the future (the clock was set back) counts anew
    only when it is further ahead than the time it may be held."""
    return tuple(h for h in held if abs(now - h.since) >= HOLD)


class Reaper:
    """Gives back what was forgotten. `clock` gives Unix time in seconds."""

    def __init__(self, agent: Agent, directory: Directory, *, clock: Callable[[], float]) -> None:
        self._agent = agent
        self._directory = directory
        self._clock = clock
        self._suspects: dict[str, float] = {}

    async def observe(self, listed: Set[str]) -> tuple[str, ...]:
        """Compare with the endpoints that Docker lists now; the endpoints that were detached.

        To be called only with a complete listing of a dockerd that answers.
        """
        now = self._clock()
        ours = [
            e.request.id
            for e in await self._agent.endpoints()
            if e.request.workload.runtime == "docker"
        ]
        self._suspects = suspects(self._suspects, ours, listed, now)
        gone = overdue(self._suspects, now)
        for endpoint in gone:
            log.warning("endpoint unknown to Docker detached", endpoint=endpoint[:12])
            await self._agent.detach(endpoint)
            del self._suspects[endpoint]
        for held in expired(self._directory.held, now):
            await self._agent.release(held.network, held.address)
            self._directory.unhold(held.network, held.address)
        return gone
