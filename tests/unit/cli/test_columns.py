from __future__ import annotations

import pytest

from plait.cli.columns import pod_state, rows
from plait.model.objects import Endpoint, EndpointSpec, Metadata, PublishedPort
from plait.model.pods import PodSpec


def endpoint(ident: str, name: str, *ports: int) -> Endpoint:
    published = tuple(PublishedPort(protocol="tcp", port=80, host_port=p) for p in ports)
    spec = EndpointSpec(node="h1", network="plait", name=name, ports=published)
    return Endpoint(metadata=Metadata(name=ident, namespace="default"), spec=spec)


def test_endpoints_stand_by_name_and_ports_by_number() -> None:
    headings, cells = rows([endpoint("a", "web", 9000, 8080), endpoint("b", "db")])
    table = [dict(zip(headings, row, strict=True)) for row in cells]
    assert [row["name"] for row in table] == ["db", "web"]
    assert table[1]["ports"] == "8080->80/tcp, 9000->80/tcp"


@pytest.mark.parametrize(
    ("spec", "state"),
    [
        (PodSpec(), "pending"),
        (PodSpec(node="h1", addresses=("10.0.0.1",)), "not ready"),
        (PodSpec(addresses=("10.0.0.1",), ready=True), "ready"),
        (PodSpec(addresses=("10.0.0.1",), ready=True, terminating=True), "terminating"),
        (PodSpec(addresses=("10.0.0.1",), terminating=True, finished=True), "finished"),
    ],
)
def test_a_pod_that_runs_and_does_not_answer_is_not_one_that_waits(
    spec: PodSpec, state: str
) -> None:
    assert pod_state(spec) == state
