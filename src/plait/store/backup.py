"""Backup and restore of the SQLite store: complete files, put in place by rename(2)."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from plait.model.errors import PlaitError
from plait.store.sqlite_file import (
    StoreFile,
    check,
    locked,
    read,
    sync_directory,
    transaction,
    translated,
)

REVISION_JUMP: Final = 1_000_000_000
"""A restored store goes on this far beyond every revision that was ever seen, and without history,
so that no watcher resumes in a past that no longer is (etcdutl `--bump-revision
--mark-compacted`)."""


def write_backup(source: StoreFile, path: Path) -> None:
    """Write a copy of the durable state to `path`, mode 0600; an older file is replaced."""
    with _replacing(path) as copy:
        source.copy_to(copy)


def restore(backup_path: Path, store_path: Path) -> int:
    """Replace the store at `store_path` by a backup and return the revision it goes on from.

    Refused while a process has the store open (PLAIT-STORE-006) and when the backup is damaged
    or no backup (PLAIT-STORE-002); the store is untouched then. A store that is damaged itself
    is replaced all the same.
    """
    with locked(store_path):
        with contextlib.closing(_open_backup(backup_path)) as backup, translated(backup_path):
            check(backup, backup_path, thorough=True)
            seen = max(read(backup).revision, _retire(store_path))
            with _replacing(store_path) as copy:
                backup.backup(copy)
                _leave_the_past(copy, seen + REVISION_JUMP)
        return seen + REVISION_JUMP


def _open_backup(path: Path) -> sqlite3.Connection:
    with translated(path):
        if not path.is_file():
            raise PlaitError("PLAIT-STORE-007", f"there is no file {path}", where=str(path))
        return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def _retire(path: Path) -> int:
    """Fold the WAL of a store into its file and return its revision, 0 if it cannot be read.

    A WAL that outlives its file would be replayed into the restored one.
    """
    revision = 0
    if path.exists():
        with contextlib.suppress(PlaitError):
            old = StoreFile(path)
            try:
                revision = old.load().revision
            finally:
                old.close()
    with translated(path):
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        sync_directory(path.parent)
    return revision


def _leave_the_past(copy: sqlite3.Connection, revision: int) -> None:
    with transaction(copy):
        copy.execute("DELETE FROM log")
        copy.execute(
            "UPDATE meta SET value = ? WHERE name IN ('revision', 'compacted')", (revision,)
        )
        copy.execute(
            "UPDATE meta SET value = value + ? WHERE name = 'last_lease'", (REVISION_JUMP,)
        )


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[sqlite3.Connection]:
    """A new database that takes the place of `path`, durably, if the block succeeds."""
    with translated(path):
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        try:
            with contextlib.closing(sqlite3.connect(temporary, isolation_level=None)) as copy:
                copy.execute("PRAGMA synchronous = OFF").fetchall()  # synced once, below
                yield copy
                # Without a WAL the one file is the whole database.
                copy.execute("PRAGMA journal_mode = DELETE").fetchall()
            with temporary.open("rb") as whole:
                os.fsync(whole.fileno())
            temporary.replace(path)
            sync_directory(path.parent)
        finally:
            for leftover in ("", "-wal", "-shm", "-journal"):
                temporary.with_name(temporary.name + leftover).unlink(missing_ok=True)
