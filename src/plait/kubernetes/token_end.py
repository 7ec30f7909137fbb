"""When the connector's token for Plait's server ends, and who is told before."""

from __future__ import annotations

import asyncio
import datetime
import math
from collections.abc import Callable
from typing import Final

import structlog

SOON: Final = 30 * 86400.0
"""Seconds before its end from which on it is a problem."""
AGAIN: Final = 86400.0
"""Seconds between two words in the log."""
LOOK: Final = 60.0
"""Seconds between looks."""

log: Final = structlog.get_logger("plait.kubernetes")


class TokenEnd:
    """`ends` gives the Unix time at which it ends, 0 where it does not or nobody said yet; `wall`
    gives Unix time."""

    def __init__(self, ends: Callable[[], float], wall: Callable[[], float]) -> None:
        self._ends = ends
        self._wall = wall
        self._logged = -math.inf

    @property
    def problem(self) -> str:
        """What is wrong, or empty."""
        ends = self._ends()
        if not ends or ends - self._wall() > SOON:
            return ""
        moment = datetime.datetime.fromtimestamp(ends, datetime.UTC)
        return (
            f"the connector's token ends at {moment:%Y-%m-%dT%H:%M:%SZ}: run `plait kubernetes"
            " install --apply` again, or write a new one into its token file"
        )

    def tell(self) -> None:
        """Write into the log what is wrong, if it was not written lately."""
        now = self._wall()
        if now - self._logged >= AGAIN and (problem := self.problem):
            self._logged = now
            log.warning("the token ends soon", problem=problem)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            self.tell()
            await asyncio.sleep(LOOK)
