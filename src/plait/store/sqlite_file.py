"""The file of the SQLite store: the one small door to the disk. Synchronous, for one thread.

The rules, and why: one process (a lock file and `locking_mode=EXCLUSIVE`), one connection, which
alone checkpoints, because SQLite before 3.51.3 can corrupt a WAL that two connections reset;
`synchronous=FULL`, because P1 covers power loss; no mmap, because an I/O error there is a signal.

Tables: `log` holds the events of each revision, `current` the live keys, `lease` the leases and
`meta` the counters. All four change in one transaction.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from plait.model.errors import PlaitError
from plait.store.base import Event, KeyValue
from plait.store.keyspace import FIRST_REVISION, Change

APPLICATION_ID: Final = 0x504C4149
"""`PLAI`, in the header of the file (https://www.sqlite.org/fileformat2.html section 1.3.16)."""
SCHEMA_VERSION: Final = 1
REPLAY_ROWS: Final = 256
REPLAY_BYTES: Final = 4 << 20
"""Bounds of one read of the log: a watcher that replays holds no more than this."""
WAL_PAGES: Final = 4000
"""Pages of 4 KiB after which a commit checkpoints."""
WAL_BYTES: Final = 64 << 20
"""Size to which a WAL that grew beyond it is cut."""

_SETTINGS: Final = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "mmap_size = 0",
    "secure_delete = FAST",
    f"wal_autocheckpoint = {WAL_PAGES}",
    f"journal_size_limit = {WAL_BYTES}",
)
_SCHEMA: Final = (
    "CREATE TABLE log (revision INTEGER PRIMARY KEY, events BLOB NOT NULL)",
    "CREATE TABLE current (key TEXT PRIMARY KEY, value BLOB NOT NULL,"
    " create_revision INTEGER NOT NULL, mod_revision INTEGER NOT NULL, lease INTEGER NOT NULL)"
    " WITHOUT ROWID",
    "CREATE TABLE lease (id INTEGER PRIMARY KEY, ttl REAL NOT NULL)",
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
)


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """All that a store keeps in memory of its file."""

    revision: int
    compacted: int
    last_lease: int
    leases: tuple[tuple[int, float], ...]
    """Lease id and time to live in seconds."""
    items: tuple[KeyValue, ...]


class _Logged(msgspec.Struct, frozen=True, array_like=True):
    """An event in the log; the row says its revision."""

    key: str
    value: bytes | None
    create_revision: int
    previous: bytes | None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[_Logged, ...]).decode


