"""What a turn of the loop compares and holds back. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from operator import attrgetter
from typing import Any, Final

import msgspec

from plait.agent.programmers.base import Programmer
from plait.agent.programmers.comparing import left_over
from plait.model.hoststate import HostState


class Same:
    """Equal to what holds the very same object: rules of thousands of sets are not compared."""

    __slots__ = ("held",)

    def __init__(self, held: object) -> None:
        self.held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.held is other.held

    __hash__ = None  # type: ignore[assignment]


FIELDS: Final[dict[str, Callable[[HostState], Any]]] = {
    "filter.base": attrgetter(
        "filter.pools",
        "filter.vteps",
        "filter.vxlan_port",
        "filter.vni",
        "filter.dns",
        "filter.service_pools",
        "filter.own",
    ),
    # A ruleset that changed is another object, though it may share sets with the former one.
    "filter.policy": lambda want: Same(want.policy),
    "links": attrgetter("links"),
    "shapers": attrgetter("shapers"),
    "addresses": attrgetter("addresses"),
    "tunnels": attrgetter("tunnels"),
    "neighbours": attrgetter("neighbours"),
    "fdb": attrgetter("fdb"),
    "routes": attrgetter("routes"),
    "rules": attrgetter("rules"),
    "sysctls": attrgetter("sysctls"),
    "docker_user": attrgetter("forward_accept"),
    "filter.endpoints": attrgetter("filter"),
}
"""Programmer to what it programs of HostState: while that is equal, it has nothing to do."""
DEPENDENTS: Final = {
    "filter.base": ("filter.policy", "filter.services"),
    "links": ("routes", "shapers"),
    "tunnels": ("routes", "neighbours", "fdb", "sysctls"),
}
"""Programmers whose objects go with a link, or a table, that is made anew."""
BASE: Final = "filter.base"
GATE: Final = "filter.endpoints"
"""The programmer that opens traffic and closes it."""
POLICY: Final = "filter.policy"
"""The programmer of the rules that an endpoint needs before it is opened."""
LINKS: Final = "links"
FILTERS: Final = frozenset((BASE, POLICY, GATE))
ALONE: Final = (LINKS, "shapers", "routes")
"""Programmers that each have something for every endpoint to read, whose table others do not
share."""


def readings(programmers: Sequence[Programmer]) -> tuple[tuple[Programmer, ...], ...]:
    """Which programmers read the kernel at one time: parts that take about as long as each other.
    Those of the filter stay together, for they look at one table."""
    alone = [(part,) for part in programmers if part.name in ALONE]
    others = tuple(part for part in programmers if part.name not in ALONE)
    return tuple(filter(None, (*alone, others)))


def fields(programmer: Programmer, want: HostState) -> Any:
    """What a programmer programs of a state, to be compared with that of another."""
    getter = FIELDS.get(programmer.name)
    return want if getter is None else getter(want)


def without_routes_of_missing(want: HostState, standing: Set[str]) -> HostState:
    """A route needs its link: where that is refused, one failure says it all. `standing` are some
    or all of the wanted links."""
    missing = left_over(want.links.keys(), standing, 0)
    if not missing:
        return want
    return msgspec.structs.replace(
        want, routes=frozenset(route for route in want.routes if route.link not in missing)
    )


def closed(want: HostState, barred: Set[str]) -> HostState:
    """The state in which the endpoints of these links may neither send nor receive."""
    endpoints = want.filter.endpoints
    inside = endpoints.keys() & barred if barred else barred
    if not inside:
        return want
    left = dict(endpoints)
    for name in inside:
        del left[name]
    reduced = msgspec.structs.replace(want.filter, endpoints=left)
    return msgspec.structs.replace(want, filter=reduced)
