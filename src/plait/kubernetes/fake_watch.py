"""One watch at a fake API server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress

import msgspec
from aiohttp import web

from plait.kubernetes.fake_faults import WatchFault
from plait.kubernetes.fake_store import Compacted, Entry, FakeStore, Json, Storage
from plait.kubernetes.kinds import Resource


class _Ended(Exception):
    """The stream goes no further."""


class Watcher:
    """Tells one client of what changes after a revision; None: of all that there is, first."""

    def __init__(
        self,
        store: FakeStore,
        resource: Resource,
        storage: Storage,
        picks: Callable[[Json], bool],
        form: Callable[[Json], Json],
        revision: int | None,
        *,
        bookmarks: bool,
        fault: WatchFault | None,
    ) -> None:
        self.resource = resource
        self._store = store
        self._storage = storage
        self._picks = picks
        self._form = form
        self._revision = revision
        self._bookmarks = bookmarks
        self._fault = fault
        self._told = 0
        self._news = asyncio.Event()
        self._bookmark_due = self._expired = self._over = False
        self._transport: asyncio.Transport | None = None

    def wake(self) -> None:
        """Something changed."""
        self._news.set()

    def bookmark(self) -> None:
        """Tell the client how far it has come."""
        self._bookmark_due = True
        self._news.set()

    def expire(self) -> None:
        """Tell the client that its version is too old, and end."""
        self._expired = True
        self._news.set()

    def end(self) -> None:
        """End as if the watch's time were over."""
        self._over = True
        self._news.set()

    def drop(self) -> None:
        """Break the connection."""
        self._over = True
        if self._transport is not None:
            self._transport.abort()
        self._news.set()

    async def run(self, request: web.Request, seconds: float | None) -> web.StreamResponse:
        """Tell until the time is over, the client goes, or a fault ends it."""
        self._transport = request.transport
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        with suppress(_Ended, ConnectionResetError):
            await response.prepare(request)
            try:
                async with asyncio.timeout(seconds):
                    await self._follow(response)
            except TimeoutError:
                if self._bookmarks:
                    await response.write(self._line("BOOKMARK", self._at(self._store.revision)))
        return response

    async def _follow(self, response: web.StreamResponse) -> None:
        if self._revision is None:
            self._revision = self._store.revision
            for obj in self._store.list(self._storage):
                if self._picks(obj):
                    await self._tell(response, "ADDED", obj)
        await self._misbehave(response, b"")
        while True:
            self._news.clear()
            try:
                entries = list(self._store.since(self._storage, self._revision))
            except Compacted:
                self._expired, entries = True, []
            for entry in entries:
                for kind, obj in self._events(entry):
                    await self._tell(response, kind, obj)
                self._revision = entry.revision
            if self._expired:
                await response.write(_error(410, "Expired", "too old resource version"))
                raise _Ended
            if self._over:
                raise _Ended
            self._revision = self._store.revision
            if self._bookmark_due and self._bookmarks:
                await response.write(self._line("BOOKMARK", self._at(self._revision)))
            self._bookmark_due = False
            await self._news.wait()

    def _events(self, entry: Entry) -> Iterator[tuple[str, Json]]:
        """What a change is for a client that sees only what its selectors pick."""
        before = entry.old is not None and self._picks(entry.old)
        after = entry.new is not None and self._picks(entry.new)
        if after and entry.new is not None:
            yield "MODIFIED" if before else "ADDED", entry.new
        elif before:
            last = entry.old if entry.new is None else entry.new
            assert last is not None
            version = str(entry.revision)
            yield "DELETED", {**last, "metadata": {**last["metadata"], "resourceVersion": version}}

    async def _tell(self, response: web.StreamResponse, kind: str, obj: Json) -> None:
        line = self._line(kind, self._form(obj))
        await self._misbehave(response, line)
        await response.write(line)
        self._told += 1
        await self._misbehave(response, b"")

    async def _misbehave(self, response: web.StreamResponse, line: bytes) -> None:
        """Let the fault happen when it is due; `line` would come next."""
        fault = self._fault
        if fault is None or self._told < fault.after:
            return
        match fault.how:
            case "mid-line":
                if not line:
                    return
                await response.write(line[: len(line) // 2])
                self.drop()
            case "reset":
                self.drop()
            case "garbage":
                await response.write(b'{"type":"ADDED","object":{\n')
            case "gone":
                await response.write(_error(410, "Expired", "too old resource version"))
            case "error":
                await response.write(_error(500, "InternalError", "etcd event received"))
            case "silence":
                while not self._over:
                    self._news.clear()
                    await self._news.wait()
            case "end":
                pass
        raise _Ended

    def _at(self, revision: int) -> Json:
        return self._form({"metadata": {"resourceVersion": str(revision)}})

    def _line(self, kind: str, obj: Json) -> bytes:
        return msgspec.json.encode({"type": kind, "object": obj}) + b"\n"


def status_body(code: int, reason: str, message: str) -> Json:
    """meta/v1 Status of a failure."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


def _error(code: int, reason: str, message: str) -> bytes:
    body = {"type": "ERROR", "object": status_body(code, reason, message)}
    return msgspec.json.encode(body) + b"\n"
