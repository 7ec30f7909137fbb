"""Listening: TLS on TCP, and a unix socket for root of this host."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

import structlog
from aiohttp import web

from plait.server import app
from plait.server.ca import Authority
from plait.server.clock import Clock
from plait.server.config import Config
from plait.server.service import Service
from plait.store.base import Store

log = structlog.get_logger("plait.server")

BACKLOG: Final = 1024
LINGER: Final = 1.0
"""Seconds for which the rest of a refused body is read, so that the refusal arrives."""


class Server:
    """A server over an open store; the caller opens and closes the store."""

    def __init__(
        self, store: Store, authority: Authority, config: Config, clock: Clock | None = None
    ) -> None:
        self.config = config
        self.clock = clock or Clock()
        self.service: Service
        self.service, self.api = app.build(store, authority, config, self.clock)
        self.ports: tuple[int, ...] = ()
        """TCP ports, in the order of `config.listen`, once it listens."""
        self._authority = authority
        self._runner: web.AppRunner | None = None
        self._context: ssl.SSLContext | None = None
        self._servers: list[asyncio.Server] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Follow the store and listen; on failure nothing is left behind."""
        try:
            await self.service.start()
            # One for all listeners: malformed HTTP is the client's matter and not worth a trace.
            quiet = logging.getLogger("plait.server.http")
            quiet.setLevel(logging.CRITICAL)
            self._runner = web.AppRunner(
                self.api.application(),
                handle_signals=False,
                handler_cancellation=True,
                access_log=None,
                logger=quiet,
                keepalive_timeout=self.config.idle_timeout,
                lingering_time=LINGER,
                auto_decompress=False,
                shutdown_timeout=self.config.shutdown_timeout,
            )
            await self._runner.setup()
            await self._listen_tcp()
            await self._listen_unix()
            self._start(self.service.listener.listen_for_ever(), "server.silence")
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Cut watchers, finish requests, listen no more. Twice is fine."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.service.stop()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        for server in servers:
            await server.wait_closed()
        if self.config.unix_socket is not None and servers:
            self.config.unix_socket.unlink(missing_ok=True)

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    async def _listen_tcp(self) -> None:
        if not self.config.listen:
            return
        self._authority.ensure_server(self.config.names)
        self._context = server_context(self._authority)
        loop = asyncio.get_running_loop()
        assert self._runner is not None
        ports = []
        assert self._runner.server is not None
        factory = self.service.doorman.factory(self._runner.server)
        for address, port in self.config.listen:
            server = await loop.create_server(
                factory,
                address,
                port,
                ssl=self._context,
                backlog=BACKLOG,
                reuse_address=True,
                ssl_handshake_timeout=self.config.handshake_timeout,
            )
            self._servers.append(server)
            ports.append(server.sockets[0].getsockname()[1])
        self.ports = tuple(ports)
        self._start(self._renew_for_ever(), "server.certificate")

    async def _listen_unix(self) -> None:
        path = self.config.unix_socket
        if path is None:
            return
        assert self._runner is not None
        sock = bind_unix(path)
        server = await asyncio.get_running_loop().create_unix_server(
            self._runner.server,  # type: ignore[arg-type]
            sock=sock,
            backlog=BACKLOG,
        )
        self._servers.append(server)

    async def _renew_for_ever(self) -> None:
        while True:
            await self.clock.sleep(self.config.renew_check)
            self.renew_certificate()

    def renew_certificate(self) -> bool:
        """Renew the server's certificate if it is due; new connections get it at once."""
        assert self._context is not None
        renewed = self._authority.ensure_server(self.config.names)
        if renewed:
            self._context.load_cert_chain(self._authority.server_file)
            log.info("server.certificate.renewed")
        return renewed


def server_context(authority: Authority) -> ssl.SSLContext:
    """TLS 1.3 with our certificate; a client may show one of our authority's, or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(authority.ca_file)
    context.load_cert_chain(authority.server_file)
    # A session would let a client resume without showing its certificate again.
    context.num_tickets = 0
    return context


def bind_unix(path: Path) -> socket.socket:
    """A socket of mode 0600 in place of whatever socket was there; nobody can connect before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_socket():
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        path.chmod(0o600)  # Nobody connects before listen().
    except BaseException:
        sock.close()
        raise
    return sock
