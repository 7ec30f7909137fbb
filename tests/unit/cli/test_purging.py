"""`plait down` on a host that never had Plait."""

from __future__ import annotations

from pathlib import Path

import pytest

from plait.cli.purging import down
from plait.model.paths import Paths


def test_nothing_is_said_to_be_stopped_that_never_ran(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    down(Paths(tmp_path), purge=False, force=False, dry_run=False)
    said = capsys.readouterr().out
    assert "there is nothing to stop" in said
    assert "stopped" not in said
    Paths(tmp_path).state.mkdir(parents=True)
    down(Paths(tmp_path), purge=False, force=False, dry_run=False)
    assert "server and agent stopped" in capsys.readouterr().out
