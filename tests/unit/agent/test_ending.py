"""Flows that a change of policies ends: which, when one has to look, and until when."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Iterator

import msgspec
import pytest

from plait.agent.denied_flows import Judge, Memory, Surroundings
from plait.agent.flow_ender import LOOKS, Ender
from plait.kernel.conntrack import FakeConntrack
from plait.model.hoststate import Filter, FilterEndpoint, HostState
from plait.model.members import Members
from plait.model.ruleset import (
    ChainRule,
    Classes,
    Decision,
    PolicyChain,
    PolicyClass,
    PortMatch,
    Ruleset,
    Tier,
)
from plait.wire.ctnetlink import Flow, Tuple

WEB, DB, FAR, HOST, WORLD = "10.9.0.1", "10.9.0.2", "10.9.1.7", "192.0.2.1", "198.51.100.9"
TCP, UDP, ICMP = 6, 17, 1
_ids = itertools.count()


def flow(
    src: str, dst: str, dport: int = 80, *, via: str = "", protocol: int = TCP, sport: int = 4000
) -> Flow:
    """A flow; `via` is where a published port leads."""
    key = next(_ids).to_bytes(4, "big")
    reply = Tuple(via or dst, src, dport, sport)
    kind = (8, 0) if protocol == ICMP else (-1, -1)
    return Flow(4, protocol, Tuple(src, dst, sport, dport), reply, key, *kind)


def rule(
    decision: Decision, *, peers: str = "", ports: tuple[PortMatch, ...] = (), ident: str = "r1"
) -> ChainRule:
    return ChainRule(id=ident, decision=decision, anyone=not peers, peers=peers, ports=ports)


TO_80 = (PortMatch(protocol="tcp", first=80, last=80),)


def ruleset(
    *rules: ChainRule,
    sets: dict[str, Members[str]] | None = None,
    direction: str = "ingress",
    deny: str = "i1",
    local: str = WEB,
) -> Ruleset:
    """One class in one direction for one local address."""
    classes = Classes("", "k1") if direction == "ingress" else Classes("k1", "")
    return Ruleset(
        serial=next(_ids),
        chains={"c1": PolicyChain(direction=direction, rules=rules)},  # type: ignore[arg-type]
        classes={
            "k1": PolicyClass(direction=direction, tiers=(Tier(chains=("c1",), deny=deny),))  # type: ignore[arg-type]
        },
        dispatch={local: classes},
        sets=sets or {},
    )


AROUND = Surroundings(host=frozenset({HOST}), local=frozenset({WEB, DB}))


def denied(rules: Ruleset, *flows: Flow, around: Surroundings = AROUND) -> list[Flow]:
    judge = Judge(rules, around)
    return [f for f in flows if judge.denies(f)]


def test_both_ends_are_judged_on_the_host_that_they_are_on() -> None:
    to_web, to_db, out = flow(FAR, WEB), flow(FAR, DB), flow(WEB, FAR)
    assert denied(ruleset(), to_web, to_db, out) == [to_web]
    assert denied(ruleset(direction="egress"), to_web, to_db, out) == [out]


def test_replies_are_implicit_and_rules_decide_by_port() -> None:
    right, wrong, ping = flow(FAR, WEB), flow(FAR, WEB, 81), flow(FAR, WEB, 0, protocol=ICMP)
    rules = ruleset(rule("accept", ports=TO_80))
    assert denied(rules, right, wrong, ping) == [wrong, ping]


def test_a_published_port_is_judged_by_its_true_end() -> None:
    client = flow(WORLD, HOST, 8080, via=WEB)
    assert denied(ruleset(), client) == [client]
    assert denied(ruleset(local=DB), client) == []


def test_the_host_reaches_its_own_endpoints() -> None:
    assert denied(ruleset(), flow(HOST, WEB)) == []


def test_a_flow_to_the_host_needs_a_rule_that_accepts_it() -> None:
    ssh, echo, name = (
        flow(WEB, HOST, 22),
        flow(WEB, HOST, 0, protocol=ICMP),
        flow(WEB, WORLD, 53, protocol=UDP),
    )
    nothing = ruleset(local=DB)
    assert denied(nothing, ssh, echo, name) == [ssh]
    accepts = ruleset(rule("accept"), direction="egress")
    assert denied(accepts, ssh, echo, name) == []
    denies = ruleset(rule("deny"), direction="egress")
    assert denied(denies, ssh, echo, name) == [ssh, echo]
    own = flow(WEB, FAR, 53, protocol=UDP)
    inside = msgspec.structs.replace(AROUND, in_pools=lambda address: address.startswith("10."))
    assert denied(denies, own, name, around=inside) == [own], "an endpoint is asked itself"
    unproxied = msgspec.structs.replace(AROUND, proxied=False)
    assert denied(denies, name, around=unproxied) == [name]


def test_what_a_name_opened_goes_on() -> None:
    opened = ruleset(ChainRule(id="r1", decision="accept", domains="d1"), direction="egress")
    around = msgspec.structs.replace(AROUND, in_domain=lambda _, a: a == WORLD)
    other = flow(WEB, "203.0.113.5")
    assert denied(opened, flow(WEB, WORLD), other, around=around) == [other]


# When one has to look.


def state(policy: Ruleset, *local: str) -> HostState:
    endpoints = {f"pl{a}": FilterEndpoint(network="n", addresses=(a,)) for a in local}
    return HostState(policy=policy, filter=Filter(endpoints=endpoints))


def changed(before: HostState, after: HostState) -> bool:
    memory = Memory()
    assert memory.narrows(before)
    assert not memory.narrows(before)
    return memory.narrows(after)


def test_one_looks_after_rules_or_their_use_changed() -> None:
    first = state(ruleset(rule("accept")), WEB, DB)
    assert changed(first, state(ruleset(rule("deny")), WEB, DB))
    assert changed(first, state(ruleset(rule("accept"), deny="i2"), WEB, DB))
    assert changed(first, state(ruleset(rule("accept"), local=DB), WEB, DB))
    assert changed(state(Ruleset(), WEB), state(ruleset(), WEB))
    assert not changed(first, state(ruleset(rule("accept")), WEB, DB))


def test_nobody_looks_because_an_endpoint_came_or_went() -> None:
    rules = ruleset(rule("accept"))
    both = msgspec.structs.replace(rules, dispatch={**rules.dispatch, DB: Classes("", "k1")})
    assert not changed(state(rules, WEB), state(both, WEB, DB))
    assert not changed(state(both, WEB, DB), state(rules, WEB))


def test_policies_that_end_are_looked_at_for_what_the_host_refuses() -> None:
    memory = Memory()
    memory.narrows(state(ruleset(), WEB))
    assert memory.narrows(state(Ruleset(serial=99), WEB))
    assert memory.ruled == {WEB}


@pytest.mark.parametrize(
    ("decision", "added", "removed"),
    [("accept", False, True), ("deny", True, True), ("pass", True, True)],
)
def test_members_matter_by_what_rules_do_with_them(
    decision: Decision, added: bool, removed: bool
) -> None:
    members = Members({FAR})
    rules = ruleset(rule(decision, peers="s1"), sets={"s1": members})
    memory = Memory()
    memory.narrows(state(rules, WEB))
    members.add(DB)
    again = msgspec.structs.replace(rules, serial=next(_ids))
    assert memory.narrows(state(again, WEB)) is added
    members.discard(DB)
    again = msgspec.structs.replace(rules, serial=next(_ids))
    assert memory.narrows(state(again, WEB)) is removed


def test_what_is_not_known_counts_as_narrower() -> None:
    memory = Memory()
    want = state(ruleset(), WEB)
    memory.narrows(want)
    memory.forget()
    assert memory.narrows(want)
    assert not Memory().narrows(state(ruleset(), DB, WEB).__class__()), "no endpoint, no flow"


# How long one looks.


async def inline(work: Callable[[], object]) -> object:
    return work()


class Pauses:
    """Records the pauses, and lets something happen in each."""

    def __init__(self, *during: Callable[[], None]) -> None:
        self.taken: list[float] = []
        self._during: Iterator[Callable[[], None]] = iter(during)

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        next(self._during, lambda: None)()
        await asyncio.sleep(0)


def ender(table: FakeConntrack, sleep: Callable[[float], Awaitable[None]]) -> Ender:
    return Ender(table, lambda: AROUND, offload=inline, sleep=sleep)


async def test_denied_flows_end_and_others_go_on() -> None:
    mine, other, foreign = flow(FAR, WEB), flow(WEB, FAR), flow(FAR, "10.9.1.8")
    table = FakeConntrack([mine, other, foreign])
    pauses = Pauses()
    made = ender(table, pauses)
    made.follow(state(ruleset(), WEB, DB), True)
    assert await made.look() == 1
    assert table.entries == [other, foreign]
    assert pauses.taken == list(LOOKS[:2]), "the second look found nothing"
    assert made.idle
    assert made.ended == 1


async def test_an_answer_in_flight_does_not_keep_a_flow_alive() -> None:
    asked = flow(FAR, WEB, 53, protocol=UDP)
    answer = flow(WEB, FAR, 4000, protocol=UDP, sport=53)
    unlike = flow(WEB, FAR, 4001, protocol=UDP, sport=53)
    table = FakeConntrack([asked])
    barred: list[Flow] = []
    made = Ender(
        table,
        lambda: AROUND,
        offload=inline,
        sleep=Pauses(lambda: None, lambda: table.entries.extend([answer, unlike])),
        bar=lambda flows, _seconds: barred.extend(flows),
    )
    made.follow(state(ruleset(), WEB), True)
    assert await made.look() == 2
    assert barred == [asked], "who is let in again need not wait"
    assert table.entries == [unlike], "policies accept what the endpoint begins itself"


async def test_a_flow_that_began_because_it_may_by_now_goes_on() -> None:
    """Policies are opened while the table is read, and somebody calls at once."""
    fresh = flow(FAR, WEB)

    class Late(FakeConntrack):
        def flows_of(self, addresses: Iterable[str]) -> tuple[Flow, ...]:
            made.follow(state(ruleset(rule("accept")), WEB), False)
            self.entries.append(fresh)
            return super().flows_of(addresses)

    table = Late()
    made = ender(table, Pauses())
    made.follow(state(ruleset(), WEB), True)
    assert await made.look() == 0
    assert fresh in table.entries


async def test_looks_end_though_somebody_goes_on() -> None:
    table = FakeConntrack()
    again = [lambda: table.entries.append(flow(FAR, WEB, protocol=UDP)) for _ in range(9)]
    pauses = Pauses(*again)
    made = ender(table, pauses)
    made.follow(state(ruleset(), WEB), True)
    await made.look()
    assert pauses.taken == list(LOOKS)
    assert sum(LOOKS) < 1


async def test_a_change_that_opens_causes_no_look() -> None:
    members = Members({FAR})
    rules = ruleset(rule("accept", peers="s1"), sets={"s1": members})
    made = ender(FakeConntrack(), Pauses())
    made.follow(state(rules, WEB), True)
    await made.look()
    members.add(DB)
    made.follow(state(msgspec.structs.replace(rules, serial=99), WEB), False)
    assert made.idle
    members.discard(FAR)
    made.follow(state(msgspec.structs.replace(rules, serial=100), WEB), False)
    assert not made.idle


async def test_a_failure_is_told_and_tried_again() -> None:
    class Broken(FakeConntrack):
        failures = 2

        def flows_of(self, addresses: object) -> tuple[Flow, ...]:
            self.failures -= 1
            if self.failures >= 0:
                raise OSError(105, "No buffer space available")
            return super().flows_of(addresses)  # type: ignore[arg-type]

    table = Broken([flow(FAR, WEB)])
    errors: list[str] = []

    async def sleep(_seconds: float) -> None:
        errors.append(made.error)
        await asyncio.sleep(0)

    made = ender(table, sleep)
    made.follow(state(ruleset(), WEB), True)
    running = asyncio.create_task(made.run())
    try:
        async with asyncio.timeout(5):
            while table.entries or made.error:
                assert not running.done()
                await asyncio.sleep(0)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert any("No buffer space" in error for error in errors)
