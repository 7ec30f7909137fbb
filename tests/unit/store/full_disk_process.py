"""The store on a disk that fills up: `full_disk_process.py DIRECTORY`, a tiny file system.

Writes are refused with PLAIT-STORE-001, reads and watches go on, and writes succeed again once
there is room. Exits with 0 if all of that is so.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from plait.model.errors import PlaitError
from plait.store.base import Put
from plait.store.sqlite import SqliteStore


async def main(directory: Path) -> None:
    store = SqliteStore(directory / "store.db")
    await store.open()
    lease = await store.lease_grant(100)
    await store.txn((), (Put("/first", b"1"),))
    watch = store.watch("/", 1)
    assert (await anext(watch))[0].key == "/first"

    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    acknowledged = store.revision
    refused: list[PlaitError] = []
    for n in range(50):
        try:
            acknowledged = (await store.txn((), (Put(f"/n/{n}", bytes(5000)),))).revision
        except PlaitError as error:
            refused.append(error)
    assert refused, "the disk did not fill up"
    assert {error.code for error in refused} == {"PLAIT-STORE-001"}, refused
    assert refused[0].fix

    first = await store.get("/first")
    assert first is not None
    assert first.value == b"1"
    assert store.revision == acknowledged
    assert await store.lease_keepalive(lease)
    with pytest.raises(PlaitError, match="PLAIT-STORE-001") as caught:
        await store.backup(directory / "backup.db")
    assert "backup" in caught.value.where

    ballast.unlink()
    revision = (await store.txn((), (Put("/again", b"2"),))).revision
    assert revision == acknowledged + 1
    seen = 2
    while seen < revision:
        seen = (await anext(watch))[0].revision
    await watch.aclose()
    await store.close()

    await store.open()
    assert store.revision == revision
    again = await store.get("/again")
    assert again is not None
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
