"""An append-only file of records, one JSON text a line: what the agent must remember of itself.

A record is written with one `write(2)` on a descriptor opened with O_APPEND: it is in the page
cache when `append` returns, so it survives kill -9 of the agent. It is not fsynced: no endpoint
survives the loss of power, so neither need its record (a boot identity in the first record tells
the two cases apart). What other nodes rely on is (`durable`). A torn last line, which only power
loss or a full disk can leave, is cut off; a damaged line in the middle is passed over and counted.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from plait.client.files import sync_directory
from plait.model.errors import PlaitError

SLACK: Final = 1000
"""Lines beyond four times the live records at which the file is rewritten."""

Record = dict[str, Any]


class Journal:
    """The file. Not for several processes, nor for several threads."""

    def __init__(self, path: Path, live: Callable[[], Iterable[Record]]) -> None:
        """`live` gives the records that describe the present state, for compaction."""
        self._path = path
        self._live = live
        self._fd = -1
        self._lines = 0
        self._keep = 0
        self.damaged = 0
        """Lines that could not be read when the journal was opened."""

    @property
    def lines(self) -> int:
        """Records in the file."""
        return self._lines

    def open(self) -> list[Record]:
        """Open, make if absent (mode 0600), and return the records in the order written."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = not self._path.exists()
        self._fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.fchmod(self._fd, 0o600)
        if new:
            # What is durable must be found again.
            sync_directory(self._path.parent)
        data = self._path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            os.ftruncate(self._fd, whole)
            self.damaged += 1
        records: list[Record] = []
        decode = msgspec.json.Decoder(Record).decode
        for line in data[:whole].splitlines():
            try:
                records.append(decode(line))
            except msgspec.DecodeError:
                self.damaged += 1
        self._lines = len(records)
        return records

    def append(
        self, *records: Record, after: Callable[[], None] = lambda: None, durable: bool = False
    ) -> None:
        """Add records, all or none, then call `after`, which brings the live state up to date
        with them; PLAIT-STORE-001 when the disk is full. `durable` records survive the loss of
        power."""
        data = b"".join(msgspec.json.encode(record) + b"\n" for record in records)
        size = os.fstat(self._fd).st_size
        try:
            written = os.write(self._fd, data)
            if written != len(data):
                raise OSError(28, "short write")
            if durable:
                os.fdatasync(self._fd)
        except OSError as error:
            os.ftruncate(self._fd, size)
            raise PlaitError(
                "PLAIT-STORE-001",
                f"the agent's journal cannot be written: {error.strerror}",
                where=str(self._path),
                fix=(f"df -h {self._path.parent}   # make room, then try again",),
            ) from error
        self._lines += len(records)
        after()
        if self._lines > 4 * self._keep + SLACK:
            self.compact()

    def compact(self) -> None:
        """Write the live records to a new file and put it in the place of the old one."""
        records = list(self._live())
        fresh = self._path.with_suffix(".new")
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        fd = -1
        try:
            fd = os.open(fresh, flags, 0o600)
            data = b"".join(msgspec.json.encode(record) + b"\n" for record in records)
            if os.write(fd, data) != len(data):
                raise OSError(28, "short write")
            # The rename must not reach the disk before the bytes do.
            os.fdatasync(fd)
            fresh.rename(self._path)
        except OSError:
            # A full disk: the old file is complete, so go on with it and try again later.
            if fd >= 0:
                os.close(fd)
                fresh.unlink(missing_ok=True)
            self._keep = self._lines
            return
        os.close(self._fd)
        self._fd = fd
        self._lines = self._keep = len(records)
        with contextlib.suppress(OSError):
            # Else what is durable from now on could be in a file that nothing leads to.
            sync_directory(self._path.parent)

    def close(self) -> None:
        """Release the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
