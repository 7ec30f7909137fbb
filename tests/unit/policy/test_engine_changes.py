"""Whatever happened before: the engine says what one says that was told the end alone."""

from __future__ import annotations

import random
import re

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.policies import NODES, Step, steps

from plait.model.members import Members
from plait.model.objects import AnyObject
from plait.model.ruleset import Ruleset
from plait.policy.engine import Engine, LocalParty

NODE = NODES[0]


class Follower:
    """Somebody who applies only what `since` tells, as the agent's programmer does."""

    def __init__(self) -> None:
        self._copies: dict[str, tuple[Members[object], int, set[object]]] = {}
        self._serial = 0
        self._last: Ruleset | None = None

    def follow(self, ruleset: Ruleset) -> None:
        if ruleset is self._last:
            assert ruleset.serial == self._serial
        else:
            assert ruleset.serial > self._serial or self._last is None
        found: dict[str, Members[object]] = {**ruleset.sets, **ruleset.sockets}  # type: ignore[dict-item]
        if ruleset.known is not None:
            found["known"] = ruleset.known  # type: ignore[assignment]
        changed = False
        for name, members in found.items():
            former, serial, copy = self._copies.get(name, (members, -1, set()))
            change = members.since(serial)
            if change is None:
                copy = set(members)
                changed = True
            else:
                assert change.added.isdisjoint(copy)
                assert change.removed <= copy
                changed = changed or any(change)
                copy = (copy | change.added) - change.removed
            assert copy == set(members), (name, former is members)
            self._copies[name] = (members, members.serial, copy)
        if ruleset is self._last:
            assert not changed
        self._serial, self._last = ruleset.serial, ruleset


def end_of(history: list[Step]) -> tuple[dict[str, AnyObject], dict[str, LocalParty]]:
    objects: dict[str, AnyObject] = {}
    locals_: dict[str, LocalParty] = {}
    for step in history:
        if step.kind == "put" and step.obj is not None:
            objects[step.obj.key] = step.obj
        elif step.kind == "delete" and step.obj is not None:
            objects.pop(step.obj.key, None)
        elif step.kind == "local" and step.party is not None:
            locals_[step.ident] = step.party
        elif step.kind == "local":
            locals_.pop(step.ident, None)
    return objects, locals_


def do(engine: Engine, step: Step, follower: Follower) -> None:
    if step.kind == "put" and step.obj is not None:
        engine.put(step.obj)
    elif step.kind == "delete" and step.obj is not None:
        engine.delete(step.obj)
    elif step.kind == "local":
        engine.set_local(step.ident, step.party)
    else:
        follower.follow(engine.ruleset())


def idents(ruleset: Ruleset) -> set[str]:
    rules = {rule.id for chain in ruleset.chains.values() for rule in chain.rules}
    tiers = [tier for found in ruleset.classes.values() for tier in found.tiers]
    return rules | {i for tier in tiers for i in (tier.deny, tier.staged_deny) if i}


def whole(ruleset: Ruleset) -> Ruleset:
    """Comparable: without the number of changes that led there."""
    return msgspec.structs.replace(ruleset, serial=0)


@given(steps(), st.randoms(use_true_random=False))
@settings(max_examples=120)
def test_the_state_counts_and_not_the_way_to_it(history: list[Step], rng: random.Random) -> None:
    engine, follower = Engine(NODE), Follower()
    for step in history:
        do(engine, step, follower)
    ruleset = engine.ruleset()
    follower.follow(ruleset)

    fresh = Engine(NODE)
    objects, locals_ = end_of(history)
    told: list[object] = [*objects.values(), *locals_.items()]
    rng.shuffle(told)
    for item in told:
        if isinstance(item, tuple):
            fresh.set_local(*item)
        else:
            fresh.put(item)  # type: ignore[arg-type]
    assert whole(ruleset) == whole(fresh.ruleset())
    assert dict(engine.problems) == dict(fresh.problems)
    for ident in idents(ruleset):
        assert engine.meaning(ident) == fresh.meaning(ident) is not None


@given(steps())
@settings(max_examples=60)
def test_nothing_stays_of_what_goes(history: list[Step]) -> None:
    engine, follower = Engine(NODE), Follower()
    for step in history:
        do(engine, step, follower)
    objects, locals_ = end_of(history)
    for ident in locals_:
        engine.set_local(ident, None)
    for obj in objects.values():
        engine.delete(obj)
    assert whole(engine.ruleset()) == Ruleset()
    sets, subjects = engine._sets, engine._subjects
    tables = [vars(part) for part in (sets, sets._endpoints, sets._nodes, subjects)]
    tables.append({k: v for k, v in vars(engine).items() if k != "_meanings"})
    for table in tables:
        left = {k: v for k, v in table.items() if isinstance(v, dict | set) and v}
        assert left == {}


@given(steps())
@settings(max_examples=40)
def test_only_what_is_used_is_there(history: list[Step]) -> None:
    engine, follower = Engine(NODE), Follower()
    for step in history:
        do(engine, step, follower)
    ruleset = engine.ruleset()
    used = {name for classes in ruleset.dispatch.values() for name in classes if name}
    assert set(ruleset.classes) == used
    chains = {
        name for found in ruleset.classes.values() for tier in found.tiers for name in tier.chains
    }
    assert set(ruleset.chains) == chains
    rules = [rule for chain in ruleset.chains.values() for rule in chain.rules]
    assert set(ruleset.sets) == {rule.peers for rule in rules if rule.peers}
    assert set(ruleset.domains) == {rule.domains for rule in rules if rule.domains}
    assert set(ruleset.sockets) == {
        port.named for rule in rules for port in rule.ports if port.named
    }
    assert (ruleset.known is not None) == any(c.guard for c in ruleset.classes.values())
    names = [*used, *chains, *ruleset.sets, *ruleset.sockets, *ruleset.domains, *idents(ruleset)]
    assert all(re.fullmatch("[a-z0-9]{16}", name) for name in names)
