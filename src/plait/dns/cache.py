"""Answers of upstream resolvers, kept as long as they allow, within a bound of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, NamedTuple

from plait.wire.dns import Response

MAX_BYTES: Final = 4 << 20
MAX_TTL: Final = 3600
MAX_NEGATIVE_TTL: Final = 300
"""Seconds; the bound that RFC 2308 section 5 leaves to the cache, on the careful side."""
_OVERHEAD: Final = 512
"""Bytes that an entry costs besides its message, roughly."""


class Hit(NamedTuple):
    """A kept answer."""

    response: Response
    age: int
    """Seconds since it came."""


class _Entry(NamedTuple):
    response: Response
    stored: float
    expires: float


class Cache:
    """Least recently used entries go first. Time is an argument, in seconds of any clock."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max = max_bytes
        self._size = 0
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """Bytes in use, roughly."""
        return self._size

    def get(self, key: Hashable, now: float) -> Hit | None:
        """The answer, if it is still good."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now >= entry.expires:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return Hit(entry.response, int(now - entry.stored))

    def put(self, key: Hashable, response: Response, now: float) -> None:
        """Keep an answer for its time; one that may not be kept is ignored."""
        ttl = min(response.ttl, MAX_NEGATIVE_TTL if response.rcode else MAX_TTL)
        cost = len(response.message) + _OVERHEAD
        if ttl <= 0 or cost > self._max:
            return
        self._remove(key)
        self._entries[key] = _Entry(response, now, now + ttl)
        self._size += cost
        while self._size > self._max:
            self._remove(next(iter(self._entries)))

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()
        self._size = 0

    def _remove(self, key: Hashable) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= len(entry.response.message) + _OVERHEAD
