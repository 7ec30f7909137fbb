"""Backup and restore: complete or untouched, and never into a past that a watcher remembers."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from plait.model.errors import PlaitError
from plait.store.backup import REVISION_JUMP
from plait.store.base import Compacted, Put
from plait.store.sqlite import SqliteStore, restore


@contextlib.asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def put(store: SqliteStore, key: str, value: bytes = b"v", lease: int = 0) -> None:
    await store.txn((), (Put(key, value, lease),))


async def content(path: Path) -> dict[str, bytes]:
    async with opened(path) as store:
        return {item.key: item.value for item in (await store.range("/")).items}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of the store."""
    return tmp_path / "store" / "store.db"


@pytest.fixture
async def backup(tmp_path: Path, path: Path) -> Path:
    """Holds `/a`; the store has gone on with `/b` since."""
    file = tmp_path / "backup.db"
    async with opened(path) as store:
        await put(store, "/a", b"1")
        await store.backup(file)
        await put(store, "/b", b"2")
    return file


async def test_a_backup_is_one_private_file_and_nothing_else(tmp_path: Path, backup: Path) -> None:
    assert backup.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["backup.db", "store"]
    with contextlib.closing(sqlite3.connect(f"{backup.as_uri()}?mode=ro", uri=True)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT key, value FROM current").fetchall() == [("/a", b"1")]


async def test_a_backup_among_writes_is_one_moment(tmp_path: Path, path: Path) -> None:
    async with opened(path) as store:

        async def write(writer: int) -> None:
            for n in range(50):
                twin = bytes([n])
                await store.txn((), (Put(f"/{writer}/x", twin), Put(f"/{writer}/y", twin)))

        writers = [asyncio.ensure_future(write(n)) for n in range(8)]
        for n in range(3):
            await store.backup(tmp_path / f"{n}.db")
        await asyncio.gather(*writers)
    for n in range(3):
        restore(tmp_path / f"{n}.db", tmp_path / "restored.db")
        items = await content(tmp_path / "restored.db")
        for writer in range(8):
            assert items.get(f"/{writer}/x") == items.get(f"/{writer}/y")


async def test_a_backup_that_fails_leaves_the_older_one(tmp_path: Path, path: Path) -> None:
    async with opened(path) as store:
        with pytest.raises(PlaitError, match="PLAIT-STORE-007"):
            await store.backup(tmp_path / "missing" / "backup.db")
        (tmp_path / "directory").mkdir()
        with pytest.raises(PlaitError, match="PLAIT-STORE-007"):
            await store.backup(tmp_path / "directory")
        await put(store, "/a")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["directory", "store"]


async def test_a_restored_store_is_the_backup(backup: Path, path: Path) -> None:
    restore(backup, path)
    assert await content(path) == {"/a": b"1"}
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in path.parent.iterdir()) == ["store.db", "store.db.lock"]


async def test_a_restore_makes_a_store_where_there_is_none(backup: Path, tmp_path: Path) -> None:
    restore(backup, tmp_path / "other" / "store.db")
    assert await content(tmp_path / "other" / "store.db") == {"/a": b"1"}


async def test_no_watcher_resumes_in_a_past_that_no_longer_is(backup: Path, path: Path) -> None:
    seen = 3  # of the store as it was before the restore
    for _ in range(2):
        revision = restore(backup, path)
        assert revision >= seen + REVISION_JUMP
        async with opened(path) as store:
            assert store.revision == revision
            for remembered in (0, seen):
                watch = store.watch("/", remembered)
                with pytest.raises(Compacted):
                    await anext(watch)
            watch = store.watch("/", revision)
            await put(store, "/c")
            assert (await anext(watch))[0].revision == revision + 1
            await watch.aclose()
            seen = store.revision


async def test_leases_of_a_backup_live_on_and_new_ones_differ(path: Path, tmp_path: Path) -> None:
    async with opened(path) as store:
        lease = await store.lease_grant(10)
        await put(store, "/a", lease=lease)
        await store.backup(tmp_path / "b")
        later = await store.lease_grant(10)
    restore(tmp_path / "b", path)
    async with opened(path) as store:
        assert await store.lease_keepalive(lease)
        assert not await store.lease_keepalive(later)
        assert await store.lease_grant(10) > later
        await store.lease_revoke(lease)
        assert await store.get("/a") is None


async def test_a_running_store_is_not_replaced(backup: Path, path: Path) -> None:
    async with opened(path) as store:
        with pytest.raises(PlaitError) as caught:
            restore(backup, path)
        assert caught.value.code == "PLAIT-STORE-006"
        await put(store, "/c")
    assert await content(path) == {"/a": b"1", "/b": b"2", "/c": b"v"}


@pytest.mark.parametrize("damage", ["missing", "garbage", "short", "other", "empty"])
async def test_a_bad_backup_leaves_the_store_untouched(
    backup: Path, path: Path, damage: str
) -> None:
    whole = backup.read_bytes()
    backup.unlink()
    if damage == "garbage":
        backup.write_bytes(b"not a database" * 1000)
    elif damage == "short":
        backup.write_bytes(whole[:-4096])
    elif damage == "empty":
        backup.write_bytes(b"")
    elif damage == "other":
        with contextlib.closing(sqlite3.connect(backup)) as db:
            db.execute("CREATE TABLE t (x)")
    with pytest.raises(PlaitError) as caught:
        restore(backup, path)
    assert caught.value.code == ("PLAIT-STORE-007" if damage == "missing" else "PLAIT-STORE-002")
    assert caught.value.where == str(backup)
    assert await content(path) == {"/a": b"1", "/b": b"2"}


@pytest.mark.parametrize("wal", [b"", b"old frames" * 1000])
async def test_a_damaged_store_is_replaced(backup: Path, path: Path, wal: bytes) -> None:
    path.write_bytes(b"not a database" * 1000)
    path.with_name("store.db-wal").write_bytes(wal)
    restore(backup, path)
    assert await content(path) == {"/a": b"1"}
