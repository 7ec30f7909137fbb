"""The connector and the agents as pods, by the manifests: in, at work, and out without a trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.lab.conftest import eventually, made, unique
from tests.lab.kubernetes.stage import PORT, Stage, authority, deployment

from plait.kubernetes import nodes
from plait.lab import daemons
from plait.lab.kubernetes import cluster, layout, programs
from plait.lab.lab import Lab
from plait.lab.workloads import PLAIT

pytestmark = [pytest.mark.root, pytest.mark.slow]

SYSTEM = ("-n", "plait-system")
KUBECONFIG = ("--kubeconfig", layout.ADMIN)
PATIENCE = 90.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two nodes. On the first Plait's server runs, and an agent beside it; the second is bare."""
    if gone := programs.missing():
        pytest.skip(f"Kubernetes is not built on this machine ({gone[0]}): scripts/kube")
    with made(unique("kdep"), 2, kubernetes=2) as lab:
        cluster.steer(lab, "h1", "stop", "plait-kubernetes")
        cluster.kubectl(lab, "label", "node", "h1", "plait/agent=host")
        daemons.plait(lab, "h2", "cni", "uninstall")
        daemons.plait(lab, "h2", "down", "--purge")
        yield lab


def running(lab: Lab) -> bool:
    """The connectors, and the agent of the second node, are ready."""
    listed = json.loads(cluster.kubectl(lab, *SYSTEM, "get", "pods", "-o", "json"))["items"]
    ready = [
        all(status["ready"] for status in item["status"].get("containerStatuses", ()))
        for item in listed
        if item["status"]["phase"] == "Running" and "deletionTimestamp" not in item["metadata"]
    ]
    return len(ready) == 3 and all(ready)


def node(lab: Lab, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cluster.kubectl(lab, "get", "node", name, "-o", "json"))
    return found


def holder(lab: Lab) -> str:
    lease = ("get", "lease", "plait-connector", "-o", "jsonpath={.spec.holderIdentity}")
    return cluster.kubectl(lab, *SYSTEM, *lease, check=False).strip()


def test_plait_comes_as_pods_works_and_goes_without_a_trace(lab: Lab) -> None:
    daemons.plait(lab, "h1", "kubernetes", "install", *KUBECONFIG, "--apply", "--agents")
    eventually("pods of Plait", lambda: running(lab), seconds=PATIENCE)
    eventually("both nodes are ready", lambda: len(cluster.nodes(lab, ready=True)) == 2, seconds=60)
    assert nodes.is_our_condition(node(lab, "h2"))

    stage = Stage(lab, "default")
    stage.deploy(
        *(deployment(f"web-{host}", pod={"nodeName": host}) for host in ("h1", "h2")),
    )
    first, second = stage.pod("web-h1"), stage.pod("web-h2")
    for address in second.addresses:
        answer = stage.ask(first.name, authority(address, PORT))
        assert (answer.server, bool(answer.client)) == (second.name, True), answer

    # Another connector goes on when the one that writes goes.
    before = holder(lab)
    chosen = ("-l", "app.kubernetes.io/name=plait-connector")
    where = ("--field-selector", f"spec.nodeName={before}")
    cluster.kubectl(lab, *SYSTEM, "delete", "pod", *chosen, *where, "--wait=false")
    eventually("another one writes", lambda: holder(lab) not in ("", before), seconds=60)

    # The agent's pod goes and comes; the network of the node's pods stays.
    agents = ("-l", "app.kubernetes.io/name=plait-agent")
    cluster.kubectl(lab, *SYSTEM, "delete", "pod", *agents)
    answer = stage.ask(first.name, authority(second.addresses[0], PORT))
    assert answer.server == second.name, answer
    eventually("pods of Plait once more", lambda: running(lab), seconds=PATIENCE)

    done = lab.run("h1", [*PLAIT, "kubernetes", "uninstall", *KUBECONFIG], check=False)
    assert "PLAIT-API-011" in done.stderr, done
    cluster.kubectl(lab, "delete", "deployment", "web-h1", "web-h2")
    eventually(
        "no pods are left",
        lambda: not json.loads(cluster.kubectl(lab, "get", "pods", "-o", "json"))["items"],
        seconds=2 * PATIENCE,
    )
    daemons.plait(lab, "h1", "kubernetes", "uninstall", *KUBECONFIG, timeout=200)
    assert_nothing_left(lab)


def assert_nothing_left(lab: Lab) -> None:
    """Neither in Kubernetes, nor in Plait, nor on the node whose agent was a pod."""
    for name in ("h1", "h2"):
        found = node(lab, name)
        taints = {taint["key"] for taint in found["spec"].get("taints", ())}
        assert nodes.TAINT not in taints
        assert not nodes.is_our_condition(found)
    kinds = "clusterrole,clusterrolebinding,daemonset,deployment,secret,configmap,lease"
    labelled = ("-l", "app.kubernetes.io/part-of=plait", "-o", "name")
    assert cluster.kubectl(lab, "get", kinds, "-A", *labelled).strip() == ""
    for kind in ("pods", "services", "endpointslices", "policies"):
        listed = json.loads(daemons.plait(lab, "h1", "get", kind, "-A", "--json"))["items"]
        assert listed == [], kind
    hosts = json.loads(daemons.plait(lab, "h1", "node", "ls", "--json"))["items"]
    assert [host["metadata"]["name"] for host in hosts] == ["h1"]
    for place in ("/etc/cni/net.d", "/var/lib/plait"):
        assert lab.run("h2", ["ls", "-A", place]).stdout == ""
    for place in ("/opt/cni/bin/plait", "/opt/plait", "/run/plait"):
        assert lab.run("h2", ["test", "-e", place], check=False).returncode == 1, place
    assert "plait" not in lab.run("h2", ["nft", "list", "tables"]).stdout
    assert "plait" not in lab.run("h2", ["ip", "-br", "link"]).stdout
