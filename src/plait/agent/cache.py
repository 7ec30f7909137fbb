"""The last snapshot on disk, so that an agent can start while the server is away (P4).

A copy now and then, and a trail of what was learnt since, written before the kernel follows it:
an agent that was killed starts with the rules that the kernel has, never with those of a copy
that is some seconds older and may be more open (P5).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from plait.client.kept import DELETE, PUT, SUFFIX, Kept, load
from plait.model.objects import AnyObject

__all__ = ["Kept", "Trail", "load", "save"]

_encode: Final = msgspec.json.Encoder().encode

log: Final = structlog.get_logger("plait.agent.cache")


def save(path: Path, objects: Iterable[AnyObject], revision: int) -> None:
    """Replace the file (mode 0600) atomically. Raises OSError; the old file stays then.

    It takes tens of milliseconds with thousands of objects. They are encoded one by one, so that
    in a thread of its own it leaves the interpreter to others in between, and takes no memory to
    speak of.
    """
    fresh = path.with_suffix(".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(b'{"revision":%d,"objects":[' % revision)
            for number, one in enumerate(objects):
                file.write(b"," if number else b"")
                file.write(_encode(one))
            file.write(b"]}")
            file.flush()
            os.fdatasync(file.fileno())
        fresh.rename(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


class Trail:
    """What the snapshot learns, in order: it follows it (agent.snapshot.Follower).

    Not flushed to the disk: it must outlive the process, not the kernel, whose rules are gone
    too when the host goes down.
    """

    def __init__(self, copy: Path) -> None:
        """`copy` is the file that `save` writes."""
        self._path = copy.with_suffix(SUFFIX)
        self._copy = copy
        self._fd = -1
        self.size = 0
        """Bytes."""

    def open(self) -> None:
        """Begin to write; what is learnt before is not."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        if not self._copy.exists():
            flags |= os.O_TRUNC
        try:
            self._fd = os.open(self._path, flags, 0o600)
            self.size = os.fstat(self._fd).st_size
        except OSError as error:
            self._failed(error)

    def put(self, obj: AnyObject) -> None:
        """See Follower."""
        self._write(PUT, obj)

    def delete(self, obj: AnyObject) -> None:
        """See Follower."""
        self._write(DELETE, obj)

    def drop(self, size: int) -> None:
        """The first bytes are in the copy now."""
        if self._fd < 0:
            self.open()  # A disk that was full may have room again, and the copy is new.
            return
        fresh = self._path.with_name(self._path.name + ".new")
        try:
            fresh.write_bytes(self._path.read_bytes()[size:])
            fresh.chmod(0o600)
            fresh.rename(self._path)
        except OSError as error:
            # A trail that is too long leads to the same state.
            log.warning("what is learnt cannot be shortened", error=str(error))
            fresh.unlink(missing_ok=True)
            return
        self.close()
        self.open()

    def close(self) -> None:
        """Release the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, mark: bytes, obj: AnyObject) -> None:
        if self._fd < 0:
            return
        line = mark + _encode(obj) + b"\n"
        try:
            if os.write(self._fd, line) != len(line):
                raise OSError("only a part was written")
        except OSError as error:
            self._failed(error)
        else:
            self.size += len(line)

    def _failed(self, error: OSError) -> None:
        """Half a trail leads to a state that never was: rather none, until the next copy."""
        log.error("what is learnt cannot be kept beside the snapshot", error=str(error))
        self.close()
        self._path.unlink(missing_ok=True)
        self.size = 0
