"""Folding: which logged packets get a record of their own, and which are only counted. Pure.

A flow that is denied goes on trying, and one that nobody answers logs each packet. So, within a
window, the first packet of a flow gets a record at once, and the others are counted into one more
record when the window ends. Beyond `SERVICE_FLOWS` flows between the same two ends and port, or
`SENDER_FLOWS` of one sender, flows are not told apart any more: a scan or a flood of ever new
ports makes a few hundred records and one count, and does not crowd out everybody else's.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from plait.wire.nflog import Packet

WINDOW: Final = 5.0
"""Seconds after which what was counted is told."""
SERVICE_FLOWS: Final = 20
SENDER_FLOWS: Final = 200
MAX_KNOWN: Final = 20_000
"""Flows that are known at once. Beyond it all are forgotten: their next packets count as first."""
SPOOFED: Final = "source."
"""Beginning of the prefix of packets whose sender's address is a lie; its interface is not."""

Key = tuple[object, ...]


class Folded(NamedTuple):
    """Packets that were only counted."""

    packet: Packet
    """The first of them."""
    packets: int
    crowded: bool
    """They are of several flows, of which this is one."""


class _Tally:
    """What is known of a flow, or of several together."""

    __slots__ = ("count", "first", "flows", "fresh")

    def __init__(self) -> None:
        self.first: Packet | None = None
        """The first packet that was only counted."""
        self.count = 0
        self.flows = 0
        """Those that got a record of their own."""
        self.fresh = True
        """It began in this window."""

    def add(self, packet: Packet) -> None:
        if self.first is None:
            self.first = packet
        self.count += 1


class Folding:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._flows: dict[Key, _Tally] = {}
        self._services: dict[Key, _Tally] = {}
        self._senders: dict[Key, _Tally] = {}

    def sift(self, packet: Packet) -> bool:
        """Whether the packet gets a record of its own; if not, it is counted."""
        prefix, src, dst, protocol = packet.prefix, packet.src, packet.dst, packet.protocol
        key = (prefix, src, dst, protocol, packet.sport, packet.dport)
        known = self._flows.get(key)
        if known is not None:
            known.add(packet)
            return False
        spoofed = prefix.startswith(SPOOFED)
        sender = _tally(self._senders, (prefix, packet.indev if spoofed else src))
        if sender.flows >= SENDER_FLOWS:
            sender.add(packet)
            return False
        service = _tally(self._services, (prefix, src, dst, protocol, packet.dport))
        if service.flows >= SERVICE_FLOWS:
            service.add(packet)
            return False
        service.flows += 1
        sender.flows += 1
        self._flows[key] = _Tally()
        return True

    def turn(self) -> list[Folded]:
        """The window ends: what was counted in it. A flow that went on stays known."""
        found = [
            Folded(tally.first, tally.count, crowded)
            for tallies, crowded in (
                (self._flows, False),
                (self._services, True),
                (self._senders, True),
            )
            for tally in tallies.values()
            if tally.first is not None
        ]
        going: dict[Key, _Tally] = {}
        if len(self._flows) <= MAX_KNOWN:
            going = {k: t for k, t in self._flows.items() if t.fresh or t.count}
        for tally in going.values():
            tally.first, tally.count, tally.fresh = None, 0, False
        self._flows = going
        self._services = {}
        self._senders = {}
        return found


def _tally(tallies: dict[Key, _Tally], key: Key) -> _Tally:
    found = tallies.get(key)
    if found is None:
        found = tallies[key] = _Tally()
    return found
