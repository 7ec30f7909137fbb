"""Brings Plait's server to what Kubernetes says: the door that acts on `plan`.

One batch at a time, as soon as something is due. What changes while a batch is under way is
gathered and decided on when it is over. One object that is refused is set aside, told, and tried
again later; the others go on. When the server is out of reach everything stays due.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, NamedTuple

import structlog

from plait.client.base import Api, BatchOp
from plait.client.batches import is_of_no_object
from plait.kubernetes.due import Due
from plait.kubernetes.held import Held
from plait.kubernetes.marks import is_touched
from plait.kubernetes.plan import decide
from plait.kubernetes.wanted import Wanted
from plait.model.errors import PlaitError
from plait.model.objects import AnyObject, Object

BATCH: Final = 250
"""Objects written at once."""
BACKOFF: Final = (0.2, 5.0)
"""Seconds before the first and before any later try while the server is away."""
REFUSED: Final = (1.0, 60.0)
"""Seconds before a refused object is tried again: at first, and at most."""
GONE: Final = "PLAIT-API-004"
CONFLICTS: Final = (GONE, "PLAIT-API-005", "PLAIT-API-006")
"""Somebody else was faster: what is there now decides."""
IN_USE: Final = "PLAIT-API-011"
"""A namespace goes once its endpoints are gone, and runtimes take their time."""
PATIENCE: Final = 6
"""Times that this is no problem yet: about a minute."""
AT_ONCE: Final = 3
"""Conflicts of one object in a row after which the next try waits."""
RIGHTS: Final = "PLAIT-AUTH-"
"""A connector's token may do all that a connector does: one that may not is no connector's."""
_INDEX: Final = re.compile(r"ops\[(\d+)\]")

log: Final = structlog.get_logger("plait.kubernetes")


class Refusal(NamedTuple):
    """An object that the server does not take."""

    text: str
    """Empty for what is no problem: a conflict that is begun anew."""
    times: int
    """In a row."""
    until: float
    """When it is due again; infinite while it is."""
    passing: bool = False
    """It may well pass by itself: nobody is told yet."""


class Writes:
    """See the module's docstring. `known` as for `Due`; `may` says whether this process is the one
    that writes; `changed` is told which objects an answer changed; `clock` gives monotonic
    seconds."""

    def __init__(
        self,
        api: Api,
        wanted: Wanted,
        held: Held,
        *,
        known: Callable[[type[Object]], bool],
        may: Callable[[], bool],
        changed: Callable[[set[str]], None],
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._api = api
        self._wanted = wanted
        self._held = held
        self._may = may
        self._changed = changed
        self._clock = clock
        self._sleep = sleep
        self._rng = rng
        self._kick = asyncio.Event()
        self._due = Due(known)
        self._later: dict[str, Refusal] = {}
        self.clashes: dict[str, str] = {}
        """By key: what is not done because somebody else's object or label is there."""
        self.error = ""
        """Why nothing can be written now; empty when all is well."""
        self._under_way = 0
        """Objects of the round that is being written."""
        self.written = 0
        """Objects, since the start."""
        self.batches = 0

    @property
    def due(self) -> int:
        """Keys that may have to be written, those that are being written among them."""
        return len(self._due) + self._under_way

    @property
    def refused(self) -> dict[str, str]:
        """By key: what the server says to it."""
        return {
            key: refusal.text
            for key, refusal in self._later.items()
            if refusal.text and not refusal.passing
        }

    @property
    def left(self) -> dict[str, str]:
        """By key: what the server says to all that it did not take, what may pass included."""
        return {key: refusal.text for key, refusal in self._later.items() if refusal.text}

    def touch(self, keys: Iterable[str]) -> None:
        """These changed, on one side or the other."""
        for key in keys:
            if key in self._later:
                # Something is another now: no reason to wait longer.
                self._later[key] = self._later[key]._replace(until=math.inf)
            self._due.add(key, goes=key not in self._wanted.objects)
            self._kick.set()

    def touch_all(self) -> None:
        """Compare everything."""
        touched = (key for key, obj in self._held.objects.items() if is_touched(obj))
        self.touch({*self._wanted.objects, *touched})

    async def run(self) -> None:
        """Write what is due, for ever."""
        failures = 0
        while True:
            self._kick.clear()
            try:
                busy = await self.round()
            except PlaitError as error:
                if str(error) != self.error:
                    log.warning("Plait's server takes nothing", error=str(error), why=error.why)
                self.error = str(error)
                wait = min(BACKOFF[1], BACKOFF[0] * 2.0 ** min(failures, 16))
                failures += 1
                await self._sleep(wait * (0.5 + self._rng() / 2))
                continue
            failures, self.error = 0, ""
            if not busy:
                await self._wait()

    async def _wait(self) -> None:
        """Until something changes, or a refused object is due again."""
        until = min((refusal.until for refusal in self._later.values()), default=math.inf)
        delay = None if until == math.inf else max(0.0, until - self._clock())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._kick.wait()

    async def round(self) -> bool:
        """Write the next batch; False when there is nothing to look at. PlaitError when the
        server is away."""
        if not (self._held.synced and self._may()):
            return False
        now = self._clock()
        self.touch([key for key, refusal in self._later.items() if refusal.until <= now])
        keys = self._due.first(BATCH)
        self._due.done(keys)
        ops = [op for op in map(self._decide, keys) if op is not None]
        self._under_way = len(ops)
        try:
            if ops:
                await self._write(ops)
        finally:
            self._under_way = 0
        return bool(keys)

    def _decide(self, key: str) -> BatchOp | None:
        op, clash = decide(self._wanted.objects.get(key), self._held.objects.get(key))
        if clash != self.clashes.get(key, ""):
            self.clashes.pop(key, None)
            if clash:
                self.clashes[key] = clash
                log.warning("left as it is", key=key, why=clash)
        if op is None:
            self._later.pop(key, None)
        return op

    async def _write(self, ops: list[BatchOp]) -> None:
        """Write all that the server takes; what it did not answer for stays due."""
        size = len(ops)
        try:
            while ops:
                batch = ops[:size]
                try:
                    stored = await self._api.batch(batch)
                except PlaitError as error:
                    if _is_of_all(error):
                        raise
                    bad = _culprit(error, len(batch))
                    if bad is None:
                        size = len(batch) // 2
                        continue
                    del ops[bad]
                    await self._set_aside(batch[bad], error)
                    continue
                del ops[:size]
                self._answered(batch, stored)
        finally:
            self.touch(op.object.key for op in ops)

    def _answered(self, batch: Sequence[BatchOp], stored: Sequence[AnyObject]) -> None:
        self.batches += 1
        self.written += len(batch)
        for op, obj in zip(batch, stored, strict=True):
            self._later.pop(op.object.key, None)
            if op.verb == "delete":
                self._changed(self._held.removed(op.object.key))
            elif obj.metadata.revision:
                self._changed(self._held.stored(obj))

    async def _set_aside(self, op: BatchOp, error: PlaitError) -> None:
        """An object that is refused: who was faster decides, or it waits."""
        obj = op.object
        key, now = obj.key, self._clock()
        times = self._later[key].times + 1 if key in self._later else 1
        if error.code in CONFLICTS and times <= AT_ONCE:
            self._later[key] = Refusal("", times, math.inf)
            self.touch((key,))
            await self._read_again(obj)
            return
        wait = min(REFUSED[1], REFUSED[0] * 2.0 ** min(times - 1, 16))
        text = f"{error.code}: {error.detail}" + (f" ({error.why})" if error.why else "")
        passing = error.code == IN_USE and times <= PATIENCE
        if not passing and text != self.refused.get(key):
            log.error("Plait's server refused an object", key=key, error=text)
        until = now + wait * (0.5 + self._rng() / 2)
        self._later[key] = Refusal(text, times, until, passing)

    async def _read_again(self, obj: AnyObject) -> None:
        meta = obj.metadata
        try:
            found = await self._api.get(type(obj), meta.name, meta.namespace)
        except PlaitError as error:
            if error.code != GONE:
                raise
            self._changed(self._held.removed(obj.key))
        else:
            self._changed(self._held.stored(found))


def _is_of_all(error: PlaitError) -> bool:
    """Whether a refusal says nothing of what was sent, so that all of it is sent again."""
    return is_of_no_object(error) or error.code.startswith(RIGHTS)


def _culprit(error: PlaitError, count: int) -> int | None:
    """The step of a batch that was refused; None if the error does not say."""
    if count == 1:
        return 0
    found = _INDEX.match(error.where)
    return int(found[1]) if found is not None and int(found[1]) < count else None
