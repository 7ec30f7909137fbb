"""Kill -9 of a writing process, and a full disk (fault matrix rows 2 and 3)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from plait.store.sqlite import SqliteStore

HERE = Path(__file__).parent
ROUNDS = 10
ACKNOWLEDGED = 150
"""Transactions after which a round is killed, at least."""


async def test_every_acknowledged_write_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    acknowledged: set[str] = set()
    for number in range(ROUNDS):
        command = [sys.executable, str(HERE / "writer_process.py"), str(path), str(number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            # An uneven count, so that the kill meets different steps of a commit.
            for _ in range(ACKNOWLEDGED + 37 * number):
                acknowledged.add(writer.stdout.readline().strip())
            writer.kill()
            # A line without its end was still acknowledged, but its name may be cut.
            rest = writer.stdout.read()
        acknowledged |= {line for line in rest.split("\n")[:-1] if line}

        store = SqliteStore(path)
        await store.open()
        names = {
            half: {item.key.removeprefix(half) for item in (await store.range(half)).items}
            for half in ("/x/", "/y/")
        }
        await store.close()
        assert names["/x/"] == names["/y/"], "half a transaction was found"
        assert acknowledged <= names["/x/"]
    assert "" not in acknowledged


@pytest.mark.root
def test_a_full_disk_refuses_writes_and_nothing_else(tmp_path: Path) -> None:
    """The tmpfs is in a mount namespace of its own and goes with the process."""
    script = 'mount -t tmpfs -o size=1m,mode=700 plait-test "$1" && exec "$2" "$3" "$1"'
    child = str(HERE / "full_disk_process.py")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), sys.executable, child],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
