"""What the connector says of itself: to `plait kubernetes status`, to Prometheus, in its Lease."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily

MOST_SHOWN: Final = 100
"""Problems that are listed."""


class Followed(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One kind of Kubernetes."""

    kind: str
    resource: str
    """Where it is served, or empty."""
    phase: str
    synced: bool
    objects: int
    age: float
    """Seconds since the server was last heard of."""
    error: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """All of it."""

    version: str
    identity: str
    leads: bool
    leader: str
    """Who writes; empty when nobody is known to."""
    api_server: str
    connected: bool
    """Every kind that must be there is followed, without an error."""
    server_connected: bool
    """Plait's server is followed."""
    synced: bool
    """Everything was heard of both sides, and nothing is left to write."""
    age: float
    """Seconds since Kubernetes' API server was last heard of."""
    due: int
    """Objects that may have to be written."""
    written: int
    """Objects written to Plait's server since the start."""
    told: int
    """Patches written into Kubernetes since the start."""
    kinds: tuple[Followed, ...] = ()
    problem_count: int = 0
    problems: tuple[str, ...] = ()
    """The first of them."""


def shown(problems: Iterable[str]) -> tuple[int, tuple[str, ...]]:
    """How many there are, and those that are listed."""
    found = sorted(set(problems))
    return len(found), tuple(found[:MOST_SHOWN])


def line(report: Report) -> str:
    """The report in one line, for the Lease."""
    word = "connected" if report.connected and report.server_connected else "not connected"
    problems = f", {report.problem_count} problems" if report.problem_count else ""
    return f"{word}, {sum(kind.objects for kind in report.kinds)} objects{problems}"


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
