"""The watch stream: newline-delimited JSON (https://github.com/ndjson/ndjson-spec), sans IO.

One line is one `WatchEvent`. The server encodes an event once, whatever the number of watchers:
`put_line` and `delete_line` wrap an object that is JSON already.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from plait.model.objects import AnyObject

CONTENT_TYPE: Final = "application/x-ndjson"

MAX_LINE: Final = 2 * 1024 * 1024
"""Bytes of the longest line that a reader accepts: a value of the store and its frame."""


class WatchEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step of a watch (P3).

    A stream begins, and begins again after each `resync`, with `begin`, then a `put` for every
    object there is, then `synced`: what was not named between the two does not exist. After
    that, `put` and `delete` in revision order, and `bookmark`s that only carry a revision.
    `disconnected` is made by the client: the last state stays good, a reconnection follows. Each
    other reason for which that fails is told by another one.
    """

    type: Literal["begin", "put", "delete", "synced", "bookmark", "resync", "disconnected"]
    revision: int = 0
    object: AnyObject | None = None
    """The object; for `delete`, the last one known, with its metadata at least."""
    reason: str = ""


class StreamError(ValueError):
    """The bytes are not a watch stream."""


_encode = msgspec.json.Encoder().encode


def put_line(revision: int, body: bytes) -> bytes:
    """Line of a `put` of an object that is encoded already."""
    return b'{"type":"put","revision":%d,"object":%b}\n' % (revision, body)


def delete_line(revision: int, body: bytes) -> bytes:
    """Line of a `delete` of an object that is encoded already."""
    return b'{"type":"delete","revision":%d,"object":%b}\n' % (revision, body)


def mark_line(
    kind: Literal["begin", "synced", "bookmark", "resync"], revision: int, reason: str = ""
) -> bytes:
    """Line of an event that carries no object."""
    return _encode(WatchEvent(type=kind, revision=revision, reason=reason)) + b"\n"


class WatchDecoder:
    """Cuts bytes, as they come, into events.

    `feed` raises `StreamError` for a line that is no event or is longer than `MAX_LINE`; the
    decoder must not be used after that.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._decode = msgspec.json.Decoder(WatchEvent).decode

    def feed(self, data: bytes) -> list[WatchEvent]:
        """Events that are complete now."""
        rest = self._rest
        rest += data
        end = rest.rfind(b"\n")
        if end < 0:
            if len(rest) > MAX_LINE:
                raise StreamError(f"a line is longer than {MAX_LINE} bytes")
            return []
        lines = bytes(rest[:end]).split(b"\n")
        del rest[: end + 1]
        try:
            return [self._decode(line) for line in lines if line]
        except (msgspec.MsgspecError, RecursionError) as error:
            raise StreamError(f"a line is not a watch event: {error}") from error


class Cursor:
    """Where a reader of watch streams stands, across reconnections. Pure.

    A stream may break between two events of one revision. The cursor then resumes after the
    last revision that was complete, and holds back the events that came already: nothing is
    skipped, nothing repeated.
    """

    def __init__(self) -> None:
        self.after = 0
        """Resume after this revision; 0 begins anew."""
        self._loading = False
        self._current = self._seen = 0
        """Revision that comes in just now, and how many of its events came."""
        self._again = (0, 0)
        """The same of the stream before: these come once more."""

    def reconnect(self) -> int:
        """A new stream begins; the revision to ask for, 0 for a snapshot."""
        if self._loading:
            self._begin()
            self._loading = False
        elif self._current:
            revision, count = self._again
            had = count if revision == self._current else 0
            self._again = (self._current, max(self._seen, had))
        self._current = self._seen = 0
        return self.after

    def accept(self, event: WatchEvent) -> bool:
        """Take note of an event; False when the reader has had it."""
        if event.type in ("begin", "resync"):
            self._begin()
            self._loading = True
        elif event.type in ("synced", "bookmark"):
            self.after, self._current, self._seen = event.revision, 0, 0
            self._loading = False
        elif event.type in ("put", "delete") and not self._loading:
            if event.revision != self._current:
                self.after = self._current or self.after
                self._current, self._seen = event.revision, 0
            self._seen += 1
            revision, count = self._again
            return event.revision != revision or self._seen > count
        return True

    def _begin(self) -> None:
        self.after = self._current = self._seen = 0
        self._again = (0, 0)
