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
"""Missing objects that a message names."""


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
    """Which of the named objects are missing; empty when none is."""
    missing = [
        f"{kind.__name__.lower()} {name}" for kind, name in named(spec) if not there((kind, name))
    ]
    if not missing:
        return ""
    more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
    return (
        f"there is no {', no '.join(missing[:MOST_NAMED])}{more}: "
        "a rule that accepts matches nothing by that name"
    )


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
