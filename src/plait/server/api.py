"""The routes of the API as one table, and what those about the server and its objects do."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from plait.client.base import BatchOp
from plait.model import syntax
from plait.model.errors import PlaitError
from plait.model.flows import CountList, FlowBatch, FlowPage, FlowReceipt
from plait.model.objects import KINDS, PLURALS, Object, object_key
from plait.server import http
from plait.server.api_flows import FLOW_QUERY, list_counters, list_flows, report_flows
from plait.server.api_trust import (
    create_token,
    enrol,
    forget_node,
    list_pools,
    list_tokens,
    renew,
    revoke_token,
)
from plait.server.authorize import Verb
from plait.server.hub import Watcher
from plait.server.route import Call, Route
from plait.server.writes import Step, step_of
from plait.wire import api as wire
from plait.wire.watch import CONTENT_TYPE

if TYPE_CHECKING:
    pass

SNAPSHOT_PIECE: Final = 64 * 1024
"""Bytes of a snapshot that are sent at once, at least."""


_DECODERS: Final[dict[type[Object], msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(kind) for kind in KINDS.values()
}


class Batch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a batch."""

    ops: tuple[BatchOp, ...]


_batch = msgspec.json.Decoder(Batch)


# Health and description


async def healthz(call: Call) -> web.Response:
    """The process answers."""
    del call
    return web.Response(text="ok\n", headers=http.HEADERS)


async def readyz(call: Call) -> web.Response:
    """The server follows its store."""
    if not call.service.mirror.alive:
        raise PlaitError("PLAIT-API-012", "the server does not follow its store")
    return web.Response(text="ok\n", headers=http.HEADERS)


async def cacerts(call: Call) -> web.Response:
    """Certificate of the authority; a joiner checks its hash against the token."""
    return web.Response(
        text=call.service.authority.pem,
        content_type="application/x-pem-file",
        headers=http.HEADERS,
    )


