"""Ops as transactions of our table: all in one, or else all that the kernel takes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from plait.agent.programmers.base import Failure, Op
from plait.agent.programmers.filter_table import FilterTable
from plait.kernel.nft import Refusal
from plait.wire import nft

K = TypeVar("K", bound=Hashable)
S = TypeVar("S")


def settle(
    table: FilterTable,
    changes: Sequence[nft.Change],
    again: Callable[[], Sequence[tuple[K, nft.Change]]],
    leave_out: Callable[[Mapping[K, Refusal]], None],
) -> Refusal | None:
    """Make these changes in one transaction, or what of them the kernel takes.

    A refusal may come of our believing what is not so: the table is read anew, and `again` says
    what is to be changed now, each change with the object for whose sake it is made. What is
    refused once more is refused for good. `leave_out` hears of the objects and why; the next
    `again` is without them, or has others in their place. So on until the rest goes through.

    Returns None when it did. When the kernel refuses a transaction and blames none of its changes,
    nothing was made, and the reason is returned.
    """
    if not table.commit(changes):
        return None
    table.observe(force=True)
    while True:
        tried = again()
        answers = table.commit([change for _, change in tried])
        if not answers:
            return None
        bad: dict[K, Refusal] = {}
        for index in sorted(index for index in answers if index >= 0):
            # The first reason is the cause: what follows may be refused because of it.
            bad.setdefault(tried[index][0], answers[index])
        if not bad:
            return answers[-1]
        leave_out(bad)


class Outcome(NamedTuple, Generic[S]):
    """What became of ops."""

    done: list[tuple[Op, S]]
    """Those that were made, with the steps that made them."""
    failures: list[Failure]


def make(
    table: FilterTable,
    ops: Sequence[Op],
    steps_of: Callable[[Op], S],
    merged: Callable[[Iterable[S]], Sequence[nft.Change]],
    in_order: Callable[[Mapping[Any, S]], Sequence[tuple[Any, nft.Change]]],
) -> Outcome[S]:
    """`settle` for ops that do not depend on each other.

    Steps of an op come from what is there now, not from what was there when it was planned.
    `merged` makes as few changes as it can of the steps of all ops; `in_order` keeps what is one
    op's from what is another's: it is given steps by key of their op, and gives each change with
    that key.
    """
    pending = {op.key: op for op in ops}
    failures: list[Failure] = []
    steps: dict[Any, S] = {}

    def look() -> dict[Any, S]:
        steps.clear()
        steps.update((key, steps_of(op)) for key, op in pending.items())
        return steps

    def leave_out(bad: Mapping[Any, Refusal]) -> None:
        failures.extend(refused(pending.pop(key), why) for key, why in bad.items())

    why = settle(table, merged(look().values()), lambda: in_order(look()), leave_out)
    if why is not None:
        leave_out(dict.fromkeys(pending, why))
    return Outcome([(op, steps[key]) for key, op in pending.items()], failures)


def refused(op: Op, why: Refusal) -> Failure:
    """The failure of an op that the kernel refused."""
    return Failure(op=op, error=why.text, errno=why.errno)
