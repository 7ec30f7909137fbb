"""What others ask over HTTP before they send traffic to this host, as they would ask kube-proxy.

- On a Service's health-check node port: whether it has ready backends here. Balancers outside ask
  it for Services of `externalTraffic: Local` (kube-proxy, pkg/proxy/healthcheck/service_health.go).
- `/healthz` and `/livez` on port 10256: whether this host's kernel follows the Services. It is
  served while there are Services of an orchestrator's (proxy_health.go).

The ports are open to whoever reaches the host. They say what a connection would show anyway, read
nothing from the request but its path, and can change nothing. A connection lasts a short time, and
of too many the oldest goes: nobody uses up the agent's files by holding them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec
import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from plait.services.engine import HealthCheck

PROXY: Final = 10256
"""kube-proxy's `--healthz-bind-address`."""
BEHIND: Final = 60.0
"""Seconds for which the kernel may be behind what is known: twice kube-proxy's `--sync-period`."""
RETRY: Final = 5.0
"""Seconds before a port that was taken is tried again."""
BACKLOG: Final = 64
MOST: Final = 256
"""Connections at a time, of all ports together: one ends when so many newer ones came."""
LONGEST: Final = 10.0
"""Seconds that a connection may last: those who ask wait for a second or so."""

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

log: Final = structlog.get_logger("plait.agent.health")


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be told."""

    checks: Mapping[int, HealthCheck] = {}
    """By health-check node port."""
    proxy: bool = False
    """Somebody may ask whether Services work here at all."""


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """How this host is."""

    behind: float | None
    """Seconds for which the kernel has not been what it should be; None: it has never been."""
    eligible: bool
    """It may get traffic: it is not being removed."""

    @property
    def healthy(self) -> bool:
        """Its kernel follows."""
        return self.behind is not None and self.behind < BEHIND


class _Brief(web.Server):
    """Ends connections; see the module's docstring."""

    def __init__(self, answer: Answer, longest: float) -> None:
        super().__init__(answer, access_log=None)
        self._longest = longest
        self._last: deque[RequestHandler] = deque()

    def __call__(self) -> RequestHandler:
        if len(self._last) >= MOST:
            self._last.popleft().force_close()
        handler = super().__call__()
        self._last.append(handler)
        asyncio.get_running_loop().call_later(self._longest, handler.force_close)
        return handler


class HealthPorts:
    """See the module's docstring."""

    def __init__(
        self,
        health: Callable[[], Health],
        condition: Callable[[], Condition],
        *,
        wall: Callable[[], float],
        retry: float = RETRY,
        proxy: int = PROXY,
        longest: float = LONGEST,
    ) -> None:
        """`health` and `condition` are asked at each request; `follow` says that `health` changed.
        `proxy` is the port of `/healthz`."""
        self._health = health
        self._condition = condition
        self._wall = wall
        self._retry = retry
        self._proxy = proxy
        self._runner = web.ServerRunner(_Brief(self._answer, longest))
        self._open: dict[int, web.SockSite] = {}
        self._taken: dict[int, str] = {}
        """Ports that cannot be had, and why."""
        self._wake = asyncio.Event()

    def follow(self) -> None:
        """What is to be told may be other than before."""
        if self._wanted() != self._open.keys():
            self._wake.set()

    def problems(self) -> tuple[str, ...]:
        """What is wrong, a sentence each."""
        return tuple(
            f"{self._called(port)} cannot be told on TCP port {port}: {why}"
            for port, why in sorted(self._taken.items())
        )

    async def run(self) -> None:
        """Open and close ports, until cancelled; then close all."""
        await self._runner.setup()
        try:
            while True:
                self._wake.clear()
                await self._bring()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._retry if self._taken else None):
                        await self._wake.wait()
        finally:
            await self._runner.cleanup()
            self._open.clear()

    def _wanted(self) -> set[int]:
        health = self._health()
        return {*health.checks, *((self._proxy,) if health.proxy else ())}

    async def _bring(self) -> None:
        wanted = self._wanted()
        for port in self._open.keys() - wanted:
            await self._open.pop(port).stop()
        self._taken = {port: why for port, why in self._taken.items() if port in wanted}
        for port in sorted(wanted - self._open.keys()):
            try:
                site = web.SockSite(self._runner, _listener(port), backlog=BACKLOG)
                await site.start()
            except OSError as error:
                if port not in self._taken:
                    log.warning("a health port cannot be opened", port=port, error=str(error))
                self._taken[port] = error.strerror or str(error)
            else:
                self._open[port] = site
                self._taken.pop(port, None)

    def _called(self, port: int) -> str:
        check = self._health().checks.get(port)
        return f"the health of service {check.namespace}/{check.name}" if check else "our health"

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        name = request.transport.get_extra_info("sockname") if request.transport else None
        port = name[1] if name else 0
        check = self._health().checks.get(port)
        if check is not None:
            return service_answer(check, self._condition())
        if port == self._proxy and request.path in ("/healthz", "/livez"):
            alive = request.path == "/livez"
            return proxy_answer(self._condition(), self._wall(), alive=alive)
        return web.Response(status=404)


def service_answer(check: HealthCheck, condition: Condition) -> web.Response:
    """What a health-check node port answers: 200 if traffic is welcome, else 503."""
    return _json(
        check.local > 0 and condition.healthy,
        {
            "service": {"namespace": check.namespace, "name": check.name},
            "localEndpoints": check.local,
            "serviceProxyHealthy": condition.healthy,
        },
        {"X-Load-Balancing-Endpoint-Weight": str(check.local)},
    )


def proxy_answer(condition: Condition, now: float, *, alive: bool) -> web.Response:
    """What `/healthz` answers, or (`alive`) `/livez`, which does not ask whether the host may
    get traffic. `now` is in seconds since 1970."""
    good = condition.healthy and (alive or condition.eligible)
    # kube-proxy says that it was updated just now as long as it is healthy.
    updated = now if good else now - condition.behind if condition.behind is not None else 0.0
    return _json(
        good,
        {
            "lastUpdated": _time(updated),
            "currentTime": _time(now),
            **({} if alive else {"nodeEligible": condition.eligible}),
        },
    )


def _time(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat()


def _json(good: bool, body: object, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        status=200 if good else 503,
        body=msgspec.json.encode(body),
        content_type="application/json",
        headers={"X-Content-Type-Options": "nosniff", **(headers or {})},
    )


def _listener(port: int) -> socket.socket:
    """Of both families where the host has both. Raises OSError."""
    with contextlib.ExitStack() as undo:
        try:
            listener = undo.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_STREAM))
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            where = "::"
        except OSError:  # IPv6 is off.
            listener = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            where = ""
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((where, port))
        listener.setblocking(False)
        undo.pop_all()
        return listener
