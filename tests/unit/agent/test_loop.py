"""The order of a turn, quarantine and repair, with programmers that only take notes."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from tests.support.loops import Bench, Notes, link, state

from plait.agent.loop import Loop
from plait.agent.programmers import ORDER, in_order


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_nothing_is_touched_before_there_is_a_desired_state(bench: Bench) -> None:
    bench.parts["links"].kernel["old"] = link("old")
    assert bench.turn(None) == []
    assert not bench.loop.observed


def test_what_opens_comes_last_and_what_closes_first(bench: Bench) -> None:
    assert bench.turn(state("a", extra="x")) == [
        "filter.base add base-",
        "filter.base add basex",
        "links add a",
        "addresses add x/32",
        "routes add a/32",
        "filter.endpoints add a",
    ]
    assert bench.turn(state("b")) == [
        "filter.endpoints del a",
        "links del a",
        "links add b",
        "routes add b/32",
        "routes del a/32",
        "addresses del x/32",
        "filter.base del basex",
        "filter.endpoints add b",
    ]


def test_a_restart_does_not_close_what_is_open(bench: Bench) -> None:
    bench.turn(state("a"))
    again = Loop(in_order(bench.parts.values()), lambda: state("a"), clock=bench.clock)
    bench.diary.clear()
    again.turn()
    assert bench.diary == []


def test_a_turn_without_change_plans_nothing(bench: Bench) -> None:
    bench.turn(state("a"))
    plans = {name: part.plans for name, part in bench.parts.items()}
    assert bench.turn(bench.want) == []
    assert {name: part.plans for name, part in bench.parts.items()} == plans


def test_an_endpoint_without_a_link_gets_no_route_and_no_traffic(bench: Bench) -> None:
    bench.turn(state())
    bench.parts["links"].refuse["bad"] = "no"
    assert bench.turn(state("bad", "good")) == [
        "links add bad",
        "links add good",
        "routes add good/32",
        "filter.endpoints add good",
    ]
    (failure,) = bench.loop.failures_of(("bad",))
    assert failure.error == "no"
    assert bench.loop.failures_of(("ba", "good")) == ()


def test_quarantine_backs_off_and_ends(bench: Bench) -> None:
    bench.parts["routes"].refuse["a/32"] = "no"
    bench.turn(state("a"))
    waits = []
    for _ in range(10):
        assert bench.turn(bench.want) == [], "retried too early"
        wait = min(i.retry_at for i in bench.loop._quarantine.values()) - bench.clock()
        waits.append(wait)
        bench.clock.advance(wait)
        assert "routes add a/32" in bench.turn(bench.want)
    assert waits == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    bench.parts["routes"].refuse.clear()
    bench.clock.advance(31)
    assert bench.turn(bench.want) == ["routes add a/32"]
    assert bench.loop.failures == ()


def test_a_changed_wish_is_tried_at_once(bench: Bench) -> None:
    bench.parts["links"].refuse["a"] = "no"
    bench.turn(state("a"))
    bench.parts["links"].refuse.clear()
    wish = state("a")
    other = msgspec.structs.replace(wish, links={"a": msgspec.structs.replace(link("a"), mtu=1400)})
    assert "links add a" in bench.turn(other)


def test_what_nobody_wants_is_no_failure(bench: Bench) -> None:
    bench.parts["links"].refuse["a"] = "no"
    bench.turn(state("a"))
    assert bench.loop.failures
    bench.turn(state())
    assert bench.loop.failures == ()


def test_damage_is_repaired_and_counted(bench: Bench) -> None:
    bench.want = state("a", "b")
    assert bench.loop.resync() == ()
    del bench.parts["routes"].kernel["a/32"]
    bench.parts["routes"].kernel["stray/32"] = "x"
    mended = bench.loop.resync()
    assert sorted(op.text for op in mended) == ["add a/32", "del stray/32"]
    assert bench.loop.repairs == {"routes": 2}
    assert bench.loop.resync() == ()


def test_what_had_no_place_before_is_no_repair(bench: Bench) -> None:
    bench.want = state("a")
    bench.loop.resync()
    routes = bench.parts["routes"]
    planned = routes.plan
    routes.plan = lambda want: tuple(
        msgspec.structs.replace(op, arrival=True) for op in planned(want)
    )
    del routes.kernel["a/32"]
    assert bench.loop.resync() == ()
    assert "a/32" in routes.kernel
    assert bench.loop.repairs == {}


def test_an_endpoint_that_ended_is_no_damage(bench: Bench) -> None:
    gate = bench.parts["filter.endpoints"]
    # As in the real gate, a network has chains while an endpoint of it is there.
    gate._pick = lambda s: s.filter.endpoints | ({"chains": "n"} if s.filter.endpoints else {})
    bench.want = state("a")
    bench.loop.resync()
    # Its namespace is gone, and the kernel took the link and the route with it.
    del bench.parts["links"].kernel["a"]
    del bench.parts["routes"].kernel["a/32"]
    bench.parts["links"].refuse["a"] = "no such namespace"
    bench.parts["links"].gone.add("a")
    assert bench.loop.resync() == ()
    assert bench.gone == ["a"]
    assert gate.kernel == {}
    assert bench.loop.repairs == {}


def test_damage_to_the_gate_is_repaired_and_counted(bench: Bench) -> None:
    bench.want = state("a", "b")
    bench.loop.resync()
    del bench.parts["filter.endpoints"].kernel["a"]
    assert [op.text for op in bench.loop.resync()] == ["add a"]
    assert bench.loop.repairs == {"filter.endpoints": 1}


def test_a_change_is_no_repair(bench: Bench) -> None:
    bench.want = state("a")
    bench.loop.resync()
    bench.want = state("a", "b")
    assert bench.loop.resync() == ()
    assert "b" in bench.parts["links"].kernel


def looked(bench: Bench) -> set[str]:
    """Which programmers read the kernel when the loop looks the next time."""
    before = {name: part.readings for name, part in bench.parts.items()}
    bench.loop.look()
    return {name for name, part in bench.parts.items() if part.readings > before[name]}


def test_what_takes_long_to_read_is_not_read_at_once(bench: Bench) -> None:
    bench.want = state("a")
    assert looked(bench) == bench.parts.keys()
    start, found = bench.clock(), []
    for _ in range(3):
        bench.clock.advance(bench.loop._next_reading - bench.clock())
        found.append(looked(bench))
    assert found == [{"links"}, {"routes"}, bench.parts.keys() - {"links", "routes"}]
    assert bench.clock() - start == pytest.approx(5.0)


def test_all_is_read_at_once_after_an_event(bench: Bench) -> None:
    bench.want = state("a")
    bench.loop.look()
    bench.loop.nudge()
    assert looked(bench) == bench.parts.keys()


@pytest.mark.parametrize("part", ["links", "routes", "filter.endpoints"])
def test_damage_seldom_comes_alone(bench: Bench, part: str) -> None:
    bench.want = state("a")
    bench.loop.look()
    for damaged in (part, "addresses"):
        bench.parts[damaged].kernel.clear()
        bench.parts[damaged].kernel["stray"] = "x"
    readings = ["links", "routes", "filter.endpoints"]
    for _ in range(readings.index(part)):
        bench.loop.look()
    assert bench.parts[part].kernel.keys() == {"stray"}
    assert looked(bench) == bench.parts.keys()
    assert not any("stray" in notes.kernel for notes in bench.parts.values())
    assert bench.loop.repairs[part] == 2
    assert bench.loop.repairs["addresses"] == 1


def test_a_change_between_two_readings_is_no_repair(bench: Bench) -> None:
    bench.want = state("a")
    bench.loop.look()
    for names in (("a", "b"), ("b",), ("b", "c")):
        bench.want = state(*names)
        bench.loop.look()
    assert bench.loop.repairs == {}
    assert bench.parts["links"].kernel.keys() == {"b", "c"}


def test_a_vanished_namespace_is_told(bench: Bench) -> None:
    bench.parts["links"].refuse["a"] = "gone"
    bench.parts["links"].gone.add("a")
    bench.turn(state("a"))
    assert bench.gone == ["a"]


def test_a_preview_changes_nothing(bench: Bench) -> None:
    bench.turn(state("a"))
    bench.diary.clear()
    ops = bench.loop.preview(state("a", "b"))
    assert [op.text for op in ops] == ["add b", "add b/32", "add b"]
    assert bench.diary == []


async def test_those_who_wait_share_a_turn(bench: Bench) -> None:
    bench.want = state("a")
    await asyncio.gather(*(bench.loop.settle() for _ in range(50)))
    assert bench.loop.turns == 1
    bench.loop.soon()
    bench.loop.soon()
    await bench.loop.settle()
    assert bench.loop.turns == 2
    assert bench.loop._timer is None


async def test_who_waits_hears_of_a_defect(bench: Bench) -> None:
    bench.want = state("a")
    bench.parts["links"].plan = None  # type: ignore[assignment,method-assign]
    with pytest.raises(TypeError):
        await bench.loop.settle()


def test_every_programmer_has_a_place() -> None:
    assert ORDER[0] == "filter.base"
    assert ORDER[-1] == "filter.endpoints"
    with pytest.raises(KeyError):
        in_order([Notes("other", None, [])])
