"""Where the connector answers questions about itself, over HTTP/1.1: `/status` (its report as
JSON), `/healthz` (it runs), `/readyz` (it knows both sides), `/metrics`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

import msgspec
from aiohttp import web

from plait.kubernetes.report import Metrics
from plait.wire.connector import Report

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class HealthServer:
    """`report` and `ready` are asked at each request."""

    def __init__(self, report: Callable[[], Report], ready: Callable[[], bool]) -> None:
        self._report = report
        self._ready = ready
        self._metrics = Metrics()
        app = web.Application(client_max_size=1024)
        app.router.add_get("/status", self._status)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._render)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)

    async def start(self, *listeners: socket.socket) -> None:
        """Serve on sockets that are bound."""
        await self._runner.setup()
        for listener in listeners:
            await web.SockSite(self._runner, listener).start()

    async def stop(self) -> None:
        """Close the sockets."""
        await self._runner.cleanup()

    async def _status(self, _request: web.Request) -> web.Response:
        body = msgspec.json.encode(self._report())
        return web.Response(body=body, content_type="application/json")

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        ready = self._ready()
        return web.Response(text="ok\n" if ready else "not yet\n", status=200 if ready else 503)

    async def _render(self, _request: web.Request) -> web.Response:
        body = self._metrics.render(self._report())
        return web.Response(body=body, headers={"Content-Type": METRICS_TYPE})
