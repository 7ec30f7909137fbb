"""What a client shows of itself follows its files, and never becomes less than it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from plait.client.credentials import Token


def written(path: Path, content: bytes) -> None:
    """As `mv` does: another file in its place."""
    fresh = path.with_name("fresh")
    fresh.write_bytes(content)
    fresh.replace(path)


def test_a_token_is_read_anew_when_its_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "token"
    token = Token("", file, "Bearer")
    assert token.headers() == {}
    written(file, b"one\n")
    assert token.headers() == {"Authorization": "Bearer one"}
    written(file, b"two")
    assert token.headers() == {"Authorization": "Bearer two"}
    assert Token("given", None, "Join").headers() == {"Authorization": "Join given"}


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", None])
def test_while_nothing_can_be_read_the_last_token_counts(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "token"
    written(file, b"one")
    token = Token("", file, "Bearer")
    assert token.headers()
    if content is None:
        file.unlink()
    else:
        written(file, content)
    assert token.headers() == {"Authorization": "Bearer one"}
    written(file, b"two")
    assert token.headers() == {"Authorization": "Bearer two"}
