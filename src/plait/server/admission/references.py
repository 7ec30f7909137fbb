"""What policies name: groups and networks, which need not be there. Pure.

A policy is stored all the same, for people apply manifests in whatever order; its status says
what is missing and is told anew when that comes or goes. A service is whoever answers to its
name, so it has no object that could be missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, cast

import msgspec

from plait.model.objects import Group, Network, Object, Policy
from plait.model.policies import DIRECTIONS, PolicySpec, PolicyStatus
from plait.server.state import State, with_revision

Reference = tuple[type[Object], str]

MOST_NAMED: Final = 5
"""Missing objects of a kind that a message names."""
EFFECTS: Final[dict[type[Object], str]] = {
    Group: "a rule that names it accepts nothing, or denies everything",
    Network: "nobody is on it",
}
"""What follows of a missing object."""


def named(spec: PolicySpec) -> list[Reference]:
    """Groups and networks that a policy names, each once, in order."""
    return sorted(set(_named(spec)), key=lambda ref: (ref[0].plural, ref[1]))


def _named(spec: PolicySpec) -> Iterator[Reference]:
    for direction in DIRECTIONS:
        for rule in spec.rules(direction):
            for peer in rule.peers or ():
                if peer.group:
                    yield Group, peer.group
                if peer.network:
                    yield Network, peer.network


def namers(state: State, kind: type[Object], name: str) -> list[Policy]:
    """Policies that name an object, by name."""
    found = [policy for policy in state.all(Policy) if (kind, name) in named(policy.spec)]
    return sorted(found, key=lambda policy: policy.metadata.name)


def message(spec: PolicySpec, there: Callable[[Reference], bool]) -> str:
    """Which of the named objects are missing, and what follows; empty when none is."""
    missing = [ref for ref in named(spec) if not there(ref)]
    parts = []
    for kind, effect in EFFECTS.items():
        names = [name for of, name in missing if of is kind]
        if names:
            more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
            listed = f", no {kind.__name__.lower()} ".join(names[:MOST_NAMED])
            parts.append(f"there is no {kind.__name__.lower()} {listed}{more}: {effect}")
    return "; ".join(parts)


def retold(state: State, kind: type[Object], name: str, *, there: bool) -> tuple[Policy, ...]:
    """Policies whose message changes when an object comes (`there`) or goes."""

    def known(ref: Reference) -> bool:
        return there if ref == (kind, name) else state.entry(*ref) is not None

    found = []
    for policy in namers(state, kind, name):
        status = PolicyStatus(message=message(policy.spec, known))
        if status != policy.status:
            changed = msgspec.structs.replace(policy, status=status)
            found.append(cast(Policy, with_revision(changed, 0)))
    return tuple(found)
