"""`plait down` on a host that never had Plait."""

from __future__ import annotations

from pathlib import Path

import pytest

from plait.cli.purging import down
from plait.model.errors import PlaitError
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


def test_a_host_that_connects_a_cluster_takes_its_traces_back_first(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    paths.state.mkdir(parents=True)
    paths.kubernetes_config.write_text("{}")
    with pytest.raises(PlaitError) as caught:
        down(paths, purge=True, force=False, dry_run=True)
    assert caught.value.fix[0] == "plait kubernetes uninstall"
