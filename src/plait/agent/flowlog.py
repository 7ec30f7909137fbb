"""The flow log of this host: packets that rules logged become records that people read.

    kernel -> reader -> folding -> records -> ring -> agent's socket, shipper

The reader takes at most `BUDGET` packets a `TICK`, so that a flood of denied packets costs the
agent a bounded part of one processor; what does not fit into the kernel's buffer meanwhile is
lost, and counted.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from plait.agent.flowfold import WINDOW, Folding
from plait.client.flowtail import FlowTail
from plait.kernel.nflog import PacketLog
from plait.model.flowring import FlowRing, utc
from plait.model.flows import CROWDED, ISOLATED, REASONS, FlowDecision, FlowEnd, FlowRecord
from plait.model.marks import LOG_PREFIX
from plait.model.policies import Direction
from plait.policy.compile import Meaning
from plait.wire.nflog import ICMP, ICMPV6, Packet

CAPACITY: Final = 50_000
"""Records that are kept."""
BUDGET: Final = 500
"""Packets that are read at once, at most."""
TICK: Final = 0.1
"""Seconds between two readings."""

PROTOCOLS: Final = {6: "tcp", 17: "udp", 132: "sctp", ICMP: "icmp", ICMPV6: "icmpv6"}
"""IANA protocol numbers; others appear as their number."""
IGMP: Final = 2
CHATTER: Final = frozenset((130, 131, 132, 133, 135, 143))
"""Types of ICMPv6 by which every interface talks to its link when it comes up: multicast listener
discovery (RFC 3810), router solicitation, neighbour solicitation (RFC 4861)."""
_DECISIONS: Final[dict[str, FlowDecision]] = {"a": "accept", "d": "deny", "s": "staged"}
_DIRECTIONS: Final[dict[str, Direction]] = {"e": "egress", "i": "ingress"}

log: Final = structlog.get_logger("plait.agent.flows")


class FlowLog:
    """Makes records, and keeps the last of them."""

    def __init__(
        self,
        node: str,
        *,
        who: Callable[[str], FlowEnd],
        behind: Callable[[int], FlowEnd | None],
        meaning: Callable[[str], Meaning | None],
        wall: Callable[[], float],
        capacity: int = CAPACITY,
    ) -> None:
        """`who` says whose an address is, `behind` which endpoint is behind an interface,
        `meaning` what an id in the kernel stands for; `wall` is Unix time."""
        self._node = node
        self._who = who
        self._behind = behind
        self._meaning = meaning
        self._wall = wall
        self._folding = Folding()
        self._lost = 0
        self.tail = FlowTail(FlowRing(capacity=capacity, wall=wall), wall=wall)
        self.records: Counter[FlowDecision] = Counter()
        """Records since the start, by decision."""
        self.packets = 0
        """Logged packets since the start that were read."""

    @property
    def lost(self) -> int:
        """Logged packets since the start that were not read."""
        return self.tail.ring.lost + self._lost

    def take(self, packets: Iterable[Packet], lost: int = 0) -> None:
        """Packets came from the kernel, and so many did not."""
        sift = self._folding.sift
        found = []
        for packet in packets:
            self.packets += 1
            if _chatter(packet):
                continue
            if sift(packet) and (record := self._record(packet)):
                found.append(record)
        self._lost += lost
        self._publish(found)

    def turn(self) -> None:
        """A window ends: tell what was counted, and what was lost."""
        found = []
        for packet, packets, crowded in self._folding.turn():
            record = self._record(packet, packets, CROWDED if crowded else "")
            if record is not None:
                found.append(record)
        lost, self._lost = self._lost, 0
        self._publish(found, lost)

    def _publish(self, found: list[FlowRecord], lost: int = 0) -> None:
        self.records.update(record.decision for record in found)
        if found or lost:
            self.tail.extend(found, lost=lost)

    def _record(self, packet: Packet, packets: int = 1, note: str = "") -> FlowRecord | None:
        """The record of a packet; None for one that no rule of ours logged."""
        prefix = LOG_PREFIX.fullmatch(packet.prefix)
        if prefix is None or not packet.src:
            return None
        ident, direction, decision = prefix.groups()
        meaning = self._meaning(ident) or _UNKNOWN
        src = self._end(packet.src)
        if ident == "source":
            # The address is a lie; the interface says whose.
            liar = self._behind(packet.indev)
            if liar is not None:
                src = FlowEnd(
                    address=src.address,
                    namespace=liar.namespace,
                    name=liar.name,
                    id=liar.id,
                    node=liar.node,
                )
        icmp = packet.protocol in (ICMP, ICMPV6)
        return FlowRecord(
            time=utc(packet.seconds or self._wall()),
            node=self._node,
            decision=_DECISIONS[decision],
            direction=_DIRECTIONS[direction],
            protocol=PROTOCOLS.get(packet.protocol) or str(packet.protocol),
            src=src,
            dst=self._end(packet.dst),
            src_port=0 if icmp else packet.sport,
            dst_port=0 if icmp else packet.dport,
            icmp_type=packet.sport if icmp else -1,
            icmp_code=packet.dport if icmp else -1,
            policy=meaning.policy or next(iter(meaning.isolating), ""),
            isolating=meaning.isolating,
            rule=meaning.name,
            index=meaning.index,
            reason=note or (ISOLATED if meaning.isolating else REASONS.get(ident, "")),
            id=ident,
            count=packets,
        )

    def _end(self, address: bytes) -> FlowEnd:
        family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
        return self._who(socket.inet_ntop(family, address))


_UNKNOWN: Final = Meaning(direction="egress", action="Deny", staged=False)
"""Of the fixed words, and of rules that are gone by now."""


def _chatter(packet: Packet) -> bool:
    """Whether nobody meant it as a flow: to a group of its own link, where it is dropped."""
    if packet.protocol == ICMPV6:
        return packet.sport in CHATTER and packet.dst[:2] == b"\xff\x02"
    return packet.protocol == IGMP and packet.dst[:3] == b"\xe0\x00\x00"


class FlowReader:
    """Reads what the kernel logs, within its budget; of one event loop."""

    def __init__(self, door: PacketLog, flows: FlowLog) -> None:
        self._door = door
        self._flows = flows
        self._next: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Read until cancelled; then the door is closed."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._door.fileno(), self._read)
        try:
            while True:
                await asyncio.sleep(WINDOW)
                self._flows.turn()
        finally:
            loop.remove_reader(self._door.fileno())
            if self._next is not None:
                self._next.cancel()
            self._door.close()

    def _read(self) -> None:
        loop = asyncio.get_running_loop()
        # The pause bounds what a flood costs: between two readings nobody is told of packets.
        loop.remove_reader(self._door.fileno())
        self._next = loop.call_later(TICK, self._resume)
        try:
            reading = self._door.read(BUDGET)
        except OSError as error:
            log.error("logged packets cannot be read", error=str(error))
            return
        self._flows.take(reading.packets, reading.lost)

    def _resume(self) -> None:
        asyncio.get_running_loop().add_reader(self._door.fileno(), self._read)
