"""Which of two calls for one attachment is out of date: the one that the runtime began earlier.

A runtime that dies leaves its plugin running: an ADD may come to us after the DEL that was to undo
it, a DEL after the ADD of the container's next life. The shim tells when each began
(CLOCK_BOOTTIME), so that the order of their arrival does not matter.

When the ADD of what is attached began stands in the agent's journal. DELs are known as long as the
agent lives; of an ADD that began before the agent it is not known what came after it. Its shim met
no agent, or one that has gone, so whoever waits for it will try again.
"""

from __future__ import annotations

from typing import Final

FORGET: Final = 150 * 10**9
"""Nanoseconds after which no call of that age is under way any more: the shim waits 120 s."""


def late_del(began: int, started: int) -> bool:
    """What is attached was asked for, at `began`, after this DEL was `started`; nanoseconds since
    boot, 0 stands for a call that does not say."""
    return 0 < started < began


class Order:
    """The DELs that were served, by the beginnings of calls as in `late_del`."""

    def __init__(self, began: int) -> None:
        """`began`: what was served before that is not known."""
        self._began = began
        self._deleted: dict[str, int] = {}

    def forgotten(self, started: int) -> bool:
        """An ADD so old that a DEL may have been served after it."""
        return 0 < started < self._began

    def late_add(self, endpoint: str, started: int) -> bool:
        """A DEL that began after this ADD has been served."""
        return 0 < started < self._deleted.get(endpoint, 0)

    def deleted(self, endpoint: str, started: int) -> None:
        """A DEL is being served: no ADD that began before it is let in any more."""
        self._deleted[endpoint] = max(started, self._deleted.pop(endpoint, 0))
        # In the order in which they came, which is about that of their beginnings.
        for key, at in tuple(self._deleted.items())[:2]:
            if at < started - FORGET:
                del self._deleted[key]
