from __future__ import annotations

from pathlib import Path

import pytest

from plait.docker.directory import Directory
from plait.docker.journal import HeldAddress, Journal, NetworkRecord, State


def test_the_journal_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "docker.json"
    directory = Directory(Journal(path))
    directory.put("n1", NetworkRecord(network="blue", seen=True))
    directory.put("n2", NetworkRecord())
    directory.forget("n2")
    directory.delete("red", "u1")
    directory.hold(HeldAddress(network="blue", address="10.0.0.2", since=1.0))
    again = Directory(Journal(path))
    assert again.records == {"n1": NetworkRecord(network="blue", seen=True)}
    assert again.deletions == {"red": "u1"}
    assert [h.address for h in again.held] == ["10.0.0.2"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert not again.synced


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"networks": 3}', b"\xff\xfe"])
def test_a_damaged_journal_counts_as_empty(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "docker.json"
    path.write_bytes(content)
    assert Journal(path).state == State()


def test_a_write_that_changes_nothing_touches_no_disk(tmp_path: Path) -> None:
    path = tmp_path / "docker.json"
    Journal(path).write(State())
    assert not path.exists()


async def test_an_address_is_held_once(world) -> None:
    for since in (1.0, 2.0):
        world.directory.hold(HeldAddress(network="blue", address="10.0.0.2", since=since))
    assert [h.since for h in world.directory.held] == [2.0]
    world.directory.unhold("blue", "10.0.0.2")
    world.directory.unhold("blue", "10.0.0.2")
    assert world.directory.held == ()
