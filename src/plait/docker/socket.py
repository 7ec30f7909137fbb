"""The plugin's socket: HTTP calls of dockerd to handlers, within a deadline of our own.

dockerd waits for a network driver without end (a hung Join made `docker rm` hang, too), so each
handler is cut after `deadline` seconds. Errors are `{"Err": …}` with status 200: dockerd shows
the text of those as it is.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from aiohttp import web

from plait.docker.ipam_driver import IpamDriver
from plait.docker.network_driver import NetworkDriver
from plait.model.errors import PlaitError
from plait.wire import docker as wire

DEADLINE: Final = 8.0
"""Seconds for one call. dockerd's own patience with sockets is 10 s and more."""
MAX_BODY: Final = 1 << 20
"""Bytes of one call."""
CONTENT_TYPE: Final = "application/vnd.docker.plugins.v1.2+json"

log: Final = structlog.get_logger("plait.docker")

Handler = Callable[[Any], Awaitable[dict[str, Any]]]


class Call(msgspec.Struct, frozen=True):
    """A row of the table: what the body is, and who answers."""

    payload: type[Any]
    handler: Handler


async def activate(_: wire.Nothing) -> dict[str, Any]:
    """The handshake."""
    return {"Implements": ["NetworkDriver", "IpamDriver"]}


def calls(network: NetworkDriver, ipam: IpamDriver) -> dict[str, Call]:
    """Every call that a plugin may get, by path."""
    return {
        "Plugin.Activate": Call(wire.Nothing, activate),
        "NetworkDriver.GetCapabilities": Call(wire.Nothing, network.capabilities),
        "NetworkDriver.GwAllocCheck": Call(wire.Nothing, network.gateway_check),
        "NetworkDriver.AllocateNetwork": Call(wire.Nothing, network.refuse_swarm),
        "NetworkDriver.FreeNetwork": Call(wire.Nothing, network.refuse_swarm),
        "NetworkDriver.CreateNetwork": Call(wire.CreateNetworkCall, network.create_network),
        "NetworkDriver.DeleteNetwork": Call(wire.NetworkCall, network.delete_network),
        "NetworkDriver.CreateEndpoint": Call(wire.CreateEndpointCall, network.create_endpoint),
        "NetworkDriver.EndpointOperInfo": Call(wire.EndpointCall, network.endpoint_info),
        "NetworkDriver.DeleteEndpoint": Call(wire.EndpointCall, network.delete_endpoint),
        "NetworkDriver.Join": Call(wire.JoinCall, network.join),
        "NetworkDriver.Leave": Call(wire.EndpointCall, network.leave),
        "NetworkDriver.ProgramExternalConnectivity": Call(wire.ConnectivityCall, network.program),
        "NetworkDriver.RevokeExternalConnectivity": Call(wire.EndpointCall, network.revoke),
        "NetworkDriver.DiscoverNew": Call(wire.Nothing, network.nothing),
        "NetworkDriver.DiscoverDelete": Call(wire.Nothing, network.nothing),
        "IpamDriver.GetCapabilities": Call(wire.Nothing, ipam.capabilities),
        "IpamDriver.GetDefaultAddressSpaces": Call(wire.Nothing, ipam.address_spaces),
        "IpamDriver.RequestPool": Call(wire.RequestPoolCall, ipam.request_pool),
        "IpamDriver.ReleasePool": Call(wire.ReleasePoolCall, ipam.release_pool),
        "IpamDriver.RequestAddress": Call(wire.RequestAddressCall, ipam.request_address),
        "IpamDriver.ReleaseAddress": Call(wire.ReleaseAddressCall, ipam.release_address),
    }


async def answer(table: Mapping[str, Call], name: str, body: bytes, deadline: float) -> bytes:
    """The answer to one call, an error being one, too."""
    call = table.get(name)
    try:
        if call is None:
            raise PlaitError("PLAIT-DOCKER-001", f"Plait does not know the call {name!r}")
        # A call without arguments is right with any body, and with none.
        plain = call.payload is wire.Nothing
        payload = wire.Nothing() if plain else wire.decode(body, call.payload)
        async with asyncio.timeout(deadline):
            return msgspec.json.encode(await call.handler(payload))
    except PlaitError as error:
        problem = error
    except TimeoutError:
        problem = PlaitError(
            "PLAIT-AGENT-006",
            f"{name} was not done within {deadline:g} s",
            fix=("plait status",),
        )
    except Exception:
        log.exception("plugin call failed", call=name)
        problem = PlaitError("PLAIT-API-013", f"{name} failed", fix=("journalctl -u plait-agent",))
    log.warning("plugin call refused", call=name, code=problem.code, detail=problem.detail)
    return wire.error_body(problem)


def peer_uid(request: web.Request) -> int | None:
    """User id of the process at the other end (SO_PEERCRED, unix(7))."""
    transport = request.transport
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None:
        return None
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(uid)


class PluginSocket:
    """Serves a table of calls on a unix socket of mode 0600."""

    def __init__(
        self, path: Path, table: Mapping[str, Call], *, deadline: float = DEADLINE
    ) -> None:
        self._path = path
        self._table = table
        self._deadline = deadline
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Serve. A socket that a dead agent left behind is replaced."""
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_post("/{call}", self._handle)
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # The mode is there from the first moment, not after a chmod.
        previous = os.umask(0o177)
        try:
            sock.bind(str(self._path))
        finally:
            os.umask(previous)
        await web.SockSite(runner, sock).start()
        self._runner = runner

    async def stop(self) -> None:
        """Answer what is under way, then remove the socket."""
        if self._runner is not None:
            self._path.unlink(missing_ok=True)
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.Request) -> web.Response:
        if peer_uid(request) not in (0, os.geteuid()):
            raise web.HTTPForbidden
        body = await request.read()
        name = request.match_info["call"]
        content = await answer(self._table, name, body, self._deadline)
        return web.Response(body=content, content_type=CONTENT_TYPE)