class StoreFile:
    """An open store file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = connect(path)

    def load(self) -> Content:
        """Check the file and read what memory keeps of it. PLAIT-STORE-002, PLAIT-STORE-008."""
        with translated(self._path):
            check(self._connection, self._path)
            return read(self._connection)

    def write(self, changes: Sequence[Change]) -> None:
        """Make the changes durable, all or none."""
        with translated(self._path), transaction(self._connection) as db:
            db.executemany("INSERT INTO log VALUES (?, ?)", _log_rows(changes))
            removed, put = _net(changes)
            db.executemany("DELETE FROM current WHERE key = ?", removed)
            db.executemany("INSERT OR REPLACE INTO current VALUES (?, ?, ?, ?, ?)", put)
            granted = [lease for change in changes for lease in change.granted]
            revoked = [(lease,) for change in changes for lease in change.revoked]
            db.executemany("INSERT INTO lease VALUES (?, ?)", granted)
            db.executemany("DELETE FROM lease WHERE id = ?", revoked)
            compacted = max(change.compacted for change in changes)
            counters = {
                "revision": max(change.revision for change in changes),
                "compacted": compacted,
                "last_lease": max((lease for lease, _ in granted), default=0),
            }
            db.executemany(
                "UPDATE meta SET value = max(value, ?) WHERE name = ?",
                [(value, name) for name, value in counters.items() if value],
            )
            if compacted:
                db.execute("DELETE FROM log WHERE revision <= ?", (compacted,))

    def replay(self, after: int, until: int) -> tuple[tuple[Event, ...], ...]:
        """Events of some revisions from `after + 1` on; empty when they are compacted."""
        with translated(self._path):
            query = "SELECT value FROM meta WHERE name = 'compacted'"
            if after < self._connection.execute(query).fetchone()[0]:
                return ()
            rows = self._connection.execute(
                "SELECT revision, events FROM log WHERE revision > ? AND revision <= ?"
                " ORDER BY revision LIMIT ?",
                (after, until, REPLAY_ROWS),
            )
            found: list[tuple[Event, ...]] = []
            size = 0
            for revision, blob in rows:
                if revision != after + len(found) + 1:
                    break
                try:
                    found.append(_events(revision, blob))
                except msgspec.DecodeError as error:
                    raise damaged(self._path, f"revision {revision} of the log: {error}") from error
                size += len(blob)
                if size > REPLAY_BYTES:
                    break
        if not found:
            raise damaged(self._path, f"revision {after + 1} is missing from the log")
        return tuple(found)

    def copy_to(self, target: sqlite3.Connection) -> None:
        """Copy the durable state into another database."""
        self._connection.backup(target)

    def close(self) -> None:
        """Checkpoint and close."""
        self._connection.close()


def connect(path: Path) -> sqlite3.Connection:
    """Open a store file, made if there is none (mode 0600), with the settings of the module."""
    with translated(path):
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            sync_directory(path.parent)
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            # First of all, so that SQLite never shares its index of the WAL with a process.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
            new = _pragma(connection, "schema_version") == 0
            if not new:
                _check_ours(connection, path)
            for pragma in _SETTINGS:
                connection.execute(f"PRAGMA {pragma}").fetchall()
            if new:
                _create(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def _create(connection: sqlite3.Connection) -> None:
    with transaction(connection) as db:
        for statement in _SCHEMA:
            db.execute(statement)
        counters = {"revision": FIRST_REVISION, "compacted": 0, "last_lease": 0}
        db.executemany("INSERT INTO meta VALUES (?, ?)", counters.items())
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _check_ours(connection: sqlite3.Connection, path: Path) -> None:
    if _pragma(connection, "application_id") != APPLICATION_ID:
        raise damaged(path, "the file is not a Plait store")


def check(connection: sqlite3.Connection, path: Path, *, thorough: bool = False) -> None:
    """Refuse a file that is damaged, not ours (PLAIT-STORE-002) or too new (PLAIT-STORE-008)."""
    _check_ours(connection, path)
    version = _pragma(connection, "user_version")
    if version > SCHEMA_VERSION:
        raise PlaitError(
            "PLAIT-STORE-008",
            f"the store has format {version}, and this version of Plait knows {SCHEMA_VERSION}",
            where=str(path),
            fix=("pip install --upgrade plait",),
        )
    verdict = _pragma(connection, "integrity_check(1)" if thorough else "quick_check(1)")
    if verdict != "ok":
        raise damaged(path, str(verdict))


def read(connection: sqlite3.Connection) -> Content:
    """Everything but the log."""
    meta = dict(connection.execute("SELECT name, value FROM meta"))
    rows = connection.execute(
        "SELECT key, value, create_revision, mod_revision, lease FROM current ORDER BY key"
    )
    return Content(
        revision=meta["revision"],
        compacted=meta["compacted"],
        last_lease=meta["last_lease"],
        leases=tuple(connection.execute("SELECT id, ttl FROM lease")),
        items=tuple(KeyValue(*row) for row in rows),
    )


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """One write transaction: committed at the end, rolled back on any error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        # SQLite has rolled back already after some errors (a full disk among them).
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the store for this process (PLAIT-STORE-006 when another one does).

    The lock is flock(2) on a file beside the store: closing any descriptor of the store file
    itself would drop SQLite's own POSIX locks (https://www.sqlite.org/howtocorrupt.html 2.2).
    """
    with translated(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(
            path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600
        )
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PlaitError(
                "PLAIT-STORE-006",
                "another process has the store open",
                where=str(path),
                fix=("plait down",),
            ) from None
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Errors of SQLite and of the operating system as PlaitError."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise _full(path) from error
        # Our statements are fixed, so an SQL error means that the tables are not ours.
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}:
            raise damaged(path, str(error)) from error
        raise _failed(path, str(error)) from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise _full(path) from error
        raise _failed(path, str(error)) from error


def damaged(path: Path, why: str) -> PlaitError:
    """PLAIT-STORE-002 for this file."""
    return PlaitError(
        "PLAIT-STORE-002",
        f"{path} cannot be used as a store",
        where=str(path),
        why=why,
        fix=("plait server restore BACKUP", f"mv {path} {path}.damaged  (begins an empty store)"),
    )


def sync_directory(path: Path) -> None:
    """Make a created or renamed entry of the directory durable (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _full(path: Path) -> PlaitError:
    return PlaitError(
        "PLAIT-STORE-001",
        "nothing can be written until the disk has room; reads go on",
        where=str(path),
        fix=(f"df -h {path.parent}", "free some space; Plait goes on by itself"),
    )


def _failed(path: Path, why: str) -> PlaitError:
    return PlaitError(
        "PLAIT-STORE-007", f"{path} cannot be read or written", where=str(path), why=why
    )


def _pragma(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def _log_rows(changes: Sequence[Change]) -> Iterator[tuple[int, bytes]]:
    for change in changes:
        if change.events:
            logged = [_Logged(e.key, e.value, e.create_revision, e.previous) for e in change.events]
            yield change.revision, _encode(logged)


def _events(revision: int, blob: bytes) -> tuple[Event, ...]:
    return tuple(
        Event(e.key, e.value, revision, e.create_revision, e.previous) for e in _decode(blob)
    )


def _net(
    changes: Sequence[Change],
) -> tuple[list[tuple[str]], list[tuple[str, bytes, int, int, int]]]:
    """Rows to remove and rows to write: the last change of a key is the one that counts."""
    last: dict[str, KeyValue | None] = {}
    for change in changes:
        last.update((event.key, None) for event in change.events)
        last.update((item.key, item) for item in change.puts)
    removed = [(key,) for key, item in last.items() if item is None]
    put = [
        (i.key, i.value, i.create_revision, i.mod_revision, i.lease)
        for i in last.values()
        if i is not None
    ]
    return removed, put
