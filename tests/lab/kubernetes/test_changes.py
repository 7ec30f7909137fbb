"""What changes while clients call: rolling updates, a node that dies and comes back."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from tests.lab.kubernetes.stage import (
    PATIENCE,
    PORT,
    Stage,
    authority,
    deployment,
    ready_nodes,
    service,
)

from plait.lab import bringup
from plait.lab.kubernetes import control_plane

pytestmark = pytest.mark.root

COUNT = """\
for name in $NAMES; do
  until wget -qO- -T3 --tries=1 http://$name/cgi-bin/who; do sleep 0.1; done
done
ok=0
while [ ! -e /tmp/stop ]; do
  for name in $NAMES; do
    if said=$(wget -qO- -T3 --tries=1 http://$name/cgi-bin/who 2>&1); then
      ok=$((ok + 1))
    else
      echo "lost after $ok at $name: $said"
    fi
    echo "$ok ${said%% *}" > /tmp/new && mv /tmp/new /tmp/seen
  done
done
echo "answered $ok"
"""
"""A client that asks on and on, once it was answered under every name, and says which questions
nobody answered from then on."""
DRAIN = {
    "lifecycle": {"preStop": {"exec": {"command": ["sleep", "3"]}}},
}
"""As every server does that means to lose nothing: it serves on until everybody has heard."""


def caller(stage: Stage, name: str = "caller", names: tuple[str, ...] = ("web",)) -> None:
    """A pod that calls Services by these names until `/tmp/stop` is there, then sleeps."""
    stage.deploy(
        deployment(
            name,
            command=("sh", "-c", f"{COUNT}exec sleep 1000"),
            container={
                "env": [{"name": "NAMES", "value": " ".join(names)}],
                "readinessProbe": {"exec": {"command": ["test", "-s", "/tmp/seen"]}},
            },
            pod={"nodeName": "h1"},
        )
    )


def answered(stage: Stage) -> tuple[int, str]:
    """How many questions were answered until now, and who answered last."""
    said = stage.execute(stage.pod("caller").name, ["cat", "/tmp/seen"]).stdout.split()
    return (int(said[0]), said[1]) if len(said) == 2 else (0, "")


def stop(stage: Stage) -> str:
    """End the caller; what it has said."""
    name = stage.pod("caller").name
    stage.execute(name, ["touch", "/tmp/stop"])

    def words() -> str:
        said = stage.kubectl("logs", name)
        return said if "answered" in said else ""

    return stage.until("the caller's count", words)


def test_a_rolling_update_loses_no_request(stage: Stage) -> None:
    server = deployment(
        "web",
        3,
        spread=True,
        container=DRAIN,
        pod={"terminationGracePeriodSeconds": 10},
        strategy={"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
    )
    stage.deploy(server)
    stage.apply(service("web"))
    caller(stage)
    old = {pod.name for pod in stage.pods("web")}
    for round_ in ("one", "two"):
        stage.kubectl("set", "env", "deployment/web", f"ROUND={round_}")
        stage.rolled_out("web")
    assert not old & {pod.name for pod in stage.pods("web")}
    before, _ = answered(stage)
    stage.until("the caller goes on", lambda: answered(stage)[0] > before + 10)
    said = stop(stage)
    assert "lost" not in said, said
    assert int(re.findall(r"answered (\d+)", said)[0]) > before


@pytest.fixture
def front(stage: Stage) -> Iterator[str]:
    """Name of a Service of Plait's own for `web`: it learns from the pods what Kubernetes' learn
    from their slices."""
    front = ("front", "-n", stage.namespace)
    create = ("plait", "service", "create", *front, "--selector", "app=web", "--port", "80:http")
    stage.lab.run("h1", create)
    yield f"front.{stage.namespace}.plait.local"
    stage.lab.run("h1", ("plait", "service", "rm", *front))


def test_scaling_down_loses_no_request(stage: Stage, front: str) -> None:
    stage.deploy(
        deployment(
            "web", 3, spread=True, container=DRAIN, pod={"terminationGracePeriodSeconds": 10}
        )
    )
    stage.apply(service("web"))
    caller(stage, names=("web", front))
    before = {pod.name: pod for pod in stage.pods("web")}
    stage.kubectl("scale", "deployment/web", "--replicas=1")
    (last,) = stage.until(
        "one server is to stay", lambda: pods if len(pods := stage.pods("web")) == 1 else None
    )
    for gone in before.values():
        if gone.name != last.name:
            where = authority(gone.addresses[0], PORT)
            stage.until("it serves no more", lambda where=where: stage.ask_from("h1", where).error)
    done, _ = answered(stage)
    stage.until("the caller goes on", lambda: answered(stage)[0] > done + 10)
    assert answered(stage)[1] == last.name
    said = stop(stage)
    assert "lost" not in said, said


def test_a_node_is_killed_and_comes_back(stage: Stage) -> None:
    """Its pods move, its Service goes on without it, and it takes pods again."""
    lab, victim = stage.lab, "h3"
    stage.deploy(deployment("web", 3, spread=True), deployment("client", pod={"nodeName": "h2"}))
    stage.apply(service("web"))
    client = stage.pod("client").name
    stage.until("the first answer", lambda: stage.ask(client, "web").server)
    bringup.FAULTS["kill"](lab, victim)
    try:
        stage.until(
            f"{victim} is missed",
            lambda: victim not in ready_nodes(lab),
            control_plane.GRACE + PATIENCE,
        )
        stage.until(
            "its backend is no longer asked",
            lambda: all(stage.ask(client, "web").server for _ in range(8)),
        )
    finally:
        bringup.FAULTS["restart"](lab, victim)
    assert victim in ready_nodes(lab)
    stage.until(
        "three servers on three nodes again",
        lambda: sorted(pod.node for pod in stage.pods("web") if pod.ready) == ["h1", "h2", "h3"],
        120,
    )
    stage.until(
        "all three answer",
        lambda: (
            {stage.ask(client, "web").server for _ in range(12)}
            == {pod.name for pod in stage.pods("web")}
        ),
    )
