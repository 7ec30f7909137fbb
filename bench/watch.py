"""Watch fan-out: one change to 1,000 watchers, last arrival and memory of the server.

    scripts/bench watch, or for more of it
    PYTHONPATH=. .venv/bin/python -P -m bench.watch [--watchers 1000] [--updates 30]

Three servers in turn, each in a process of its own on uvloop, and one client process with raw
sockets on epoll: the floor (an asyncio Protocol that does nothing but write), Plait over its
unix socket, and Plait over TLS as agents use it. A latency runs from the moment at which the
change is asked for to the moment at which the last watcher has the whole event.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import select
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.table import Row, at_most

EVENT = 250
"""Bytes of an event of the floor: about a small object."""
BUDGET_MS, BUDGET_KIB = 100.0, 15.0


# Servers


async def floor(directory: Path, *, tls: bool) -> None:
    """A client that sends `go` makes a line go to everybody else."""
    watchers: set[asyncio.Transport] = set()
    serial = 0

    class Watch(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport
            watchers.add(transport)  # type: ignore[arg-type]
            # A connection that waits to be accepted would miss the first change.
            transport.write(b'{"synced"}\n')  # type: ignore[attr-defined]

        def data_received(self, data: bytes) -> None:
            nonlocal serial
            if data != b"go\n":
                return
            serial += 1
            watchers.discard(self.transport)  # type: ignore[arg-type]
            line = b'{"revision":%d,"fill":"' % serial
            line += b"x" * (EVENT - len(line)) + b'"}\n'
            for transport in watchers:
                transport.write(line)
            self.transport.write(b"%d\n" % serial)  # type: ignore[attr-defined]

        def connection_lost(self, _exc: Exception | None) -> None:
            watchers.discard(self.transport)  # type: ignore[arg-type]

    loop = asyncio.get_running_loop()
    path = str(directory / "floor.sock")
    where = {"socket": path}
    listeners = [await loop.create_unix_server(Watch, path, backlog=1024)]
    if tls:
        from plait.server.ca import Authority
        from plait.server.server import server_context

        authority = Authority.open(directory / "ca", time.time)
        authority.ensure_server(())
        server = await loop.create_server(
            Watch, "127.0.0.1", 0, ssl=server_context(authority), backlog=1024
        )
        listeners.append(server)
        where |= {"port": server.sockets[0].getsockname()[1], "ca": str(authority.ca_file)}
    print(json.dumps(where), flush=True)
    await asyncio.Event().wait()


async def plait(directory: Path, *, tls: bool) -> None:
    """The real server over the memory store."""
    import structlog

    from plait.model.objects import ClusterSpec
    from plait.server.bootstrap import bootstrap
    from plait.server.ca import Authority
    from plait.server.clock import Clock
    from plait.server.config import Config
    from plait.server.server import Server
    from plait.store.memory import MemoryStore

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    store, clock = MemoryStore(), Clock()
    await store.open()
    await bootstrap(store, ClusterSpec(pools=("10.112.0.0/12",)), clock)
    config = Config(
        listen=(("127.0.0.1", 0),) if tls else (),
        unix_socket=directory / "server.sock",
        bookmark_every=3600.0,
    )
    server = Server(store, Authority.open(directory / "ca", time.time), config, clock)
    await server.start()
    token = ""
    if tls:
        from plait.wire.api import TokenRequest

        token = (await server.service.trust.create_token(TokenRequest(role="admin"))).token
    print(
        json.dumps(
            {
                "socket": str(config.unix_socket),
                "port": server.ports[0] if tls else 0,
                "ca": str(directory / "ca/ca.crt"),
                "token": token,
            }
        ),
        flush=True,
    )
    await asyncio.Event().wait()


# Client


class Socket:
    """A connection, plain or TLS, without blocking once it is open."""

    def __init__(self, where: dict[str, Any], context: ssl.SSLContext | None) -> None:
        if context is None:
            self.sock: Any = socket.socket(socket.AF_UNIX)
            self.sock.connect(where["socket"])
        else:
            plain = socket.create_connection(("127.0.0.1", where["port"]))
            self.sock = context.wrap_socket(plain, server_hostname="server.plait.internal")
        self.tail = b""

    def read(self) -> bytes:
        parts = []
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
            while part := self.sock.recv(65536):
                parts.append(part)
        return b"".join(parts)


class Herd:
    """All watchers on one epoll."""

    def __init__(self, sockets: list[Socket]) -> None:
        self.epoll = select.epoll()
        self.by_number = {each.sock.fileno(): each for each in sockets}
        for each in sockets:
            each.sock.setblocking(False)
            self.epoll.register(each.sock, select.EPOLLIN)

    def wait_for(self, wanted: bytes, seconds: float = 30.0) -> float:
        """Time at which the last one has what is wanted; monotonic seconds."""
        missing = dict(self.by_number)
        for each in missing.values():
            each.tail = b""
        deadline = time.monotonic() + seconds
        while missing:
            if time.monotonic() > deadline:
                raise SystemExit(f"{len(missing)} watchers did not get {wanted!r}")
            for number, _ in self.epoll.poll(1.0):
                each = self.by_number[number]
                each.tail += each.read()
                if wanted in each.tail and each.tail.rfind(b"}") >= 0:
                    missing.pop(number, None)
        return time.monotonic()


def resident(pid: int) -> int:
    """KiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0])


