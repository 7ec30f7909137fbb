"""A backup's file: what is none, and where none can be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from plait.model.errors import PlaitError
from plait.model.paths import Paths
from plait.wiring.backup import restore_backup, write_backup


def test_a_file_that_is_no_archive_is_no_backup(tmp_path: Path) -> None:
    junk = tmp_path / "junk"
    junk.write_bytes(b"junk" * 1000)
    with pytest.raises(PlaitError, match="no backup of a Plait server") as caught:
        restore_backup(Paths(tmp_path), junk)
    assert caught.value.code == "PLAIT-STORE-002"
    assert caught.value.why == "it is no tar archive, or it ends too early"


def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    paths.state.mkdir(parents=True)
    paths.server_config.touch()
    with pytest.raises(PlaitError) as caught:
        write_backup(paths, tmp_path / "no such" / "plait.backup")
    assert caught.value.detail == f"there is no directory {tmp_path}/no such"
    assert caught.value.fix == (f"mkdir -p '{tmp_path}/no such'",)
