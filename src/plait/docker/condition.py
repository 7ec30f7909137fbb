"""Whether a container takes new flows, by what Docker says of it. Pure."""

from __future__ import annotations

import signal as signals
from typing import Final

from plait.model.objects import Condition
from plait.wire.docker import Container

ENDING: Final = frozenset({signals.SIGINT, signals.SIGQUIT, signals.SIGTERM})
"""Signals that ask any program to end. SIGKILL asks nobody: what it hits is gone."""
GRACE: Final = 60.0
"""Seconds for which a container that was told to end is taken to be ending, at least. `docker stop
--time` is in no event; whoever lives longer than that has not heeded the signal."""

_HEALTH: Final[tuple[tuple[str, Condition], ...]] = (
    ("(health: starting)", "starting"),
    ("(unhealthy)", "unhealthy"),
)
"""How the status of a container that runs ends (moby container/state.go, health.go)."""


def condition(container: Container) -> Condition:
    """What the listing says. What does not run is about to, or has no endpoint any more."""
    if container.state == "paused":
        return "paused"
    if container.state not in ("", "running"):
        return "starting"
    return next((word for end, word in _HEALTH if container.status.endswith(end)), "")


def ends(signal: str, stop_signal: str) -> bool:
    """Whether a signal, by its number, tells a container to end whose own signal for that is
    `stop_signal`, by number or name (empty: SIGTERM)."""
    number = _number(signal)
    return number is not None and (number in ENDING or number == _number(stop_signal))


def grace(stop_timeout: int | None) -> float:
    """Seconds for which a container of this stop time-out is taken to be ending."""
    return max(GRACE, float(stop_timeout or 0))


def _number(signal: str) -> int | None:
    """`15`, `SIGTERM`, `term`, `RTMIN+3` as a number (moby sys/signal); None: there is none."""
    name, plus, more = signal.upper().removeprefix("SIG").partition("+")
    if name.isdecimal():
        return int(name)
    found = signals.Signals.__members__.get(f"SIG{name}")
    if found is None or (plus and not more.isdecimal()):
        return None
    return found + int(more or 0)
