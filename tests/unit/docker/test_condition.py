from __future__ import annotations

import pytest

from plait.docker.condition import GRACE, condition, ends, grace
from plait.wire.docker import Container


@pytest.mark.parametrize(
    ("state", "status", "expected"),
    [
        ("running", "Up 3 seconds", ""),
        ("running", "Up 3 seconds (healthy)", ""),
        ("running", "Up Less than a second (health: starting)", "starting"),
        ("running", "Up 2 hours (unhealthy)", "unhealthy"),
        ("paused", "Up 2 hours (Paused)", "paused"),
        ("created", "Created", "starting"),
        ("exited", "Exited (0) 3 seconds ago", "starting"),
        ("", "", ""),
    ],
)
def test_the_listing_tells_how_a_container_is(state: str, status: str, expected: str) -> None:
    assert condition(Container(id="c", state=state, status=status)) == expected


@pytest.mark.parametrize(
    ("signal", "stop_signal", "expected"),
    [
        ("15", "", True),
        ("15", "SIGQUIT", True),
        ("2", "", True),
        ("3", "", True),
        ("1", "", False),
        ("28", "", False),
        ("28", "SIGWINCH", True),
        ("28", "winch", True),
        ("1", "1", True),
        ("37", "SIGRTMIN+3", True),
        ("37", "SIGRTMIN+x", False),
        ("10", "NONSENSE", False),
        ("9", "", False),
        ("", "NONSENSE", False),
    ],
)
def test_which_signals_tell_a_container_to_end(
    signal: str, stop_signal: str, expected: bool
) -> None:
    assert ends(signal, stop_signal) is expected


@pytest.mark.parametrize(
    ("stop_timeout", "expected"), [(None, GRACE), (10, GRACE), (-1, GRACE), (300, 300.0)]
)
def test_a_stop_is_over_some_time(stop_timeout: int | None, expected: float) -> None:
    assert grace(stop_timeout) == expected
