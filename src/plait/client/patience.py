"""How long an answer may take that the HTTP library's own limits do not cover."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

R = TypeVar("R")


async def within(seconds: float, work: Awaitable[R]) -> R:
    """Its result; TimeoutError if that takes longer. aiohttp's own limit for a silent socket begins
    with a connection, and ends when the peer has sent its end, so it is not used."""
    async with asyncio.timeout(seconds):
        return await work
