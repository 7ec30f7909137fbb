"""Addresses of domains in the kernel: open for their time, and never shorter."""

from __future__ import annotations

import errno

import pytest

from plait.agent.desired import policy_sets
from plait.agent.fake import Clock
from plait.agent.programmers.domains import DomainSets
from plait.agent.programmers.filter import FilterBase
from plait.agent.programmers.filter_table import FilterTable
from plait.agent.programmers.policy import FilterPolicy
from plait.kernel.fake_nft import FakeNetfilter, FakeNft
from plait.model.hoststate import HostState
from plait.model.ruleset import Ruleset
from plait.wire import nft

ADDRESSES = ("192.0.2.1", "2001:db8::1")


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.kernel = FakeNetfilter()
        self.agent()

    def agent(self) -> None:
        """An agent over the kernel as it stands."""
        self.door = FakeNft(self.kernel)
        self.table = FilterTable(self.door)
        self.domains = DomainSets(self.table, self.clock)
        state = HostState(policy=Ruleset(domains={"d1": ("example.com",)}))
        for programmer in (FilterBase(self.table), FilterPolicy(self.table)):
            programmer.observe()
            assert programmer.apply(programmer.plan(state)) == ()
        self.door.commits.clear()

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.kernel.now += int(seconds * 1000)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_both_families_are_open_for_their_time(bench: Bench) -> None:
    assert bench.domains.open("d1", ADDRESSES, 60)
    assert bench.domains.live("d1") == dict.fromkeys(ADDRESSES, 60.0)
    bench.pass_time(59)
    assert bench.domains.live("d1") == dict.fromkeys(ADDRESSES, 1.0)
    bench.pass_time(1)
    assert bench.domains.live("d1") == {}


def test_a_later_end_wins_and_an_earlier_one_is_not_written(bench: Bench) -> None:
    assert bench.domains.open("d1", ADDRESSES[:1], 60)
    bench.door.commits.clear()
    assert bench.domains.open("d1", ADDRESSES[:1], 30)
    assert bench.door.commits == []
    bench.pass_time(10)
    assert bench.domains.open("d1", ADDRESSES[:1], 60)
    assert bench.domains.live("d1") == {ADDRESSES[0]: 60.0}
    # In one transaction, so that there is no moment at which it is closed.
    ((gone, back),) = bench.door.commits
    assert isinstance(gone, nft.DeleteElements)
    assert isinstance(back, nft.AddTimed)


def test_what_another_agent_opened_is_known(bench: Bench) -> None:
    assert bench.domains.open("d1", ADDRESSES[:1], 60)
    bench.door.close()
    bench.agent()
    assert bench.domains.open("d1", ADDRESSES[:1], 90)
    assert bench.domains.live("d1") == {ADDRESSES[0]: 90.0}
    assert len(bench.door.commits[-1]) == 2


def test_an_element_that_ended_before_our_clock_says_so(bench: Bench) -> None:
    assert bench.domains.open("d1", ADDRESSES[:1], 60)
    bench.kernel.now += 60_000
    assert bench.domains.open("d1", ADDRESSES[:1], 90)
    assert bench.domains.live("d1") == {ADDRESSES[0]: 90.0}


def test_without_such_a_set_nothing_is_opened(bench: Bench) -> None:
    assert not bench.domains.open("d2", ADDRESSES, 60)
    assert bench.domains.live("d2") == {}
    bench.door.fail(errno.ENOMEM, lambda change: isinstance(change, nft.AddTimed))
    assert not bench.domains.open("d1", ADDRESSES[:1], 60)
    assert bench.domains.open("d1", ADDRESSES[:1], 60)


def test_what_is_open_is_left_alone_by_plans(bench: Bench) -> None:
    assert bench.domains.open("d1", ADDRESSES, 60)
    policy = FilterPolicy(bench.table)
    bench.table.observe(force=True)
    state = HostState(policy=Ruleset(domains={"d1": ("example.com",)}))
    assert policy.plan(state) == ()
    name = policy_sets.domain_set("d1", 4).name
    assert bench.table.actual is not None
    assert name in bench.table.actual.sets
