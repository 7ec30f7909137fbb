"""Directories of this machine that hosts mount their own over: made for the first lab that needs
them, removed with the last.

Removing a directory takes away what other mount namespaces have mounted on it, so a lab must not
remove one on its own account while another lab runs.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from plait.lab import state

RECORD = ".mount-points"


@contextmanager
def _record(root: Path) -> Iterator[Path]:
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = root / RECORD
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield path


def ensure(root: Path, targets: Sequence[str]) -> None:
    """Make the directories that are missing, for a lab whose state below `root` is written."""
    with _record(root) as record:
        known = json.loads(record.read_text() or "[]")
        missing = [target for target in targets if not Path(target).is_dir()]
        # Written first: what is recorded and was not made is no harm.
        record.write_text(json.dumps(list(dict.fromkeys([*known, *missing]))))
        for target in missing:
            Path(target).mkdir(parents=True, exist_ok=True)


def release(root: Path) -> None:
    """Remove what `ensure` made, as far as it is empty, unless there is still a lab."""
    with _record(root) as record:
        if state.names(root):
            return
        for target in json.loads(record.read_text() or "[]"):
            # Not empty: somebody uses it by now.
            with suppress(OSError):
                Path(target).rmdir()
        record.unlink()
    with suppress(OSError):
        root.rmdir()
