"""Fan-out of changes to watchers.

An event is encoded once; watchers of the same kinds share one chunk of bytes, which goes
straight to each transport. Nobody waits for a slow watcher: when its buffer is full it is cut,
and resumes from the revision that it knows, or begins anew (P3).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from plait.model.objects import KINDS, Object
from plait.server.authorize import Actor
from plait.server.clock import Clock
from plait.server.mirror import Change
from plait.server.state import State
from plait.wire import watch

Kinds = frozenset[type[Object]]

BUFFER: Final = 1 << 20
"""Bytes that may wait for one watcher, in its transport or while it reads its snapshot."""
HISTORY_EVENTS: Final = 20_000
HISTORY_BYTES: Final = 16 << 20
"""What is kept for watchers that resume."""


class Watcher:
    """One stream. While `backlog` is a list it reads its snapshot, and events wait there."""

    __slots__ = ("actor", "backlog", "kinds", "transport", "waiting")

    def __init__(self, actor: Actor, kinds: Kinds, transport: asyncio.WriteTransport) -> None:
        self.actor = actor
        self.kinds = kinds
        self.transport = transport
        self.backlog: list[bytes] | None = []
        self.waiting = 0
        """Bytes in the backlog."""


class _Group:
    """Watchers of the same kinds, and the lines of this turn of the loop."""

    __slots__ = ("kinds", "lines", "watchers")

    def __init__(self, kinds: Kinds) -> None:
        self.kinds = kinds
        self.watchers: set[Watcher] = set()
        self.lines: list[bytes] = []


class Hub:
    """All watchers, and the recent past."""

    def __init__(
        self,
        clock: Clock,
        *,
        bookmark_every: float = 5.0,
        history_events: int = HISTORY_EVENTS,
        history_bytes: int = HISTORY_BYTES,
    ) -> None:
        self.cut = 0
        """Watchers cut for being slow."""
        self.revision = 0
        self.history = ""
        """Id of the store's history."""
        self._clock = clock
        self._bookmark_every = bookmark_every
        self._groups: dict[Kinds, _Group] = {}
        self._past: deque[Change] = deque()
        self._past_bytes = 0
        self._past_limits = (history_events, history_bytes)
        self._floor = 0
        self._flushing = False
        self._bookmarks: asyncio.Task[None] | None = None

    @property
    def watchers(self) -> int:
        """How many there are."""
        return sum(len(group.watchers) for group in self._groups.values())

    def watched_by(self, name: str, role: str = "node") -> bool:
        """Whether a node, or the bearer of a token of that id and role, follows just now."""
        return any(
            watcher.actor.role == role and watcher.actor.name == name
            for group in self._groups.values()
            for watcher in group.watchers
        )

    async def start(self) -> None:
        """Begin to send bookmarks."""
        self._bookmarks = asyncio.create_task(self._bookmark_for_ever(), name="server.bookmarks")

    async def stop(self) -> None:
        """Cut everybody."""
        if self._bookmarks is not None:
            self._bookmarks.cancel()
            await asyncio.gather(self._bookmarks, return_exceptions=True)
        self.cut_all()

    # From the mirror

    def reset(self, revision: int) -> None:
        """History before this revision is gone."""
        self._past.clear()
        self._past_bytes = 0
        self._floor = self.revision = revision
        self.cut_all()

    def remember(self, revision: int, changes: Sequence[Change]) -> None:
        """Changes from before the start, for those who resume."""
        for change in changes:
            self._keep(change)
        self.revision = revision

    def publish(self, revision: int, changes: Sequence[Change]) -> None:
        """Send one revision's changes to whom they concern."""
        for change in changes:
            self._keep(change)
            for group in self._groups.values():
                if change.kind in group.kinds:
                    group.lines.append(change.line)
        self.revision = revision
        if changes and not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self.flush)

    def _keep(self, change: Change) -> None:
        self._past.append(change)
        self._past_bytes += len(change.line)
        events, size = self._past_limits
        while len(self._past) > events or self._past_bytes > size:
            gone = self._past.popleft()
            self._floor = gone.revision
            self._past_bytes -= len(gone.line)

    # Fan-out

    def flush(self) -> None:
        """Send what waits."""
        self._flushing = False
        for group in list(self._groups.values()):
            if group.lines:
                data = b"".join(group.lines)
                group.lines = []
                self._send(group, data)

    def _send(self, group: _Group, data: bytes) -> None:
        chunk = chunked(data)
        slow = []
        for watcher in group.watchers:
            if watcher.backlog is not None:
                watcher.backlog.append(chunk)
                watcher.waiting += len(chunk)
                if watcher.waiting > BUFFER:
                    slow.append(watcher)
            elif watcher.transport.get_write_buffer_size() > BUFFER:
                slow.append(watcher)
            else:
                watcher.transport.write(chunk)
        for watcher in slow:
            self.cut += 1
            self._abort(watcher)

    def _abort(self, watcher: Watcher) -> None:
        watcher.transport.abort()
        self.leave(watcher)

    def cut_all(self, node: str | None = None) -> None:
        """Cut everybody, or the watchers of one node."""
        for group in list(self._groups.values()):
            for watcher in list(group.watchers):
                if node is None or (watcher.actor.role == "node" and watcher.actor.name == node):
                    self._abort(watcher)

    # Watchers

    def join(
        self,
        watcher: Watcher,
        state: State,
        after: int,
        history: str,
    ) -> list[bytes]:
        """Register a watcher; the lines that bring it to the present.

        Nothing may be awaited between this and the watcher's registration: it is one step, so
        no event is missed and none comes twice.
        """
        self.flush()  # What waits is older than the registration, and in the lines below.
        group = self._groups.get(watcher.kinds)
        if group is None:
            group = self._groups[watcher.kinds] = _Group(watcher.kinds)
        group.watchers.add(watcher)
        why = self._cannot_resume(after, history) if after else ""
        if after and not why:
            lines = [
                change.line
                for change in self._past
                if change.revision > after and change.kind in watcher.kinds
            ]
            return [*lines, watch.mark_line("bookmark", self.revision)]
        lines = [watch.mark_line("resync", self.revision, why)] if why else []
        lines.append(watch.mark_line("begin", self.revision))
        for kind in KINDS.values():  # What is referred to stands before what refers to it.
            if kind in watcher.kinds:
                entries, _ = state.page(kind)
                lines += [entry.line for entry in entries]
        lines.append(watch.mark_line("synced", self.revision))
        return lines

    def caught_up(self, watcher: Watcher) -> None:
        """The snapshot is written: send what happened meanwhile, then follow directly."""
        backlog, watcher.backlog = watcher.backlog, None
        watcher.waiting = 0
        if backlog and not watcher.transport.is_closing():
            watcher.transport.write(b"".join(backlog))

    def leave(self, watcher: Watcher) -> None:
        """Forget a watcher; no error if it is gone."""
        group = self._groups.get(watcher.kinds)
        if group is not None:
            group.watchers.discard(watcher)
            if not group.watchers:
                del self._groups[watcher.kinds]

    def _cannot_resume(self, after: int, history: str) -> str:
        if history != self.history:
            return "the store's history is another: a backup was restored"
        if after > self.revision:
            return f"revision {after} is not reached; the store is at {self.revision}"
        if after < self._floor:
            return f"history before revision {self._floor} is gone"
        return ""

    async def _bookmark_for_ever(self) -> None:
        while True:
            await self._clock.sleep(self._bookmark_every)
            self.bookmark()

    def bookmark(self) -> None:
        """Tell everybody the revision; cut whose credential has ended."""
        self.flush()
        now = self._clock.now()
        line = watch.mark_line("bookmark", self.revision)
        for group in list(self._groups.values()):
            for watcher in list(group.watchers):
                if watcher.actor.expires and watcher.actor.expires < now:
                    self._abort(watcher)
            self._send(group, line)


def chunked(data: bytes) -> bytes:
    """One chunk of a chunked body (RFC 9112 section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)
