"""What the server counts (Prometheus text format), in a registry of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from plait.model.objects import KINDS

if TYPE_CHECKING:
    from plait.server.service import Service


class Metrics:
    """Counters of requests; gauges are read when they are asked for."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "plait_server_requests",
            "Requests by route and status",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "plait_server_request_seconds",
            "Time to answer, watches not counted",
            ("method",),
            buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10),
            registry=self._registry,
        )
        self._pending = Gauge(
            "plait_server_requests_pending", "Requests under way", registry=self._registry
        )
        self._watchers = Gauge(
            "plait_server_watchers", "Open watch streams", registry=self._registry
        )
        self._cut = Gauge(
            "plait_server_watchers_cut", "Watchers cut for being slow", registry=self._registry
        )
        self._revision = Gauge(
            "plait_server_store_revision", "Revision of the store", registry=self._registry
        )
        self._objects = Gauge(
            "plait_server_objects", "Objects by kind", ("kind",), registry=self._registry
        )

    def request(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """Count a request; `seconds` is None for a stream."""
        self._requests.labels(method, route, str(status)).inc()
        if seconds is not None:
            self._seconds.labels(method).observe(seconds)

    def render(self, service: Service, pending: int) -> bytes:
        """The exposition."""
        self._pending.set(pending)
        self._watchers.set(service.hub.watchers)
        self._cut.set(service.hub.cut)
        self._revision.set(service.mirror.state.revision)
        for kind in KINDS.values():
            self._objects.labels(kind.__name__).set(service.mirror.state.count(kind))
        return generate_latest(self._registry)
