"""Pods of a real cluster: placed on three nodes, all in one network, without translation."""

from __future__ import annotations

from itertools import permutations

import pytest
from tests.lab.kubernetes.stage import PORT, SERVE, Stage, authority, deployment

pytestmark = pytest.mark.root


def test_a_deployment_spreads_and_every_pod_sees_every_other_as_it_is(stage: Stage) -> None:
    """Pod to pod without NAT, within a site and between sites, in both families."""
    stage.deploy(deployment("web", 3, spread=True))
    pods = stage.pods("web")
    assert {pod.node for pod in pods} == {"h1", "h2", "h3"}
    for pod in pods:
        assert [":" in address for address in pod.addresses] == [False, True], pod
    for one, other in permutations(pods, 2):
        for family in (0, 1):
            answer = stage.ask(one.name, authority(other.addresses[family], PORT))
            assert (answer.server, answer.client) == (other.name, one.addresses[family]), answer


def test_every_node_reaches_every_pod_and_every_pod_the_api_server(stage: Stage) -> None:
    """The API server is a process of h1, so one of the pods calls its own host."""
    stage.deploy(deployment("web", 3, spread=True))
    for pod in stage.pods("web"):
        for family in (0, 1):
            for host in ("h1", "h2", "h3"):
                answer = stage.ask_from(host, authority(pod.addresses[family], PORT))
                assert answer.server == pod.name, (host, answer)
        version = [
            "wget",
            "-qO-",
            "--no-check-certificate",
            "-T5",
            "https://kubernetes.default/version",
        ]
        assert "gitVersion" in stage.execute(pod.name, version).stdout, pod


def test_a_pod_and_its_node_reach_each_other(stage: Stage) -> None:
    stage.deploy(deployment("web"))
    pod = stage.pod("web")
    for family in (0, 1):
        answer = stage.ask_from(pod.node, authority(pod.addresses[family], PORT))
        assert answer.server == pod.name, answer
    node = stage.lab.plan.hosts[pod.node].interface.address4.partition("/")[0]
    ping = stage.execute(pod.name, ["ping", "-c1", "-W2", node])
    assert ping.returncode == 0, ping


def test_a_pod_in_the_hosts_network_and_one_on_a_host_port(stage: Stage) -> None:
    stage.deploy(
        deployment(
            "bare",
            pod={"hostNetwork": True},
            command=(*SERVE[:3], "8181", *SERVE[4:]),
            container={
                "ports": [{"containerPort": 8181}],
                "readinessProbe": {"tcpSocket": {"port": 8181}, "periodSeconds": 1},
            },
        ),
        deployment(
            "port",
            container={"ports": [{"name": "http", "containerPort": PORT, "hostPort": 8282}]},
        ),
        deployment("client"),
    )
    hosts = stage.lab.plan.hosts
    client = stage.pod("client").name
    for app, port in (("bare", 8181), ("port", 8282)):
        pod = stage.pod(app)
        at = hosts[pod.node].interface
        for address in (at.address4, at.address6):
            where = authority(address.partition("/")[0], port)
            for answer in (
                stage.ask_from("outside", where),
                stage.ask_from("h4", where),
                stage.ask(client, where),
            ):
                assert answer.server in {pod.name, pod.node}, (app, where, answer)
