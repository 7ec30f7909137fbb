"""DELs that the shim kept on disk while no agent answered: one file an attachment.

The file is what the shim would have sent, the boot before it. It appears whole, by a rename; names
that begin with a dot are being written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from plait.wire.cni.call import Call, parse
from plait.wire.cni.errors import CniError

MAX_SIZE: Final = 1 << 20
"""Bytes: the shim takes less than that from a runtime."""

log: Final = structlog.get_logger("plait.cni.kept")


class KeptCall(NamedTuple):
    """A file and what it says."""

    path: Path
    inode: int
    call: Call


class Kept:
    """The directory."""

    def __init__(self, directory: Path, boot: str) -> None:
        """`boot` is the kernel's boot id: of an earlier boot nothing is left to delete."""
        self._directory = directory
        self._boot = boot

    def calls(self) -> Iterator[KeptCall]:
        """What is there now. What belongs to another boot, or cannot be read, is removed."""
        for path in self._files():
            try:
                with path.open("rb") as file:
                    inode = os.fstat(file.fileno()).st_ino
                    body = file.read(MAX_SIZE)
            except FileNotFoundError:
                continue
            try:
                call = parse(body)
            except CniError as error:
                log.error("a kept DEL cannot be read", file=path.name, error=str(error))
                self.done(KeptCall(path, inode, Call(verb="DEL", version="", name="")))
                continue
            found = KeptCall(path, inode, call)
            if call.verb != "DEL" or call.boot != self._boot:
                self.done(found)
            else:
                yield found

    def done(self, kept: KeptCall) -> None:
        """It has been served: remove the file, unless it is another by now."""
        try:
            if kept.path.stat().st_ino == kept.inode:
                kept.path.unlink()
        except FileNotFoundError:
            return

    def count(self) -> int:
        """How many wait."""
        return len(self._files())

    def _files(self) -> list[Path]:
        try:
            paths = sorted(self._directory.iterdir())
        except FileNotFoundError:
            return []
        return [path for path in paths if not path.name.startswith(".")]
