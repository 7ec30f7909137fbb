"""A Kubernetes API server in memory, over HTTP, that fails on request.

It keeps to the real one's protocol where a client can tell: versions, consistent pages, watches
with bookmarks, 410 Gone in both forms, selectors, the status subresource, patches, discovery. It
passes the same contract tests of the reflector. It has no admission, no access rules and no
conversion but that of EndpointSlices.

`put`, `remove` and `get` do what a controller in the cluster would, without any check;
`faults` says what goes wrong next.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import ssl
from collections.abc import Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from plait.kubernetes import fake_forms
from plait.kubernetes.fake_faults import Faults, Refuse
from plait.kubernetes.fake_paths import (
    CLUSTER_POLICIES,
    EVERYTHING,
    SLICES_V1,
    SLICES_V1BETA1,
    Served,
    Target,
    discovery,
    target_of,
)
from plait.kubernetes.fake_store import Compacted, FakeStore, Json, key_of
from plait.kubernetes.fake_watch import Watcher, status_body
from plait.kubernetes.kinds import Resource
from plait.kubernetes.kubeconfig import Access


class FakeKubernetes:
    """Serves on a port of 127.0.0.1 between `start` and `stop`, or within `async with`."""

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, tokens: frozenset[str] | None = None
    ) -> None:
        self.store = FakeStore()
        self.faults = Faults()
        self.requests: list[str] = []
        """Every request: method and path with query."""
        self._served = {each.resource: each for each in EVERYTHING}
        del self._served[SLICES_V1BETA1]
        self._defaults = fake_forms.Defaults()
        self._uids = itertools.count(1)
        self._tls = tls
        self._tokens = tokens
        self._watchers: set[Watcher] = set()
        self._runner: web.AppRunner | None = None
        self.port = 0

    # Life

    async def start(self, port: int = 0) -> None:
        """Serve; on any free port by default."""
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0, handler_cancellation=True
        )
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, "127.0.0.1", port, ssl_context=self._tls, reuse_address=True
        )
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """End every connection."""
        self.drop()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> FakeKubernetes:
        await self.start()
        return self

    async def __aexit__(self, *details: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def access(self) -> Access:
        """An access without credentials."""
        return Access(server=self.url, source="fake")

    # What a test does

    def put(self, resource: Resource, obj: Json) -> Json:
        """Create or write an object as it is; as kept."""
        old = self.store.get(_storage(resource), key_of(obj))
        return self._keep(resource, obj, old)

    def remove(self, resource: Resource, name: str, namespace: str = "") -> None:
        """Delete an object; KeyError if there is none."""
        self.store.delete(_storage(resource), (namespace, name))
        self._wake()

    def get(self, resource: Resource, name: str, namespace: str = "") -> Json | None:
        """An object, or None."""
        return self.store.get(_storage(resource), (namespace, name))

    def serve(self, resource: Resource, kind: str = "") -> None:
        """Serve a version, or a CustomResourceDefinition that was installed; `kind` is for one
        that is not among `EVERYTHING`."""
        known = (each for each in EVERYTHING if each.resource == resource)
        self._served[resource] = next(known, Served(resource, kind))

    def withhold(self, resource: Resource) -> None:
        """Serve it no more; what is watched of it ends."""
        self._served.pop(resource, None)
        for watcher in tuple(self._watchers):
            if watcher.resource == resource:
                watcher.end()

    def like_1_20(self) -> None:
        """Serve what Kubernetes 1.20 does."""
        self.withhold(SLICES_V1)
        self.withhold(CLUSTER_POLICIES)
        self.serve(SLICES_V1BETA1)

    def bookmark(self) -> None:
        """Send a bookmark to every watcher who wants them."""
        for watcher in self._watchers:
            watcher.bookmark()

    def expire(self) -> None:
        """Tell every watcher, within its stream, that its version is too old."""
        for watcher in self._watchers:
            watcher.expire()

    def drop(self) -> None:
        """Reset the connection of every watcher."""
        for watcher in tuple(self._watchers):
            watcher.drop()

    @property
    def watches(self) -> int:
        """Watches that are open."""
        return len(self._watchers)

    # Requests

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path_qs}")
        watch = request.query.get("watch") in ("true", "1")
        verb = "watch" if watch else {"GET": "read"}.get(request.method, "write")
        fault = await self.faults.next(verb, request.path)
        if isinstance(fault, Refuse):
            return _status(fault.status, fault.reason, "injected", retry_after=fault.retry_after)
        if fault is not None:
            return fault.apply(request)
        if self._tokens is not None:
            token = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if token not in self._tokens:
                return _status(401, "Unauthorized", "Unauthorized")
        if (listing := discovery(self._served.values(), request.path)) is not None:
            return web.json_response(listing)
        target = target_of(self._served.values(), request.path)
        if target is None:
            return web.Response(status=404, text="404 page not found\n")
        try:
            if request.method == "GET":
                if watch:
                    return await self._watch(request, target)
                return self._read(request, target)
            return _WRITES[request.method](self, target, await request.read(), request)
        except fake_forms.Unsupported as error:
            return _status(400, "BadRequest", str(error))
        except Compacted:
            return _status(410, "Expired", "The provided continue parameter is too old")

    # Reading

    def _read(self, request: web.Request, target: Target) -> web.Response:
        resource = target.served.resource
        if target.name:
            obj = self.get(resource, target.name, target.namespace)
            return _missing(target) if obj is None else self._answer(target, obj)
        picks, revision, start = self._picks(request, target), self.store.revision, 0
        if token := request.query.get("continue"):
            try:
                revision, start = msgspec.json.decode(base64.b64decode(token), type=tuple[int, int])
            except (binascii.Error, msgspec.MsgspecError):
                return _status(400, "BadRequest", "continue key is not valid")
        listed = [obj for obj in self.store.list(_storage(resource), revision) if picks(obj)]
        limit = int(request.query.get("limit", "0")) or len(listed) or 1
        meta: Json = {"resourceVersion": str(revision)}
        if start + limit < len(listed):
            follows = msgspec.json.encode((revision, start + limit))
            meta["continue"] = base64.b64encode(follows).decode()
            meta["remainingItemCount"] = len(listed) - start - limit
        return web.json_response(
            {
                "kind": f"{target.served.kind}List",
                "apiVersion": resource.group_version,
                "metadata": meta,
                "items": [self._form(resource, o) for o in listed[start : start + limit]],
            },
            dumps=_text,
        )

    async def _watch(self, request: web.Request, target: Target) -> web.StreamResponse:
        resource, query = target.served.resource, request.query
        picks, since = self._picks(request, target), query.get("resourceVersion", "")
        revision = int(since) if since not in ("", "0") else None
        if revision is not None and revision < self.store.compacted and not self.faults.in_stream:
            return _status(410, "Expired", f"too old resource version: {since}")
        watcher = Watcher(
            self.store,
            resource,
            _storage(resource),
            picks,
            lambda obj: self._full(target.served, obj),
            revision,
            bookmarks=query.get("allowWatchBookmarks") in ("true", "1"),
            fault=self.faults.next_watch(),
        )
        self._watchers.add(watcher)
        try:
            return await watcher.run(request, float(query.get("timeoutSeconds", "0")) or None)
        finally:
            self._watchers.discard(watcher)

    def _picks(self, request: web.Request, target: Target) -> fake_forms.Test:
        by_label = fake_forms.label_selector(request.query.get("labelSelector", ""))
        by_field = fake_forms.field_selector(
            request.query.get("fieldSelector", ""), target.served.resource.plural
        )
        namespace = target.namespace
        return lambda obj: (
            (not namespace or obj["metadata"].get("namespace") == namespace)
            and by_label(obj)
            and by_field(obj)
        )

    # Writing

    def _create(self, target: Target, body: bytes, _request: web.Request) -> web.Response:
        served = target.served
        obj = self._stored_form(served.resource, msgspec.json.decode(body))
        meta = obj.setdefault("metadata", {})
        if not meta.get("name"):
            return _status(422, "Invalid", "metadata.name: Required value")
        if served.resource.namespaced:
            meta["namespace"] = target.namespace
        if self.get(served.resource, *reversed(key_of(obj))) is not None:
            return _status(409, "AlreadyExists", f"{served.kind} {meta['name']!r} already exists")
        if served.has_status:
            obj.pop("status", None)
        return self._answer(target, self._keep(served.resource, obj, None), status=201)

    def _replace(self, target: Target, body: bytes, _request: web.Request) -> web.Response:
        old = self.get(target.served.resource, target.name, target.namespace)
        if old is None:
            return _missing(target)
        new = self._stored_form(target.served.resource, msgspec.json.decode(body))
        return self._update(target, old, new)

    def _patch(self, target: Target, body: bytes, request: web.Request) -> web.Response:
        old = self.get(target.served.resource, target.name, target.namespace)
        patch = self._stored_form(target.served.resource, msgspec.json.decode(body))
        change = _PATCHES.get(request.content_type)
        if change is None:
            return _status(415, "UnsupportedMediaType", f"no patch: {request.content_type}")
        if old is None:
            if request.content_type != "application/apply-patch+yaml" or target.subresource:
                return _missing(target)
            return self._create(target, body, request)
        return self._update(target, old, change(old, patch))

    def _update(self, target: Target, old: Json, new: Json) -> web.Response:
        served = target.served
        known, said = old["metadata"], new.get("metadata") or {}
        if said.get("resourceVersion") not in (None, known["resourceVersion"]):
            return _status(
                409, "Conflict", "the object has been modified; please apply your changes"
            )
        if said.get("uid") not in (None, known["uid"]):
            return _status(409, "Conflict", "the UID in the precondition is another")
        if target.subresource == "status":
            new = {**old, "status": new.get("status", {})}
        else:
            new = {**new, "metadata": {**said, "name": known["name"]}}
            if served.has_status:
                new.pop("status", None)
                new |= {"status": old["status"]} if "status" in old else {}
        return self._answer(target, self._keep(served.resource, new, old))

    def _delete(self, target: Target, _body: bytes, _request: web.Request) -> web.Response:
        resource = target.served.resource
        old = self.get(resource, target.name, target.namespace)
        if old is None:
            return _missing(target)
        if old["metadata"].get("finalizers"):
            leaving = {**old["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
            return self._answer(target, self._keep(resource, {**old, "metadata": leaving}, old))
        self.remove(resource, target.name, target.namespace)
        return self._answer(target, old)

    def _keep(self, resource: Resource, obj: Json, old: Json | None) -> Json:
        """Write an object with what the server itself says of it."""
        obj = msgspec.json.decode(msgspec.json.encode(obj))
        meta = obj["metadata"]
        if old is None:
            meta.setdefault("uid", f"00000000-0000-4000-8000-{next(self._uids):012d}")
            meta.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
            meta["generation"] = 1
            self._defaults.fill(resource.plural, obj)
        else:
            known = old["metadata"]
            for field in ("uid", "namespace", "creationTimestamp", "deletionTimestamp"):
                if field in known:
                    meta.setdefault(field, known[field])
            changed = obj.get("spec") != old.get("spec")
            meta["generation"] = known["generation"] + changed
            if {**obj, "metadata": {**meta, "resourceVersion": known["resourceVersion"]}} == old:
                return old  # What changes nothing is no write.
        storage, key = _storage(resource), key_of(obj)
        kept = self.store.put(storage, key, obj)
        if meta.get("deletionTimestamp") and not meta.get("finalizers"):
            self.store.delete(storage, key)
        self._wake()
        return kept

    # Forms

    def _answer(self, target: Target, obj: Json, *, status: int = 200) -> web.Response:
        return web.json_response(self._full(target.served, obj), status=status, dumps=_text)

    def _full(self, served: Served, obj: Json) -> Json:
        head = {"kind": served.kind, "apiVersion": served.resource.group_version}
        return {**head, **self._form(served.resource, obj)}

    def _form(self, resource: Resource, obj: Json) -> Json:
        """An object as this version of its resource has it."""
        obj = {k: v for k, v in obj.items() if k not in ("kind", "apiVersion")}
        return fake_forms.as_v1beta1(obj) if resource == SLICES_V1BETA1 else obj

    def _stored_form(self, resource: Resource, obj: Any) -> Json:
        return fake_forms.as_v1(obj) if resource == SLICES_V1BETA1 else dict(obj)

    def _wake(self) -> None:
        for watcher in self._watchers:
            watcher.wake()


_Write = Callable[[FakeKubernetes, Target, bytes, web.Request], web.Response]
_WRITES: Final[dict[str, _Write]] = {
    "POST": FakeKubernetes._create,
    "PUT": FakeKubernetes._replace,
    "PATCH": FakeKubernetes._patch,
    "DELETE": FakeKubernetes._delete,
}
_PATCHES: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "application/merge-patch+json": fake_forms.merge_patch,
    "application/strategic-merge-patch+json": fake_forms.strategic_patch,
    "application/apply-patch+yaml": fake_forms.merge_patch,
}


def _storage(resource: Resource) -> tuple[str, str]:
    return resource.group, resource.plural


def _missing(target: Target) -> web.Response:
    plural = target.served.resource.plural
    return _status(404, "NotFound", f"{plural} {target.name!r} not found")


def _status(
    code: int, reason: str, message: str, *, retry_after: float | None = None
) -> web.Response:
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:.0f}"}
    return web.json_response(status_body(code, reason, message), status=code, headers=headers)


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()
