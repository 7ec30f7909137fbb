"""The loop: the only scheduler of the host's kernel.

A turn makes the kernel equal to the desired state. Turns are synchronous, for a switch of
namespace must not be interleaved with other work; those who want one in the same moment share
it. Nothing is written or swept before there is a desired state (the first full snapshot).

What opens traffic comes last and what closes it comes first:

1. the base rules, which drop unknown endpoints;
2. the gate (per-endpoint rules) is closed for the endpoints that go, change or have no link;
3. policies, all of a change in one transaction: nothing is open yet that they do not know, and
   nothing open any more that they no longer know;
4. links that go;
5. all that comes or changes, in the programmers' order;
6. all that goes, in the reversed order;
7. the gate with every endpoint whose link and whose policies stand.

An object that the kernel refuses is quarantined: retried with backoff, reported, in nobody's way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from math import inf
from typing import Any, Final

import msgspec
import structlog

from plait.agent.failpoints import failpoint
from plait.agent.programmers.base import Failure, Op, Programmer
from plait.agent.programmers.comparing import differing
from plait.agent.report import one_line
from plait.agent.turns import (
    DEPENDENTS,
    FILTERS,
    GATE,
    LINKS,
    POLICY,
    closed,
    fields,
    readings,
    without_routes_of_missing,
)
from plait.model.hoststate import FilterEndpoint, HostState

RESYNC: Final = 5.0
"""Seconds in which all of the kernel is read once: damage is mended within twice that (P6)."""
EVENT_DELAY: Final = 0.2
"""Seconds from a kernel event to the read that it causes, so that a burst costs one."""
REAP_DELAY: Final = 0.25
"""Seconds from the first removal to the reaping: it costs 20 ms however many links there are, and
holds up every other change of the kernel's links meanwhile."""
GATHER: Final = 0.01
"""Seconds for which changes of the desired state that nobody waits for are gathered."""
BACKOFF: Final = (0.25, 30.0)
"""Seconds before the first and the longest before a later retry of what the kernel refused."""

Offload = Callable[[Callable[[], object]], Awaitable[object]]

log: Final = structlog.get_logger("plait.agent.loop")


class Quarantined(msgspec.Struct, frozen=True):
    """An object that the kernel refused."""

    failure: Failure
    attempts: int
    retry_at: float
    """Monotonic time."""


