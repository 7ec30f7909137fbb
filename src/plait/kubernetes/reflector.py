"""Follows all objects of one kind of an API server, for ever (P3).

A list in pages, then a watch from the list's version, with bookmarks. A watch that ends is taken
up again after the last version that it told of; where the server cannot (410 Gone, as an answer or
within the stream), everything is listed anew and compared with what is known, so that what went in
the meantime is told as gone. Lists are consistent reads (no resourceVersion): none is ever older
than what was told before, which lists out of a server's cache may be.

A list is told as one batch once it is complete, so its consumer never sees half of it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Final, Generic, Literal

import msgspec
import structlog

from plait.kubernetes.api import KubernetesApi
from plait.kubernetes.decoding import Bad, Bookmark, Gone, ObjectDecoder, Put, Quarantine
from plait.kubernetes.discovery import resolve
from plait.kubernetes.kinds import Kind, Resource, T
from plait.kubernetes.refusals import KubernetesError, Status, misunderstood, of_status
from plait.kubernetes.replica import Change, Key, Listing, Replica
from plait.model.errors import PlaitError

NOT_SERVED: Final = "PLAIT-KUBE-013"
MISUNDERSTOOD: Final = "PLAIT-KUBE-011"

log: Final = structlog.get_logger("plait.kubernetes")

Handler = Callable[[Sequence[Change[T]]], None]
"""Is told of changes in the order in which they happened. Must not fail."""
Phase = Literal["starting", "listing", "watching", "waiting", "not served"]


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds, and the size of pages."""

    page: int = 500
    """Objects."""
    watch: float = 120.0
    """For which a watch is asked at least; at most twice as long, so that not all end at once."""
    slack: float = 15.0
    """For which a watch may be silent after its end was due; then the connection is dead."""
    brief: float = 1.0
    """A watch that ended sooner and said nothing counts as a failure."""
    first: float = 0.2
    """Before the first try after a failure; then it doubles."""
    longest: float = 30.0
    """Before any try."""
    absent: float = 30.0
    """Between looks for a kind that is not served, and for which one that was must be missing
    before its objects count as gone: a server that starts may not know all its kinds yet."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How a reflector is."""

    kind: str
    resource: str
    """Where the kind is served, or empty."""
    phase: Phase
    synced: bool
    objects: int
    age: float
    """Seconds since the server was last heard of."""
    failures: int
    """In a row."""
    error: str
    """The last of them; empty when there is none."""
    lists: int
    """How often everything was listed."""
    quarantined: Mapping[Key, str]
    """Objects that are not understood, and why; of these the last good state stands."""


