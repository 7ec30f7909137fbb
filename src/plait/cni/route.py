"""The path of the agent's socket at which the shim asks (`native/plait-cni.c` is the other end)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from plait.cni.plugin import CniPlugin

PATH: Final = "/v1/cni"
EXIT: Final = "Plait-CNI-Exit"
"""Header with the status with which the shim is to exit: an answer without it is none."""


def handler(plugin: CniPlugin) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """What the agent's socket does with a POST to `PATH`."""

    async def serve(request: web.Request) -> web.StreamResponse:
        body = await request.read()

        def gone() -> bool:
            return request.transport is None or request.transport.is_closing()

        answer = await plugin.handle(body, gone)
        return web.Response(
            body=answer.body,
            headers={EXIT: str(answer.status)},
            content_type="application/json",
        )

    return serve
