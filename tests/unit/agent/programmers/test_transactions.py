"""What the kernel refuses of a transaction is left out; the rest is done."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import pytest

from plait.agent.programmers.base import Op
from plait.agent.programmers.filter_table import FilterTable
from plait.agent.programmers.transactions import Outcome, make
from plait.kernel.fake_nft import FakeNft
from plait.kernel.nft import Refusal
from plait.wire import nft

Changes = Sequence[nft.Change]
NOMEM = Refusal(errno.ENOMEM, "no memory for the whole")


class Full(FakeNft):
    """A kernel that has no room for so many transactions, and blames no change for it."""

    left = 0

    def commit(self, changes: Sequence[nft.Change]) -> dict[int, Refusal]:
        if self.left:
            self.left -= 1
            return {-1: NOMEM}
        return super().commit(changes)


@pytest.fixture
def door() -> Full:
    return Full()


@pytest.fixture
def table(door: Full) -> FilterTable:
    table = FilterTable(door)
    assert table.commit([nft.AddTable(table.flags)]) == {}
    return table


def counters(key: str, *names: str) -> Op:
    return Op(part="test", verb="add", key=key, want=[nft.AddCounter(name) for name in names])


def merged(steps: Iterable[Changes]) -> Changes:
    return list(chain.from_iterable(steps))


def in_order(steps: Mapping[str, Changes]) -> Sequence[tuple[str, nft.Change]]:
    return [(key, change) for key, changes in steps.items() for change in changes]


def made(table: FilterTable, *ops: Op) -> Outcome[Changes]:
    return make(table, ops, lambda op: op.want, merged, in_order)


A, B = counters("a", "a1", "a2"), counters("b", "b1")


def test_all_are_one_transaction(door: Full, table: FilterTable) -> None:
    done = len(door.commits)
    assert made(table, A, B) == ([(A, A.want), (B, B.want)], [])
    assert door.commits[done:] == [(*A.want, *B.want)]


def test_what_is_refused_once_was_believed_wrongly(door: Full, table: FilterTable) -> None:
    readings = table.readings
    door.fail(errno.ENOENT, lambda change: change == B.want[0])
    assert made(table, A, B) == ([(A, A.want), (B, B.want)], [])
    assert table.readings == readings + 1
    assert door.counters().keys() == {"a1", "a2", "b1"}


def test_what_is_refused_again_is_left_out_whole(door: Full, table: FilterTable) -> None:
    door.fail(errno.EINVAL, lambda change: change == A.want[1], times=9)
    outcome = made(table, A, B)
    assert outcome.done == [(B, B.want)]
    assert [(failure.op, failure.errno) for failure in outcome.failures] == [(A, errno.EINVAL)]
    assert door.counters().keys() == {"b1"}


def test_the_first_of_its_refusals_is_why(door: Full, table: FilterTable) -> None:
    door.fail(errno.EINVAL, lambda change: change == A.want[0], times=2)
    door.fail(errno.EBUSY, lambda change: change == A.want[1], times=2)
    (failure,) = made(table, A).failures
    assert failure.errno == errno.EINVAL


def test_a_refusal_that_blames_nothing_is_of_all(door: Full, table: FilterTable) -> None:
    door.left = 2
    outcome = made(table, A, B)
    assert outcome.done == []
    assert [(failure.op, failure.error) for failure in outcome.failures] == [
        (A, NOMEM.text),
        (B, NOMEM.text),
    ]
    assert not door.counters()