class Loop:
    """See the module's docstring."""

    def __init__(
        self,
        programmers: Sequence[Programmer],
        compute: Callable[[], HostState | None],
        *,
        clock: Callable[[], float],
        resync: float = RESYNC,
        on_gone: Callable[[str], None] = lambda _endpoint: None,
        before_resync: Callable[[], None] = lambda: None,
        offload: Offload = asyncio.to_thread,
        after: Callable[[HostState, bool], None] = lambda _state, _unsure: None,
    ) -> None:
        """`compute` gives the desired state, None while it is not known; `on_gone` is told the
        id of an endpoint whose namespace has vanished; `offload` runs what takes long; `after` is
        told of each turn what the kernel filters now, and whether it is unsure by what it
        filtered before: at the start, after damage, and while it refuses something of it."""
        self._programmers = tuple(programmers)
        self._gate = next((p for p in self._programmers if p.name == GATE), None)
        self._compute = compute
        self._clock = clock
        self._resync = resync
        self._on_gone = on_gone
        self._before_resync = before_resync
        self._offload = offload
        self._after = after
        self._applied: dict[str, Any] = {}
        """Programmer to the fields that it was last brought to, without a failure."""
        self._standing: Set[str] | None = None
        """Links that stand; None before the first turn: what stands then is not known."""
        self._opened: Mapping[str, FilterEndpoint] | None = None
        """Endpoints as the gate was last told to let them pass; None before the first turn."""
        self._told: HostState | None = None
        """The state of which `after` was told last."""
        self._withheld: dict[str, Failure] = {}
        """Links that stand but stay closed, to what the kernel refused of their policies."""
        self._quarantine: dict[tuple[str, str], Quarantined] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._pass: asyncio.Future[None] | None = None
        self._wake = asyncio.Event()
        self._readings = readings(self._programmers)
        self._reading = 0
        """Which of them is next."""
        self._whole = True
        """The next reading is of everything."""
        self._next_reading = clock()
        # What a former process left behind is reaped first.
        self._next_reap = clock()
        self.observed = False
        """The kernel has been read once."""
        self.repairs: dict[str, int] = {}
        """Objects put right after damage, by programmer."""
        self.turns = 0

    @property
    def failures(self) -> tuple[Failure, ...]:
        """What the kernel refuses at present."""
        return tuple(item.failure for item in self._quarantine.values())

    def failures_of(self, words: Iterable[str]) -> tuple[Failure, ...]:
        """Failures of objects that name one of these: a link, an address, a CIDR."""
        if not self._quarantine:
            return ()
        wanted = frozenset(words)
        # Sets of policies name addresses of everybody; whose policies are refused is known.
        found = [
            failure
            for failure in self.failures
            if failure.op.part != POLICY and failure.op.concerns(wanted)
        ]
        found += [why for link, why in self._withheld.items() if link in wanted]
        return tuple(found)

    async def settle(self) -> None:
        """Have a turn that sees everything that was true before this call, and wait for it."""
        await asyncio.shield(self._schedule())

    def soon(self) -> None:
        """The desired state changed: have a turn soon, together with what changes meanwhile."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER, self._schedule)

    def _schedule(self) -> asyncio.Future[None]:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pass is None:
            loop = asyncio.get_running_loop()
            self._pass = loop.create_future()
            loop.call_soon(self._run_pass, self._pass)
        return self._pass

    def _run_pass(self, waiter: asyncio.Future[None]) -> None:
        self._pass = None
        try:
            self.turn()
        except Exception as error:
            log.exception("a turn of the loop failed")
            if not waiter.cancelled():
                waiter.set_exception(error)
                waiter.exception()  # Logged already, and perhaps nobody waits.
        else:
            if not waiter.cancelled():
                waiter.set_result(None)

    def nudge(self) -> None:
        """The kernel changed behind our back, perhaps: read it soon."""
        self._whole = True
        self._next_reading = min(self._next_reading, self._clock() + EVENT_DELAY)
        self._wake.set()

    async def run(self) -> None:
        """Read the kernel again and again, and retry what failed, until cancelled."""
        while True:
            delay = max(self.next_due() - self._clock(), 0.0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._wake.wait()
            self._wake.clear()
            now = self._clock()
            try:
                if now >= self._next_reading:
                    self.look()
                elif any(item.retry_at <= now for item in self._quarantine.values()):
                    self.turn()
            except Exception:
                # A defect must not end the only scheduler: what is dirty stays dirty.
                log.exception("a turn of the loop failed")
                self._next_reading = max(self._next_reading, now + self._resync)
            if now >= self._next_reap:
                self._next_reap = inf
                await self._reap()

    def next_due(self) -> float:
        """Monotonic time at which the loop has something to do by itself."""
        retries = (item.retry_at for item in self._quarantine.values())
        return min((self._next_reading, self._next_reap, *retries))

    def look(self) -> None:
        """Read the part of the kernel whose time it is: with a thousand endpoints a reading of
        all takes as long as five attaches, and whoever wants a turn meanwhile would wait for it.
        Damage seldom comes alone, so all is read after an event, and after a part that had some.
        """
        if self._whole:
            self.resync()
            return
        if not self._reading:
            self._before_resync()
        parts = self._readings[self._reading]
        self._reading = (self._reading + 1) % len(self._readings)
        self._next_reading = self._clock() + self._resync / len(self._readings)
        if self._reread(parts):
            self.resync()

    def resync(self) -> tuple[Op, ...]:
        """Read the kernel and mend it; returns what was mended."""
        self._whole, self._reading = False, 0
        self._next_reading = self._clock() + self._resync / len(self._readings)
        self._before_resync()
        return self._reread(self._programmers)

    def _reread(self, parts: Sequence[Programmer]) -> tuple[Op, ...]:
        """Read what these programmers make, and mend it."""
        first = not self.observed
        if not first:
            self.turn()  # What is due anyway is no damage.
        for programmer in parts:
            programmer.observe()
            self._applied.pop(programmer.name, None)
        self.observed = True
        known = set(self._quarantine)
        damaged = self._damage_to_gate() if self._gate in parts else frozenset()
        ops = self.turn()
        if first:
            return ()
        mended = tuple(
            op
            for op in ops
            if _key(op) not in known and not op.arrival and (op.part != GATE or _key(op) in damaged)
        )
        for op in mended:
            self.repairs[op.part] = self.repairs.get(op.part, 0) + 1
            log.warning("repaired", part=op.part, op=one_line(op.text))
        if any(op.part in FILTERS for op in mended) and self._told is not None:
            self._after(self._told, True)
        return mended

    def _damage_to_gate(self) -> frozenset[tuple[str, str]]:
        """Keys of what differs from the state that the gate was last brought to. What a turn does
        to it beyond that follows from endpoints whose namespace has vanished: no damage."""
        want = self._compute()
        if self._gate is None or self._standing is None or want is None:
            return frozenset()
        return frozenset(map(_key, self._gate.plan(closed(want, self._barred(want)))))

    def turn(self) -> tuple[Op, ...]:
        """Make the kernel equal to the desired state; returns what was done."""
        want = self._compute()
        if want is None:
            return ()
        if not self.observed:
            for programmer in self._programmers:
                programmer.observe()
            self.observed = True
        self.turns += 1
        if self._quarantine:
            self._forget_settled(want)
        first = self._standing is None
        arriving = self._standing is not None and not want.links.keys() <= self._standing
        done: list[Op] = []
        gate = self._gate
        shut = gate is None
        standing: Set[str] | None = None
        later: list[tuple[Programmer, tuple[Op, ...]]] = []
        for programmer in self._programmers:
            if programmer is gate:
                continue
            if gate is not None and not shut and programmer.name in (POLICY, LINKS):
                done += self._shut(gate, want)
                shut = True
            if programmer.name == POLICY:
                ruled = self._bring(programmer, want)
                self._withheld = self._without_policies(want)
                done += ruled
                if arriving and ruled:
                    failpoint(f"attach.programmed.{POLICY}")
                continue
            wished = fields(programmer, want)
            if self._applied.get(programmer.name) == wished:
                continue
            ops = self._due(programmer.plan(want))
            removals = tuple(op for op in ops if op.verb == "delete")
            if removals and hasattr(programmer, "reap") and self._next_reap == inf:
                self._next_reap = self._clock() + REAP_DELAY
                self._wake.set()
            if programmer.name == LINKS:
                done += self._apply(programmer, removals)
            else:
                later.append((programmer, removals))
            done += self._apply(programmer, tuple(op for op in ops if op.verb != "delete"))
            self._mark(programmer, wished)
            if ops:
                for dependent in DEPENDENTS.get(programmer.name, ()):
                    self._applied.pop(dependent, None)
            if programmer.name == LINKS:
                standing = self._links_that_stand(want)
                want = without_routes_of_missing(want, standing)
            if arriving and ops:
                failpoint(f"attach.programmed.{programmer.name}")
        for programmer, removals in reversed(later):
            done += self._apply(programmer, removals)
        self._standing = self._links_that_stand(want) if standing is None else standing
        opened = want
        if gate is not None:
            opened = closed(want, self._barred(want))
            done += self._bring(gate, opened)
            self._opened = opened.filter.endpoints
            if arriving:
                failpoint("attach.programmed.gate")
        if self._quarantine:
            self._forget_settled(want)
        self._told = opened
        self._after(opened, first or any(part in FILTERS for part, _ in self._quarantine))
        return tuple(done)

    def _shut(self, gate: Programmer, want: HostState) -> tuple[Op, ...]:
        """Close the gate for what may not pass, now or until its rules are there; open nothing."""
        if self._standing is not None and self._opened is not None:
            # Those that have no link were not opened: they are among them.
            want = closed(want, set(differing(self._opened, want.filter.endpoints)))
        if self._applied.get(gate.name) == fields(gate, want):
            return ()
        ops = tuple(op for op in self._due(gate.plan(want)) if op.verb == "delete")
        if ops:
            self._applied.pop(gate.name, None)
        return self._apply(gate, ops)

    def _without_policies(self, want: HostState) -> dict[str, Failure]:
        """Links of endpoints whose dispatch or class the kernel refused: they stay closed."""
        refused: dict[Any, Failure] = {}
        for failure in self.failures:
            if failure.op.part == POLICY:
                key = failure.op.key
                refused.update(dict.fromkeys(key if isinstance(key, tuple) else (key,), failure))
        found: dict[str, Failure] = {}
        if not refused:
            return found
        for link, endpoint in want.filter.endpoints.items():
            for address in endpoint.addresses:
                names = (address, *want.policy.dispatch.get(address, ()))
                if why := next((refused[name] for name in names if name in refused), None):
                    found[link] = why
        return found

    def _barred(self, want: HostState) -> Set[str]:
        """Links of endpoints that may not pass: that do not stand, or lack their policies."""
        endpoints, standing = want.filter.endpoints.keys(), self._standing or frozenset()
        # Nearly always all of them stand: to see that costs a third of making the difference.
        unlinked = frozenset() if endpoints <= standing else endpoints - standing
        return unlinked | self._withheld.keys()

    def _links_that_stand(self, want: HostState) -> Set[str]:
        broken = {key[1] for key in self._quarantine if key[0] == LINKS}
        if not broken:
            return want.links.keys()
        return {name for name in want.links if repr(name) not in broken}

    def preview(self, want: HostState) -> tuple[Op, ...]:
        """Read the kernel and say what a turn would do."""
        ops: list[Op] = []
        for programmer in self._programmers:
            programmer.observe()
            ops += programmer.plan(want)
        self.observed = True
        self._applied.clear()
        return tuple(ops)

    def check(self, want: HostState, link: str, words: Set[str]) -> tuple[str, ...]:
        """Commands that would put right what the kernel lacks of the endpoint with this link;
        `words` are what its objects are called. Reads little but what is the endpoint's."""
        found: list[str] = []
        for programmer in self._programmers:
            look = getattr(programmer, "check", None)
            if look is not None:
                found += look(want, link)
            elif programmer.name in FILTERS:
                # Our table is read anew only if somebody else can have changed it.
                programmer.observe()
                found += [op.text for op in programmer.plan(want) if op.concerns(words)]
        return tuple(found)

    def _bring(self, programmer: Programmer, want: HostState) -> tuple[Op, ...]:
        """Plan and apply a programmer in one step, unless it is there already."""
        wished = fields(programmer, want)
        if self._applied.get(programmer.name) == wished:
            return ()
        ops = self._apply(programmer, self._due(programmer.plan(want)))
        self._mark(programmer, wished)
        return ops

    def _mark(self, programmer: Programmer, wished: Any) -> None:
        if any(part == programmer.name for part, _ in self._quarantine):
            self._applied.pop(programmer.name, None)
        else:
            self._applied[programmer.name] = wished

    def _due(self, ops: Sequence[Op]) -> tuple[Op, ...]:
        """Without the ops on quarantined objects whose time has not come."""
        if not self._quarantine:
            return tuple(ops)
        now = self._clock()
        return tuple(
            op
            for op in ops
            if (item := self._quarantine.get(_key(op))) is None
            or item.retry_at <= now
            or (item.failure.op.verb, item.failure.op.want) != (op.verb, op.want)
        )

    def _apply(self, programmer: Programmer, ops: tuple[Op, ...]) -> tuple[Op, ...]:
        if not ops:
            return ()
        failures = programmer.apply(ops)
        failed = {_key(failure.op) for failure in failures}
        for op in ops:
            if _key(op) not in failed:
                self._quarantine.pop(_key(op), None)
        for failure in failures:
            self._put_away(failure)
        return tuple(op for op in ops if _key(op) not in failed)

    def _put_away(self, failure: Failure) -> None:
        key = _key(failure.op)
        former = self._quarantine.get(key)
        attempts = former.attempts + 1 if former else 1
        delay = min(BACKOFF[0] * 2 ** min(attempts - 1, 16), BACKOFF[1])
        self._quarantine[key] = Quarantined(failure, attempts, self._clock() + delay)
        if not failure.gone and (former is None or former.failure.error != failure.error):
            log.error(
                "refused",
                part=failure.op.part,
                op=one_line(failure.op.text),
                error=failure.error,
            )
        endpoint = getattr(failure.op.want, "endpoint", "")
        if failure.gone and endpoint:
            self._on_gone(endpoint)

    def _forget_settled(self, want: HostState) -> None:
        """Drop quarantined objects of which no plan speaks any more."""
        parts = {part for part, _ in self._quarantine}
        planned = {
            _key(op)
            for programmer in self._programmers
            if programmer.name in parts
            for op in programmer.plan(want)
        }
        for key in self._quarantine.keys() - planned:
            del self._quarantine[key]

    async def _reap(self) -> None:
        """Have the programmers finish slow removals, off the loop."""
        for programmer in self._programmers:
            reap = getattr(programmer, "reap", None)
            if reap is None:
                continue
            try:
                await self._offload(reap)
            except Exception:
                # Nothing depends on it but memory of the kernel's: it can wait.
                log.exception("a removal was not finished", part=programmer.name)
                self._next_reap = min(self._next_reap, self._clock() + self._resync)


def _key(op: Op) -> tuple[str, str]:
    return op.part, repr(op.key)
