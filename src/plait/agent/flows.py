"""What the agent knows of flows: the parts put together, and the verbs.

kernel --NFLOG--> FlowReader -> FlowLog ---> FlowTail -> verb `flows`, Shipper -> server
kernel --counters--> RuleCounts -----------> verb `counters`, metrics, Shipper
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Iterator

from plait.agent.flowlog import FlowLog, FlowReader
from plait.agent.flowship import Send, Shipper, read_counters
from plait.agent.loop import Offload
from plait.agent.metrics import Metric, counter
from plait.agent.rulecounts import RuleCounts
from plait.agent.whois import Whois
from plait.client.agent import LocalEndpoint
from plait.kernel.nflog import PacketLog
from plait.kernel.nft_counters import CounterDoor
from plait.model.flows import DECISIONS, FlowEnd, FlowPage, FlowQuery, RuleCount
from plait.policy.compile import Meaning


class Flows:
    """See the module's docstring."""

    def __init__(
        self,
        node: str,
        *,
        present: Callable[[], Iterable[LocalEndpoint]],
        meaning: Callable[[str], Meaning | None],
        counters: CounterDoor,
        wall: Callable[[], float],
        offload: Offload = asyncio.to_thread,
    ) -> None:
        """`present` gives the endpoints of this host, `meaning` what an id in the kernel stands
        for; `wall` is Unix time."""
        self.whois = Whois(node, present)
        self.log = FlowLog(
            node, who=self.whois.end, behind=self._behind, meaning=meaning, wall=wall
        )
        self.counts = RuleCounts(counters, meaning, offload=offload)

    def close(self) -> None:
        """Let go of who waits for a record."""
        self.log.tail.close()

    async def page(self, query: FlowQuery) -> FlowPage:
        """Verb `flows`."""
        return await self.log.tail.page(query)

    async def counters(self) -> tuple[RuleCount, ...]:
        """Verb `counters`."""
        return await self.counts.refresh()

    async def read(self, door: PacketLog) -> None:
        """Read what the kernel logs, until cancelled."""
        await FlowReader(door, self.log).run()

    async def count(self) -> None:
        """Read the counters now and then, until cancelled."""
        await read_counters(self.counts)

    async def ship(self, send: Send) -> None:
        """Tell the server, until cancelled."""
        await Shipper(self.log.tail, self.counts, send).run()

    def metrics(self) -> Iterator[Metric]:
        """See `agent.metrics`."""
        for decision in DECISIONS:
            yield counter("plait_flow_records", self.log.records[decision], decision=decision)
        yield counter("plait_flow_records_lost", self.log.lost)
        yield from self.counts.metrics()

    def _behind(self, index: int) -> FlowEnd | None:
        try:
            return self.whois.behind(socket.if_indextoname(index))
        except OSError:
            return None  # It is gone.
