"""Waiting for what other tasks bring about. Threads and processes: `plait.client.polling.poll`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(
    condition: Callable[[], object],
    what: object = "the condition did not come true",
    *,
    seconds: float = 30.0,
) -> None:
    """Return once the condition is true; fails after `seconds` and says what was waited for."""
    end = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < end, f"{what}: not in {seconds} s"
        await asyncio.sleep(0.005)
