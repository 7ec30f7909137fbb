"""Reading of the kernel that takes long, beside the loop.

It is done in a thread, with a door of its own; what was found is told in the loop, so that all that
changes the kernel stays there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

from plait.kernel.nft_elements import ElementDoor

T = TypeVar("T")


class Aside(Protocol):
    """How something is looked for."""

    def __call__(self, look: Callable[[ElementDoor], T], then: Callable[[T], None]) -> None:
        """Look, now or later, and tell `then` what was found. `look` raises nothing."""


class AtOnce:
    """In the caller's thread, before the call returns."""

    def __init__(self, door: ElementDoor) -> None:
        self._door = door

    def __call__(self, look: Callable[[ElementDoor], T], then: Callable[[T], None]) -> None:
        """See Aside."""
        then(look(self._door))


class InThread:
    """In a thread of its own, one look after the other; `then` is called by the event loop."""

    def __init__(self, door: ElementDoor) -> None:
        self._door = door
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="plait-aside")
        self._closed = False

    def __call__(self, look: Callable[[ElementDoor], T], then: Callable[[T], None]) -> None:
        """See Aside. To be called in the event loop."""
        found = asyncio.get_running_loop().run_in_executor(self._thread, look, self._door)
        found.add_done_callback(partial(self._tell, then))

    def _tell(self, then: Callable[[T], None], found: asyncio.Future[T]) -> None:
        if not self._closed and not found.cancelled():
            then(found.result())

    def close(self) -> None:
        """End the look that is under way, tell nobody, and release the door."""
        self._closed = True
        self._thread.shutdown(cancel_futures=True)
        self._door.close()
