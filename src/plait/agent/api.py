"""The verbs over `/run/plait/agent.sock`: mode 0600, and the peer must be root as well.

`POST /v1/<verb>` with JSON; `GET /healthz`; `GET /metrics`; and paths of parts beside the agent,
which have payloads of their own. Errors are RFC 9457 problems.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from aiohttp import web

from plait.agent.metrics import CONTENT_TYPE
from plait.client.agent import Agent
from plait.client.agent_verbs import MAX_BODY, VERBS
from plait.model.errors import PlaitError

PROBLEM: Final = "application/problem+json"
_UCRED: Final = struct.Struct("=iII")
"""struct ucred: pid, uid, gid (unix(7), SO_PEERCRED)."""

Route = Callable[[web.Request], Awaitable[web.StreamResponse]]

log: Final = structlog.get_logger("plait.agent.api")


class AgentApi:
    """The listener."""

    def __init__(
        self,
        agent: Agent,
        path: Path,
        metrics: Callable[[], bytes],
        routes: Mapping[str, Route] | None = None,
    ) -> None:
        """`routes` answer POSTs to further paths; they are read by `start`."""
        self._agent = agent
        self._routes = {} if routes is None else routes
        self._path = path
        self._metrics = metrics
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen. A socket that a dead agent left is replaced."""
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self._guard])
        for path, route in self._routes.items():
            app.router.add_post(path, route)
        app.router.add_post("/v1/{verb}", self._verb)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/metrics", self._expose)
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=30.0)
        await self._runner.setup()
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listener.setblocking(False)
        # The mode holds from the first instant; between bind and chmod anybody could connect.
        before = os.umask(0o177)
        try:
            listener.bind(str(self._path))
        finally:
            os.umask(before)
        await web.SockSite(self._runner, listener).start()

    async def stop(self) -> None:
        """Stop listening; requests under way are given a moment."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
            self._path.unlink(missing_ok=True)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            if _peer_uid(request) != 0:
                raise PlaitError("PLAIT-AUTH-002", "only root may talk to the agent")
            answer: web.StreamResponse = await handler(request)
        except PlaitError as error:
            return _refusal(error)
        except web.HTTPRequestEntityTooLarge:
            return _refusal(PlaitError("PLAIT-API-007", f"a body has at most {MAX_BODY} bytes"))
        except web.HTTPMethodNotAllowed:
            return _refusal(PlaitError("PLAIT-API-010", f"{request.method} is not for this path"))
        except web.HTTPException:
            return _refusal(PlaitError("PLAIT-API-014", f"there is no path {request.path!r}"))
        except Exception:
            log.exception("a verb failed", path=request.path)
            return _refusal(
                PlaitError(
                    "PLAIT-API-013", "the agent failed", fix=("see /var/log/plait/agent.log",)
                )
            )
        return answer

    async def _verb(self, request: web.Request) -> web.Response:
        name = request.match_info["verb"]
        verb = VERBS.get(name)
        if verb is None:
            raise PlaitError(
                "PLAIT-API-014", f"there is no verb {name!r}", why=f"verbs: {', '.join(VERBS)}"
            )
        body = await request.read()
        try:
            arguments = msgspec.json.decode(body or b"{}", type=verb.arguments)
        except msgspec.ValidationError as error:
            raise PlaitError("PLAIT-API-002", f"the arguments of {name}: {error}") from error
        except (msgspec.DecodeError, RecursionError) as error:
            raise PlaitError("PLAIT-API-001", str(error)) from error
        named = {field: getattr(arguments, field) for field in arguments.__struct_fields__}
        positional = [named.pop(field) for field in verb.positional]
        result = await getattr(self._agent, name)(*positional, **named)
        return web.Response(body=msgspec.json.encode(result), content_type="application/json")

    async def _health(self, _request: web.Request) -> web.Response:
        status = await self._agent.status()
        return web.Response(
            status=200 if status.ready else 503,
            body=msgspec.json.encode({"ready": status.ready, "problems": status.problems}),
            content_type="application/json",
        )

    async def _expose(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=self._metrics(),
            headers={"Content-Type": CONTENT_TYPE},
        )


def _peer_uid(request: web.Request) -> int:
    sock = request.transport.get_extra_info("socket") if request.transport else None
    if sock is None:
        return -1
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(raw)[1])


def _refusal(error: PlaitError) -> web.Response:
    return web.Response(
        status=error.status,
        body=msgspec.json.encode(error.problem()),
        content_type=PROBLEM,
    )
