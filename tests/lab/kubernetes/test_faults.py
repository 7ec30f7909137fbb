"""What dies on a node is started again, and what runs goes on meanwhile."""

from __future__ import annotations

import pytest
from tests.lab.kubernetes.stage import (
    PORT,
    Stage,
    authority,
    deployment,
    ready_nodes,
    service,
)

from plait.lab import bringup
from plait.lab.kubernetes import cluster

pytestmark = pytest.mark.root


def test_without_the_api_server_what_runs_goes_on(stage: Stage) -> None:
    """Pods call Services by name; policies and backends stay as they were."""
    stage.deploy(deployment("web", 3, spread=True), deployment("client"))
    stage.apply(service("web"))
    client, servers = stage.pod("client"), {pod.name for pod in stage.pods("web")}
    stage.until("the first answer", lambda: stage.ask(client.name, "web").server)
    (address, *_) = stage.addresses("web")
    lab = stage.lab
    for host in ("h1", "h2", "h3"):
        stage.until(f"an answer on {host}", lambda host=host: stage.ask_from(host, address).server)
    bringup.FAULTS["stop-apiserver"](lab)
    try:
        name = f"web.{stage.namespace}.svc.cluster.local"
        assert set(stage.inside(client, "dig", "+short", "@169.254.1.1", name).split()) == {address}
        for host in ("h1", "h2", "h3"):
            assert stage.ask_from(host, address).server in servers
    finally:
        bringup.FAULTS["start-apiserver"](lab)
    stage.until("the API server answers", lambda: cluster.answers(lab))
    stage.deploy(deployment("late"))
    assert stage.ask(stage.pod("late").name, "web").server in servers


def test_a_containerd_and_a_kubelet_that_die_come_back(stage: Stage) -> None:
    stage.deploy(deployment("web", 1, pod={"nodeName": "h2"}))
    pod, lab = stage.pod("web"), stage.lab
    for program in ("containerd", "kubelet"):
        before = cluster.pid(lab, "h2", program)
        bringup.FAULTS[f"kill-{program}"](lab, "h2")
        stage.until(
            f"another {program}",
            lambda program=program, before=before: (
                cluster.pid(lab, "h2", program) not in (0, before)
            ),
        )
        assert stage.ask_from("h2", authority(pod.addresses[0], PORT)).server == pod.name
    stage.until("the node is ready", lambda: "h2" in ready_nodes(lab))
    stage.deploy(deployment("late", pod={"nodeName": "h2"}))
    assert [p.restarts for p in stage.pods("web")] == [0]
