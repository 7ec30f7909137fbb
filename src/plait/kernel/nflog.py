"""The door to packets that rules log (nfnetlink_log).

The socket's buffer bounds what waits in the kernel; beyond it the kernel throws packets away and
goes on, and we count them by the gap in their numbers. Nothing waits for the reader, so a flood
of logged packets costs the traffic nothing but their copies.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from typing import Final, NamedTuple, Protocol

from plait.kernel.nfnetlink import NetfilterError, NfnetlinkSocket
from plait.model.errors import PlaitError
from plait.model.marks import LOG_GROUP
from plait.wire import nflog
from plait.wire import nfnetlink as nl

BUFFER: Final = 1 << 20
"""Bytes of memory for packets that wait to be read: some 6,000 to 13,000 of them. Once it is full
the kernel lets nothing in until all of it was read, so more would only make records older."""
_WRAP: Final = 1 << 32


class Reading(NamedTuple):
    """What was read at once."""

    packets: tuple[nflog.Packet, ...]
    """In the order in which the kernel logged them."""
    lost: int
    """Packets that the kernel threw away since the last reading."""
    more: bool
    """The limit ended it: others may wait."""


class PacketLog(Protocol):
    """What the flow log needs; `Nflog` and `FakeNflog` offer it."""

    def fileno(self) -> int:
        """For the event loop's `add_reader`."""

    def read(self, limit: int) -> Reading:
        """What waits, until a datagram brings the number of packets to `limit` or above it."""

    def close(self) -> None:
        """Let the group go; rules then log to nobody."""


class Losses:
    """Counts what was lost, by the numbers of what came."""

    def __init__(self) -> None:
        self._next = 0
        self._assumed = 0

    def overrun(self) -> int:
        """The kernel says that it lost some, not how many: one, until the next number tells."""
        if self._assumed:
            return 0
        self._assumed = 1
        return 1

    def seen(self, sequence: int) -> int:
        """A packet came; how many are missing before it that were not counted yet."""
        gap = (sequence - self._next) % _WRAP
        self._next = (sequence + 1) % _WRAP
        # The kernel complains before it gives what it had kept, which shows no gap yet.
        counted = min(gap, self._assumed)
        self._assumed -= counted
        return gap - counted


class Nflog:
    """The real door; of the network namespace in which it was opened.

    PLAIT-KERNEL-002 when the kernel has no nfnetlink_log, PLAIT-HOST-004 when another process
    reads the group.
    """

    def __init__(self, *, buffer: int = BUFFER) -> None:
        self._nl = NfnetlinkSocket(buffer=buffer)
        self._losses = Losses()
        try:
            self._nl.call(nflog.CONFIG, nflog.bind(), res=LOG_GROUP)
            self._nl.call(nflog.CONFIG, nflog.settings(), res=LOG_GROUP)
        except NetfilterError as error:
            self._nl.close()
            raise _unavailable(error) from error

    def fileno(self) -> int:
        """See PacketLog."""
        return self._nl.fileno()

    def close(self) -> None:
        """See PacketLog."""
        self._nl.close()

    def read(self, limit: int) -> Reading:
        """See PacketLog."""
        found: list[nflog.Packet] = []
        lost = 0
        while len(found) < limit:
            try:
                data = self._nl.receive()
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost += self._losses.overrun()
                continue
            if not data:
                return Reading(tuple(found), lost, more=False)
            for packet in nflog.packets(nl.messages(data)):
                lost += self._losses.seen(packet.sequence)
                found.append(packet)
        return Reading(tuple(found), lost, more=True)


def _unavailable(error: NetfilterError) -> PlaitError:
    if error.errno in (errno.EPERM, errno.EBUSY):  # Those without privilege come nowhere near.
        return PlaitError(
            "PLAIT-HOST-004",
            f"another process reads the packets of log group {LOG_GROUP}",
            why=str(error),
            fix=("cat /proc/net/netfilter/nfnetlink_log   # its second column is a netlink port",),
        )
    return PlaitError(
        "PLAIT-KERNEL-002",
        "the kernel cannot tell which packets were accepted and denied",
        why=f"nfnetlink_log: {error}",
        fix=("modprobe nfnetlink_log",),
    )


class FakeNflog:
    """The fake door: `log` is what the kernel does, `room` how many packets may wait."""

    def __init__(self, *, room: int = 4096) -> None:
        self._room = room
        self._waiting: deque[nflog.Packet] = deque()
        self._losses = Losses()
        self._sequence = 0
        self._overrun = False
        self._ready = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def log(self, packet: nflog.Packet) -> None:
        """A rule logs a packet; its number is ours to give."""
        numbered = packet._replace(sequence=self._sequence)
        self._sequence += 1
        if len(self._waiting) >= self._room:
            self._overrun = True
            return
        self._waiting.append(numbered)
        os.eventfd_write(self._ready, 1)

    def fileno(self) -> int:
        """See PacketLog."""
        return self._ready

    def close(self) -> None:
        """See PacketLog."""
        os.close(self._ready)

    def read(self, limit: int) -> Reading:
        """See PacketLog."""
        found: list[nflog.Packet] = []
        lost = self._losses.overrun() if self._overrun else 0
        self._overrun = False
        while self._waiting and len(found) < limit:
            packet = self._waiting.popleft()
            lost += self._losses.seen(packet.sequence)
            found.append(packet)
        if not self._waiting and found:
            os.eventfd_read(self._ready)
        return Reading(tuple(found), lost, more=bool(self._waiting))
