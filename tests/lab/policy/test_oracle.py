"""Kubernetes' answers, on the kernel: the 230 cases of NetworkPolicy and the 24 tests of
ClusterNetworkPolicy, with TCP, UDP and SCTP between pods on three hosts.

Every pod has the addresses of both families. Where the policies of a case do not name addresses,
both families are asked of one and the same state. A probe that must not pass has to be met with
silence: a refusal fails.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.lab.policy.oracle_play import (
    HOST_PORTS,
    LISTEN_ON_HOST,
    REPRESENTATIVE,
    SOON,
    Times,
    ask,
    counting,
    expectation,
    listening,
    place,
)
from tests.lab.policy.stage import Pod, Scene, Stage, network, staged
from tests.support import oracle

from plait.lab import hosts
from plait.lab.lab import Lab
from plait.policy.kubernetes import to_policy

pytestmark = [pytest.mark.root, oracle.needs_oracle]

POOLS = ("10.244.0.0/16", "fd00:10:244::/48")
THEIRS, OURS = "10.244.", "10.245."
"""Both fixtures use the same addresses, and both stand in one lab: one of them moves."""


@pytest.fixture(scope="module")
def times(request: pytest.FixtureRequest) -> Iterator[Times]:
    with counting(request) as found:
        yield found


# NetworkPolicy


@pytest.fixture(scope="module")
def stage(policy_lab: Lab) -> Iterator[Stage]:
    with staged(policy_lab, network(oracle.NETWORK, *POOLS)) as made:
        yield made


@pytest.mark.parametrize(
    ("four", "six"),
    [
        pytest.param(
            *pair,
            id=f"{pair[0].id}",
            marks=() if pair[0].id in REPRESENTATIVE else pytest.mark.slow,
        )
        for pair in oracle.pairs()
    ],
)
def test_network_policy(stage: Stage, times: Times, four: oracle.Case, six: oracle.Case) -> None:
    for scene in oracle.dual_scenes(four, six):
        pods = tuple(
            Pod(
                namespace=pod.namespace,
                name=pod.name,
                host=place(key),
                labels=pod.labels,
                addresses=pod.addresses,
                listen=listening(pod),
                named_ports=pod.ports,
                network=oracle.NETWORK,
            )
            for key, pod in scene.pods.items()
        )
        shown = Scene(
            pods=pods,
            namespaces=scene.namespaces,
            objects=tuple(map(to_policy, scene.policies.values())),
        )
        ask(stage, times, shown, expectation(scene), scene.name)


# ClusterNetworkPolicy


class Hosts:
    """The nodes of the fixture are hosts of the lab, and have their addresses there."""

    def __init__(self, lab: Lab, fixture: oracle.Scene) -> None:
        self.names: dict[str, str] = {}
        self.addresses: dict[str, str] = {}
        for number, (name, node) in enumerate(sorted(fixture.nodes.items()), 1):
            host = f"h{number}"
            self.names[name] = host
            here = node.spec.addresses[0].partition("/")[0]
            self.addresses[here] = lab.plan.hosts[host].interface.address4.partition("/")[0]

    def here(self, address: str) -> str:
        """An address of the fixture, in the lab."""
        return self.addresses.get(address) or address.replace(THEIRS, OURS)


@pytest.fixture(scope="module")
def listening_host(policy_lab: Lab) -> Iterator[None]:
    """The ports of the pods that use the second host's own network."""
    address = policy_lab.plan.hosts["h2"].interface.address4.partition("/")[0]
    argv = [sys.executable, "-c", LISTEN_ON_HOST, address, *HOST_PORTS]
    child = hosts.popen(policy_lab.host("h2"), argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield
    finally:
        child.communicate()


@pytest.fixture(scope="module")
def labelled_hosts(policy_lab: Lab, stage: Stage) -> Iterator[None]:
    """Hosts with the label that Kubernetes gives them."""
    stage.label_nodes({host: {"kubernetes.io/os": "linux"} for host in stage.hosts})
    yield
    stage.label_nodes({host: {} for host in stage.hosts})


@pytest.fixture(scope="module")
def cnp_stage(policy_lab: Lab, listening_host: None, labelled_hosts: None) -> Iterator[Stage]:
    with staged(policy_lab, network("conformance", f"{OURS}0.0/16")) as made:
        yield made


@pytest.mark.parametrize(
    "test",
    [
        pytest.param(test, id=test.name, marks=() if test.name in SOON else pytest.mark.slow)
        for test in oracle.conformance()
    ],
)
def test_cluster_network_policy(
    cnp_stage: Stage, times: Times, policy_lab: Lab, test: oracle.Conformance
) -> None:
    for scene in test.scenes():
        nodes = Hosts(policy_lab, scene)
        pods = tuple(
            Pod(
                namespace=pod.namespace,
                name=pod.name,
                host=nodes.names[pod.node],
                labels=pod.labels,
                addresses=(nodes.here(pod.ip),),
                listen=listening(pod),
                named_ports=pod.ports,
                network="conformance",
            )
            for pod in scene.pods.values()
        )
        expected = {
            probe._replace(ip=nodes.here(probe.ip)): outcomes
            for probe, outcomes in expectation(scene).items()
        }
        manifests = json.loads(json.dumps([*scene.policies.values()]).replace(THEIRS, OURS))
        shown = Scene(
            pods=pods,
            namespaces=scene.namespaces,
            objects=(*map(to_policy, manifests), *scene.own),
        )
        ask(cnp_stage, times, shown, expected, scene.name)
