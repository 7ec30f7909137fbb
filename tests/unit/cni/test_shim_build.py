"""What somebody reads who has no compiler for the shim."""

from __future__ import annotations

from pathlib import Path

import pytest

from plait.cni import install
from plait.model.errors import PlaitError


def test_a_build_that_fails_says_what_the_compiler_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ziglang").mkdir()
    (tmp_path / "ziglang/__init__.py").touch()
    (tmp_path / "ziglang/__main__.py").write_text("import sys; sys.exit('no compiler today')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(install, "SHIM", tmp_path / "plait-cni")
    with pytest.raises(PlaitError) as refused:
        install.read_shim()
    assert refused.value.why == "no compiler today"
    assert refused.value.fix == ("scripts/setup --shim",)
    assert not list(tmp_path.glob("*plait-cni*"))
