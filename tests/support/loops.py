"""A loop whose programmers only take notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plait.agent.fake import Clock
from plait.agent.loop import Loop
from plait.agent.programmers import in_order
from plait.agent.programmers.base import Failure, Op
from plait.model.hoststate import (
    Address,
    Filter,
    FilterEndpoint,
    HostState,
    Link,
    Peer,
    Route,
)


class Notes:
    """A programmer over a set of (key, value)."""

    def __init__(self, name: str, pick: Any, diary: list[str]) -> None:
        self.name = name
        self._pick = pick
        self._diary = diary
        self.actual: dict[str, Any] = {}
        self.kernel: dict[str, Any] = {}
        self.refuse: dict[str, str] = {}
        self.gone: set[str] = set()
        self.plans = 0
        self.readings = 0

    def observe(self) -> None:
        self.readings += 1
        self.actual = dict(self.kernel)

    def plan(self, desired: HostState) -> tuple[Op, ...]:
        self.plans += 1
        want = self._pick(desired)
        ops = [
            Op(part=self.name, verb="delete", key=k, have=v, text=f"del {k}")
            for k, v in self.actual.items()
            if k not in want
        ]
        for k, v in want.items():
            if self.actual.get(k) != v:
                verb: Any = "change" if k in self.actual else "add"
                ops.append(Op(part=self.name, verb=verb, key=k, want=v, text=f"add {k}"))
        return tuple(ops)

    def apply(self, ops: Sequence[Op]) -> tuple[Failure, ...]:
        failures = []
        for op in ops:
            self._diary.append(f"{self.name} {op.text}")
            if op.key in self.refuse:
                failures.append(Failure(op=op, error=self.refuse[op.key], gone=op.key in self.gone))
            elif op.verb == "delete":
                self.kernel.pop(op.key, None)
                self.actual.pop(op.key, None)
            else:
                self.kernel[op.key] = self.actual[op.key] = op.want
        return tuple(failures)


def link(name: str) -> Link:
    return Link(endpoint=name, mtu=1450, peer=Peer(name="eth0", mac="02:00:00:00:00:01"))


def state(*names: str, extra: str = "") -> HostState:
    return HostState(
        links={name: link(name) for name in names},
        addresses=frozenset({Address(link="lo", address=f"{extra}/32")} if extra else ()),
        routes=frozenset(Route(dst=f"{n}/32", link=n) for n in names),
        filter=Filter(
            endpoints={n: FilterEndpoint(network="n", addresses=(n,)) for n in names},
            pools=(extra,) if extra else (),
        ),
    )


class Bench:
    """A loop over such programmers, and what they did."""

    def __init__(self) -> None:
        self.diary: list[str] = []
        self.clock = Clock()
        self.want: HostState | None = None
        self.gone: list[str] = []
        picks: dict[str, Any] = {
            "filter.base": lambda s: {f"base{p}": p for p in ("-", *s.filter.pools)},
            "filter.policy": lambda s: s.policy.dispatch,
            "links": lambda s: s.links,
            "addresses": lambda s: {a.address: a for a in s.addresses},
            "routes": lambda s: {r.dst: r for r in s.routes},
            "filter.endpoints": lambda s: s.filter.endpoints,
        }
        self.parts = {n: self.part(n, p) for n, p in picks.items()}
        self.loop = self.restarted()

    def part(self, name: str, pick: Any) -> Notes:
        return Notes(name, pick, self.diary)

    def restarted(self) -> Loop:
        """An agent over the kernel as it stands."""
        self.loop = Loop(
            in_order(self.parts.values()),
            lambda: self.want,
            clock=self.clock,
            on_gone=self.gone.append,
        )
        return self.loop

    def turn(self, want: HostState | None) -> list[str]:
        """What it did to make the kernel so."""
        self.want = want
        self.diary.clear()
        self.loop.turn()
        return list(self.diary)
