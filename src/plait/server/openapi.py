"""OpenAPI 3.1 out of the table of routes and the types of the model. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from plait.model.errors import Problem
from plait.model.objects import KINDS, Object
from plait.wire.api import Listing
from plait.wire.watch import CONTENT_TYPE, WatchEvent

if TYPE_CHECKING:
    from plait.server.route import Route

_TEXT: Final = {"type": "string"}
_NUMBER: Final = {"type": "integer", "minimum": 0}
_QUERY: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "dryRun": ("Validate and answer, but store nothing", {"type": "boolean"}),
    "force": ("Although the node was heard lately", {"type": "boolean"}),
    "limit": ("Objects in a page, at most", {"type": "integer", "minimum": 1}),
    "continue": ("Where the last page ended", {"type": "string"}),
    "revision": ("Delete only this revision", {"type": "integer", "minimum": 0}),
    "kinds": ("Kinds to follow, with commas; all when absent", {"type": "string"}),
    "from": ("Resume after this revision", {"type": "integer", "minimum": 0}),
    "denied": ("Only flows that were denied, or would be", {"type": "boolean"}),
    "namespace": ("Only flows with an end in this namespace", {"type": "string"}),
    "endpoint": ("Only flows with this end: name, namespace/name, id or address", _TEXT),
    "after": ("Only records with a higher number: `cursor` of the last answer", _NUMBER),
    "within": ("Only records of the last so many seconds; 0: all", {"type": "number"}),
    "wait": ("Seconds to wait for a first record, at most 10", {"type": "number"}),
    "latest": ("Only the cursor behind the last record", {"type": "boolean"}),
    "history": ("The history that the revision belongs to", {"type": "string"}),
}


def describe(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """The whole document."""
    types: list[Any] = [*KINDS.values(), *(Listing[kind] for kind in KINDS.values())]  # type: ignore[valid-type]
    types += [Problem, WatchEvent]
    types += [t for route in routes for t in (route.body, route.result) if isinstance(t, type)]
    types = list(dict.fromkeys(types))
    schemas, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    schema_of = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        for kind, path in _concrete(route):
            methods = paths.setdefault(path, {})
            methods.setdefault(route.method.lower(), _operation(route, kind, path, schema_of))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Plait",
            "version": version,
            "description": "One network, one name and one set of rules for every container. "
            "Errors are RFC 9457 problems with a stable `code`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {"certificate": []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "certificate": {"type": "mutualTLS"},
            },
        },
    }


def _concrete(route: Route) -> Iterable[tuple[type[Object] | None, str]]:
    """A generic path once for each kind that it serves."""
    if "{plural}" not in route.path:
        yield None, route.path
        return
    scoped, named = "{namespace}" in route.path, "{name}" in route.path
    for kind in KINDS.values():
        if kind.namespaced if scoped else not (kind.namespaced and named):
            yield kind, route.path.replace("{plural}", kind.plural)


def _operation(
    route: Route, kind: type[Object] | None, path: str, schema_of: dict[Any, dict[str, Any]]
) -> dict[str, Any]:
    subject = kind.__name__ if kind else ""
    operation: dict[str, Any] = {
        "summary": f"{route.summary} {subject}".strip(),
        "description": (route.handler.__doc__ or "").strip(),
        "operationId": _operation_id(route, path),
        "tags": [subject or "server"],
        "parameters": [
            {"name": part[1:-1], "in": "path", "required": True, "schema": {"type": "string"}}
            for part in path.split("/")
            if part.startswith("{")
        ]
        + [
            {"name": name, "in": "query", "description": _QUERY[name][0], "schema": _QUERY[name][1]}
            for name in route.query
        ],
        "responses": {
            "201" if route.summary == "Create" else "200": _result(route, kind, schema_of),
            "default": {
                "description": "Refused",
                "content": {"application/problem+json": {"schema": schema_of[Problem]}},
            },
        },
    }
    if route.body is not None:
        body = kind if route.body == "object" else route.body
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema_of[body]}},
        }
    if route.access == "public":
        operation["security"] = []
    return operation


def _operation_id(route: Route, path: str) -> str:
    words = [part.strip("{}").replace(".", "-") for part in path.split("/") if part]
    return "-".join([route.method.lower(), *words])


def _result(
    route: Route, kind: type[Object] | None, schema_of: dict[Any, dict[str, Any]]
) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if route.path == "/v1/watch":
        content = {CONTENT_TYPE: {"schema": schema_of[WatchEvent]}}
    elif route.result is not None:
        named: dict[Any, Any] = {"object": kind, "list": Listing[kind] if kind else None}  # type: ignore[valid-type]
        schema = schema_of[named.get(route.result, route.result)]
        content = {"application/json": {"schema": schema}}
    return {"description": "Done", **({"content": content} if content else {})}


def render(document: dict[str, Any]) -> bytes:
    """The document as JSON."""
    return msgspec.json.encode(document)
