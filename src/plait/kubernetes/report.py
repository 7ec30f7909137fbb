"""What the connector says of itself, shortened and in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily

from plait.wire.connector import Report

MOST_SHOWN: Final = 100
"""Problems that are listed."""


def shown(problems: Iterable[str]) -> tuple[int, tuple[str, ...]]:
    """How many there are, and those that are listed."""
    found = sorted(set(problems))
    return len(found), tuple(found[:MOST_SHOWN])


class Metrics:
    """The report in Prometheus' text format."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._gauges: dict[str, Gauge] = {
            name: Gauge(f"plait_kubernetes_{name}", text, labels, registry=self._registry)
            for name, text, labels in _GAUGES
        }
        self._registry.register(self)
        self._report: Report | None = None

    def collect(self) -> Sequence[CounterMetricFamily]:
        """Counters, for the registry."""
        if self._report is None:
            return ()
        return (
            CounterMetricFamily(
                "plait_kubernetes_written", "Objects written to Plait", self._report.written
            ),
            CounterMetricFamily(
                "plait_kubernetes_told", "Patches written into Kubernetes", self._report.told
            ),
        )

    def render(self, report: Report) -> bytes:
        """The exposition."""
        self._report = report
        for name in ("leads", "connected", "server_connected", "synced", "due"):
            self._gauges[name].set(getattr(report, name))
        self._gauges["problems"].set(report.problem_count)
        for kind in report.kinds:
            self._gauges["objects"].labels(kind.kind).set(kind.objects)
            self._gauges["age_seconds"].labels(kind.kind).set(kind.age)
        return generate_latest(self._registry)


_GAUGES: Final = (
    ("leads", "This connector writes", ()),
    ("connected", "The API server is followed", ()),
    ("server_connected", "Plait's server is followed", ()),
    ("synced", "Nothing is left to write", ()),
    ("due", "Objects that may have to be written", ()),
    ("problems", "Objects that did not come over, and refusals", ()),
    ("objects", "Objects of Kubernetes", ("kind",)),
    ("age_seconds", "Time since the API server was heard of", ("kind",)),
)
