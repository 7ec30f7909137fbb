"""DELs that the shim kept on disk while no agent answered, each once however often it came.

The file is what the shim would have sent, the boot before it. It appears whole, by a rename; names
that begin with a dot are being written.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from plait.wire.cni.call import Call, parse
from plait.wire.cni.errors import CniError

STALE: Final = 600.0
"""Seconds after which a file that is being written has been given up: its shim was killed."""
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

    def __init__(
        self, directory: Path, boot: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        """`boot` is the kernel's boot id: of an earlier boot nothing is left to delete. `clock`
        gives Unix time in seconds."""
        self._directory = directory
        self._boot = boot
        self._clock = clock

    def calls(self) -> Iterator[KeptCall]:
        """What is there now. What belongs to another boot, cannot be read, or was never finished
        is removed."""
        for path in self._files(".*"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < self._clock() - STALE:
                    path.unlink()
        for path in self._files():
            try:
                with path.open("rb") as file:
                    inode = os.fstat(file.fileno()).st_ino
                    body = file.read(MAX_SIZE)
            except OSError as error:
                log.error("a kept DEL cannot be read", file=path.name, error=str(error))
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
        except OSError as error:
            log.error("a kept DEL cannot be removed", file=kept.path.name, error=str(error))

    def count(self) -> int:
        """How many wait."""
        return len(self._files())

    def _files(self, pattern: str = "[!.]*") -> list[Path]:
        try:
            return sorted(self._directory.glob(pattern))
        except OSError as error:
            log.error("kept DELs cannot be read", error=str(error))
            return []
