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

from plait.dns.frontend import Frontend, Pending
from plait.dns.resolver import Server
from plait.dns.udp import bound_socket

MAX_CONNECTIONS: Final = 512
MAX_CONNECTIONS_PER_CLIENT: Final = 32
MAX_PIPELINED: Final = 32
"""Questions of one connection under way at a time; then reading pauses."""
IDLE: Final = 10.0
"""Seconds that a client may take for its next whole message, or to take ours."""
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
        room = asyncio.Semaphore(MAX_PIPELINED)
        try:
            async with asyncio.TaskGroup() as group:
                # A client that stalls or leaves ends its own connection and nothing else.
                with suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
                    while True:
                        async with asyncio.timeout(self._idle):
                            size = int.from_bytes(await reader.readexactly(2), "big")
                            data = await reader.readexactly(size)
                        outcome = self._frontend.handle(data, client, destination, tcp=True)
                        if outcome is None:
                            break
                        if isinstance(outcome, bytes):
                            await self._write(writer, outcome)
                        else:
                            await room.acquire()
                            group.create_task(self._later(outcome, writer, room))
            writer.close()
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(self._idle):
                    await writer.wait_closed()
        finally:
            # No effect on a connection that has ended well.
            writer.transport.abort()

    async def _later(
        self, pending: Pending, writer: asyncio.StreamWriter, room: asyncio.Semaphore
    ) -> None:
        try:
            with suppress(TimeoutError, OSError):
                await self._write(writer, await self._frontend.wait(pending))
        finally:
            room.release()

    async def _write(self, writer: asyncio.StreamWriter, message: bytes) -> None:
        writer.write(len(message).to_bytes(2, "big") + message)
        async with asyncio.timeout(self._idle):
            await writer.drain()
