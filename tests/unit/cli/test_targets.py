from __future__ import annotations

from pathlib import Path

import pytest

from plait.cli.targets import resolve
from plait.model.errors import PlaitError
from plait.model.paths import Paths


@pytest.mark.parametrize("word", ["a" * 10_000, "9" * 10_000, "/run/" + "a" * 10_000])
def test_a_word_without_end_is_no_namespace(word: str, tmp_path: Path) -> None:
    with pytest.raises(PlaitError, match="PLAIT-AGENT-004") as caught:
        resolve(word, Paths.from_env({"PLAIT_ROOT": str(tmp_path)}))
    assert len(caught.value.render()) < 500
