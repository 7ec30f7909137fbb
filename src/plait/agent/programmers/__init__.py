"""One module for each part of HostState: observe() -> actual, plan() -> ops (pure), apply(ops).

`ORDER` is the order in which they add; they remove in the reversed one. The base rules come
first, for they drop what they do not know; policies stand before an endpoint that they rule; the
gate comes last, for it opens traffic. A peer's neighbour and FDB entries stand before the routes
that need them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from plait.agent.programmers.base import Programmer

ORDER: Final = (
    "filter.base",
    "filter.policy",
    "filter.services",
    "links",
    "shapers",
    "addresses",
    "tunnels",
    "sysctls",
    "neighbours",
    "fdb",
    "routes",
    "rules",
    "docker_user",
    "filter.endpoints",
)
"""Every programmer there is, by name."""


def in_order(programmers: Iterable[Programmer]) -> tuple[Programmer, ...]:
    """The programmers in `ORDER`; KeyError for one that has no place in it."""
    places = {name: place for place, name in enumerate(ORDER)}
    return tuple(sorted(programmers, key=lambda programmer: places[programmer.name]))