class Reflector(Generic[T]):
    """`clock` gives monotonic seconds, `sleep` waits for seconds.

    `objects` is the present state; `synced` is set once it was complete, and stays so.
    """

    def __init__(
        self,
        api: KubernetesApi,
        kind: Kind[T],
        handler: Handler[T],
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        timing: Timing = Timing(),  # noqa: B008 (frozen)
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.kind = kind
        self.synced = asyncio.Event()
        self._replica = Replica[T]()
        self.objects = self._replica.objects
        self._api = api
        self._handler = handler
        self._namespace = namespace
        self._selectors = {
            **({"labelSelector": label_selector} if label_selector else {}),
            **({"fieldSelector": field_selector} if field_selector else {}),
        }
        self._timing = timing
        self._clock = clock
        self._sleep = sleep
        self._rng = rng or random.Random()  # noqa: S311 (jitter)
        self._decoder = ObjectDecoder(kind.type)
        self._resource: Resource | None = None
        self._version = ""
        """Up to here all was told; empty: list."""
        self._phase: Phase = "starting"
        self._heard = clock()
        self._missing: float | None = None
        """Since when the kind is not served."""
        self._stumbled = ""
        """Version after which a line was not understood."""
        self._failures = 0
        self._tries = 0
        """Failures in a row that the next pause follows from."""
        self._expired = False
        """Since it last went well the server told that our version is too old."""
        self._error = ""
        self._lists = 0
        self._quarantined: dict[Key, str] = {}

    @property
    def health(self) -> Health:
        """How it is now."""
        watching = self._phase == "watching"
        return Health(
            kind=self.kind.name,
            resource=str(self._resource or ""),
            phase=self._phase,
            synced=self.synced.is_set(),
            objects=len(self.objects),
            age=self._clock() - self._heard,
            # A watch that was taken may yet go wrong at once: then the failures count on.
            failures=0 if watching else self._failures,
            error="" if watching else self._error,
            lists=self._lists,
            quarantined=dict(self._quarantined),
        )

    async def run(self) -> None:
        """Follow for ever; returns only by being cancelled."""
        while True:
            try:
                wait = await self._step()
            except PlaitError as error:
                wait = self._failed(error)
            self._phase = "not served" if self._missing is not None else "waiting"
            if wait:
                await self._sleep(wait)

    async def _step(self) -> float:
        """Find, list or watch, as far as it goes; how long to wait before the next step."""
        if self._resource is None:
            self._resource = await resolve(self._api, self.kind)
            self._heard = self._clock()
        if self._resource is None:
            return self._not_served()
        self._missing = None
        path = self._resource.path(namespace=self._namespace)
        if not self._version:
            await self._list(path)
        return await self._watch(path)

    # Where

    def _not_served(self) -> float:
        """No version of the kind is served: where that may be, there are no objects."""
        if not self.kind.optional:
            wanted = ", ".join(str(each) for each in self.kind.resources)
            raise PlaitError(
                NOT_SERVED,
                f"the API server at {self._api.access.server} serves no {self.kind.name}",
                where=self._api.access.server,
                why=f"looked for {wanted}",
                fix=("kubectl api-resources",),
            )
        now = self._clock()
        self._missing = now if self._missing is None else self._missing
        self._version = ""
        if not self.objects or now - self._missing >= self._timing.absent:
            self._quarantined.clear()
            self._tell(self._replica.clear())
            self.synced.set()
            self._recovered()
        return self._timing.absent * self._rng.uniform(0.5, 1.0)

    # List

    async def _list(self, path: str) -> None:
        self._phase = "listing"
        listing = Listing(self._replica)
        bad: dict[Key, str] = {}
        query = {**self._selectors, "limit": str(self._timing.page)}
        version = ""
        while True:
            data = await self._api.read_bytes(path, query)
            try:
                page = self._decoder.page(data)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise misunderstood(f"GET {path}", error) from None
            del data
            self._heard = self._clock()
            version = version or page.version
            listing.add(page.objects)
            for key, why in page.bad:
                listing.keep(key)
                self._quarantine(bad, Bad(key, why))
            if not page.token:
                break
            query["continue"] = page.token
        self._quarantined = bad
        self._version = version
        self._lists += 1
        self._tell(self._replica.replace(listing))
        self.synced.set()

    # Watch

    async def _watch(self, path: str) -> float:
        lasts = int(self._timing.watch * self._rng.uniform(1.0, 2.0)) or 1
        query = {
            **self._selectors,
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(lasts),
        }
        began = self._clock()
        silence = lasts + self._timing.slack
        told = False
        try:
            async with aclosing(self._api.watch(path, query, silence=silence)) as stream:
                async for lines in stream:
                    self._heard = self._clock()
                    self._phase = "watching"
                    if lines:
                        self._take(path, lines)
                        self._recovered()
                        told = True
        finally:
            # However it ended: it was well for so long that this is no second failure in a row.
            if self._clock() - began >= self._timing.longest:
                self._recovered()
        if told or self._clock() - began >= self._timing.brief:
            return 0.0
        raise PlaitError(
            "PLAIT-KUBE-009", f"GET {path}?watch ended as soon as it began", where=path
        )

    def _take(self, path: str, lines: Sequence[bytes]) -> None:
        """Lines of a watch. What came before a bad one is told."""
        changes: list[Change[T]] = []
        try:
            for line in lines:
                changes += self._one(path, line)
        finally:
            self._tell(changes)

    def _one(self, path: str, line: bytes) -> list[Change[T]]:
        what = f"GET {path}?watch"
        try:
            event = self._decoder.event(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise misunderstood(what, error) from None
        changes: list[Change[T]] = []
        match event:
            case Put():
                key = event.object.metadata.key
                self._quarantined.pop(key, None)
                changes = self._replica.put(event.object)
            case Gone():
                self._quarantined.pop(event.key, None)
                changes = self._replica.delete(event.key)
            case Quarantine():
                self._quarantine(self._quarantined, event.bad)
            case Bookmark():
                pass
            case Status():
                raise of_status(event, what)
        self._version = event.version
        return changes

    # Outcomes

    def _tell(self, changes: Sequence[Change[T]]) -> None:
        if changes:
            self._handler(changes)

    def _quarantine(self, into: dict[Key, str], bad: Bad) -> None:
        if self._quarantined.get(bad.key) != bad.reason:
            log.error(
                "an object is not understood",
                kind=self.kind.name,
                object="/".join(filter(None, bad.key)),
                why=bad.reason,
            )
        into[bad.key] = bad.reason

    def _failed(self, error: PlaitError) -> float:
        """Where to go on after a failure; how long to wait before."""
        status = error.http_status if isinstance(error, KubernetesError) else 0
        self._tries += 1
        if status == 410:
            self._version = ""
            if not self._expired:
                # Who was long away is back, and a list is all that is missing.
                self._expired, self._tries = True, 1
        elif status == 404:
            self._resource, self._version = None, ""
        elif error.code == MISUNDERSTOOD:
            # Once may have been the connection's fault; twice, and the way ahead is barred.
            barred = self._stumbled == self._version
            self._stumbled = self._version
            if barred:
                self._version = ""
        text = str(error) + (f" ({error.why})" if error.why else "")
        self._failures += 1
        # Connections break, and the second try has it: that is nobody's business.
        if self._failures == 2 or (self._failures > 2 and text != self._error):
            log.warning("Kubernetes is not followed", kind=self.kind.name, error=text)
        self._error = text
        wait = pause(self._tries, self._timing, self._rng)
        asked = error.retry_after if isinstance(error, KubernetesError) else None
        return wait if asked is None else max(wait, asked * self._rng.uniform(1.0, 1.25))

    def _recovered(self) -> None:
        if self._failures > 1:
            log.info("Kubernetes is followed again", kind=self.kind.name)
        self._failures, self._error, self._stumbled = 0, "", ""
        self._tries, self._expired = 0, False


def pause(failures: int, timing: Timing, rng: random.Random) -> float:
    """Seconds to wait after so many failures in a row: doubling, with jitter, bounded."""
    whole = min(timing.longest, timing.first * 2.0 ** min(failures - 1, 16))
    return whole * rng.uniform(0.5, 1.0)
