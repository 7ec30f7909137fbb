"""Which of two calls for one attachment is out of date: the one that the runtime began earlier.

A runtime that dies leaves its plugin running: an ADD may come to us after the DEL that was to undo
it, a DEL after the ADD of the container's next life. The shim tells when each began
(CLOCK_BOOTTIME), so that the order of their arrival does not matter. What was served is known as
long as the agent lives; an older call than that has been cut by its own deadline.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from plait.client.agent import LocalEndpoint

FORGET: Final = 150 * 10**9
"""Nanoseconds after which no call of that age is under way any more: the shim waits 120 s."""
SLACK: Final = 1000
"""Entries kept beyond twice those that are needed."""


class Order:
    """What was served last of each endpoint, by the beginning of the call in nanoseconds since
    boot; 0 stands for a call that does not say."""

    def __init__(self) -> None:
        self._added: dict[str, int] = {}
        self._deleted: dict[str, int] = {}

    def late_add(self, endpoint: str, started: int) -> bool:
        """A DEL that began after this ADD has been served."""
        return 0 < started < self._deleted.get(endpoint, 0)

    def late_del(self, endpoint: str, started: int) -> bool:
        """What is attached now was asked for after this DEL began."""
        return 0 < started < self._added.get(endpoint, 0)

    def added(self, endpoint: str, started: int, present: Collection[LocalEndpoint]) -> None:
        """An ADD was served; `present` are the endpoints that there are."""
        self._added[endpoint] = started
        if len(self._added) > 2 * len(present) + SLACK:
            # Those of namespaces that vanished: no DEL has come for them.
            kept = {endpoint, *(other.request.id for other in present)}
            self._added = {key: at for key, at in self._added.items() if key in kept}

    def deleted(self, endpoint: str, started: int) -> None:
        """A DEL is being served: no ADD that began before it is let in any more."""
        self._added.pop(endpoint, None)
        self._deleted[endpoint] = max(started, self._deleted.pop(endpoint, 0))
        # In the order in which they came, which is about that of their beginnings.
        for key, at in tuple(self._deleted.items())[:2]:
            if at < started - FORGET:
                del self._deleted[key]
