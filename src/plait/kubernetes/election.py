"""Of several connectors one writes: the one that holds a Lease (coordination.k8s.io/v1).

As `client-go/tools/leaderelection` does: the holder renews, another takes the Lease once it saw no
renewal for its whole duration by its own clock, and the holder stops writing before that, so that
clocks need not agree. Two that write at once would still write the same. A connector that starts
again on its host has its former name, and goes on at once.
"""

from __future__ import annotations

import asyncio
import datetime
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import structlog

from plait.kubernetes.api import KubernetesApi
from plait.kubernetes.kinds import Resource
from plait.model.errors import PlaitError

LEASES: Final = Resource("coordination.k8s.io", "v1", "leases")
NAME: Final = "plait-connector"
DURATION: Final = 15.0
"""Seconds without a renewal after which another may take it."""
DEADLINE: Final = 10.0
"""Seconds without a renewal after which the holder writes no more."""
EVERY: Final = 3.0
"""Seconds between renewals, and between looks."""
ANNOTATION: Final = "plait/status"
"""Of the Lease: how its holder is, for people."""
CONFLICT: Final = "PLAIT-KUBE-006"
GONE: Final = "PLAIT-KUBE-005"

log: Final = structlog.get_logger("plait.kubernetes")


class Election:
    """`identity` is this connector's name; `changed` is called when it begins or ends to lead;
    `status` gives a line for people. `clock` gives monotonic seconds, `wall` Unix time."""

    def __init__(
        self,
        api: KubernetesApi,
        *,
        namespace: str,
        identity: str,
        changed: Callable[[bool], None],
        status: Callable[[], str],
        clock: Callable[[], float],
        wall: Callable[[], float],
        every: float = EVERY,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._identity = identity
        self._changed = changed
        self._status = status
        self._clock = clock
        self._wall = wall
        self._every = every
        self._sleep = sleep
        self._rng = rng
        self._until = float("-inf")
        self._led = False
        self._seen: tuple[object, ...] = ()
        self._seen_at = clock()
        self.leader = ""
        """Who holds the Lease, as last seen."""
        self.error = ""

    @property
    def leads(self) -> bool:
        """Whether this connector may write."""
        return self._clock() < self._until

    async def run(self) -> None:
        """Take part for ever; let go when cancelled."""
        try:
            while True:
                await self._turn()
                await self._sleep(self._every * (0.8 + 0.4 * self._rng()))
        except asyncio.CancelledError:
            await self._let_go()
            raise

    async def _turn(self) -> None:
        began = self._clock()
        try:
            async with asyncio.timeout(DEADLINE / 2):
                held = await self._try()
            self.error = ""
        except (PlaitError, TimeoutError) as error:
            text = str(error) or "the API server does not answer in time"
            if text != self.error:
                log.warning("the lease cannot be read or written", error=text)
            self.error = text
        else:
            # It may have lapsed in the meantime: what was not done then is to be begun anew.
            self._tell()
            self._until = began + DEADLINE if held else float("-inf")
        self._tell()

    def _tell(self) -> None:
        """Say whether this connector leads, if that is news."""
        if self.leads != self._led:
            self._led = self.leads
            log.info("leads" if self._led else "leads no more", identity=self._identity)
            self._changed(self._led)

    async def _try(self) -> bool:
        """Take or renew the Lease if that is allowed; whether it is ours."""
        try:
            found = await self._api.get(LEASES, dict[str, Any], NAME, self._namespace)
        except PlaitError as error:
            if error.code != GONE:
                raise
            return await self._write({"metadata": {"name": NAME}}, {})
        spec = found.get("spec") or {}
        self.leader = str(spec.get("holderIdentity") or "")
        seen = (self.leader, spec.get("renewTime"), spec.get("leaseTransitions"))
        if seen != self._seen:
            self._seen, self._seen_at = seen, self._clock()
        lasts = float(spec.get("leaseDurationSeconds") or DURATION)
        free = not self.leader or self._clock() - self._seen_at >= lasts
        if self.leader != self._identity and not free:
            return False
        return await self._write(found, spec)

    async def _write(self, found: Mapping[str, Any], spec: Mapping[str, Any]) -> bool:
        """Whether nobody was faster."""
        now = datetime.datetime.fromtimestamp(self._wall(), datetime.UTC)
        stamp = now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        mine = spec.get("holderIdentity") == self._identity
        meta = dict(found["metadata"])
        meta["annotations"] = {**(meta.get("annotations") or {}), ANNOTATION: self._status()}
        meta.pop("managedFields", None)
        body = {
            "apiVersion": LEASES.group_version,
            "kind": "Lease",
            "metadata": meta,
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": int(DURATION),
                "acquireTime": (spec.get("acquireTime") if mine else None) or stamp,
                "renewTime": stamp,
                "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (not mine),
            },
        }
        try:
            await self._put(body)
        except PlaitError as error:
            if error.code != CONFLICT:
                raise
            return False
        self.leader = self._identity
        return True

    async def _put(self, body: Mapping[str, Any]) -> None:
        if "resourceVersion" in body["metadata"]:
            await self._api.replace(LEASES, body, NAME, self._namespace)
        else:
            await self._api.create(LEASES, body, self._namespace)

    async def _let_go(self) -> None:
        """Free the Lease, so that the next one need not wait."""
        if not self.leads:
            return
        self._until = float("-inf")
        try:
            found = await self._api.get(LEASES, dict[str, Any], NAME, self._namespace)
            spec = found.get("spec") or {}
            if spec.get("holderIdentity") == self._identity:
                found["spec"] = {**spec, "holderIdentity": ""}
                await self._put(found)
        except PlaitError as error:
            log.info("the lease was not given back", error=str(error))
