"""What the agent counts, in Prometheus' text exposition format 0.0.4. Pure.

The agent and each part beside it (resolver, Docker plug-in) give `Metric`s; `render` writes
them. No library: the agent must stay small.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metric(NamedTuple):
    """One sample."""

    name: str
    """Counters end in `_total`."""
    value: float
    kind: Literal["counter", "gauge"] = "gauge"
    labels: tuple[tuple[str, str], ...] = ()


def counter(name: str, value: float, **labels: str) -> Metric:
    """A number that only grows; `_total` is added to the name."""
    return Metric(f"{name}_total", value, "counter", tuple(sorted(labels.items())))


def gauge(name: str, value: float, **labels: str) -> Metric:
    """A number that comes and goes."""
    return Metric(name, value, "gauge", tuple(sorted(labels.items())))


def render(metrics: Iterable[Metric]) -> bytes:
    """The exposition: samples of one name together, as the format asks."""
    by_name: dict[str, list[Metric]] = {}
    for metric in metrics:
        by_name.setdefault(metric.name, []).append(metric)
    lines = []
    for name, samples in by_name.items():
        lines.append(f"# TYPE {name} {samples[0].kind}")
        lines += [f"{name}{_labels(sample.labels)} {sample.value:.15g}" for sample in samples]
    return ("\n".join(lines) + "\n").encode()


def _labels(labels: tuple[tuple[str, str], ...]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
