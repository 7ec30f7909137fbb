"""Policies and the gate: at no moment of a turn is an endpoint open without its rules (P5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.loops import Bench, Notes, state

from plait.agent.programmers.base import Failure, Op
from plait.model.hoststate import HostState
from plait.model.ruleset import Classes, Ruleset


def ruled(classes: Mapping[str, str], *, serial: int = 1, names: Sequence[str] = ()) -> HostState:
    """Endpoints with links; those of `classes` have policies. An endpoint's name is its address."""
    policy = Ruleset(serial=serial, dispatch={n: Classes(c, "") for n, c in classes.items()})
    return msgspec.structs.replace(state(*(names or classes)), policy=policy)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_policies_stand_before_an_endpoint_opens_and_go_after_it_closed(bench: Bench) -> None:
    bench.turn(ruled({}))
    assert bench.turn(ruled({"a": "k1"})) == [
        "filter.policy add a",
        "links add a",
        "routes add a/32",
        "filter.endpoints add a",
    ]
    assert bench.turn(ruled({})) == [
        "filter.endpoints del a",
        "filter.policy del a",
        "links del a",
        "routes del a/32",
    ]


def test_an_endpoint_that_is_named_only_now_opens_after_its_policies(bench: Bench) -> None:
    silent = state("a")
    silent = msgspec.structs.replace(
        silent, filter=msgspec.structs.replace(silent.filter, endpoints={})
    )
    bench.turn(silent)
    assert bench.turn(ruled({"a": "k1"})) == ["filter.policy add a", "filter.endpoints add a"]


def test_what_died_is_closed_before_its_policies_go_also_by_a_new_agent(bench: Bench) -> None:
    bench.turn(ruled({"a": "k1", "b": "k1"}))
    bench.restarted()
    assert bench.turn(ruled({"b": "k1"})) == [
        "filter.endpoints del a",
        "filter.policy del a",
        "links del a",
        "routes del a/32",
    ]


def test_a_new_agent_with_the_same_wish_touches_nothing(bench: Bench) -> None:
    want = ruled({"a": "k1", "b": "k2"})
    bench.turn(want)
    bench.restarted()
    assert bench.turn(want) == []


def test_a_change_of_policies_is_one_step(bench: Bench) -> None:
    bench.turn(ruled({"a": "k1", "b": "k1"}))
    assert bench.turn(ruled({"a": "k2"}, serial=2, names=("a", "b"))) == [
        "filter.policy del b",
        "filter.policy add a",
    ]


def test_a_ruleset_is_compared_by_what_it_is_not_by_content(bench: Bench) -> None:
    want = ruled({"a": "k1"})
    bench.turn(want)
    plans = bench.parts["filter.policy"].plans
    bench.turn(msgspec.structs.replace(want, routes=frozenset()))
    assert bench.parts["filter.policy"].plans == plans
    bench.turn(msgspec.structs.replace(want, policy=ruled({"a": "k1"}, serial=2).policy))
    assert bench.parts["filter.policy"].plans == plans + 1


@pytest.mark.parametrize("name", ["a", "k1"])
def test_an_endpoint_whose_policies_are_refused_stays_closed(bench: Bench, name: str) -> None:
    policy = bench.parts["filter.policy"]
    policy._pick = lambda s: {c.egress: c for c in s.policy.dispatch.values()} | s.policy.dispatch
    policy.refuse[name] = "out of memory"
    bench.turn(ruled({}))
    assert "filter.endpoints add a" not in bench.turn(ruled({"a": "k1", "b": "k2"}))
    assert bench.parts["filter.endpoints"].kernel.keys() == {"b"}
    assert [f.error for f in bench.loop.failures_of(("a",))][-1] == "out of memory"
    assert bench.loop.failures_of(("b",)) == ()
    policy.refuse.clear()
    bench.clock.advance(1)
    assert bench.turn(bench.want)[-1] == "filter.endpoints add a"
    assert bench.loop.failures_of(("a",)) == ()


