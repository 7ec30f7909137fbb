"""Waiting for what nobody announces: a process that comes or goes, a command's other answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def poll(
    look: Callable[[], T],
    good: Callable[[T], object] = bool,
    *,
    seconds: float,
    every: float = 0.05,
) -> T:
    """What `look` gives as soon as it is good, or what it gave last when `seconds` are over."""
    deadline = time.monotonic() + seconds
    while not good(found := look()) and time.monotonic() < deadline:
        # Nothing can be waited on in its place; the deadline ends it.
        time.sleep(every)
    return found
