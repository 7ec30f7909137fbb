"""A log file that never grows beyond its bounds."""

from __future__ import annotations

import os
from pathlib import Path


class RotatingLog:
    """Append bytes to `path`; at `limit` bytes it becomes `path.1`, and `keep` old ones stay.

    The disk holds at most `(keep + 1) * limit` bytes. A full disk loses log lines and nothing
    else: what is logged must never stop what logs.
    """

    def __init__(self, path: Path, *, limit: int = 4 << 20, keep: int = 3) -> None:
        self.path = path
        self.limit = limit
        self.keep = keep
        self._fd = -1
        self._size = 0

    def write(self, data: bytes) -> None:
        """Append; rotates first when the data would not fit."""
        try:
            if self._fd < 0:
                self._open()
            if self._size and self._size + len(data) > self.limit:
                self._rotate()
            self._size += os.write(self._fd, data)
        except OSError:
            self.close()

    def close(self) -> None:
        """Let go of the file; a later write opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._fd = os.open(self.path, flags, 0o640)
        self._size = os.fstat(self._fd).st_size

    def _rotate(self) -> None:
        self.close()
        for index in range(self.keep - 1, 0, -1):
            older = self._numbered(index)
            if older.exists():
                older.replace(self._numbered(index + 1))
        if self.keep:
            self.path.replace(self._numbered(1))
        else:
            self.path.unlink()
        self._open()

    def _numbered(self, index: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{index}")
