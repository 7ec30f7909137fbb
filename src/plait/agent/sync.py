"""In step with the server: what it says goes into the snapshot, what is ours goes to it.

The server is needed for a new block and for nothing else that an endpoint waits for. Everything
that this node writes is reconciled from its own state, so it is enough to try again: a write
that was lost with the connection is simply still due.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import msgspec
import structlog

from plait.agent.blocks import Blocks
from plait.agent.desired import Input
from plait.agent.snapshot import Snapshot
from plait.client.agent import LocalEndpoint
from plait.client.base import Api, BatchOp, WatchEvent
from plait.client.batches import is_of_no_object
from plait.model.errors import PlaitError
from plait.model.objects import (
    KINDS,
    AddressBlock,
    AnyObject,
    Cluster,
    Endpoint,
    EndpointSlice,
    EndpointSpec,
    EndpointStatus,
    Group,
    Metadata,
    Namespace,
    Network,
    Node,
    NodeSpec,
    NodeStatus,
    Pod,
    Policy,
    Service,
)
from plait.services.standing import of_pod

HEARTBEAT: Final = 20.0
"""Seconds between writes of our own Node: a third of the time after which it counts as lost."""
GATHER: Final = 0.05
"""Seconds for which changes are gathered into one batch."""
BACKOFF: Final = (0.5, 5.0)
"""Seconds before the first and the longest before a later try while the server is away."""
REFUSED_AGAIN: Final = 60.0
"""Seconds before an object that the server refused is offered again unchanged."""
EXPELLED: Final = 2.0
"""Seconds, about, between questions whether a server that forgot us knows us again."""
BATCH: Final = 100
"""Objects written at once."""

FORGOTTEN: Final = "PLAIT-AUTH-007"
AWAY: Final = ("PLAIT-API-012", "PLAIT-IPAM-013", FORGOTTEN)
"""The server is out of reach for us: nothing else will get through either."""

log: Final = structlog.get_logger("plait.agent.sync")


class Sync:
    """See the module's docstring."""

    def __init__(
        self,
        api: Api,
        snapshot: Snapshot,
        endpoints: Callable[[], Iterable[LocalEndpoint]],
        blocks: Blocks,
        *,
        node: str,
        describe: Callable[[], tuple[Metadata, NodeSpec, NodeStatus]],
        changed: Callable[[frozenset[Input], frozenset[str]], None],
        observe: Callable[[WatchEvent], None],
        clock: Callable[[], float],
        heartbeat: float = HEARTBEAT,
        kicked: Callable[[], None] = lambda: None,
        expelled: Callable[[bool], None] = lambda _forgotten: None,
    ) -> None:
        """`endpoints` and `describe` say what our objects should be; `changed` is told which
        inputs of the desired state changed and of which networks; `observe` sees every event
        (names, policies); `kicked` is called when something of ours changed; `expelled` when the
        server does not know this node any more (True), and when it knows it again (False)."""
        self._api = api
        self._snapshot = snapshot
        self._endpoints = endpoints
        self._blocks = blocks
        self._node = node
        self._describe = describe
        self._changed = changed
        self._observe = observe
        self._clock = clock
        self._heartbeat = heartbeat
        self._kicked = kicked
        self._expelled = expelled
        self._kick = asyncio.Event()
        self._objects = Objects(node)
        self._refused: dict[str, tuple[AnyObject | None, float]] = {}
        self._node_written = float("-inf")
        self.listing = False
        """A full listing is being taken in."""
        self.first_listing = asyncio.Event()
        """Set once a full listing came from the server."""
        self.connected, self._away = False, ""
        self.problems: dict[str, str] = {}
        """What the server refuses, by object, and what failed here, by step."""
        self._steps: dict[str, Callable[[], Awaitable[None]]] = {
            "our node": self.write_node,
            "our endpoints": self._write_endpoints,
            "our blocks": blocks.reconcile,
        }

    def kick(self) -> None:
        """Something of ours changed."""
        self._kick.set()
        self._kicked()

    # What the server says.

    async def follow(self) -> None:
        """Follow the watch until cancelled."""
        while True:
            try:
                async for event in self._api.watch(tuple(KINDS.values())):
                    self.take(event)
            except PlaitError as error:
                self.refused(error)
                pause = EXPELLED
            else:
                self._lost("the stream ended")
                pause = BACKOFF[0]
            await asyncio.sleep(pause * (1 + random.random()))  # noqa: S311 (jitter)

    def refused(self, error: PlaitError) -> None:
        """The server refused this node as a whole, or is out of reach."""
        self._lost(error.detail)
        if error.code == FORGOTTEN:
            self._expelled(True)

    def take(self, event: WatchEvent) -> None:
        """One event of the watch."""
        inputs: set[Input] = set()
        networks: set[str] = set()
        match event.type:
            case "begin":
                self.connected = True
                self.listing = True
                self._snapshot.begin(event.revision)
            case "put" if event.object is not None:
                former = self._snapshot.put(event.object)
                if former is not event.object:
                    touched(event.object, former, inputs, networks)
                    self._kick_for(event.object)
            case "delete" if event.object is not None:
                former = self._snapshot.delete(event.object, event.revision)
                if former is not None:
                    touched(None, former, inputs, networks)
                    self._kick_for(former)
            case "synced":
                for gone in self._snapshot.synced(event.revision):
                    touched(None, gone, inputs, networks)
                self._expelled(False)
                # The first listing settles everything, also what did not change.
                inputs |= {"cluster", "nodes", "networks", "blocks"}
                networks |= self._snapshot.networks.keys()
                self.connected = True
                self.listing = False
                self.first_listing.set()
                self._kick.set()
            case "bookmark":
                self.connected = True
            case "disconnected":
                self._lost(event.reason)
            case _:
                pass
        if not self.listing and event.type in ("put", "delete", "bookmark"):
            self._snapshot.reached(event.revision)
        self._observe(event)
        # A listing is taken in as a whole, at its end.
        if inputs and not self.listing:
            self._changed(frozenset(inputs), frozenset(networks))
            if "blocks" in inputs or "networks" in inputs:
                self._kick.set()

    def _kick_for(self, obj: AnyObject) -> None:
        """The watch told something of an endpoint of ours that no answer had told: somebody else
        wrote it, or an event of long ago made us believe it was as it should be."""
        if isinstance(obj, Endpoint) and obj.spec.node == self._node:
            self._kick.set()

    def _lost(self, reason: str) -> None:
        if self.connected or reason != self._away:
            log.warning("the server is out of reach; going on with what is known", reason=reason)
        self.connected, self._away = False, reason

    # What is ours.

    async def write(self) -> None:
        """Bring the server up to date until cancelled."""
        await self.first_listing.wait()
        delay = BACKOFF[0]
        while True:
            self._kick.clear()
            try:
                await self.reconcile()
            except PlaitError as error:
                if error.code == FORGOTTEN:
                    self.refused(error)
                elif error.code not in AWAY:
                    log.error("the server refused", error=str(error))
                pause = delay * (0.5 + random.random())  # noqa: S311 (jitter)
                delay = min(delay * 2, BACKOFF[1])
                await asyncio.sleep(pause)
                continue
            except Exception:
                # Told where it happened; the other steps were done.
                await asyncio.sleep(BACKOFF[1])
                continue
            delay = BACKOFF[0]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._heartbeat / 2):
                    await self._kick.wait()
            await asyncio.sleep(GATHER)

    async def reconcile(self) -> None:
        """Write what differs: our Node, our Endpoints, our blocks."""
        first: Exception | None = None
        for name, step in self._steps.items():
            try:
                await step()
            except PlaitError as error:
                if error.code in AWAY:
                    raise
                # One refusal must not block the rest.
                first = first or error
            except Exception as defect:
                # Nor must a defect, and nobody would look for it in the log.
                log.exception("a reconciliation with the server failed", part=name)
                self.problems[name] = f"not in step with the server: a defect: {defect!r}"
                first = first or defect
            else:
                self.problems.pop(name, None)
        if first is not None:
            raise first

    async def write_node(self) -> None:
        """Write our Node if it differs or a heartbeat is due."""
        metadata, spec, status = self._describe()
        for _ in range(3):
            have = self._snapshot.nodes.get(self._node)
            now = self._clock()
            if have is not None:
                same = (
                    have.spec == spec
                    and msgspec.structs.replace(have.status, last_seen="") == status
                )
                if same and now - self._node_written < self._heartbeat:
                    return
                merged = msgspec.structs.replace(have, spec=spec, status=status)
            else:
                merged = Node(metadata=metadata, spec=spec, status=status)
            try:
                stored = await self._api.update(merged)
            except PlaitError as error:
                if error.code not in ("PLAIT-API-006", "PLAIT-API-004"):
                    # Being out of reach is no refusal of the node: the status shows it anyway.
                    if error.code not in AWAY:
                        self.problems[f"node/{self._node}"] = str(error)
                    raise
                # Somebody labelled our node meanwhile: begin with what is there now.
                self._learn(await self._api.get(Node, self._node))
                continue
            self._node_written = now
            self.problems.pop(f"node/{self._node}", None)
            self._learn(stored)
            return

    async def _write_endpoints(self) -> None:
        want = self._objects.by_key(self._endpoints())
        have = self._snapshot.own
        now = self._clock()
        ops: list[BatchOp] = []
        for key, obj in want.items():
            there = have.get(key)
            if there is None or not self._objects.agrees(there, key):
                refused = self._refused.get(key)
                if refused is None or refused[0] != obj or refused[1] <= now:
                    ops.append(BatchOp(verb="update", object=obj))
        for key, there in have.items():
            if key not in want and self._refused.get(key, (None, now))[1] <= now:
                ops.append(BatchOp(verb="delete", object=_any_revision(there)))
        for key in tuple(self._refused):
            if key not in want and key not in have:
                self._forgive(key)
        for start in range(0, len(ops), BATCH):
            await self._write_batch(ops[start : start + BATCH])

    async def _write_batch(self, ops: list[BatchOp]) -> None:
        try:
            stored = await self._api.batch(ops)
        except PlaitError as error:
            if is_of_no_object(error):
                raise
            if len(ops) == 1:
                self._set_aside(ops[0], error)
                return
            # One bad object must not block the rest.
            for op in ops:
                await self._write_batch([op])
            return
        for op in ops:
            self._forgive(op.object.key)
            if op.verb == "delete":
                # Known to be gone at once; the watch's event then finds nothing to do.
                self._snapshot.delete(op.object, self._snapshot_revision(op.object), answer=True)
        for obj in stored:
            if obj.metadata.revision:
                self._learn(obj)

    def _snapshot_revision(self, obj: AnyObject) -> int:
        have = self._snapshot.endpoints.get((obj.metadata.namespace, obj.metadata.name))
        return have.metadata.revision if have is not None else 0

    def _set_aside(self, op: BatchOp, error: PlaitError) -> None:
        key = op.object.key
        if op.verb == "delete" and error.code == "PLAIT-API-004":
            self._snapshot.delete(op.object, self._snapshot_revision(op.object), answer=True)
            return
        self._refused[key] = (op.object, self._clock() + REFUSED_AGAIN)
        self.problems[key] = str(error)
        log.error("the server refused an object", key=key, error=str(error))

    def _forgive(self, key: str) -> None:
        self._refused.pop(key, None)
        self.problems.pop(key, None)

    def _learn(self, obj: AnyObject) -> None:
        former = self._snapshot.put(obj, answer=True)
        if isinstance(obj, Node) and former is not obj:
            # Somebody's labels came with it, and the watch's event will find nothing new.
            inputs: set[Input] = set()
            touched(obj, former, inputs, set())
            if inputs:
                self._changed(frozenset(inputs), frozenset())


