"""The server's process: configuration, store, authority, API."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

from plait.model.config import ServerConfig
from plait.model.errors import PlaitError
from plait.model.paths import Paths
from plait.server.bootstrap import bootstrap
from plait.server.ca import Authority
from plait.server.clock import Clock
from plait.server.config import Config
from plait.server.server import Server
from plait.store.sqlite import SqliteStore
from plait.wiring import control
from plait.wiring.daemon import notify


def read_config(paths: Paths) -> ServerConfig:
    """Settings written by `plait up`; PLAIT-HOST-005 when there are none."""
    try:
        return msgspec.json.decode(paths.server_config.read_bytes(), type=ServerConfig)
    except FileNotFoundError:
        raise PlaitError(
            "PLAIT-HOST-005", "no server was set up on this host", fix=("plait up",)
        ) from None


def listen_addresses(port: int) -> tuple[tuple[str, int], ...]:
    """Every address of the host, of the families that its kernel has."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError:
        return (("0.0.0.0", port),)
    return (("0.0.0.0", port), ("::", port))


def server_config(config: ServerConfig, paths: Paths) -> Config:
    """The server's own settings out of what the user decided."""
    names = ("localhost", "127.0.0.1", "::1", *config.addresses, *config.names)
    return Config(
        listen=listen_addresses(config.port),
        unix_socket=paths.server_socket,
        names=tuple(dict.fromkeys(names)),
    )


def control_socket(paths: Paths) -> Path:
    """Where a running server takes the orders that are not for its API."""
    return paths.run / "server-control.sock"


async def run_server(paths: Paths, stop: asyncio.Event) -> None:
    """Serve until `stop`. Tasks: those of the store, the server, and `server.control`."""
    config = read_config(paths)
    clock = Clock()
    paths.run.mkdir(parents=True, exist_ok=True, mode=0o755)
    async with AsyncExitStack() as stack:
        store = SqliteStore(paths.store)
        await store.open()
        stack.push_async_callback(store.close)
        authority = Authority.open(paths.ca, clock.now)
        await bootstrap(store, config.cluster, clock)
        server = Server(store, authority, server_config(config, paths), clock)
        await server.start()
        stack.push_async_callback(server.stop)

        async def backup(request: dict[str, Any]) -> None:
            await store.backup(Path(str(request["path"])))

        orders = await control.serve(control_socket(paths), {"backup": backup})
        stack.callback(control_socket(paths).unlink, missing_ok=True)
        stack.callback(orders.close)
        notify("READY=1", os.environ)
        await stop.wait()
