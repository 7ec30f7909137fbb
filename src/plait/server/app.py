"""The aiohttp application: one middleware around the table of routes.

In this order: the Host header, who asks, whether they may, the version, the load, the handler;
every refusal becomes a problem document, and an exception that nobody foresaw becomes
PLAIT-API-013 with a trace in the log and none in the answer.
"""

from __future__ import annotations

import ipaddress
import socket
import uuid
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

import structlog
from aiohttp import web

from plait.model.errors import PlaitError
from plait.server import http
from plait.server.api import ROUTES
from plait.server.authorize import Actor
from plait.server.ca import Authority
from plait.server.clock import Clock
from plait.server.config import Config
from plait.server.openapi import describe, render
from plait.server.route import Call, Route, check_access, check_version
from plait.server.service import Service
from plait.store.base import Store
from plait.wire.api import SERVER_NAME

log = structlog.get_logger("plait.server")

NOBODY: Final = Actor("join")
"""Who asks on a public route; it may do nothing."""

_ACTOR: Final = web.RequestKey("actor", Actor)
_Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """The routes, bound to a service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.pending = 0
        """Requests under way, reserved routes not counted."""
        self.description = render(describe(ROUTES, service.version))
        self._routes: dict[object, Route] = {}
        self._hosts = frozenset({SERVER_NAME, "localhost", *service.config.names})

    def application(self) -> web.Application:
        """The aiohttp application."""

        @web.middleware
        async def around(request: web.Request, handler: _Next) -> web.StreamResponse:
            return await self._around(request, handler)

        app = web.Application(middlewares=[around], client_max_size=self.service.config.max_body)
        for route in ROUTES:
            bound = self._bind(route)
            self._routes[bound] = route
            app.router.add_route(route.method, route.path, bound, expect_handler=self._expect)
        return app

    def _bind(self, route: Route) -> _Next:
        async def handle(request: web.Request) -> web.StreamResponse:
            actor = request.get(_ACTOR, NOBODY)
            return await route.handler(Call(self, self.service, request, actor))

        return handle

    async def _expect(self, request: web.Request) -> web.StreamResponse | None:
        """`Expect: 100-continue` (RFC 9110 section 10.1.1): refuse before the body is sent."""
        try:
            http.check_length(request, self.service.config)
        except PlaitError as error:
            return http.problem(error)
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
        return None

    async def _around(self, request: web.Request, handler: _Next) -> web.StreamResponse:
        started = self.service.clock.monotonic()
        route = self._routes.get(request.match_info.handler)
        try:
            response = await self._guarded(request, route, handler)
        except PlaitError as error:
            response = self._refused(request, error)
        except web.HTTPException as error:
            response = self._refused(request, http.from_http(error, request))
        except Exception:
            incident = uuid.uuid4().hex[:12]
            log.exception("api.failed", incident=incident, path=http.quote(request.path))
            response = http.problem(
                PlaitError(
                    "PLAIT-API-013",
                    f"the server failed; its log has the reason under {incident}",
                )
            )
        took = self.service.clock.monotonic() - started
        self.service.metrics.request(
            route.method if route else "-",
            route.path if route else "-",
            response.status,
            took if isinstance(response, web.Response) else None,
        )
        return response

    async def _guarded(
        self, request: web.Request, route: Route | None, handler: _Next
    ) -> web.StreamResponse:
        self._check_host(request)
        if len(request.raw_path) > http.MAX_PATH + 1024:
            raise PlaitError("PLAIT-API-014", "the path is too long")
        actor = NOBODY
        if route is None or route.access != "public":
            actor = self.service.authenticator.identify(request.transport, request.headers)
            request[_ACTOR] = actor
            self.service.doorman.recognise(request.protocol)
            self.service.saw(actor)
            if route is not None:
                check_access(route, actor, request.path)
            if actor.role == "node":
                check_version(request, self.service.version)
        if route is None or route.reserved:
            return await handler(request)
        if self.pending >= self.service.config.max_pending:
            raise PlaitError(
                "PLAIT-API-009", f"{self.pending} requests are under way", fix=("try again",)
            )
        self.pending += 1
        try:
            response = await handler(request)
        finally:
            self.pending -= 1
        if route.writes:
            log.info(
                "api.write",
                actor=f"{actor.role}:{actor.name}",
                method=request.method,
                path=http.quote(request.path),
                status=response.status,
            )
        return response

    def _refused(self, request: web.Request, error: PlaitError) -> web.Response:
        report = log.info if error.status in (401, 403, 421, 429) else log.debug
        report(
            "api.refused",
            code=error.code,
            method=http.quote(request.method),
            path=http.quote(request.path),
        )
        return http.problem(error)

    def _check_host(self, request: web.Request) -> None:
        """Refuse a Host that is not ours: a page that rebinds its name to our address.

        An address is no name that could be rebound; on a unix socket the name means nothing.
        """
        transport = request.transport
        sock = transport.get_extra_info("socket") if transport else None
        if sock is not None and sock.family == socket.AF_UNIX:
            return
        header = request.headers.get("Host", "")
        try:
            host = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            host = ""
        if host in self._hosts:
            return
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise PlaitError(
                "PLAIT-API-016",
                f"this server is not {header[:80]!a}",
                why=f"it is {', '.join(sorted(self._hosts))}, or an address",
            ) from None


def build(store: Store, authority: Authority, config: Config, clock: Clock) -> tuple[Service, Api]:
    """The service over an open store, not yet started, and its routes."""
    service = Service(store, authority, config, clock)
    return service, Api(service)
