"""Make stored objects equal to given ones: decide for each, then write all in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from plait.client.base import Api, BatchOp
from plait.model.errors import PlaitError
from plait.model.objects import AnyObject

FILLED: Final = {"Cluster": ("pools",), "Network": ("pools", "gateways")}
"""Fields of a spec that the server fills in when they are left empty."""

Outcome = list[tuple[AnyObject, str]]
"""Objects, and `created`, `changed` or `unchanged` for each."""


def merged(wanted: AnyObject, stored: AnyObject) -> AnyObject:
    """The stored object with the user's part of the wanted one.

    Spec, labels and annotations are the user's; what the server and the agents wrote stays, and
    so does what the server filled in.
    """
    filled = {
        field: getattr(stored.spec, field)
        for field in FILLED.get(wanted.kind, ())
        if getattr(wanted.spec, field) == ()
    }
    metadata = msgspec.structs.replace(
        stored.metadata,
        labels=wanted.metadata.labels,
        annotations=wanted.metadata.annotations,
    )
    spec = msgspec.structs.replace(wanted.spec, **filled) if filled else wanted.spec
    return msgspec.structs.replace(stored, metadata=metadata, spec=spec)


async def apply_all(client: Api, objects: Sequence[AnyObject], *, dry_run: bool) -> Outcome:
    """Create what is missing and change what differs, all or nothing."""
    ops: list[BatchOp] = []
    outcome: Outcome = []
    before: dict[str, AnyObject] = {}
    for obj in objects:
        meta = obj.metadata
        try:
            stored = await client.get(type(obj), meta.name, meta.namespace)
        except PlaitError as error:
            if error.code != "PLAIT-API-004":
                raise
            fresh = msgspec.structs.replace(
                obj, metadata=msgspec.structs.replace(meta, revision=0, uid="", created_at="")
            )
            ops.append(BatchOp(verb="create", object=fresh))
            outcome.append((fresh, "created"))
            continue
        final = merged(obj, stored)
        if final == stored:
            outcome.append((stored, "unchanged"))
            continue
        before[final.key] = stored
        ops.append(BatchOp(verb="update", object=final))
        outcome.append((final, "changed"))
    if dry_run:
        found = [
            await (client.create if op.verb == "create" else client.update)(op.object, dry_run=True)
            for op in ops
        ]
    else:
        found = list(await client.batch(ops)) if ops else []
    now = {obj.key: obj for obj in found}
    return [
        (now.get(obj.key, obj), _result(result, before.get(obj.key), now.get(obj.key)))
        for obj, result in outcome
    ]


def _result(result: str, before: AnyObject | None, after: AnyObject | None) -> str:
    """`unchanged` where what differed is what the server fills in again, as addresses are."""
    same = before is not None and after is not None and _written(before) == _written(after)
    return "unchanged" if same else result


def _written(obj: AnyObject) -> tuple[object, ...]:
    return (obj.spec, obj.metadata.labels, obj.metadata.annotations)
