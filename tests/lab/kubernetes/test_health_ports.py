"""What balancers outside ask before they send traffic to a node: kube-proxy's questions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.lab.kubernetes.stage import Stage, authority, deployment, service

pytestmark = pytest.mark.root

NODES = ("h1", "h2", "h3")


def asked(stage: Stage, node: str, port: int, path: str = "") -> tuple[int, dict[str, Any]]:
    """Status and body as a client outside gets them; 0: nobody answers."""
    address = stage.lab.plan.hosts[node].interface.address4.partition("/")[0]
    url = f"http://{authority(address, port)}/{path}"
    argv = ["curl", "-s", "-m", "2", "-w", "\n%{http_code}", url]
    body, _, status = stage.lab.run("outside", argv, check=False).stdout.rpartition("\n")
    return int(status or 0), json.loads(body) if body else {}


def test_a_node_says_whether_it_has_backends_of_its_own(stage: Stage) -> None:
    stage.deploy(deployment("web"))
    stage.apply(service("web", type="LoadBalancer", externalTrafficPolicy="Local"))
    port = stage.get("service", "web")["spec"]["healthCheckNodePort"]

    def told() -> dict[str, int]:
        return {node: asked(stage, node, port)[0] for node in NODES}

    wanted = {node: 200 if node == stage.pod("web").node else 503 for node in NODES}
    stage.until("200 where the pod is, 503 elsewhere", lambda: told() == wanted)
    assert asked(stage, stage.pod("web").node, port)[1] == {
        "service": {"namespace": stage.namespace, "name": "web"},
        "localEndpoints": 1,
        "serviceProxyHealthy": True,
    }
    stage.kubectl("scale", "deployment", "web", "--replicas=0")
    stage.until("503 everywhere", lambda: set(told().values()) == {503})
    stage.kubectl("delete", "service", "web")
    stage.until("silence", lambda: set(told().values()) == {0})


def test_every_node_answers_on_kube_proxys_port(stage: Stage) -> None:
    for node in NODES:
        status, body = asked(stage, node, 10256, "healthz")
        assert (status, body["nodeEligible"]) == (200, True), node
        assert asked(stage, node, 10256, "livez")[0] == 200
