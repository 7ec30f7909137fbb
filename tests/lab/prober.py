"""A flow that counts every packet: run in two network namespaces, one echoes, one counts.

    prober.py echo PORT                    answers UDP datagrams and TCP bytes with themselves
    prober.py flow NAME,ADDRESS ... PORT   sends 100 numbered datagrams a second to each address,
                                           and ten bytes a second on one TCP connection to each

Both print `ready`. A line on the flow's standard input asks for a report and begins a new
period: it waits until each number of the old period was answered or is a second old, and prints
one JSON object: for each name what was sent, the numbers that were lost, the longest silence,
and of TCP the bytes on their way, retransmitted segments and whether it broke.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
import time
from typing import Any

INTERVAL = 0.01
"""Seconds between datagrams."""
EVERY = 10
"""Datagrams for each byte of TCP."""
LEAST = 20
"""Datagrams of the shortest period."""
PATIENCE = 1.0
"""Seconds after which an answer that has not come is lost."""
NUMBER = struct.Struct("!Q")
RETRANSMITS = (100, 4)
"""Offset and size of tcpi_total_retrans in struct tcp_info (linux/tcp.h)."""


class Udp(asyncio.DatagramProtocol):
    """One socket; `answered` is given each number that comes back."""

    def __init__(self, flow: Flow | None = None) -> None:
        self.flow = flow

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Echo, or count."""
        if self.flow is None:
            self.transport.sendto(data, addr)
        elif len(data) == NUMBER.size:
            self.flow.answered(NUMBER.unpack(data)[0])

    def error_received(self, exc: Exception) -> None:
        """An ICMP error: the datagram it speaks of will be missed."""


class Flow:
    """Numbered datagrams to one address, and one TCP connection."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.number = 0
        self.waiting: dict[int, float] = {}
        self.fresh()
        self.broken = ""
        self.bytes_out = self.bytes_in = 0

    def fresh(self) -> None:
        """A new period."""
        self.sent = 0
        self.lost: list[int] = []
        self.refused = 0
        self.silence = 0.0
        self.last = time.monotonic()

    async def open(self, address: str, port: int) -> None:
        """The sockets; the TCP connection is made once and for all."""
        loop = asyncio.get_running_loop()
        self.udp, _ = await loop.create_datagram_endpoint(
            lambda: Udp(self), remote_addr=(address, port)
        )
        self.reader, self.writer = await asyncio.open_connection(address, port)
        self.retransmitted = self._retransmits()
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while data := await self.reader.read(1000):
                self.bytes_in += len(data)
            self.broken = "closed"
        except OSError as error:
            self.broken = str(error)

    def _retransmits(self) -> int:
        sock: socket.socket = self.writer.get_extra_info("socket")
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        offset, size = RETRANSMITS
        return int.from_bytes(info[offset : offset + size], sys.byteorder)

    def tick(self) -> None:
        """Send the next number, and give up on old ones."""
        now = time.monotonic()
        self.number += 1
        self.waiting[self.number] = now
        self.sent += 1
        self.udp.sendto(NUMBER.pack(self.number))
        if self.number % EVERY == 0 and not self.broken:
            self.writer.write(b"x")
            self.bytes_out += 1
        for number, at in tuple(self.waiting.items()):
            if now - at <= PATIENCE:
                break
            self.lost.append(number)
            del self.waiting[number]

    def answered(self, number: int) -> None:
        """A number came back."""
        now = time.monotonic()
        self.silence = max(self.silence, now - self.last)
        self.last = now
        self.waiting.pop(number, None)

    async def report(self) -> dict[str, Any]:
        """Of the period that ends here; what is sent meanwhile belongs to the next."""
        while self.sent < LEAST:
            await asyncio.sleep(INTERVAL)
        upto, sent = self.number, self.sent
        deadline = time.monotonic() + PATIENCE + 0.1
        while any(n <= upto for n in self.waiting) and time.monotonic() < deadline:
            await asyncio.sleep(INTERVAL)
        while not self.broken and self.bytes_in < self.bytes_out and time.monotonic() < deadline:
            await asyncio.sleep(INTERVAL)
        retransmitted = self._retransmits() if not self.broken else self.retransmitted
        said = {
            "sent": sent,
            "lost": [n for n in self.lost if n <= upto],
            "silence": round(self.silence, 3),
            "unanswered_bytes": self.bytes_out - self.bytes_in,
            "retransmitted": retransmitted - self.retransmitted,
            "broken": self.broken,
        }
        rest = self.sent - sent
        late = [n for n in self.lost if n > upto]
        self.fresh()
        self.sent, self.lost, self.retransmitted = rest, late, retransmitted
        return said


async def echo(port: int) -> None:
    """Both protocols, both families, until standard input ends."""
    loop = asyncio.get_running_loop()

    async def back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)

    for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((anywhere, port))
        await loop.create_datagram_endpoint(Udp, sock=sock)
        await asyncio.start_server(back, anywhere, port, family=family)
    print("ready", flush=True)
    await (await standard_input()).read()


async def send(aims: list[str], port: int) -> None:
    """All flows on one clock, and reports on demand, until standard input ends."""
    flows = []
    for aim in aims:
        name, _, address = aim.partition(",")
        flow = Flow(name)
        await flow.open(address, port)
        flows.append(flow)
    orders = await standard_input()
    ticking = asyncio.create_task(tick(flows))
    print("ready", flush=True)
    while await orders.readline():
        reports = await asyncio.gather(*(flow.report() for flow in flows))
        said = {flow.name: report for flow, report in zip(flows, reports, strict=True)}
        print(json.dumps(said), flush=True)
    ticking.cancel()


async def standard_input() -> asyncio.StreamReader:
    """Whoever started us holds the other end: when it is gone, so are we."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


async def tick(flows: list[Flow]) -> None:
    """A hundred times a second."""
    due = time.monotonic()
    while True:
        for flow in flows:
            flow.tick()
        due = max(due + INTERVAL, time.monotonic())
        await asyncio.sleep(due - time.monotonic())


def main(argv: list[str]) -> None:
    """See the module's docstring."""
    verb, *words, port = argv
    asyncio.run(echo(int(port)) if verb == "echo" else send(words, int(port)))


if __name__ == "__main__":
    main(sys.argv[1:])
