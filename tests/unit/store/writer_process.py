"""A process that writes until it is killed: `writer_process.py STORE ROUND`.

It prints a line for each acknowledged transaction, after the acknowledgement.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from plait.store.base import Put
from plait.store.sqlite import SqliteStore


async def main(path: Path, number: str) -> None:
    store = SqliteStore(path, keep_revisions=1000)
    await store.open()

    async def write(writer: int) -> None:
        count = 0
        while True:
            name = f"{number}/{writer}/{count}"
            await store.txn((), (Put(f"/x/{name}", b"x" * 300), Put(f"/y/{name}", b"y" * 300)))
            os.write(1, f"{name}\n".encode())
            count += 1

    await asyncio.gather(*(write(writer) for writer in range(16)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