def touched(
    obj: AnyObject | None, former: AnyObject | None, inputs: set[Input], networks: set[str]
) -> None:
    """Which inputs of the desired state, and which networks' blocks, a change concerns."""
    some = obj if obj is not None else former
    match some:
        case Cluster():
            inputs.add("cluster")
        case Node():
            # A heartbeat changes what the kernel does not depend on.
            if not (isinstance(obj, Node) and isinstance(former, Node) and _same_node(obj, former)):
                inputs |= {"nodes", "policy", "services"}
        case Network():
            inputs.add("networks")
            networks.add(some.metadata.name)
        case AddressBlock():
            inputs.add("blocks")
            networks.add(some.spec.network)
        case Endpoint():
            both = isinstance(obj, Endpoint) and isinstance(former, Endpoint)
            if not (both and _same_party(obj, former)):  # type: ignore[arg-type]
                inputs |= {"policy", "services"}
            elif obj.status.condition != former.status.condition:  # type: ignore[union-attr]
                inputs.add("services")
        case Service() | EndpointSlice():
            # Rules name Services as peers.
            inputs |= {"policy", "services"}
        case Pod():
            if not (isinstance(obj, Pod) and isinstance(former, Pod) and _same_pod(obj, former)):
                inputs.add("services")
        case Namespace() | Group() | Policy():
            inputs.add("policy")


