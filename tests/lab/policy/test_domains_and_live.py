"""Names that policies open, through the real resolver; and what the kernel says of itself."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab.census import server_objects
from tests.lab.conftest import eventually

from plait.lab import daemons, workloads
from plait.lab.lab import Lab
from plait.lab.state import WorkloadState
from plait.lab.topology import OUTSIDE
from plait.lab.workloads import Order
from plait.model.objects import Endpoint

pytestmark = pytest.mark.root

CLOSED = 29999
"""A port on which nobody listens: who gets there is refused, who does not hears nothing."""
PATIENCE = 0.5
NAME = "outside.lab.test"

EGRESS = """\
apiVersion: plait/v1
kind: Policy
metadata: {{name: {name}}}
spec:
  subject:
    namespaces: {{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}}
    endpoints: {{matchLabels: {{app: front}}}}
  egress:
  - peers: [{{domains: ["*.lab.test"]}}]
"""


class Pair:
    """Two workloads on two hosts, in a namespace of their own."""

    def __init__(self, lab: Lab, namespace: str) -> None:
        self.lab = lab
        self.namespace = namespace
        self.loads: dict[str, WorkloadState] = {}

    def plait(self, host: str, *words: str) -> str:
        return daemons.plait(self.lab, host, *words)

    def probe(self, src: str, where: str, port: int, *, family: int = 4) -> str:
        order = Order(ip=where, port=port, proto="tcp", family=family, timeout=PATIENCE)  # type: ignore[arg-type]
        return workloads.probe(self.lab, self.loads[src], [order])[0].result

    def live(self, host: str, *words: str) -> Any:
        return json.loads(self.plait(host, "why", *words, "--live", "--json"))["live"]

    def known(self) -> set[str]:
        """Names that the server knows in their namespace."""
        found = server_objects(self.lab, Endpoint)
        return {e.spec.name for e in found if e.metadata.namespace == self.namespace}

    def called(self, name: str) -> str:
        return f"{self.namespace}/{name}"


@pytest.fixture
def pair(policy_lab: Lab) -> Iterator[Pair]:
    made = Pair(policy_lab, f"live-{secrets.token_hex(2)}")
    try:
        for name, host in (("front", "h1"), ("api", "h2")):
            made.loads[name] = workloads.run(
                policy_lab,
                host,
                name,
                namespace=made.namespace,
                labels=[f"app={name}"],
                listen=["80/tcp"],
            )
        eventually("the server knows both", lambda: made.known() == made.loads.keys())
        yield made
    finally:
        for load in made.loads.values():
            workloads.remove(policy_lab, load)


@pytest.fixture
def named(pair: Pair, tmp_path: Path) -> Iterator[Pair]:
    """The front may reach names of the lab's world, and nothing else."""
    policy = f"names.{pair.namespace}"
    file = tmp_path / "egress.yaml"
    file.write_text(EGRESS.format(name=policy, namespace=pair.namespace))
    pair.plait("h1", "apply", "-f", str(file))
    try:
        yield pair
    finally:
        pair.plait("h1", "policy", "rm", policy)


def test_a_name_opens_its_addresses_when_it_is_asked_for(named: Pair) -> None:
    address = named.lab.plan.hosts[OUTSIDE].interface.address4.partition("/")[0]
    api = next(a for a in named.loads["api"].addresses if ":" not in a)
    eventually("the front is closed", lambda: named.probe("front", api, 80) == "timed out")
    # The very first connection after the answer passes, in both families.
    assert named.probe("front", NAME, CLOSED) == "refused"
    assert named.probe("front", NAME, CLOSED, family=6) == "refused"
    assert named.probe("front", address, CLOSED) == "refused"
    router = address.rpartition(".")[0] + ".1"
    assert named.probe("front", router, CLOSED) == "timed out", "a neighbour of the name's address"
    assert named.probe("front", api, 80) == "timed out"
    metrics = named.lab.run(
        "h1",
        ["curl", "-s", "--unix-socket", "/run/plait/agent.sock", "http://agent/metrics"],
        check=False,
    ).stdout
    if metrics:
        assert "plait_policy_domain_elements 2" in metrics.splitlines()


def test_every_host_says_what_its_kernel_would_do(pair: Pair) -> None:
    front, api = pair.called("front"), pair.called("api")
    sent = pair.live("h1", front, api, "80/tcp")
    received = pair.live("h2", front, api, "80/tcp")
    assert {side["direction"] for side in sent["sides"]} == {"egress"}
    assert {side["direction"] for side in received["sides"]} == {"ingress"}
    assert sent["elsewhere"] == ["h2"]
    assert all(side["allowed"] for side in (*sent["sides"], *received["sides"]))
    assert sent["agrees"]
    assert received["agrees"]
    pair.plait("h1", "isolate", pair.namespace)
    pair.plait("h1", "deny", api, "--from", front, "--port", "80/tcp")
    try:

        def denied() -> bool:
            sides = pair.live("h2", front, api, "80/tcp")["sides"]
            return bool(sides) and not any(side["allowed"] for side in sides)

        eventually("the kernel of h2 denies", denied)
        sides = pair.live("h2", front, api, "80/tcp")["sides"]
        assert all(side["agrees"] for side in sides)
        assert all(side["policy"].startswith("deny") for side in sides)
        text = pair.plait("h2", "why", front, api, "80/tcp", "--live")
        assert "kernel of h2, as it is now:" in text
        assert "as the model says" in text
    finally:
        policies = json.loads(pair.plait("h1", "policy", "ls", "--json"))["items"]
        names = [p["metadata"]["name"] for p in policies]
        pair.plait("h1", "policy", "rm", *[n for n in names if pair.namespace in n])
