"""Noticing at once that somebody else changed our kernel objects (P6).

A watcher is a readable descriptor and a question: does what arrived concern us?
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from plait.kernel.netlink import Event, Subscription


class Watcher(Protocol):
    """`kernel.nft.NftMonitor` is one; `RtnetlinkWatcher` the other."""

    def fileno(self) -> int:
        """For the event loop's `add_reader`."""

    def drain(self) -> bool:
        """Read all that arrived; True when an object of ours may have been changed."""

    def close(self) -> None:
        """Stop."""


class Noticing(Protocol):
    """A programmer that can tell other people's changes from its own."""

    def notice(self, events: Sequence[Event]) -> bool:
        """An event contradicts what the programmer knows."""


class RtnetlinkWatcher:
    """Asks the programmers about each batch of rtnetlink notifications."""

    def __init__(self, subscription: Subscription, programmers: Sequence[Any]) -> None:
        """Of `programmers`, those that have `notice` are asked."""
        self._subscription = subscription
        self._asked: list[Noticing] = [p for p in programmers if hasattr(p, "notice")]

    def fileno(self) -> int:
        """See Watcher."""
        return self._subscription.fileno()

    def drain(self) -> bool:
        """See Watcher."""
        events = self._subscription.read()
        return bool(events) and any(programmer.notice(events) for programmer in self._asked)

    def close(self) -> None:
        """See Watcher."""
        self._subscription.close()
