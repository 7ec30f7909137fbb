"""DNS over TCP (RFC 7766): pipelined, answered out of order, bounded per client.

The socket is transparent, as that of UDP: `getsockname` of a connection is the resolver that the
client meant to reach.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from contextlib import suppress
from typing import Final

from plait.dns.asks import Question
from plait.dns.frontend import Frontend
from plait.dns.resolver import Server
from plait.dns.udp import bound_socket
from plait.wire import dns

MAX_CONNECTIONS: Final = 512
MAX_CONNECTIONS_PER_CLIENT: Final = 32
MAX_PIPELINED: Final = 32
"""Questions of one connection under way at a time; then reading pauses."""
IDLE: Final = 10.0
"""Seconds that a client may take for its next whole message, or to take ours."""
CONNECT: Final = 4.0
"""Seconds that a resolver of the client's choice may take to accept a message."""
SILENCE: Final = 30.0
"""Seconds that it may take for a whole message; a primary server prepares a transfer."""
BACKLOG: Final = 128


class TcpListener:
    """One listening socket and its connections."""

    def __init__(
        self,
        frontend: Frontend,
        bind: Server,
        *,
        transparent: bool,
        idle: float = IDLE,
        max_per_client: int = MAX_CONNECTIONS_PER_CLIENT,
    ) -> None:
        """OSError if the address is taken or its family is absent."""
        self._frontend = frontend
        self._idle = idle
        self._max_per_client = max_per_client
        self._clients: Counter[str] = Counter()
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._sock = bound_socket(bind, socket.SOCK_STREAM, transparent=transparent)
        self.address: Server = self._sock.getsockname()[:2]

    async def start(self) -> None:
        """Accept from now on; OSError if somebody else listens there."""
        self._server = await asyncio.start_server(
            self._accepted, sock=self._sock, backlog=BACKLOG, limit=4096
        )

    async def stop(self) -> None:
        """Close the socket and every connection."""
        if self._server is not None:
            self._server.close()
        self._sock.close()
        connections = list(self._connections)
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stats = self._frontend.stats
        peer = writer.get_extra_info("peername")
        client = peer[0] if peer else ""
        if (
            not client
            or len(self._connections) >= MAX_CONNECTIONS
            or self._clients[client] >= self._max_per_client
        ):
            stats.refused_connections += 1
            writer.transport.abort()
            return
        stats.connections += 1
        self._clients[client] += 1
        task = asyncio.create_task(self._serve(reader, writer, client), name="dns.tcp")
        self._connections.add(task)
        task.add_done_callback(lambda done: self._ended(done, client))

    def _ended(self, task: asyncio.Task[None], client: str) -> None:
        self._connections.discard(task)
        self._clients[client] -= 1
        if not self._clients[client]:
            del self._clients[client]

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: str
    ) -> None:
        destination: Server = writer.get_extra_info("sockname")[:2]
        try:
            async with asyncio.TaskGroup() as group:
                session = _Session(self._frontend, writer, group, self._idle)
                # A client that stalls or leaves ends its own connection and nothing else.
                with suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
                    await session.read(reader, client, destination)
                session.half_close()
            writer.close()
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(self._idle):
                    await writer.wait_closed()
        finally:
            # No effect on a connection that has ended well.
            writer.transport.abort()


class _Session:
    """One connection. Messages for a resolver that the client chose go over a connection of
    their own to it, and all that comes back goes to the client: transfers have many messages.
    """

    def __init__(
        self,
        frontend: Frontend,
        writer: asyncio.StreamWriter,
        group: asyncio.TaskGroup,
        idle: float,
    ) -> None:
        self._frontend = frontend
        self._writer = writer
        self._group = group
        self._idle = idle
        self._room = asyncio.Semaphore(MAX_PIPELINED)
        self._onward: asyncio.StreamWriter | None = None
        self._alive = True
        """Something came from the resolver since the client last sent or was looked at."""

    async def read(self, reader: asyncio.StreamReader, client: str, destination: Server) -> None:
        """Take messages until the client has sent its last one, errs or stalls (TimeoutError)."""
        while True:
            message = asyncio.ensure_future(_message(reader))
            try:
                while not message.done():
                    self._alive = False
                    await asyncio.wait({message}, timeout=self._idle)
                    if not message.done() and not self._alive:
                        raise TimeoutError
                data = message.result()
            finally:
                message.cancel()
            outcome = self._frontend.handle(data, client, destination, tcp=True)
            if outcome is None:
                return
            if isinstance(outcome, bytes):
                await self._write(outcome)
            elif outcome.verbatim:
                await self._pass_on(data, outcome)
            else:
                await self._room.acquire()
                self._group.create_task(self._later(outcome))

    def half_close(self) -> None:
        """Tell the resolver that no more will come; its answers still do."""
        if self._onward is not None and not self._onward.is_closing():
            with suppress(OSError):
                self._onward.write_eof()

    async def _later(self, question: Question) -> None:
        try:
            with suppress(TimeoutError, OSError):
                await self._write(await self._frontend.wait(question))
        finally:
            self._room.release()

    async def _pass_on(self, data: bytes, question: Question) -> None:
        self._frontend.stats.forwarded += 1
        try:
            async with asyncio.timeout(CONNECT):
                if self._onward is None or self._onward.is_closing():
                    source, self._onward = await asyncio.open_connection(
                        *question.servers[0], limit=dns.TCP_MAX + 2
                    )
                    self._group.create_task(self._bring_back(question, source, self._onward))
                self._onward.write(_framed(data))
                await self._onward.drain()
        except (OSError, TimeoutError):
            self._frontend.stats.upstream_failures += 1
            await self._write(self._frontend.failure(question))

    async def _bring_back(
        self, question: Question, source: asyncio.StreamReader, onward: asyncio.StreamWriter
    ) -> None:
        try:
            with suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
                while True:
                    async with asyncio.timeout(SILENCE):
                        data = await _message(source)
                    self._alive = True
                    self._frontend.stats.answers[data[3] & 0xF if len(data) > 3 else 0] += 1
                    self._frontend.overheard(question, data)
                    await self._write(data)
        finally:
            onward.transport.abort()

    async def _write(self, message: bytes) -> None:
        self._writer.write(_framed(message))
        async with asyncio.timeout(self._idle):
            await self._writer.drain()


def _framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


async def _message(reader: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await reader.readexactly(2), "big")
    return await reader.readexactly(size)
