"""The end of the connector's token is told before it comes, once a day."""

from __future__ import annotations

from structlog.testing import capture_logs

from plait.kubernetes.token_end import AGAIN, SOON, TokenEnd


def test_it_is_told_in_time_and_once_a_day() -> None:
    now, ends = 1_000_000.0, 0.0
    made = TokenEnd(lambda: ends, lambda: now)
    with capture_logs() as logs:
        made.tell()
        ends = now + SOON + 60
        made.tell()
        assert (made.problem, logs) == ("", [])
        now += 120
        made.tell()
        made.tell()
        assert "1970-02-11T13:47:40Z" in made.problem
        assert len(logs) == 1
        now += AGAIN
        made.tell()
        assert len(logs) == 2
        ends = now + 365 * AGAIN
        assert not made.problem
