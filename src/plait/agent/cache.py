"""The last snapshot on disk, so that an agent can start while the server is away (P4)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from plait.model.objects import AnyObject


class Cached(msgspec.Struct, frozen=True, kw_only=True):
    """Content of the file."""

    revision: int
    objects: tuple[AnyObject, ...]


def save(path: Path, objects: Iterable[AnyObject], revision: int) -> None:
    """Replace the file (mode 0600) atomically. Raises OSError; the old file stays then.

    It takes tens of milliseconds with thousands of objects. They are encoded one by one, so that
    in a thread of its own it leaves the interpreter to others in between.
    """
    encode = msgspec.json.Encoder().encode
    data = b'{"revision":%d,"objects":[%s]}' % (revision, b",".join(map(encode, objects)))
    fresh = path.with_suffix(".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fdatasync(file.fileno())
        fresh.rename(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def load(path: Path) -> Cached | None:
    """What was saved last; None if there is none or it cannot be read (the server has it all)."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Cached)
    except (OSError, msgspec.DecodeError):
        return None