def measure(name: str, mode: str, watchers: int, updates: int) -> tuple[str, float, float, float]:
    with tempfile.TemporaryDirectory() as directory:
        server = subprocess.Popen(
            [sys.executable, "-P", "-m", "bench.watch", "--serve", mode, "--directory", directory],
            stdout=subprocess.PIPE,
        )
        try:
            assert server.stdout is not None
            where = json.loads(server.stdout.readline())
            return name, *_measure(server.pid, where, mode, watchers, updates)
        finally:
            server.terminate()
            server.wait()


def _measure(
    pid: int, where: dict[str, Any], mode: str, watchers: int, updates: int
) -> tuple[float, float, float]:
    context = None
    if mode.endswith("tls"):
        context = ssl.create_default_context(cafile=where["ca"])
    change = Socket(where, None)
    stream = change.sock.makefile("rb")
    if mode.startswith("floor"):
        stream.readline()
    _change(change, stream, mode, 0)  # Warm: code and buffers that are there once.
    warm = Socket(where, context)
    _watch(warm, mode, where)
    time_limit = time.monotonic() + 30
    before = resident(pid)
    sockets = []
    for _ in range(watchers):
        each = Socket(where, context)
        _watch(each, mode, where)
        sockets.append(each)
    herd = Herd(sockets)
    herd.wait_for(b'"synced"')
    assert time.monotonic() < time_limit, "connecting took too long"
    last = []
    for i in range(updates):
        started = time.monotonic()
        wanted = _change(change, stream, mode, i + 1)
        last.append((herd.wait_for(wanted) - started) * 1000)
        warm.sock.setblocking(False)
        warm.read()
    per_watcher = (resident(pid) - before) / watchers
    for each in (*sockets, warm, change):
        each.sock.close()
    return statistics.median(last), sorted(last)[int(len(last) * 0.95)], per_watcher


def _watch(each: Socket, mode: str, where: dict[str, Any]) -> None:
    if not mode.startswith("floor"):
        token = f"Authorization: Bearer {where['token']}\r\n" if mode == "tls" else ""
        request = f"GET /v1/watch?kinds=Namespace HTTP/1.1\r\nHost: localhost\r\n{token}\r\n"
        each.sock.sendall(request.encode())


def _change(change: Socket, stream: Any, mode: str, i: int) -> bytes:
    """Ask for a change; what a watcher then gets."""
    if mode.startswith("floor"):
        change.sock.sendall(b"go\n")
        serial = int(stream.readline())
        return b'"revision":%d,' % serial
    name = f"n{i}-{'x' * 40}"
    body = json.dumps({"kind": "Namespace", "metadata": {"name": name}}).encode()
    head = f"PUT /v1/namespaces/{name} HTTP/1.1\r\nHost: localhost\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    change.sock.sendall(head.encode() + body)
    length = 0
    assert b" 200 " in stream.readline()
    while (line := stream.readline()) != b"\r\n":
        if line.lower().startswith(b"content-length"):
            length = int(line.split(b":")[1])
    stream.read(length)
    return name.encode()


SERVERS = {
    "raw asyncio Protocol (floor)": "floor",
    "plait, unix socket": "unix",
    "raw asyncio Protocol, TLS 1.3 (floor)": "floor-tls",
    "plait, TLS 1.3": "tls",
}


def rows() -> list[Row]:
    """For the table of all benchmarks."""
    found = {mode: measure(name, mode, 1000, 20)[1:] for name, mode in SERVERS.items()}
    result = []
    for way, mine, floor in (("unix socket", "unix", "floor"), ("TLS 1.3", "tls", "floor-tls")):
        (last, _, kib), (floor_last, _, floor_kib) = found[mine], found[floor]
        peer = "raw asyncio Protocol that only writes"
        result += [
            Row(
                what=f"event to the last of 1,000 watchers, {way}",
                unit="ms",
                ours=last,
                peer=peer,
                theirs=floor_last,
                budget=at_most(BUDGET_MS),
            ),
            Row(
                what=f"memory a watcher, {way}",
                unit="KiB",
                ours=kib,
                peer=peer,
                theirs=floor_kib,
                budget=at_most(BUDGET_KIB),
            ),
        ]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watchers", type=int, default=1000)
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--serve", choices=("floor", "floor-tls", "unix", "tls"))
    parser.add_argument("--directory", type=Path)
    args = parser.parse_args()
    if args.serve:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            if args.serve.startswith("floor"):
                runner.run(floor(args.directory, tls=args.serve == "floor-tls"))
            else:
                runner.run(plait(args.directory, tls=args.serve == "tls"))
        return
    found = [measure(name, mode, args.watchers, args.updates) for name, mode in SERVERS.items()]
    print(
        f"{args.watchers} watchers, {args.updates} updates; budget {BUDGET_MS:.0f} ms, "
        f"{BUDGET_KIB:.0f} KiB a watcher"
    )
    print(f"{'server':38}{'last, median ms':>18}{'last, p95 ms':>16}{'KiB a watcher':>16}")
    for name, median, p95, kib in found:
        print(f"{name:38}{median:>18.1f}{p95:>16.1f}{kib:>16.1f}")


if __name__ == "__main__":
    main()
