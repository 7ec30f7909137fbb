"""A workload without Docker: a process in a network namespace of its own that listens and probes.

Started inside a lab host by `workloads.start`. It unshares its network namespace, listens on its
ports (all addresses, so that it needs none yet), answers everybody with its own name, and takes
orders to probe others over a unix socket. One JSON line in, one JSON line out:

    {"probes": [{"ip": "10.0.0.7", "port": 80, "proto": "tcp", "timeout": 1.0}, …]}
    {"results": [{"result": "connected", "peer": "web", "detail": "10.0.0.7"}, …]}

An `ip` that is a name is looked up first, with the host's resolv.conf, from inside; `family` (4
or 6) says which kind of address it is to give.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import ipaddress
import itertools
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from plait.wire import sctp

CLONE_NEWNET = 0x40000000
REFUSED = (
    errno.ECONNREFUSED,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EACCES,
    errno.EPROTO,
    errno.ENOPROTOOPT,
)
FAMILIES = (socket.AF_INET, socket.AF_INET6)
LOOKUP = {0: socket.AF_UNSPEC, 4: socket.AF_INET, 6: socket.AF_INET6}
SOURCES = itertools.cycle(range(32768, 60768))
"""Source ports, each used again as late as can be: the flow of an earlier probe may stand yet, and
what is sent from its port would belong to it."""
LOOKUPS = 64
"""Names looked up at once: the C library's resolver blocks a thread each."""


class Udp(asyncio.DatagramProtocol):
    """Answers each datagram with the workload's name."""

    def __init__(self, name: str) -> None:
        self.name = name.encode()
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: Any) -> None:
        """Keep the transport to answer on."""
        self.transport = transport

    def datagram_received(self, _data: bytes, addr: Any) -> None:
        """Answer."""
        assert self.transport is not None
        self.transport.sendto(self.name, addr)


def sctp_payload(family: int, data: bytes) -> bytes:
    """What a raw socket read, without the IP header (only IPv4 delivers one, raw(7))."""
    return data[(data[0] & 0x0F) * 4 :] if family == socket.AF_INET and data else data


def answer_sctp(sock: socket.socket, ports: frozenset[int]) -> None:
    """Answer INIT as a kernel with SCTP would: INIT ACK where it listens, ABORT elsewhere."""
    data, address = sock.recvfrom(65535)
    packet = sctp.parse(sctp_payload(sock.family, data))
    if packet is None or packet.chunk != sctp.INIT:
        return
    listening = packet.destination in ports
    reply = sctp.init_ack(packet, 1) if listening else sctp.abort(packet)
    sock.sendto(reply, (address[0], 0, *address[2:]))


async def listen(name: str, ports: list[str]) -> None:
    """Listen on `port/proto`s, both families."""
    loop = asyncio.get_running_loop()
    sctp_ports = set()

    async def hello(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{name}\n".encode())
        writer.close()

    for text in ports:
        port, _, protocol = text.partition("/")
        if protocol == "sctp":
            sctp_ports.add(int(port))
            continue
        for family in FAMILIES:
            kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
            sock = socket.socket(family, kind)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setblocking(False)
            sock.bind(("", int(port)))
            if protocol == "udp":
                await loop.create_datagram_endpoint(lambda: Udp(name), sock=sock)
            else:
                await asyncio.start_server(hello, sock=sock)
    for family in FAMILIES:
        raw = socket.socket(family, socket.SOCK_RAW, sctp.PROTOCOL)
        raw.setblocking(False)
        loop.add_reader(raw, answer_sctp, raw, frozenset(sctp_ports))


async def resolve(name: str, family: int = 0) -> str:
    """An address of a name (family 4, 6 or 0 for any), or the name itself if it is an address."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        found = await asyncio.get_running_loop().getaddrinfo(
            name, None, family=LOOKUP[family], type=socket.SOCK_STREAM
        )
        return str(found[0][4][0])


async def probe_tcp(ip: str, port: int) -> str:
    """Connect and read who is there."""
    reader, writer = await asyncio.open_connection(ip, port)
    peer = (await reader.readline()).decode().strip()
    writer.close()
    return peer


def bind_fresh(sock: socket.socket) -> None:
    """To the next source port that nobody here has; the kernel chooses where that fails."""
    for port in itertools.islice(SOURCES, 8):
        with contextlib.suppress(OSError):
            sock.bind(("", port))
            return


async def probe_udp(ip: str, port: int) -> str:
    """Send a datagram and read who answers."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        bind_fresh(sock)
        await loop.sock_connect(sock, (ip, port))
        await loop.sock_sendall(sock, b"who")
        return (await loop.sock_recv(sock, 512)).decode()


async def probe_sctp(ip: str, port: int) -> str:
    """Send INIT and wait for INIT ACK; an ABORT is a refusal."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    source = next(SOURCES)
    with socket.socket(family, socket.SOCK_RAW, sctp.PROTOCOL) as sock:
        sock.setblocking(False)
        sock.connect((ip, 0))  # a raw socket only notes the address
        await loop.sock_sendall(sock, sctp.init(source, port, secrets.randbits(32) or 1))
        while True:
            data = await loop.sock_recv(sock, 65535)
            packet = sctp.parse(sctp_payload(family, data))
            if packet is None or packet.destination != source or packet.source != port:
                continue
            if packet.chunk == sctp.ABORT:
                raise ConnectionRefusedError(errno.ECONNREFUSED, "SCTP ABORT")
            return ""


PROBES = {"tcp": probe_tcp, "udp": probe_udp, "sctp": probe_sctp}


async def probe(order: dict[str, Any]) -> dict[str, str]:
    """One probe; never raises for what the network does."""
    try:
        async with asyncio.timeout(order.get("timeout", 1.0)):
            ip = await resolve(order["ip"], order.get("family", 0))
            peer = await PROBES[order["proto"]](ip, order["port"])
    except TimeoutError:
        return {"result": "timed out", "peer": "", "detail": ""}
    except socket.gaierror as error:
        return {"result": "unknown name", "peer": "", "detail": str(error)}
    except OSError as error:
        result = "refused" if error.errno in REFUSED else "timed out"
        return {"result": result, "peer": "", "detail": error.strerror or str(error)}
    return {"result": "connected", "peer": peer, "detail": ip}


async def serve(control: str) -> None:
    """Take orders until the process ends."""

    async def orders(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            results = await asyncio.gather(*map(probe, json.loads(line)["probes"]))
            writer.write(json.dumps({"results": results}).encode() + b"\n")
            await writer.drain()
        writer.close()

    await asyncio.start_unix_server(orders, control, limit=1 << 24)


async def run(name: str, control: str, ports: list[str], ready: int) -> None:
    """Everything, then say so on the descriptor `ready`, then until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(LOOKUPS))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await listen(name, ports)
    await serve(control)
    os.write(ready, f"{os.getpid()}\n".encode())
    os.close(ready)
    await stop.wait()


def main(argv: list[str]) -> int:
    """argv: name, control socket, ready descriptor, ports."""
    name, control, ready, *ports = argv
    # Before any thread exists, so that the whole process is in the new namespace.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    asyncio.run(run(name, control, ports, int(ready)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
