"""Several policies that apply together, to a class. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from plait.model.policies import DIRECTIONS, TIERS, Direction
from plait.model.ruleset import PolicyClass, Tier
from plait.policy import opaque_names
from plait.policy.compile import Compiled, Meaning


class Classified(NamedTuple):
    """The class of those to whom some policies apply."""

    name: str
    """Empty: no policy has a say."""
    definition: PolicyClass | None = None
    meanings: Mapping[str, Meaning] = {}


NO_CLASS: Final = Classified("")


def classify(direction: Direction, policies: Iterable[Compiled]) -> Classified:
    """The class, in a direction, of the endpoints to which just these policies apply."""
    place = DIRECTIONS.index(direction)
    having = sorted((p.priority, p.name, p, p.facets[place]) for p in policies)
    order: list[tuple[str, list[str]]] = []
    tiers: list[Tier] = []
    guard = False
    meanings: dict[str, Meaning] = {}
    for tier in TIERS:
        members = [(p, facet) for _, _, p, facet in having if p.tier == tier and facet.matters]
        if not members:
            continue
        order.append((tier, [p.name for p, _ in members]))
        guard = guard or any(facet.guard for _, facet in members)
        denies = []
        for staged in (False, True):
            isolating = tuple(p.name for p, f in members if f.isolates and p.staged == staged)
            found = isolation(direction, isolating, staged=staged) if isolating else None
            meanings |= {} if found is None else dict([found])
            denies.append("" if found is None else found[0])
        chains = tuple(facet.chain for _, facet in members if facet.chain)
        if chains or any(denies):
            tiers.append(Tier(chains=chains, deny=denies[0], staged_deny=denies[1]))
    if not order:
        return NO_CLASS
    definition = PolicyClass(direction=direction, tiers=tuple(tiers), guard=guard)
    return Classified(opaque_names.class_name(direction, order), definition, meanings)


def isolation(
    direction: Direction, policies: Iterable[str], *, staged: bool
) -> tuple[str, Meaning]:
    """The id under which is denied what none of these policies accepts, and its meaning."""
    isolating = tuple(sorted(policies))
    ident = opaque_names.isolation_name(direction, isolating, staged=staged)
    meaning = Meaning(direction=direction, action="Deny", staged=staged, isolating=isolating)
    return ident, meaning
