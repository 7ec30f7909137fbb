"""What a client may ask of the server, as one Protocol; `api.ApiClient` is the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Literal, Protocol, TypeVar

import msgspec

from plait.model.objects import AnyObject, Object
from plait.wire.watch import WatchEvent

__all__ = ["Api", "BatchOp", "T", "WatchEvent"]

T = TypeVar("T", bound=Object)


class BatchOp(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step of an atomic batch.

    `create` fails if the object exists. `update` with a revision of 0 writes over whatever is
    there and creates what is not; with a revision it is a compare-and-swap. `delete` uses the
    revision of `object.metadata`, 0 meaning any.
    """

    verb: Literal["create", "update", "delete"]
    object: AnyObject


class Api(Protocol):
    """The verbs of the REST API. Refusals are `PlaitError`; PLAIT-API-012 when out of reach."""

    async def get(self, kind: type[T], name: str, namespace: str = "") -> T:
        """One object; PLAIT-API-004 when there is none."""

    async def list(self, kind: type[T], namespace: str = "") -> tuple[T, ...]:
        """All objects of a kind, of one namespace or of all."""

    async def create(self, obj: T, *, dry_run: bool = False) -> T:
        """Store a new object and return it as stored; `dry_run` validates only."""

    async def update(self, obj: T, *, dry_run: bool = False) -> T:
        """Write an object; a non-zero revision must still be current (PLAIT-API-006)."""

    async def delete(
        self,
        kind: type[Object],
        name: str,
        namespace: str = "",
        *,
        revision: int = 0,
        dry_run: bool = False,
    ) -> None:
        """Remove an object; PLAIT-API-004 when there is none."""

    async def batch(self, ops: Sequence[BatchOp]) -> tuple[AnyObject, ...]:
        """All steps or none, in one revision; the objects as stored."""

    def watch(self, kinds: Sequence[type[Object]]) -> AsyncIterator[WatchEvent]:
        """Follow kinds for ever, reconnecting with jittered backoff, resuming where possible.

        Raises only PLAIT-AUTH-007: to a node that was forgotten no server will answer.
        """

    async def close(self) -> None:
        """Release connections."""
