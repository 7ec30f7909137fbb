"""Deadlines of leases on an injected monotonic clock.

Deadlines live in memory only. A store that opens begins every lease anew, and one that was
itself stopped (SIGSTOP, a suspended machine, a blocked disk) gives the time back: a holder is
never punished for keep-alives that nobody could have heard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from plait.model.errors import PlaitError

Clock = Callable[[], float]

STALL: Final = 10.0
"""Seconds between two looks at the clock beyond which the store was not running."""

_log = structlog.get_logger(__name__)


class Deadlines:
    """When each lease lapses. All times are seconds of `clock`."""

    def __init__(self, clock: Clock, *, stall: float = STALL) -> None:
        self._clock = clock
        self._stall = stall
        self._seen = clock()
        self._ttl: dict[int, float] = {}
        self._deadline: dict[int, float] = {}

    def begin(self, lease: int, ttl: float) -> None:
        """A lease begins now."""
        self._ttl[lease] = ttl
        self._deadline[lease] = self._clock() + ttl

    def renew(self, lease: int) -> bool:
        """A lease begins anew; False if it is not known."""
        if lease not in self._ttl:
            return False
        self._deadline[lease] = self._clock() + self._ttl[lease]
        return True

    def end(self, lease: int) -> None:
        """Forget a lease."""
        self._ttl.pop(lease, None)
        self._deadline.pop(lease, None)

    def lapsed(self) -> tuple[int, ...]:
        """Leases whose time is over; call at least every `stall` seconds."""
        now = self._clock()
        gap = now - self._seen
        self._seen = now
        grace = gap if gap > self._stall else 0.0
        if grace or gap < 0:
            for lease, deadline in self._deadline.items():
                self._deadline[lease] = min(deadline + grace, now + self._ttl[lease])
        return tuple(lease for lease, deadline in self._deadline.items() if deadline <= now)


class Lapses(Protocol):
    """A store whose leases lapse when its owner says so."""

    async def lapse(self) -> tuple[int, ...]:
        """Revoke the leases whose time is over and return them."""


async def lapse_for_ever(store: Lapses, *, interval: float = 1.0) -> None:
    """Let leases lapse every `interval` seconds until cancelled or until the store is closed.

    A store that cannot write (disk full) is tried again at the next turn.
    """
    while True:
        try:
            await store.lapse()
        except PlaitError as error:
            if error.code == "PLAIT-STORE-003":
                return
            _log.warning("leases_not_lapsed", code=error.code, detail=error.detail)
        await asyncio.sleep(interval)
