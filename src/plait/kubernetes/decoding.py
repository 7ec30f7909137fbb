"""Pages of lists and events of watches, from bytes to objects. Pure.

An object that does not have the form of its kind is told by its key and spoils nothing else. What
is no page or no event at all is a msgspec error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, Literal, NamedTuple

import msgspec

from plait.kubernetes.kinds import T
from plait.kubernetes.objects import Metadata, Part
from plait.kubernetes.refusals import Status
from plait.kubernetes.replica import Key


class ListMetadata(Part, frozen=True, kw_only=True):
    """meta/v1 ListMeta."""

    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")
    """Token of the next page; empty on the last."""


class _Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    metadata: ListMetadata
    items: list[T] | None = None


class _RawPage(msgspec.Struct, frozen=True, kw_only=True):
    items: list[msgspec.Raw] | None = None


class _Bare(Part, frozen=True, kw_only=True):
    """What every object has, whatever it is."""

    metadata: Metadata


class _Frame(msgspec.Struct, frozen=True, kw_only=True):
    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]
    object: msgspec.Raw


class Bad(NamedTuple):
    """An object that is not understood."""

    key: Key
    reason: str


class Page(NamedTuple, Generic[T]):
    """Some of the objects of a list."""

    version: str
    token: str
    """Of the next page; empty on the last."""
    objects: list[T]
    bad: list[Bad]


class Put(NamedTuple, Generic[T]):
    """An object is as it is here."""

    version: str
    object: T


class Gone(NamedTuple):
    """An object is there no more, or the selector does not mean it any more."""

    version: str
    key: Key


class Bookmark(NamedTuple):
    """Nothing happened up to this version."""

    version: str


class Quarantine(NamedTuple):
    """An object changed to something that is not understood."""

    version: str
    bad: Bad


Event = Put[T] | Gone | Bookmark | Quarantine | Status


class ObjectDecoder(Generic[T]):
    """Decodes lists and watches of one kind."""

    def __init__(self, kind: type[T]) -> None:
        self._page: Callable[[bytes], _Page[T]] = msgspec.json.Decoder(_Page[kind]).decode  # type: ignore[valid-type]
        self._object: Callable[[Any], T] = msgspec.json.Decoder(kind).decode

    def page(self, data: bytes) -> Page[T]:
        """A page of a list."""
        try:
            page = self._page(data)
        except msgspec.ValidationError:
            return self._page_one_by_one(data)
        return Page(page.metadata.resource_version, page.metadata.continue_, page.items or [], [])

    def _page_one_by_one(self, data: bytes) -> Page[T]:
        head = _head(data).metadata
        objects: list[T] = []
        bad: list[Bad] = []
        for raw in _raw_page(data).items or ():
            try:
                objects.append(self._object(raw))
            except msgspec.ValidationError as error:
                bad.append(Bad(_bare(raw).metadata.key, str(error)))
        return Page(head.resource_version, head.continue_, objects, bad)

    def event(self, line: bytes) -> Event[T]:
        """A line of a watch; a `Status` is the server's reason to end it."""
        frame = _frame(line)
        if frame.type == "ERROR":
            return _status(frame.object)
        if frame.type in ("ADDED", "MODIFIED"):
            try:
                found = self._object(frame.object)
            except msgspec.ValidationError as error:
                meta = _bare(frame.object).metadata
                return Quarantine(meta.resource_version, Bad(meta.key, str(error)))
            return Put(found.metadata.resource_version, found)
        meta = _bare(frame.object).metadata
        if frame.type == "DELETED":
            return Gone(meta.resource_version, meta.key)
        return Bookmark(meta.resource_version)


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    metadata: ListMetadata


_head: Final = msgspec.json.Decoder(_Head).decode
_raw_page: Final = msgspec.json.Decoder(_RawPage).decode
_bare: Final = msgspec.json.Decoder(_Bare).decode
_frame: Final = msgspec.json.Decoder(_Frame).decode
_status: Final = msgspec.json.Decoder(Status).decode