def test_what_a_refused_set_holds_is_nobody_s_failure(bench: Bench) -> None:
    """A rule that the kernel refuses closes its own policy: who it names is not affected."""
    policy = bench.parts["filter.policy"]
    policy._pick = lambda s: {("set", "p-s1-4 a"): "a b"} | dict(s.policy.dispatch)
    policy.refuse[("set", "p-s1-4 a")] = "no"  # type: ignore[index]
    assert bench.turn(ruled({"b": "k1"}, names=("a", "b")))[-2:] == [
        "filter.endpoints add a",
        "filter.endpoints add b",
    ]
    assert bench.loop.failures
    assert bench.loop.failures_of(("a", "b")) == ()


def test_an_open_endpoint_whose_new_policies_are_refused_is_closed(bench: Bench) -> None:
    bench.turn(ruled({"a": "k1"}))
    bench.parts["filter.policy"].refuse["a"] = "no"
    assert bench.turn(ruled({"a": "k2"}, serial=2)) == [
        "filter.policy add a",
        "filter.endpoints del a",
    ]


def test_after_a_repair_of_everything_policies_come_before_the_gate(bench: Bench) -> None:
    bench.want = ruled({"a": "k1"})
    bench.loop.resync()
    for name in ("filter.base", "filter.policy", "filter.endpoints"):
        bench.parts[name].kernel.clear()
    bench.diary.clear()
    bench.loop.resync()
    assert bench.diary == ["filter.base add base-", "filter.policy add a", "filter.endpoints add a"]


NAMES = st.sampled_from("abc")
STATES = st.lists(
    st.tuples(
        st.dictionaries(NAMES, st.sampled_from(["k1", "k2"])),  # Policies.
        st.frozensets(NAMES),  # Endpoints that are named and not fenced.
        st.frozensets(NAMES),  # What the kernel refuses of policies.
        st.frozensets(NAMES),  # What it refuses of links.
        st.booleans(),  # A new agent.
    ),
    max_size=6,
)


class Watched(Notes):
    """Looks at the kernel after every step of every programmer."""

    def __init__(self, name: str, pick: Any, bench: Guarded) -> None:
        super().__init__(name, pick, bench.diary)
        self._bench = bench

    def apply(self, ops: Sequence[Op]) -> tuple[Failure, ...]:
        failures = super().apply(ops)
        self._bench.look()
        return failures


class Guarded(Bench):
    before: HostState = HostState()

    def part(self, name: str, pick: Any) -> Notes:
        return Watched(name, pick, self)

    def look(self) -> None:
        rules = self.parts["filter.policy"].kernel
        for name in self.parts["filter.endpoints"].kernel:
            assert self.want is not None
            allowed = [self.want.policy.dispatch.get(name)]
            # One that was open may be so by the former rules until the new ones have replaced
            # them, never without.
            if name in self.before.filter.endpoints:
                allowed.append(self.before.policy.dispatch.get(name))
            assert rules.get(name) in allowed, name


@settings(max_examples=150)
@given(STATES)
def test_at_no_moment_is_an_endpoint_open_without_its_rules(
    steps: list[tuple[dict[str, str], frozenset[str], frozenset[str], frozenset[str], bool]],
) -> None:
    bench = Guarded()
    for serial, (classes, names, refused, broken, fresh) in enumerate(steps):
        want = ruled({n: c for n, c in classes.items() if n in names}, serial=serial, names=())
        links = state(*sorted(names | classes.keys()))
        opened = {n: e for n, e in links.filter.endpoints.items() if n in names}
        want = msgspec.structs.replace(
            links,
            policy=want.policy,
            filter=msgspec.structs.replace(links.filter, endpoints=opened),
        )
        bench.parts["filter.policy"].refuse = dict.fromkeys(refused, "no")
        bench.parts["links"].refuse = dict.fromkeys(broken, "no")
        bench.clock.advance(60)
        if fresh:
            bench.restarted()
        bench.turn(want)
        kernel = bench.parts["filter.endpoints"].kernel
        for name in opened:
            stands = bench.parts["filter.policy"].kernel.get(name) == want.policy.dispatch.get(name)
            assert (name in kernel) == (stands and name in bench.parts["links"].kernel) or (
                name in broken
            )
        before = {n: e for n, e in opened.items() if n in kernel}
        bench.before = msgspec.structs.replace(
            want,
            filter=msgspec.structs.replace(want.filter, endpoints=before),
            policy=Ruleset(dispatch=dict(bench.parts["filter.policy"].kernel)),
        )
