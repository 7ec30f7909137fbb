"""What goes wrong at a fake API server, and when: once each, in the order in which it was asked."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Literal, NamedTuple

from aiohttp import web

Verb = Literal["read", "watch", "write"]


class Refuse(NamedTuple):
    """A request gets an error for an answer."""

    status: int
    reason: str
    retry_after: float | None
    """Seconds; None: no such header."""


class Garble(NamedTuple):
    """A request gets an answer that nobody understands."""

    body: bytes

    def apply(self, _request: web.Request) -> web.Response:
        """The answer."""
        return web.Response(body=self.body, content_type="application/json")


class Reset(NamedTuple):
    """A request gets no answer: its connection is closed."""

    def apply(self, request: web.Request) -> web.Response:
        """Nothing that arrives."""
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=499)


Fault = Garble | Reset
WatchEnd = Literal["end", "reset", "mid-line", "garbage", "gone", "error", "silence"]
"""How a watch goes wrong: it ends as if its time were over; its connection breaks; the same within
a line; a line is no JSON; 410 Gone or 500 within the stream; nothing comes any more."""


class WatchFault(NamedTuple):
    """A watch goes wrong once it has told of so many events."""

    after: int
    how: WatchEnd


REASONS: Final = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class Faults:
    """Faults that wait for their request."""

    def __init__(self) -> None:
        self.in_stream = False
        """A watch from a version that is gone is taken, and told 410 within its stream."""
        self.open = asyncio.Event()
        """Cleared: no request is answered until it is set."""
        self.open.set()
        self._requests: deque[tuple[Verb, str, Refuse | Fault]] = deque()
        self._watches: deque[WatchFault] = deque()

    def refuse(
        self,
        verb: Verb,
        status: int,
        *,
        path: str = "",
        times: int = 1,
        retry_after: float | None = None,
    ) -> None:
        """The next requests of a verb, whose path contains `path`, are refused."""
        fault = Refuse(status, REASONS.get(status, "Unknown"), retry_after)
        self._requests.extend([(verb, path, fault)] * times)

    def garble(self, verb: Verb, body: bytes = b'{"metadata":', *, path: str = "") -> None:
        """The next request of a verb gets this for an answer."""
        self._requests.append((verb, path, Garble(body)))

    def reset(self, verb: Verb, *, path: str = "") -> None:
        """The connection of the next request of a verb breaks."""
        self._requests.append((verb, path, Reset()))

    def watch(self, how: WatchEnd, *, after: int = 0) -> None:
        """The next watch that is taken goes wrong after so many events."""
        self._watches.append(WatchFault(after, how))

    @property
    def pending(self) -> int:
        """How many have not happened."""
        return len(self._requests) + len(self._watches)

    async def next(self, verb: str, path: str) -> Refuse | Fault | None:
        """What goes wrong with a request."""
        await self.open.wait()
        for index, (wanted, part, fault) in enumerate(self._requests):
            if wanted == verb and part in path:
                del self._requests[index]
                return fault
        return None

    def next_watch(self) -> WatchFault | None:
        """What goes wrong with a watch."""
        return self._watches.popleft() if self._watches else None
