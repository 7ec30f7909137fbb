"""Takes back everything that the connector ever wrote, on both sides. The connector must not run.

`leave_plait` and `leave_kubernetes` yield lines for people, and do nothing when asked for a dry
run. Both may be repeated.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from itertools import chain
from typing import Any, Final, TypeVar, cast

import msgspec

from plait.client.base import Api, WatchEvent
from plait.kubernetes import balancers, nodes, objects
from plait.kubernetes.api import KubernetesApi
from plait.kubernetes.due import ORDER
from plait.kubernetes.election import DURATION, LEASES
from plait.kubernetes.election import NAME as LEASE
from plait.kubernetes.feedback import CONFLICT, GONE, NODE, SERVICE
from plait.kubernetes.held import Held
from plait.kubernetes.kinds import PODS, Resource
from plait.kubernetes.marks import is_touched
from plait.kubernetes.wanted import Wanted
from plait.kubernetes.writes import Writes
from plait.model.errors import PlaitError
from plait.model.objects import AnyObject, Node, Object

POD: Final = PODS.resources[0]
PAGE: Final = "500"
LOOK: Final = 1.0
"""Seconds between looks at the Lease."""
TRIES: Final = 5
"""Times that an object is read and written before somebody else's writes are an error."""

T = TypeVar("T")


class _ListMeta(msgspec.Struct, frozen=True):
    token: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct, frozen=True):
    items: list[msgspec.Raw]
    metadata: _ListMeta = _ListMeta()


async def leave_plait(api: Api, *, dry_run: bool = False) -> AsyncIterator[str]:
    """Delete what is marked as the connector's, and take its labels off the rest."""
    found = {kind: [obj for obj in await api.list(kind) if is_touched(obj)] for kind in ORDER}
    left = {} if dry_run else await _remove(api, found.values())
    for kind, touched in found.items():
        gone = [obj for obj in touched if obj.key not in left]
        if gone:
            what = "labels of nodes" if kind is Node else kind.plural
            yield f"{what} in Plait: {len(gone)}"
    for key, why in left.items():
        yield f"left: {key.lstrip('/')}: {why}"


async def _remove(api: Api, touched: Iterable[Iterable[Object]]) -> dict[str, str]:
    """Delete objects; why some are left, by key."""
    held = Held()
    held.take(WatchEvent(type="begin"))
    for obj in chain.from_iterable(touched):
        held.take(WatchEvent(type="put", object=cast(AnyObject, obj)))
    held.take(WatchEvent(type="synced"))
    writes = Writes(
        api,
        Wanted(network="", domain=""),
        held,
        known=lambda _kind: True,
        may=lambda: True,
        changed=lambda _keys: None,
        clock=time.monotonic,
    )
    writes.touch_all()
    while await writes.round():
        pass
    return writes.left


async def leave_kubernetes(
    api: KubernetesApi, pools: tuple[str, ...], *lease_namespaces: str, dry_run: bool = False
) -> AsyncIterator[str]:
    """Take taints, conditions, addresses of load balancers and Leases back. `pools` are those of
    which Plait gave load-balancer addresses."""
    async for node in _all(api, NODE, dict[str, Any]):
        async for line in _leave_node(api, node, dry_run=dry_run):
            yield line
    async for service in _all(api, SERVICE, objects.Service):
        patch = balancers.withdrawn(service, pools)
        if patch is not None:
            namespace, name = service.metadata.key
            yield f"load-balancer addresses of service {namespace}/{name}"
            if not dry_run:
                await _gone(api.patch(SERVICE, patch, name, namespace, subresource="status"))
    for namespace in lease_namespaces:
        if await _lease(api, namespace) is not None:
            yield f"lease {namespace}/{LEASE}"
            if not dry_run:
                await _gone(api.delete(LEASES, LEASE, namespace))


async def _leave_node(
    api: KubernetesApi, node: dict[str, Any], *, dry_run: bool
) -> AsyncIterator[str]:
    name = node["metadata"]["name"]
    if _without_taint(node) is not None:
        yield f"taint {nodes.TAINT} of node {name}"
        if not dry_run:
            await _gone(_take_taint(api, name))
    if nodes.is_our_condition(node):
        yield f"condition {nodes.CONDITION} of node {name}"
        if not dry_run:
            body = nodes.no_condition()
            await _gone(api.patch(NODE, body, name, patch="strategic", subresource="status"))


def _without_taint(node: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The other taints of a node; None if ours is not among them."""
    present = (node.get("spec") or {}).get("taints") or []
    left = [taint for taint in present if taint.get("key") != nodes.TAINT]
    return None if left == present else left


async def _take_taint(api: KubernetesApi, name: str) -> None:
    """The list is written as a whole: only as long as nobody else wrote the node."""
    for again in reversed(range(TRIES)):
        node = await api.get(NODE, dict[str, Any], name)
        left = _without_taint(node)
        if left is None:
            return
        version = {"resourceVersion": node["metadata"]["resourceVersion"]}
        body = {"metadata": version, "spec": {"taints": left or None}}
        try:
            await api.patch(NODE, body, name)
        except PlaitError as error:
            if error.code != CONFLICT or not again:
                raise
        else:
            return


async def attached_pods(api: KubernetesApi) -> list[str]:
    """Pods that have addresses of their own, as `namespace/name`."""
    return [
        "/".join(pod.metadata.key)
        async for pod in _all(api, POD, objects.Pod)
        if pod.addresses and not pod.spec.host_network and not pod.finished
    ]


async def wait_free(
    api: KubernetesApi,
    lease_namespace: str,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Return once no connector holds the Lease; PLAIT-HOST-004 if one renews it."""
    began, first = clock(), None
    while True:
        spec = await _lease(api, lease_namespace)
        holder = (spec or {}).get("holderIdentity")
        if not holder:
            return
        renewed = (spec or {}).get("renewTime")
        first = first or renewed
        if renewed != first:
            raise PlaitError(
                "PLAIT-HOST-004",
                f"a connector runs on {holder}",
                where=f"leases/{lease_namespace}/{LEASE}",
                why="it would write everything anew",
                fix=(
                    f"plait kubernetes uninstall   # on {holder}",
                    f"pgrep -f 'plait kubernetes run'   # on {holder}: end it, if it runs by hand",
                ),
            )
        if clock() - began >= DURATION:
            return
        await sleep(LOOK)


async def _lease(api: KubernetesApi, namespace: str) -> dict[str, Any] | None:
    """The spec of the Lease."""
    try:
        found = await api.get(LEASES, dict[str, Any], LEASE, namespace)
    except PlaitError as error:
        if error.code != GONE:
            raise
        return None
    return found.get("spec") or {}


async def _gone(work: Awaitable[object]) -> None:
    """Do it; what is not there is as good."""
    try:
        await work
    except PlaitError as error:
        if error.code != GONE:
            raise


async def _all(api: KubernetesApi, resource: Resource, kind: type[T]) -> AsyncIterator[T]:
    """All objects of a resource, page by page."""
    decode = msgspec.json.Decoder(kind).decode
    query = {"limit": PAGE}
    while True:
        page = await api.read(resource.path(), _Page, query)
        for raw in page.items:
            yield decode(raw)
        if not page.metadata.token:
            return
        query["continue"] = page.metadata.token
