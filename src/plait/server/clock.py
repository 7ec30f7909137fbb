"""Time as an argument."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Clock:
    """The times that the server lives by."""

    now: Callable[[], float] = time.time
    """Unix time, seconds."""
    monotonic: Callable[[], float] = time.monotonic
    """Seconds, never back."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


def rfc3339(seconds: float) -> str:
    """Unix time as RFC 3339 in UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_rfc3339(text: str) -> float:
    """Unix time of what `rfc3339` wrote; 0 for an empty or unreadable text."""
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0
