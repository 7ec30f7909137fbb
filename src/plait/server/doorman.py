"""Bounds what people who have named themselves to nobody can hold open.

A connection over TLS costs the server about a quarter of a mebibyte, before its first request and
without any credential. So there is room for a number of strangers, and the one that has been here
the longest makes way; who has shown a credential once is never cut for others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web


class Doorman:
    """One for all listeners of a server."""

    def __init__(self, most: int) -> None:
        """`most` connections of strangers stay open."""
        self._most = most
        self._known: set[Any] = set()
        self.turned_away = 0
        """Connections cut to make room."""

    def factory(self, server: web.Server) -> Callable[[], Any]:
        """Protocol factory of a listener: makes room, then lets the next one in."""

        def make() -> Any:
            self._make_room(server.connections)
            return server()

        return make

    def recognise(self, connection: Any) -> None:
        """A request on this connection has shown who asks."""
        self._known.add(connection)

    def _make_room(self, connections: list[Any]) -> None:
        if len(self._known) > len(connections):
            self._known.intersection_update(connections)
        if len(connections) - len(self._known) < self._most:
            return
        self._known.intersection_update(connections)
        strangers = [each for each in connections if each not in self._known]
        for oldest in strangers[: max(len(strangers) - self._most + 1, 0)]:
            if oldest.transport is not None:
                oldest.transport.abort()
                self.turned_away += 1
