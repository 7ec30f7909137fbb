"""What an agent keeps on disk of the network: for itself when it starts, and for a command line
that is asked while the server is away. `plait.agent.cache` writes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from plait.model.objects import AnyObject

SUFFIX: Final = ".trail"
"""Of the file of what was learnt after the copy, a line each: a mark and an object."""
PUT: Final = b"+"
DELETE: Final = b"-"
_decode: Final = msgspec.json.Decoder(AnyObject).decode


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """Content of the file."""

    revision: int
    objects: tuple[AnyObject, ...]


def load(path: Path) -> Kept | None:
    """What was saved last, and learnt after that; None if there is none or it cannot be read (the
    server has it all)."""
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=Kept)
    except (OSError, msgspec.DecodeError):
        return None
    objects = {obj.key: obj for obj in kept.objects}
    revision = kept.revision
    # The first entries may be older than the copy: after the last one of an object all the same.
    for mark, obj in _learnt(path.with_suffix(SUFFIX)):
        if mark == PUT:
            objects[obj.key] = obj
            revision = max(revision, obj.metadata.revision)
        elif mark == DELETE:
            objects.pop(obj.key, None)
    return Kept(revision=revision, objects=tuple(objects.values()))


def _learnt(path: Path) -> Iterator[tuple[bytes, AnyObject]]:
    """Entries of a trail, up to one that a crash has torn."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return
    # What follows the last end of a line was not written whole.
    for line in lines[:-1]:
        try:
            yield line[:1], _decode(line[1:])
        except msgspec.DecodeError:
            return
