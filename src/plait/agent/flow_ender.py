"""Ends the flows that policies deny now, beside the agent's loop.

The loop tells after a turn what the kernel does; when that may deny more than before, the flows
of this host's endpoints are looked at. One look is not enough: an answer that was on its way when
its flow was forgotten makes the same flow anew, the other way round, and policies may well accept
that. So the looks go on until one finds nothing, and of UDP, whose senders may send on for long
though nobody answers, the kernel drops such answers for a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Final

import msgspec
import structlog

from plait.agent.denied_flows import Judge, Memory, Surroundings, Track, reverse, track
from plait.kernel.conntrack import FlowTable
from plait.model.hoststate import HostState
from plait.wire.ctnetlink import Flow

LOOKS: Final = (0.0, 0.05, 0.15, 0.3)
"""Seconds before each look after a change; the first ones that find nothing end them, but for the
second: together they are over within a second."""
APART: Final = 0.2
"""Seconds from the end of the looks to the next ones: members of sets come and go all the time,
and a look costs the kernel a walk over its whole table."""
RETRY: Final = 1.0
"""Seconds before a look that failed is tried again."""
BARRED: Final = 120.0
"""Seconds for which answers in a UDP flow that was ended are no flow of their own: as long as the
kernel itself would remember the flow (nf_conntrack_udp_timeout_stream)."""
SLICE: Final = 200
"""Flows that are judged before others have their turn: about 5 ms."""

Bar = Callable[[Iterable[Flow], float], object]
"""Have the kernel drop answers in these flows for so many seconds. """
Offload = Callable[[Callable[[], Any]], Awaitable[Any]]

log: Final = structlog.get_logger("plait.agent.flow_ender")


class Ender:
    """See the module's docstring."""

    def __init__(
        self,
        flows: FlowTable,
        around: Callable[[], Surroundings],
        *,
        offload: Offload = asyncio.to_thread,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        bar: Bar = lambda _flows, _seconds: None,
    ) -> None:
        """`around` is asked at each look, of all but the local addresses; `offload` runs what
        takes long; `bar` is told of UDP flows before they are ended."""
        self._flows = flows
        self._around = around
        self._offload = offload
        self._sleep = sleep
        self._bar = bar
        self._memory = Memory()
        self._want: HostState | None = None
        self._due = asyncio.Event()
        self.ended = 0
        """Flows that were ended."""
        self.error = ""
        """Of the last look, empty when it went well."""

    def follow(self, want: HostState, unsure: bool) -> None:
        """The kernel was brought to this state; `unsure`: from one that is not known (at the
        start, after damage, or after something was refused)."""
        if unsure:
            self._memory.forget()
        self._want = want
        if self._memory.narrows(want):
            self._due.set()

    @property
    def idle(self) -> bool:
        """Nothing is to be looked at."""
        return not self._due.is_set()

    async def run(self) -> None:
        """Look whenever it is due, until cancelled."""
        while True:
            await self._due.wait()
            try:
                await self.look()
            except OSError as error:
                if self.error != str(error):
                    log.error("flows cannot be ended", error=str(error))
                self.error = str(error)
                await self._sleep(RETRY)
            else:
                self.error = ""
                await self._sleep(APART)

    async def look(self) -> int:
        """Look until a look finds nothing; how many flows were ended. Raises OSError; then it is
        still due."""
        ended: set[Track] = set()
        count = 0
        for number, pause in enumerate(LOOKS):
            await self._sleep(pause)
            # What changes from now on is looked at by the next look, of these or of later ones.
            self._due.clear()
            try:
                doomed = await self._doomed(ended)
                if doomed:
                    self._bar([f for f in doomed if reverse(track(f)) not in ended], BARRED)
                    count += await self._offload(partial(self._flows.forget, doomed))
            except OSError:
                self._due.set()
                raise
            ended.update(map(track, doomed))
            if not doomed and number:
                break
        if count:
            self.ended += count
            log.info("policies ended flows", flows=count)
        return count

    async def _doomed(self, ended: set[Track]) -> list[Flow]:
        ruled = self._memory.ruled
        if self._want is None or not ruled:
            return []
        found: Iterable[Flow] = await self._offload(lambda: self._flows.flows_of(ruled))
        # By the rules of after the reading: by those of before it, a flow would be ended that
        # began during it because it may by now.
        around = msgspec.structs.replace(self._around(), local=self._memory.local)
        judge = Judge(self._want.policy, around)
        doomed: list[Flow] = []
        for number, flow in enumerate(found, 1):
            if reverse(track(flow)) in ended or judge.denies(flow):
                doomed.append(flow)
            if number % SLICE == 0:
                await asyncio.sleep(0)
        return doomed
