"""The chains of shapes, and the rules that lead to them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from plait.agent.desired.filter_sets import (
    AFFINITY,
    BACKENDS,
    CALLERS,
    DOORS,
    FAMILIES,
    OUTSIDE,
    SERVICES,
    SHAPE_PREFIX,
    Door,
)
from plait.agent.desired.policy_sets import Family
from plait.agent.desired.ruleset import ChainRules, described
from plait.agent.desired.service_base import (
    DISPATCH,
    STICKY,
    UNSERVED,
    called,
    dispatch_chain,
)
from plait.agent.desired.service_shapes import (
    FIRST_SLOT,
    REFUSE,
    SCOPES,
    Scope,
    Use,
    restricted,
    seconds,
    slots,
)
from plait.model import marks
from plait.wire import nft_expr as e
from plait.wire.nft import Chain, Rule
from plait.wire.nft_choice import (
    BACKEND,
    BACKEND_PORT,
    CALLED,
    CALLED_PORT,
    CLIENT,
    MapIs,
    UpdateMap,
    random,
)
from plait.wire.nft_expr import DROP, RETURN, Counter, InSet, Masked
from plait.wire.nft_rewrite import DnatByMap, SetMark

_TRIES: Final = 12
"""More than half of the slots are filled, so the first slot gets less than 1/4096 too much."""
_SHAPE_NAME: Final = re.compile(
    f"{SHAPE_PREFIX}({'|'.join(SCOPES)})-({'|'.join(DOORS)})([46])-([0-9a-f]{{1,8}})"
)
_UNAVAILABLE: Final = Rule("unavailable", (Counter(), DROP))
_FRONTENDS: Final = {"inside": SERVICES, "outside": OUTSIDE}


def shape_name(use: Use) -> str:
    """Name of the chain of a shape."""
    return f"{SHAPE_PREFIX}{use.scope}-{use.door}{use.family}-{use.shape:x}"


def shape_of(chain: str) -> Use | None:
    """The reverse of `shape_name`; None for a name that it does not give."""
    found = _SHAPE_NAME.fullmatch(chain)
    if not found:
        return None
    scope, door, family, number = found.groups()
    return Use(int(family), door, scope, int(number, 16))  # type: ignore[arg-type]


@lru_cache(maxsize=1024)
def shape_chain(use: Use) -> ChainRules:
    """Chooses a backend for a new flow, and translates."""
    f, at, key = use.family, (use.door, use.family), called(use.family, use.door)
    first, count = FIRST_SLOT[use.scope], slots(use.shape)
    rules = []
    if restricted(use.shape):
        callers = InSet((*key, e.SADDR[f]), CALLERS[at].name, negate=True)
        not_own = Masked(e.MARK, marks.OWN_MARK, 0)
        rules.append(Rule("may not call", (not_own, e.family(f), callers, Counter(), DROP)))
    if seconds(use.shape):
        rules += [
            Rule("client stays", (SetMark(marks.STICKY_MARK, marks.STICKY_MARK),)),
            Rule(
                "client stays", (e.family(f), DnatByMap(f, (*key, e.SADDR[f]), AFFINITY[at].name))
            ),
        ]
    tries = {1: 0, 2: 1}.get(count, _TRIES)
    rules += [
        Rule(
            "backend", (e.family(f), DnatByMap(f, (*key, random(count, first)), BACKENDS[at].name))
        )
        for _ in range(tries)
    ]
    # There is always a first one, also where the maps change between two look-ups.
    last = DnatByMap(f, (*key, random(1, first)), BACKENDS[at].name)
    rules.append(Rule("backend", (e.family(f), last)))
    rules.append(_UNAVAILABLE)
    return described(Chain(shape_name(use), tuple(rules)))


@lru_cache(maxsize=4)
def dispatch_chains(used: frozenset[Use], *, some: bool) -> Mapping[str, ChainRules]:
    """The rules of the chains of `DISPATCH`, by name. `some`: there are frontends at all."""
    rules: dict[str, list[Rule]] = {name: [] for name in DISPATCH}
    leads: dict[str, list[Rule]] = {}
    # The smallest first: most Services have few backends.
    uses = sorted(used, key=lambda use: (SCOPES.index(use.scope), use))
    for use in uses:
        f, held = use.family, _FRONTENDS[use.scope][use.door, use.family].name
        to = MapIs(called(f, use.door), held, use.shape)
        lead = Rule("shape", (e.family(f), to, e.goto(shape_name(use))))
        leads.setdefault(dispatch_chain(f, use.door, use.scope), []).append(lead)
        if seconds(use.shape):
            rules[STICKY].append(_stays(use, _FRONTENDS[use.scope][use.door, use.family].name))
    for name, found in leads.items():
        # Twice: a frontend whose shape changes between two look-ups might be missed by all.
        rules[name] = found * 2 if len(found) > 1 else found
    if some:
        for f in FAMILIES:
            for door in DOORS:
                for scope in SCOPES:
                    rules[dispatch_chain(f, door, scope)] += _refuse(f, door, scope)
    return {name: described(Chain(name, tuple(found))) for name, found in rules.items()}


def _stays(use: Use, held: str) -> Rule:
    f = use.family
    at = (e.L4PROTO, CALLED_PORT)
    key = at if use.door == "port" else (CALLED[f], *at)
    update = UpdateMap(
        AFFINITY[use.door, f].name,
        (*key, CLIENT[f]),
        (BACKEND[f], BACKEND_PORT),
        seconds(use.shape) * 1000,
    )
    outside = (Masked(e.MARK, marks.OUTSIDE_MARK),) if use.scope == "outside" else ()
    return Rule("stays", (*outside, e.family(f), MapIs(key, held, use.shape), update, RETURN))


def _refuse(family: Family, door: Door, scope: Scope) -> tuple[Rule, ...]:
    """There is no backend, or the maps changed in this moment: a packet that is sent again then
    will find them whole."""
    refused = MapIs(called(family, door), _FRONTENDS[scope][door, family].name, REFUSE)
    return Rule("refused", (e.family(family), refused, e.goto(UNSERVED))), _UNAVAILABLE
