"""Tokens as text."""

from __future__ import annotations

import pytest

from plait.wire.api import split_token, token_text

HASH, IDENT, SECRET = "a" * 64, "0123456789abcdef", "s" * 43


def test_a_token_is_read_as_it_was_written() -> None:
    assert split_token(f" {token_text(HASH, IDENT, SECRET)}\n") == (HASH, IDENT, SECRET)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plait1",
        f"plait2.{HASH}.{IDENT}.{SECRET}",
        f"plait1.{HASH[:-1]}.{IDENT}.{SECRET}",
        f"plait1.{HASH.upper()}.{IDENT}.{SECRET}",
        f"plait1.{HASH}.{IDENT[:-1]}.{SECRET}",
        f"plait1.{HASH}.{IDENT}.{SECRET[:-1]}",
        f"plait1.{HASH}.{IDENT}.{'é' * 50}",
        f"plait1.{HASH}.{IDENT}.{SECRET}.x",
    ],
)
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        split_token(text)
