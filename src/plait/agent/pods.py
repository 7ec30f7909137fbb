"""Pods of this host: those who attach wait for theirs, and endpoints follow theirs.

An endpoint belongs to the Pod of its uid (`AttachRequest.pod`) in its namespace: a uid alone could
be somebody else's word (`kubernetes.io/config.mirror`). Name, labels and named ports come
from there at the attach, labels and named ports whenever the Pod changes. When the Pod goes the
endpoint keeps its last identity, and its rules, until the runtime detaches it: it may still run.
So it does when the Pod has finished, for until then its address is nobody else's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

import structlog

from plait.client.agent import EndpointIdentity, LocalEndpoint
from plait.model.errors import PlaitError
from plait.model.objects import AnyObject, Pod

Key = tuple[str, str]
"""(namespace, name)."""
RETRY: Final = (1.0, 30.0)
"""Seconds before the first and the longest before a later try to identify an endpoint anew."""

log: Final = structlog.get_logger("plait.agent.pods")


class Pods:
    """See the module's docstring. A Follower of the snapshot."""

    def __init__(
        self,
        node: str,
        pods: Callable[[], Mapping[Key, Pod]],
        endpoints: Callable[[], Iterable[LocalEndpoint]],
        identify: Callable[[str, EndpointIdentity], Awaitable[None]],
    ) -> None:
        """`pods` are those of the snapshot, `endpoints` those of this host; `identify` is the verb
        of client.agent.Agent."""
        self._node = node
        self._pods = pods
        self._endpoints = endpoints
        self._identify = identify
        self._waiting: dict[Key, list[tuple[str, asyncio.Future[Pod]]]] = {}
        self._changed: set[str] = set()
        """Uids of Pods that are other than before."""
        self._wake = asyncio.Event()

    def put(self, obj: AnyObject) -> None:
        """See agent.snapshot.Follower."""
        if not isinstance(obj, Pod) or obj.spec.node not in ("", self._node):
            return
        self._note(obj.spec.uid)
        for uid, waiter in self._waiting.get((obj.metadata.namespace, obj.metadata.name), ()):
            if self._is(obj, uid) and not waiter.done():
                waiter.set_result(obj)

    def delete(self, _obj: AnyObject) -> None:
        """See agent.snapshot.Follower; an endpoint keeps what it was last told."""

    def attached(self, endpoint: LocalEndpoint) -> None:
        """Its Pod may have changed while it was being attached."""
        self._note(endpoint.request.pod)

    def _note(self, uid: str) -> None:
        self._changed.add(uid)
        self._wake.set()

    def _is(self, pod: Pod, uid: str) -> bool:
        """The Pod is one that may be attached here now, and the one that is meant."""
        return (
            not pod.spec.finished
            and pod.spec.node in ("", self._node)
            and uid in ("", pod.spec.uid)
        )

    @property
    def waiting(self) -> int:
        """How many wait for their Pod."""
        return sum(map(len, self._waiting.values()))

    async def wait(self, namespace: str, name: str, uid: str, seconds: float) -> Pod:
        """The Pod, as soon as it is known; PLAIT-AGENT-009 when it is not in that time."""
        key = (namespace, name)
        known = self._pods().get(key)
        if known is not None and self._is(known, uid):
            return known
        entry: tuple[str, asyncio.Future[Pod]] = (uid, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(key, []).append(entry)
        try:
            async with asyncio.timeout(seconds):
                return await entry[1]
        except TimeoutError:
            raise _unknown(namespace, name, uid, seconds, self._pods().get(key)) from None
        finally:
            self._waiting[key].remove(entry)
            if not self._waiting[key]:
                del self._waiting[key]

    async def run(self) -> None:
        """Keep endpoints as their Pods say, until cancelled."""
        delay = RETRY[0]
        while True:
            failed = await self.settle()
            if failed:
                self._changed |= failed
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._wake.wait()
                delay = min(delay * 2, RETRY[1])
            else:
                delay = RETRY[0]
                await self._wake.wait()

    async def settle(self) -> set[str]:
        """Identify the endpoints of changed Pods anew; the uids of those for which it failed."""
        self._wake.clear()
        changed, self._changed = self._changed, set()
        due: list[tuple[LocalEndpoint, Pod]] = []
        if changed:
            # By uid, for a pod's name may have dots, which an endpoint's has not.
            pods = {
                (p.metadata.namespace, p.spec.uid): p
                for p in self._pods().values()
                if p.spec.uid in changed
            }
            for endpoint in self._endpoints():
                request = endpoint.request
                pod = pods.get((request.namespace, request.pod)) if request.pod else None
                if pod is not None and _differ(endpoint, pod):
                    due.append((endpoint, pod))
        # Together, so that one turn of the loop does for all.
        results = await asyncio.gather(
            *(self._follow(endpoint, pod) for endpoint, pod in due), return_exceptions=True
        )
        failed: set[str] = set()
        for (endpoint, pod), problem in zip(due, results, strict=True):
            if isinstance(problem, PlaitError) and problem.code == "PLAIT-AGENT-003":
                continue  # It was detached meanwhile.
            if isinstance(problem, Exception):
                failed.add(pod.spec.uid)
                log.error(
                    "an endpoint cannot follow its pod",
                    endpoint=endpoint.request.id,
                    pod=pod.key,
                    error=str(problem),
                )
            elif isinstance(problem, BaseException):
                raise problem
        return failed

    async def _follow(self, endpoint: LocalEndpoint, pod: Pod) -> None:
        request = endpoint.request
        identity = EndpointIdentity(
            name=request.name,
            aliases=request.aliases,
            labels=pod.metadata.labels,
            namespace=request.namespace,
            workload=request.workload,
            named_ports=pod.spec.named_ports,
        )
        await self._identify(request.id, identity)


def _differ(endpoint: LocalEndpoint, pod: Pod) -> bool:
    request = endpoint.request
    told = (request.labels, request.named_ports, request.identified)
    return told != (pod.metadata.labels, pod.spec.named_ports, True)


def _unknown(namespace: str, name: str, uid: str, seconds: float, seen: Pod | None) -> PlaitError:
    if seen is None:
        why = f"nothing was heard of it within {seconds:g} s"
    elif seen.spec.finished:
        why = "the pod of this name has finished"
    elif uid not in ("", seen.spec.uid):
        why = f"the pod of this name has the uid {seen.spec.uid}, not {uid}"
    else:
        why = f"it is placed on node {seen.spec.node}"
    return PlaitError(
        "PLAIT-AGENT-009",
        f"the pod {namespace}/{name} is not known on this host",
        where=f"pod/{namespace}/{name}",
        why=why,
        fix=(
            f"plait get pods --namespace {namespace}",
            "plait kubernetes status   # is the connector running?",
        ),
    )
