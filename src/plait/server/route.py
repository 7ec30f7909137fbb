"""A route of the API, and who may use it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from aiohttp import web

from plait.model import syntax
from plait.model.errors import PlaitError
from plait.server.authorize import Actor, refuse
from plait.server.service import Service
from plait.wire import api as wire

if TYPE_CHECKING:
    from plait.server.app import Api

Access = Literal["public", "join", "node", "any", "admin"]
"""Who may use a route: anyone, who joins, nodes, those who are known, administrators."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request: who asks what of whom."""

    api: Api
    service: Service
    request: web.Request
    actor: Actor


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """A row of the table. `reserved` routes are answered when the server is overloaded."""

    method: str
    path: str
    handler: Handler
    access: Access
    summary: str
    body: Any = None
    """Type of the request's body; "object" for the object of the path's kind."""
    result: Any = None
    """Type of the answer; "object" and "list" for those of the path's kind."""
    query: tuple[str, ...] = ()
    reserved: bool = False
    writes: bool = False


def check_access(route: Route, actor: Actor, path: str) -> None:
    """Whether the actor may use the route at all; `path` is what was asked for."""
    allowed = {
        "join": actor.role in ("join", "admin"),
        "node": actor.role == "node",
        "any": actor.role in ("node", "connector", "admin"),
        "admin": actor.role == "admin",
    }
    if not allowed[route.access]:
        raise refuse(actor, f"{route.method} {syntax.printable(path[:200])}")


def check_version(request: web.Request, own: str) -> None:
    """Refuse a node of another version (PLAIT-AGENT-002).

    Versions with the same first two numbers work together; a client that names none is no
    node's agent.
    """
    theirs = request.headers.get(wire.VERSION_HEADER, own)
    if theirs.split(".")[:2] != own.split(".")[:2]:
        raise PlaitError(
            "PLAIT-AGENT-002",
            f"the node runs Plait {ascii(theirs[:40])[1:-1]}, the server {own}",
            fix=(f"pip install 'plait=={own}'",),
        )