def _same_node(one: Node, other: Node) -> bool:
    return (
        one.spec == other.spec
        and one.status.silent == other.status.silent
        and one.metadata.uid == other.metadata.uid
        and one.metadata.labels == other.metadata.labels
    )


def _same_party(one: Endpoint, other: Endpoint) -> bool:
    return (
        one.spec == other.spec
        and one.metadata.labels == other.metadata.labels
        and one.status.phase == other.status.phase
    )


def _same_pod(one: Pod, other: Pod) -> bool:
    """To Services; its labels and ports come by its Endpoint."""
    return one.spec.uid == other.spec.uid and of_pod(one.spec) == of_pod(other.spec)


class _Entry:
    """An endpoint, its object, and what the server was last seen to have of it that is the same."""

    __slots__ = ("agreed", "endpoint", "key", "object")

    def __init__(self, endpoint: LocalEndpoint, obj: Endpoint) -> None:
        self.endpoint = endpoint
        self.object = obj
        self.key = obj.key
        self.agreed: Endpoint | None = None


class Objects:
    """Objects of local endpoints, made anew only for what changed: one attach among thousands
    costs one."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._old: dict[str, _Entry] = {}
        self._new: dict[str, _Entry] = {}
        self._by_key: dict[str, _Entry] = {}

    def get(self, endpoint: LocalEndpoint) -> Endpoint:
        """The endpoint as the server keeps it."""
        ident = endpoint.request.id
        entry = self._old.get(ident)
        if entry is None or entry.endpoint is not endpoint:
            entry = _Entry(endpoint, endpoint_object(self._node, endpoint))
        self._new[ident] = entry
        return entry.object

    def by_key(self, endpoints: Iterable[LocalEndpoint]) -> dict[str, Endpoint]:
        """The objects of these endpoints, and of no others, by key."""
        for endpoint in endpoints:
            self.get(endpoint)
        self.turn()
        self._by_key = {entry.key: entry for entry in self._old.values()}
        return {key: entry.object for key, entry in self._by_key.items()}

    def agrees(self, there: Endpoint, key: str) -> bool:
        """The object of `by_key` says what the server has; asked once of each pair."""
        entry = self._by_key[key]
        if entry.agreed is not there and same_endpoint(there, entry.object):
            entry.agreed = there
        return entry.agreed is there

    def turn(self) -> None:
        """End of a pass over all: forget those that were not asked for."""
        self._old, self._new = self._new, {}


def endpoint_object(node: str, endpoint: LocalEndpoint) -> Endpoint:
    """A local endpoint as the server keeps it."""
    request = endpoint.request
    return Endpoint(
        metadata=Metadata(name=request.id, namespace=request.namespace, labels=request.labels),
        spec=EndpointSpec(
            node=node,
            network=request.network,
            name=request.name,
            aliases=request.aliases,
            addresses=endpoint.addresses,
            mac=endpoint.mac,
            ports=request.ports,
            named_ports=request.named_ports,
            workload=request.workload,
        ),
        status=EndpointStatus(
            phase=endpoint.phase,
            condition=request.condition,
            interface=endpoint.interface,
            message=endpoint.message,
        ),
    )


def same_endpoint(one: Endpoint, other: Endpoint) -> bool:
    """Equal but for what the server adds."""
    return (
        one.spec == other.spec
        and one.status == other.status
        and one.metadata.labels == other.metadata.labels
    )


def _any_revision(obj: Endpoint) -> Endpoint:
    metadata = msgspec.structs.replace(obj.metadata, revision=0)
    return msgspec.structs.replace(obj, metadata=metadata)
