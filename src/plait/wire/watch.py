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
    `disconnected` is made by the client: the last state stays good, a reconnection follows.
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
