"""The records that our rules hand to the flow log: who decided, and how."""

from __future__ import annotations

from typing import Final

from plait.model import marks
from plait.model.policies import Direction
from plait.wire.nft_effects import Log

ACCEPTED: Final = "a"
DENIED: Final = "d"
STAGED: Final = "s"
"""It would have been denied."""

SNAPLEN: Final = 96
"""Bytes of a packet: addresses and ports are in them, after IPv6 extension headers too."""


def log(enabled: bool, ident: str, direction: Direction, verdict: str) -> tuple[Log, ...]:
    """A statement that logs, or none where the kernel cannot; its prefix is `<id>.<d><v>` with
    the id of a rule or a fixed word, `e` or `i` for the direction, and what was decided."""
    if not enabled:
        return ()
    return (Log(f"{ident}.{direction[0]}{verdict}", marks.LOG_GROUP, SNAPLEN),)
