"""Kubernetes' own answers once more, through the API of a real cluster: NetworkPolicies, labels,
pods and namespaces are written there, and real pods ask each other over TCP, UDP and SCTP.

The API server is 1.20: it drops `endPort`, so the cases with ranges of ports are asked in
`tests/unit/kubernetes/test_oracle.py` alone. ClusterNetworkPolicy it serves by a definition.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import msgspec
import pytest
from tests.lab.conftest import eventually
from tests.lab.kubernetes.oracle_stage import SPEC, ClusterStage, program, staged
from tests.lab.policy.oracle_play import (
    HOST_PORTS,
    LISTEN_ON_HOST,
    SOON,
    Times,
    ask,
    counting,
    expectation,
    place,
)
from tests.support import oracle
from tests.support.oracle import Case, Conformance, Manifest, Scene

from plait.kubernetes.kinds import CLUSTER_NETWORK_POLICIES
from plait.lab.daemons import FIRST
from plait.lab.kubernetes import cluster, layout
from plait.lab.lab import Lab

pytestmark = [pytest.mark.root, oracle.needs_oracle]

TYPICAL = {
    *(4, 22, 36, 70, 149, 179),  # subjects, peers, ports by number and name, ranges of addresses
    *(193, 224, 225, 226, 230),  # everything that changes
}
CASES = [pair for pair in oracle.pairs() if not pair[0].uses_end_port]
TYPICAL_CLUSTER = {"CNPAdminTierEgressNodePeers", "CNPAdminTierIntegration"} & SOON
NODES = {"node-1": "h1", "node-2": "h2"}
"""Hosts of the lab in the place of the nodes of the tests of ClusterNetworkPolicy."""


@pytest.fixture(scope="module")
def times(request: pytest.FixtureRequest) -> Iterator[Times]:
    with counting(request) as found:
        yield found


# NetworkPolicy


@pytest.fixture(scope="module")
def play(kube_lab: Lab) -> Iterator[ClusterStage]:
    with staged(kube_lab, lambda pod: place(pod.key)) as made:
        yield made


@pytest.mark.parametrize(
    "pair",
    [
        pytest.param(pair, id=f"{pair[0].id}", marks=() if usual else pytest.mark.slow)
        for pair in CASES
        for usual in (pair[0].id in TYPICAL,)
    ],
)
def test_network_policy(play: ClusterStage, times: Times, pair: tuple[Case, Case]) -> None:
    for scene in oracle.dual_scenes(*pair):
        ask(play, times, scene, expectation(scene), scene.name)


# ClusterNetworkPolicy

DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": "clusternetworkpolicies.policy.networking.k8s.io",
        "annotations": {"api-approved.kubernetes.io": "unapproved, as far as tests need it"},
    },
    "spec": {
        "group": "policy.networking.k8s.io",
        "scope": "Cluster",
        "names": {
            "kind": "ClusterNetworkPolicy",
            "plural": "clusternetworkpolicies",
            "singular": "clusternetworkpolicy",
            "shortNames": ["cnp"],
        },
        "versions": [
            {
                "name": "v1alpha2",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "required": ["spec"],
                        "properties": {
                            "spec": {
                                "type": "object",
                                "required": ["tier", "priority", "subject"],
                                "x-kubernetes-preserve-unknown-fields": True,
                                "properties": {
                                    "tier": {"type": "string", "enum": ["Admin", "Baseline"]},
                                    "priority": {"type": "integer", "minimum": 0, "maximum": 1000},
                                },
                            },
                            "status": {
                                "type": "object",
                                "x-kubernetes-preserve-unknown-fields": True,
                            },
                        },
                    }
                },
            }
        ],
    },
}
"""As much of sigs.k8s.io/network-policy-api's as an API server needs to keep the objects."""


HOST_PORT = int(HOST_PORTS[0].partition("/")[0])


def host_pods(scene: Scene, addresses: dict[str, str]) -> Iterator[Manifest]:
    """The pods that use their nodes' own network, one a node; UDP on the node's address alone, so
    that it answers from there."""
    for number, node in enumerate(sorted(scene.nodes)):
        probe = {"tcpSocket": {"port": HOST_PORT}, "periodSeconds": 1}
        # The program ends with its input.
        container = {
            "name": "serve",
            "stdin": True,
            "readinessProbe": probe,
            **program(LISTEN_ON_HOST, addresses[node], *HOST_PORTS),
        }
        yield {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"centaur-{number}",
                "namespace": "network-policy-conformance-forbidden-forrest",
                "labels": {"conformance-house": "forbidden-forrest"},
            },
            "spec": {
                "nodeName": NODES[node],
                "hostNetwork": True,
                "containers": [container],
                **SPEC,
            },
        }


@pytest.fixture(scope="module")
def defined(kube_lab: Lab) -> None:
    """The API server serves ClusterNetworkPolicies from now on, as long as it lives."""
    (resource,) = CLUSTER_NETWORK_POLICIES.resources
    text = msgspec.json.encode(DEFINITION).decode()
    cluster.kubectl(kube_lab, "apply", "-f", "-", stdin=text)
    eventually(
        "they are served",
        lambda: cluster.kubectl(kube_lab, "get", "--raw", resource.path(), check=False),
        seconds=30,
    )
    # By itself the connector looks for a kind that was not there every half a minute.
    cluster.steer(kube_lab, FIRST, "restart", "plait-kubernetes")


@pytest.fixture(scope="module")
def cluster_play(kube_lab: Lab, defined: None) -> Iterator[ClusterStage]:
    scene = next(oracle.conformance()[0].scenes())
    addresses = {name: layout.address4(kube_lab.plan.hosts[NODES[name]]) for name in scene.nodes}
    fixed = {
        node.spec.addresses[0].partition("/")[0]: addresses[name]
        for name, node in scene.nodes.items()
    }
    beside = host_pods(scene, addresses)
    with staged(kube_lab, lambda pod: NODES[pod.node], fixed=fixed, beside=beside) as made:
        yield made


def other(address: str) -> str:
    """What stands for the address of the other family, which the fixture does not have."""
    _, _, high, low = address.split(".")
    return str(ipaddress.ip_address(f"fd00:10:244:{high}::{low}"))


def with_both_families(scene: Scene) -> Scene:
    """Pods have both families, and where no policy means one of them alone, probes too."""
    pods = {
        key: msgspec.structs.replace(pod, other=other(pod.ip)) for key, pod in scene.pods.items()
    }
    more = tuple(
        msgspec.structs.replace(probe, address=pods[probe.dst].other)
        for probe in scene.probes
        if probe.dst in pods and means_any_family(scene)
    )
    return msgspec.structs.replace(scene, pods=pods, probes=scene.probes + more)


def means_any_family(scene: Scene) -> bool:
    """No policy names a range of addresses of one family without its like of the other."""
    ranges: list[str] = []
    for policy in scene.policies.values():
        for rule in policy["spec"].get("egress") or ():
            for peer in rule["to"]:
                ranges += peer.get("networks", ())
    return {*ranges} <= {"0.0.0.0/0", "::/0"}


@pytest.mark.parametrize(
    "test",
    [
        pytest.param(
            test, id=test.name, marks=() if test.name in TYPICAL_CLUSTER else pytest.mark.slow
        )
        for test in oracle.conformance()
    ],
)
def test_cluster_network_policy(
    cluster_play: ClusterStage, times: Times, test: Conformance
) -> None:
    for scene in map(with_both_families, test.scenes()):
        ask(cluster_play, times, scene, expectation(scene), scene.name)
