"""What the resolver counts."""

from __future__ import annotations

from collections import Counter


class Stats:
    """Plain counters since the start; the agent's metrics read them."""

    __slots__ = (
        "answers",
        "cache_hits",
        "connections",
        "dropped",
        "forwarded",
        "refused_connections",
        "upstream_failures",
        "upstream_invalid",
    )

    def __init__(self) -> None:
        self.answers: Counter[int] = Counter()
        """Replies by rcode, forwarded ones too."""
        self.forwarded = 0
        """Questions handed to an upstream resolver, cache hits included."""
        self.cache_hits = 0
        self.upstream_failures = 0
        """Questions that no upstream answered in time: the client got SERVFAIL."""
        self.upstream_invalid = 0
        """Upstream messages that were thrown away: forged, mangled or late."""
        self.dropped = 0
        """Datagrams that were no query, or whose reply could not be sent."""
        self.connections = 0
        """TCP connections accepted."""
        self.refused_connections = 0
        """TCP connections closed at once for a limit."""

    @property
    def queries(self) -> int:
        """Replies given."""
        return self.answers.total()