async def metrics(call: Call) -> web.Response:
    """Counters in Prometheus' text format."""
    return web.Response(
        body=call.service.metrics.render(call.service, call.api.pending),
        headers={**http.HEADERS, "Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
    )


async def version(call: Call) -> web.Response:
    """Version of the server and revision of its store."""
    return http.answer(
        wire.VersionInfo(version=call.service.version, revision=call.service.mirror.state.revision)
    )


async def openapi(call: Call) -> web.Response:
    """This description."""
    return http.answer(call.api.description)


# Objects


def _address(call: Call) -> tuple[str, str]:
    return call.request.match_info["name"], call.request.match_info.get("namespace", "")


async def list_objects(call: Call) -> web.Response:
    """Objects of a kind, in order of their keys, a page at a time."""
    kind = http.kind_of(call.request)
    query = http.Query(call.request, "limit", "continue")
    most = call.service.config.max_page
    limit = min(query.number("limit") or most, most)
    entries, more = call.service.mirror.state.page(
        kind,
        namespace=call.request.match_info.get("namespace", ""),
        after=_after(query.text("continue"), kind),
        limit=limit,
    )
    meta: dict[str, Any] = {"revision": call.service.mirror.state.revision}
    if more:
        meta["continue"] = base64.urlsafe_b64encode(entries[-1].key.encode()).decode()
    return http.answer(
        b'{"apiVersion":"plait/v1","kind":"%bList","metadata":%b,"items":[%b]}'
        % (
            kind.__name__.encode(),
            msgspec.json.encode(meta),
            b",".join(entry.body for entry in entries),
        )
    )


def _after(token: str, kind: type[Object]) -> str:
    if not token:
        return ""
    try:
        key = base64.b64decode(token, altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        key = ""
    if not key.startswith(f"/{kind.plural}/") or len(key) > 512:
        raise PlaitError(
            "PLAIT-API-002", "the list cannot be continued from there", where="continue"
        )
    return key


async def get_object(call: Call) -> web.Response:
    """One object."""
    kind = http.kind_of(call.request)
    http.Query(call.request)
    name, namespace = _address(call)
    entry = call.service.mirror.state.entry(kind, name, namespace)
    if entry is None:
        raise PlaitError(
            "PLAIT-API-004",
            f"there is no {kind.__name__} {syntax.shown(name)}",
            where=object_key(kind, name, namespace)[1:200],
            fix=(f"plait get {kind.plural}",),
        )
    return http.answer(entry.body)


async def create_object(call: Call) -> web.Response:
    """Store a new object."""
    return await _put(call, "create")


async def update_object(call: Call) -> web.Response:
    """Write an object; with a revision, only over that one."""
    return await _put(call, "update")


async def _put(call: Call, verb: Verb) -> web.Response:
    kind = http.kind_of(call.request)
    query = http.Query(call.request, "dryRun")
    obj = await http.read(call.request, _DECODERS[kind], call.service.config)
    named = call.request.match_info.get("name", obj.metadata.name)
    if named != obj.metadata.name:
        raise PlaitError(
            "PLAIT-API-002", "the path and the object have different names", where="metadata.name"
        )
    namespace = ""
    if kind.namespaced:
        namespace = call.request.match_info.get("namespace", "")
        namespace = namespace or obj.metadata.namespace or "default"
        if obj.metadata.namespace not in ("", namespace):
            raise PlaitError(
                "PLAIT-API-002",
                "the path and the object have different namespaces",
                where="metadata.namespace",
            )
        meta = msgspec.structs.replace(obj.metadata, namespace=namespace)
        obj = msgspec.structs.replace(obj, metadata=meta)
    revision = 0 if verb == "create" else obj.metadata.revision
    step = Step(verb, kind, named, namespace, revision, obj)
    _, (stored,) = await call.service.writer.write(call.actor, [step], dry_run=query.flag("dryRun"))
    return http.answer(stored, 201 if verb == "create" else 200)


async def delete_object(call: Call) -> web.Response:
    """Remove an object; the answer is the last that was known of it."""
    kind = http.kind_of(call.request)
    query = http.Query(call.request, "dryRun", "revision")
    name, namespace = _address(call)
    step = Step("delete", kind, name, namespace, query.number("revision"))
    _, (last,) = await call.service.writer.write(call.actor, [step], dry_run=query.flag("dryRun"))
    return http.answer(last)


async def batch(call: Call) -> web.Response:
    """Several writes, all or none, in one revision."""
    query = http.Query(call.request, "dryRun")
    body = await http.read(call.request, _batch, call.service.config)
    if not 1 <= len(body.ops) <= call.service.config.max_batch:
        raise PlaitError(
            "PLAIT-API-002",
            f"a batch has 1 to {call.service.config.max_batch} steps, not {len(body.ops)}",
            where="ops",
        )
    revision, objects = await call.service.writer.write(
        call.actor, [step_of(op) for op in body.ops], dry_run=query.flag("dryRun")
    )
    return http.answer(wire.BatchResult(revision=revision, items=tuple(objects)))


# Watch


async def watch(call: Call) -> web.StreamResponse:
    """Follow kinds: a snapshot, then every change in revision order (NDJSON)."""
    query = http.Query(call.request, "kinds", "from", "history")
    kinds = _kinds(query.text("kinds"))
    after = query.number("from")
    service, config = call.service, call.service.config
    if service.hub.watchers >= config.max_watchers:
        raise PlaitError("PLAIT-API-009", f"there are {config.max_watchers} watchers already")
    response = web.StreamResponse(
        headers={
            **http.HEADERS,
            "Content-Type": CONTENT_TYPE,
            wire.HISTORY_HEADER: service.hub.history,
            **({wire.EXPIRES_HEADER: str(int(ends))} if (ends := call.actor.expires) else {}),
        }
    )
    response.enable_chunked_encoding()
    await response.prepare(call.request)
    transport = call.request.transport
    if transport is None:
        return response
    watcher = Watcher(call.actor, kinds, transport)
    try:
        await service.mirror.past()
        lines = service.hub.join(watcher, service.mirror.state, after, query.text("history"))
        async with asyncio.timeout(config.snapshot_timeout):
            for piece in _pieces(lines):
                await response.write(piece)
        del lines
        service.hub.caught_up(watcher)
        await asyncio.get_running_loop().create_future()
    except (TimeoutError, PlaitError):
        transport.abort()  # The answer has begun: nothing else can be said in it.
    finally:
        service.hub.leave(watcher)
    return response


def _kinds(text: str) -> frozenset[type[Object]]:
    """`Network,Node` or `networks,nodes`; empty means all."""
    chosen = set()
    for name in text.split(",") if text else KINDS:
        kind = KINDS.get(name) or PLURALS.get(name)
        if kind is None:
            raise http.no_such_kind(name, KINDS)
        chosen.add(kind)
    return frozenset(chosen)


def _pieces(lines: list[bytes]) -> Iterator[bytes]:
    piece: list[bytes] = []
    size = 0
    for line in lines:
        piece.append(line)
        size += len(line)
        if size >= SNAPSHOT_PIECE:
            yield b"".join(piece)
            piece, size = [], 0
    if piece:
        yield b"".join(piece)


_NAMED: Final = "/v1/{plural}/{name}"
_SCOPED: Final = "/v1/namespaces/{namespace}/{plural}"
_SCOPED_NAMED: Final = "/v1/namespaces/{namespace}/{plural}/{name}"
_PAGES: Final = ("limit", "continue")
_DRY: Final = ("dryRun",)

ROUTES: Final[tuple[Route, ...]] = (
    Route("GET", "/healthz", healthz, "public", "Liveness", reserved=True),
    Route("GET", "/readyz", readyz, "public", "Readiness", reserved=True),
    Route("GET", "/cacerts", cacerts, "public", "Certificate authority", reserved=True),
    Route("GET", "/metrics", metrics, "any", "Metrics", reserved=True),
    Route("GET", "/v1/version", version, "any", "Version", result=wire.VersionInfo),
    Route("GET", "/v1/openapi.json", openapi, "any", "OpenAPI description"),
    Route(
        "GET", "/v1/watch", watch, "any", "Follow changes",
        query=("kinds", "from", "history"), reserved=True,
    ),
    Route(
        "POST", "/v1/batch", batch, "any", "Atomic batch",
        body=Batch, result=wire.BatchResult, query=_DRY, writes=True,
    ),
    Route(
        "POST", "/v1/enrol", enrol, "join", "Enrol a node",
        body=wire.EnrolRequest, result=wire.Enrolled, writes=True,
    ),
    Route(
        "POST", "/v1/renew", renew, "node", "Renew a node's certificate",
        body=wire.RenewRequest, result=wire.Enrolled, writes=True,
    ),
    Route(
        "GET", "/v1/pools", list_pools, "join", "Pools of the cluster and its networks",
        result=wire.PoolList,
    ),
    Route("GET", "/v1/tokens", list_tokens, "admin", "List tokens", result=wire.TokenList),
    Route(
        "POST", "/v1/tokens", create_token, "admin", "Create a token",
        body=wire.TokenRequest, result=wire.TokenCreated, writes=True,
    ),
    Route("DELETE", "/v1/tokens/{id}", revoke_token, "admin", "Revoke a token", writes=True),
    Route(
        "POST", "/v1/nodes/{name}/forget", forget_node, "any", "Forget a node",
        result=wire.Forgotten, query=("force", "dryRun"), writes=True,
    ),
    Route(
        "POST", "/v1/nodes/{name}/flows", report_flows, "node", "Report flows",
        body=FlowBatch, result=FlowReceipt,
    ),
    Route(
        "GET", "/v1/flows", list_flows, "any", "Flows of the last hour",
        result=FlowPage, query=FLOW_QUERY, reserved=True,
    ),
    Route("GET", "/v1/counters", list_counters, "any", "Counts of rules", result=CountList),
    Route("GET", _SCOPED, list_objects, "any", "List", result="list", query=_PAGES),
    Route(
        "POST", _SCOPED, create_object, "any", "Create",
        body="object", result="object", query=_DRY, writes=True,
    ),
    Route("GET", _SCOPED_NAMED, get_object, "any", "Read", result="object"),
    Route(
        "PUT", _SCOPED_NAMED, update_object, "any", "Write",
        body="object", result="object", query=_DRY, writes=True,
    ),
    Route(
        "DELETE", _SCOPED_NAMED, delete_object, "any", "Delete",
        result="object", query=("dryRun", "revision"), writes=True,
    ),
    Route("GET", "/v1/{plural}", list_objects, "any", "List", result="list", query=_PAGES),
    Route(
        "POST", "/v1/{plural}", create_object, "any", "Create",
        body="object", result="object", query=_DRY, writes=True,
    ),
    Route("GET", _NAMED, get_object, "any", "Read", result="object"),
    Route(
        "PUT", _NAMED, update_object, "any", "Write",
        body="object", result="object", query=_DRY, writes=True,
    ),
    Route(
        "DELETE", _NAMED, delete_object, "any", "Delete",
        result="object", query=("dryRun", "revision"), writes=True,
    ),
)  # fmt: skip
"""Every route, the more specific ones first. OpenAPI, access checks and tests read this table."""
