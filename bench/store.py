"""Durable puts a second: the SQLite store beside plain sqlite3, 64 writers, 300-byte values.

Run: `scripts/bench store`, or for latencies
`PYTHONPATH=. .venv/bin/python -P -m bench.store [--seconds 3] [--directory DIR]`. The peer is
what one writes by hand: one connection, WAL, `synchronous=FULL`, one put a transaction, a log row
and a current row each, as the store writes. Budget (design section 8): 5,000 puts/s.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

import uvloop

from bench.table import Row, at_least
from plait.store.base import Put
from plait.store.sqlite import SqliteStore

WRITERS = 64
KEYS = 10_000
VALUE = b"x" * 300
BUDGET = 5_000

Figures = tuple[float, list[float]]
"""Puts a second, and milliseconds each."""


async def store_puts(path: Path, seconds: float) -> tuple[float, list[float]]:
    """Puts a second and the latency of each in milliseconds."""
    store = SqliteStore(path)
    await store.open()
    latencies: list[float] = []
    started = time.perf_counter()
    end = started + seconds

    async def writer(number: int) -> None:
        count = 0
        while (begin := time.perf_counter()) < end:
            await store.txn((), (Put(f"/bench/{(number + count * WRITERS) % KEYS}", VALUE),))
            latencies.append((time.perf_counter() - begin) * 1000)
            count += 1

    await asyncio.gather(*(writer(number) for number in range(WRITERS)))
    elapsed = time.perf_counter() - started
    await store.close()
    return len(latencies) / elapsed, latencies


def plain_puts(path: Path, seconds: float) -> tuple[float, list[float]]:
    """The same by hand, one put a transaction."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL").fetchall()
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE log (id INTEGER PRIMARY KEY, key TEXT, value BLOB)")
    db.execute("CREATE TABLE current (key TEXT PRIMARY KEY, value BLOB, revision INTEGER)")
    latencies: list[float] = []
    started = time.perf_counter()
    while (begin := time.perf_counter()) < started + seconds:
        key = f"/bench/{len(latencies) % KEYS}"
        db.execute("BEGIN IMMEDIATE")
        row = db.execute("INSERT INTO log (key, value) VALUES (?, ?)", (key, VALUE)).lastrowid
        db.execute("INSERT OR REPLACE INTO current VALUES (?, ?, ?)", (key, VALUE, row))
        db.execute("COMMIT")
        latencies.append((time.perf_counter() - begin) * 1000)
    elapsed = time.perf_counter() - started
    db.close()
    return len(latencies) / elapsed, latencies


def row(name: str, rate: float, latencies: list[float]) -> str:
    cuts = statistics.quantiles(latencies, n=100)
    return f"{name:<42}{rate:>10,.0f}{cuts[49]:>10.2f}{cuts[98]:>10.2f}"


def measure(directory: Path, seconds: float) -> tuple[Figures, Figures]:
    """Plain sqlite3's and ours, in turn on one file system."""
    plain = plain_puts(directory / "plain.db", seconds)
    ours = uvloop.run(store_puts(directory / "store.db", seconds))
    return plain, ours


def rows() -> list[Row]:
    """For the table of all benchmarks."""
    rates: list[tuple[float, float]] = []
    for _ in range(3):
        with tempfile.TemporaryDirectory(prefix="plait-bench-") as directory:
            plain, ours = measure(Path(directory), 2.0)
        rates.append((ours[0], plain[0]))
    return [
        Row(
            what=f"durable puts, {WRITERS} writers",
            unit="/s",
            ours=statistics.median(mine for mine, _ in rates),
            peer="sqlite3, one put a transaction",
            theirs=statistics.median(theirs for _, theirs in rates),
            budget=at_least(BUDGET),
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--directory", type=Path, help="where to write (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="plait-bench-", dir=options.directory) as directory:
        plain, ours = measure(Path(directory), options.seconds)
    print(f"{'durable puts (synchronous=FULL)':<42}{'puts/s':>10}{'p50 ms':>10}{'p99 ms':>10}")
    print(row("plain sqlite3, one put a transaction", *plain))
    print(row(f"plait, {WRITERS} writers, group commit", *ours))
    verdict = "met" if ours[0] >= BUDGET else "MISSED"
    print(f"ratio {ours[0] / plain[0]:.1f}x; budget {BUDGET:,} puts/s: {verdict}")


if __name__ == "__main__":
    main()
