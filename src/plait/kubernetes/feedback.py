"""Writes into Kubernetes what Plait knows: taints and conditions of nodes, addresses of load
balancers. The door that acts on `nodes` and `balancers`.

Each object is looked at when it or its counterpart changed, nodes also now and then. What the API
server refuses is told and tried again later.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, NamedTuple

import structlog

from plait.kubernetes import balancers, nodes
from plait.kubernetes.api import KubernetesApi
from plait.kubernetes.held import Held
from plait.kubernetes.kinds import NODES, SERVICES
from plait.kubernetes.replica import Key
from plait.kubernetes.wanted import Wanted
from plait.model.errors import PlaitError
from plait.model.objects import Cluster, Node, Service, object_key

LOOK: Final = 5.0
"""Seconds between looks at all nodes: whose counterpart one is may change with another."""
BACKOFF: Final = (0.5, 30.0)
"""Seconds before an object is tried again: at first, and at most."""
CONFLICT: Final = "PLAIT-KUBE-006"
GONE: Final = "PLAIT-KUBE-005"

NODE: Final = NODES.resources[0]
SERVICE: Final = SERVICES.resources[0]
CLUSTER: Final = object_key(Cluster, "plait")

Item = tuple[str, str, str]
"""Kind, namespace and name in Kubernetes."""

log: Final = structlog.get_logger("plait.kubernetes")


class Refusal(NamedTuple):
    """An object that Kubernetes does not let us write."""

    text: str
    """Empty for what is no problem: somebody else was faster, and it is begun anew."""
    times: int
    until: float


class Feedback:
    """See the module's docstring. `may` says whether this process is the one that writes; `clock`
    gives monotonic seconds, `wall` Unix time."""

    def __init__(
        self,
        api: KubernetesApi,
        wanted: Wanted,
        held: Held,
        *,
        may: Callable[[], bool],
        clock: Callable[[], float],
        wall: Callable[[], float],
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._api = api
        self._wanted = wanted
        self._held = held
        self._may = may
        self._clock = clock
        self._wall = wall
        self._rng = rng
        self._kick = asyncio.Event()
        self._due: dict[Item, None] = {}
        self._later: dict[Item, Refusal] = {}
        self._acts: dict[str, Callable[[Key], Awaitable[None]]] = {
            NODES.name: self._node,
            SERVICES.name: self._service,
        }
        self.written = 0
        """Patches, since the start."""

    @property
    def problems(self) -> dict[Item, str]:
        """What Kubernetes refuses."""
        return {item: refusal.text for item, refusal in self._later.items() if refusal.text}

    def touch(self, kind: str, keys: Iterable[Key]) -> None:
        """Objects of Kubernetes changed, or what we have of them."""
        if kind in self._acts:
            for key in keys:
                self._due[kind, *key] = None
            self._kick.set()

    def touch_all(self) -> None:
        """Look at everything."""
        for kind in self._acts:
            self.touch(kind, self._wanted.found(kind))

    async def run(self) -> None:
        """Write what is due, for ever."""
        look = -math.inf
        while True:
            if self._clock() >= look:
                look = self._clock() + LOOK
                self.touch(NODES.name, self._wanted.found(NODES.name))
            self._kick.clear()
            until = look
            if self._held.synced and self._may():
                await self.round()
                until = min((refusal.until for refusal in self._later.values()), default=look)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(until, look) - self._clock())):
                    await self._kick.wait()

    async def round(self) -> None:
        """Write what is due now."""
        due, self._due = self._due, {}
        now = self._clock()
        for item in due:
            former = self._later.get(item)
            if former is not None and former.until > now:
                self._due[item] = None
                continue
            try:
                await self._acts[item[0]](item[1:])
            except PlaitError as error:
                self._refused(item, former, error)
            else:
                self._later.pop(item, None)

    def _refused(self, item: Item, former: Refusal | None, error: PlaitError) -> None:
        if error.code == GONE:
            self._later.pop(item, None)
            return
        times = former.times + 1 if former is not None else 1
        wait = min(BACKOFF[1], BACKOFF[0] * 2.0 ** min(times - 1, 16))
        text = f"{error.code}: {error.detail}" + (f" ({error.why})" if error.why else "")
        if error.code == CONFLICT:
            text = ""
        elif former is None or former.text != text:
            log.warning("Kubernetes cannot be told", object="/".join(item), error=text)
        self._later[item] = Refusal(text, times, self._clock() + wait * (0.5 + self._rng() / 2))
        self._due[item] = None

    async def _node(self, key: Key) -> None:
        found = self._wanted.found(NODES.name).get(key)
        if found is None:
            return
        name = key[1]
        ours = self._held.objects.get(object_key(Node, self._wanted.hosts.ours(name)))
        ready = nodes.is_ready(ours if isinstance(ours, Node) else None)
        taint, condition = nodes.needs(found, ready)
        if condition:
            # First: a node that may take pods should have a network.
            await self._patch_status(name, nodes.condition(self._wall()))
        if taint:
            await self._set_taint(name, ready)

    async def _set_taint(self, name: str, ready: bool) -> None:
        """The list is written as a whole: only as long as nobody else wrote it."""
        present = await self._api.get(NODE, dict[str, Any], name)
        before = (present.get("spec") or {}).get("taints") or []
        after = nodes.taints(before, ready)
        if after == before:
            return
        version = present["metadata"]["resourceVersion"]
        body = {"metadata": {"resourceVersion": version}, "spec": {"taints": after or None}}
        await self._api.patch(NODE, body, name)
        self.written += 1
        log.info("taint taken off" if ready else "taint set", node=name, taint=nodes.TAINT)

    async def _patch_status(self, name: str, body: dict[str, Any]) -> None:
        await self._api.patch(NODE, body, name, patch="strategic", subresource="status")
        self.written += 1

    async def _service(self, key: Key) -> None:
        found = self._wanted.found(SERVICES.name).get(key)
        if found is None:
            return
        namespace, name = key
        held = self._held.objects.get(object_key(Service, name, namespace))
        ours = held if isinstance(held, Service) else None
        body = balancers.status(found, ours, self.balancer_pools())
        if body is not None:
            await self._api.patch(SERVICE, body, name, namespace, subresource="status")
            self.written += 1

    def balancer_pools(self) -> tuple[str, ...]:
        """The pools of which Plait's server gives load-balancer addresses."""
        cluster = self._held.objects.get(CLUSTER)
        return cluster.spec.load_balancer_pools if isinstance(cluster, Cluster) else ()
