"""What only the SQLite store does: the lock, the log, group commit, damage."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from plait.model.errors import PlaitError
from plait.store.base import Compacted, Compare, Event, Put
from plait.store.keyspace import Change
from plait.store.sqlite import SqliteStore
from plait.store.sqlite_file import StoreFile


@contextlib.asynccontextmanager
async def opened(path: Path, **options: int) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def fill(store: SqliteStore, count: int, size: int = 1) -> None:
    for n in range(count):
        await store.txn((), (Put(f"/{n % 10}", str(n).encode() * size),))


async def revisions(store: SqliteStore, after: int) -> list[int]:
    seen: list[int] = []
    async with contextlib.aclosing(store.watch("/", after)) as watch:
        while not seen or seen[-1] < store.revision:
            seen.append((await anext(watch))[0].revision)
    return seen


def hold(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, list[int]]:
    """Let the next commits wait for the event; the list has the size of each."""
    gate, sizes = threading.Event(), []
    write: Callable[[StoreFile, Sequence[Change]], None] = StoreFile.write

    def slow(file: StoreFile, changes: Sequence[Change]) -> None:
        sizes.append(len(changes))
        assert gate.wait(10)
        write(file, changes)

    monkeypatch.setattr(StoreFile, "write", slow)
    return gate, sizes


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_files_are_for_the_owner_only(tmp_path: Path) -> None:
    async with opened(tmp_path / "new" / "store.db") as store:
        await fill(store, 1)
        modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "new").iterdir()}
    assert modes == {"store.db": 0o600, "store.db-wal": 0o600, "store.db.lock": 0o600}
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


async def test_a_second_opening_is_refused_and_harmless(tmp_path: Path) -> None:
    async with opened(tmp_path / "s.db") as store:
        with pytest.raises(PlaitError) as caught:
            await SqliteStore(tmp_path / "s.db").open()
        assert caught.value.code == "PLAIT-STORE-006"
        await fill(store, 1)
    async with opened(tmp_path / "s.db") as store:
        assert store.revision == 2


async def test_nothing_is_visible_before_it_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "s.db") as store:
        gate, _ = hold(monkeypatch)
        watch = store.watch("/", 1)
        event = asyncio.ensure_future(anext(watch))
        write = asyncio.ensure_future(store.txn((), (Put("/a", b"1"),)))
        late = asyncio.ensure_future(store.txn((Compare("/a", 0),), (Put("/a", b"2"),)))
        await turns()
        # The failed guard, too, would tell of the undurable write.
        assert not any(future.done() for future in (write, late, event))
        assert await store.get("/a") is None
        assert store.revision == 1
        gate.set()
        assert (await write).revision == 2
        assert (await late).failed == ("/a",)
        assert await event == (Event("/a", b"1", 2, 2),)
        await watch.aclose()


async def test_writes_that_wait_share_one_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "s.db") as store:
        gate, sizes = hold(monkeypatch)
        writes = [asyncio.ensure_future(fill(store, 1))]
        await turns()
        writes += [asyncio.ensure_future(fill(store, 1)) for _ in range(50)]
        await turns()
        gate.set()
        await asyncio.gather(*writes)
        assert sizes == [1, 50]


async def test_a_caller_that_gives_up_does_not_harm_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "s.db") as store:
        gate, _ = hold(monkeypatch)
        gone = asyncio.ensure_future(fill(store, 1))
        await turns()
        stays = asyncio.ensure_future(fill(store, 1))
        await turns()
        gone.cancel()
        gate.set()
        await stays
        assert store.revision == 3


async def test_a_failed_commit_fails_what_was_decided_upon_it_and_nothing_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "s.db") as store:
        await fill(store, 1)
        with monkeypatch.context() as patch:
            gate = threading.Event()

            def fail(file: StoreFile, changes: Sequence[Change]) -> None:
                assert gate.wait(10)
                raise PlaitError("PLAIT-STORE-001", "no room")

            patch.setattr(StoreFile, "write", fail)
            first = asyncio.ensure_future(store.txn((), (Put("/x", b""),)))
            await turns()
            second = asyncio.ensure_future(store.txn((Compare("/x", 3),), (Put("/y", b""),)))
            await turns()
            gate.set()
            for write in (first, second):
                with pytest.raises(PlaitError, match="PLAIT-STORE-001"):
                    await write
        assert store.revision == 2
        assert (await store.txn((Compare("/x", 0),), (Put("/x", b"now"),))).revision == 3
        assert await revisions(store, 1) == [2, 3]


async def test_closing_writes_what_was_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(tmp_path / "s.db")
    await store.open()
    writes = [asyncio.ensure_future(fill(store, 1)) for _ in range(5)]
    await turns(1)
    await store.close()
    await asyncio.gather(*writes)
    async with opened(tmp_path / "s.db") as store:
        assert store.revision == 6


async def test_history_continues_from_memory_into_the_log_and_back(tmp_path: Path) -> None:
    async with opened(tmp_path / "s.db", history_revisions=10) as store:
        await fill(store, 600)
        assert await revisions(store, 1) == list(range(2, 602))
        assert await revisions(store, 595) == list(range(596, 602))
    async with opened(tmp_path / "s.db", history_revisions=10) as store:
        assert await revisions(store, 300) == list(range(301, 602))


async def test_old_history_is_compacted_by_and_by(tmp_path: Path) -> None:
    async with opened(tmp_path / "s.db", keep_revisions=100, history_revisions=10) as store:
        slow = store.watch("/", 1)
        await fill(store, 1)
        await anext(slow)
        await fill(store, 500)
        with pytest.raises(Compacted) as caught:
            await anext(slow)
        oldest = caught.value.revision
        assert 400 <= oldest <= store.revision - 100
        assert await revisions(store, oldest) == list(range(oldest + 1, 503))
    with contextlib.closing(sqlite3.connect(tmp_path / "s.db")) as db:
        assert db.execute("SELECT min(revision), count(*) FROM log").fetchone() == (
            oldest + 1,
            502 - oldest,
        )


async def test_a_wal_that_lost_its_end_opens_to_a_prefix(tmp_path: Path) -> None:
    live = tmp_path / "live.db"
    states: dict[int, dict[str, bytes]] = {1: {}}
    async with opened(live) as store:
        for n in range(12):
            await store.txn((), (Put(f"/{n % 4}", bytes([n]) * 3000), Put("/twin", bytes([n]))))
            page = await store.range("/")
            states[page.revision] = {item.key: item.value for item in page.items}
        copy = tmp_path / "copy.db"
        shutil.copy(live, copy)
        wal = Path(f"{live}-wal").read_bytes()
    last = 1
    # The database file itself is made before the first commit, in the WAL; below that is no store.
    offsets = sorted({*range(0, len(wal), len(wal) // 40), *range(len(wal) - 9, len(wal) + 1)})
    for offset in offsets:
        path = tmp_path / f"cut-{offset}.db"
        shutil.copy(copy, path)
        Path(f"{path}-wal").write_bytes(wal[:offset])
        async with opened(path) as store:
            page = await store.range("/")
            assert {item.key: item.value for item in page.items} == states[page.revision]
            assert page.revision >= last
            if page.revision > 1:
                assert await revisions(store, 1) == list(range(2, page.revision + 1))
            last = page.revision
    assert last == 13


@pytest.mark.parametrize("damage", ["garbage", "other", "page", "tables"])
async def test_a_damaged_file_is_refused_with_a_fix(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "s.db"
    if damage == "garbage":
        path.write_bytes(b"not a database" * 1000)
    elif damage == "other":
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE t (x)")
    else:
        async with opened(path) as store:
            await fill(store, 200, 20)
        if damage == "tables":
            with contextlib.closing(sqlite3.connect(path)) as db:
                db.execute("DROP TABLE current")
        else:
            with path.open("r+b") as file:
                file.seek(4096)
                file.write(b"\xff" * 4096 * 4)
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(PlaitError) as caught:
            await SqliteStore(path).open()
        assert caught.value.code == "PLAIT-STORE-002"
        assert caught.value.fix
    assert path.read_bytes() == before


async def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path / "s.db"):
        pass
    with contextlib.closing(sqlite3.connect(tmp_path / "s.db")) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(PlaitError, match="PLAIT-STORE-008"):
        await SqliteStore(tmp_path / "s.db").open()


async def test_a_gap_in_the_log_is_damage_and_not_skipped(tmp_path: Path) -> None:
    async with opened(tmp_path / "s.db") as store:
        await fill(store, 5)
    with contextlib.closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as db:
        db.execute("DELETE FROM log WHERE revision = 4")
    async with opened(tmp_path / "s.db") as store:
        async with contextlib.aclosing(store.watch("/", 1)) as watch:
            assert [(await anext(watch))[0].revision for _ in range(2)] == [2, 3]
            with pytest.raises(PlaitError, match="PLAIT-STORE-002"):
                await anext(watch)
        await fill(store, 1)


async def test_a_directory_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(PlaitError, match="PLAIT-STORE-007"):
        await SqliteStore(tmp_path).open()
