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
import time
from collections.abc import Iterator, Mapping

import pytest
from tests.lab.policy.stage import OPEN, SHUT, Outcomes, Pod, Probe, Scene, Stage, network, staged
from tests.support import oracle

from plait.lab import hosts
from plait.lab.lab import Lab
from plait.policy.kubernetes import to_policy

pytestmark = [pytest.mark.root, oracle.needs_oracle]

POOLS = ("10.244.0.0/16", "fd00:10:244::/48")
THEIRS, OURS = "10.244.", "10.245."
"""Both fixtures use the same addresses, and both stand in one lab: one of them moves."""
REPRESENTATIVE = {
    *(1, 4, 11, 22, 36, 70, 123, 134, 145, 149, 179, 216),  # every tag of the data
    *(193, 195, 196, 198, 199, 221, 223, 224, 225, 226, 227, 230),  # everything that changes
}
SOON = {
    f"CNP{name}"
    for name in (
        *("AdminTierEgressNodePeers", "AdminTierIntegration", "AdminTierPriorityField"),
        "BaselineTierEgressNamedPort",
    )
}


class Times:
    """What was asked and how long it took."""

    def __init__(self) -> None:
        self.scenes = self.probes = 0
        self.enforcing = self.probing = 0.0

    def __str__(self) -> str:
        return (
            f"{self.scenes} scenes, {self.probes} probes: {self.enforcing:.1f} s until enforced, "
            f"{self.probing:.1f} s of probes"
        )


@pytest.fixture(scope="module")
def times(request: pytest.FixtureRequest) -> Iterator[Times]:
    """Told at the end of the module."""
    found = Times()
    yield found
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():
        print(f"\n{request.node.name}: {found}")


def ask(
    stage: Stage, times: Times, scene: Scene, expected: Mapping[Probe, Outcomes], name: str
) -> None:
    begun = time.monotonic()
    stage.show(scene)
    enforced = time.monotonic()
    wrong = stage.wrong(expected)
    times.enforcing += enforced - begun
    times.probing += time.monotonic() - enforced
    times.scenes += 1
    times.probes += len(expected)
    assert not wrong, f"{name}: {len(wrong)} of {len(expected)} differ, such as " + "; ".join(
        map(str, wrong[:5])
    )


# NetworkPolicy


@pytest.fixture(scope="module")
def stage(policy_lab: Lab) -> Iterator[Stage]:
    with staged(policy_lab, network(oracle.NETWORK, *POOLS)) as made:
        yield made


def place(key: str) -> str:
    """Pods of a namespace stand on different hosts, and pods of a host in different namespaces."""
    return f"h{sum(map(ord, key)) % 3 + 1}"


def dual(four: oracle.Scene, six: oracle.Scene) -> tuple[Pod, ...]:
    """The pods of a scene, with the addresses of both families."""
    return tuple(
        Pod(
            namespace=pod.namespace,
            name=pod.name,
            host=place(key),
            labels=pod.labels,
            addresses=(pod.ip, six.pods[key].ip),
            listen=listening(pod),
            named_ports=pod.ports,
            network=oracle.NETWORK,
        )
        for key, pod in four.pods.items()
    )


def listening(pod: oracle.Pod) -> tuple[str, ...]:
    return tuple(f"{port}/{protocol}" for protocol, port in pod.listens)


def expectation(scene: oracle.Scene) -> dict[Probe, Outcomes]:
    return {
        Probe(p.src, scene.pods[p.dst].ip, p.port, p.protocol.lower()): (
            OPEN if p.allowed else SHUT
        )
        for p in scene.probes
    }


def cases() -> list[object]:
    """Pairs of the same case in both families; the others for a full run."""
    pairs = zip(oracle.cases(4), oracle.cases(6), strict=True)
    return [
        pytest.param(
            *pair,
            id=f"{pair[0].id}",
            marks=() if pair[0].id in REPRESENTATIVE else pytest.mark.slow,
        )
        for pair in pairs
    ]


@pytest.mark.parametrize(("four", "six"), cases())
def test_network_policy(stage: Stage, times: Times, four: oracle.Case, six: oracle.Case) -> None:
    for by_four, by_six in zip(four.scenes(), six.scenes(), strict=True):
        pods = dual(by_four, by_six)
        same = by_four.policies == by_six.policies
        for scene in (by_four,) if same else (by_four, by_six):
            expected = expectation(scene) | (expectation(by_six) if same else {})
            shown = Scene(
                pods=pods,
                namespaces=scene.namespaces,
                objects=tuple(map(to_policy, scene.policies.values())),
            )
            ask(stage, times, shown, expected, scene.name)


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


LISTEN_ON_HOST = """
import asyncio, sys
from plait.lab import workload
async def main(address, *ports):
    udp = [int(port.removesuffix("/udp")) for port in ports if port.endswith("/udp")]
    await workload.listen("host", [port for port in ports if not port.endswith("/udp")])
    loop = asyncio.get_running_loop()
    for port in udp:
        await loop.create_datagram_endpoint(
            lambda: workload.Udp("host"), local_addr=(address, port))
    print("ready", flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
asyncio.run(main(*sys.argv[1:]))
"""
HOST_PORTS = (
    *("34345/tcp", "34346/tcp", "34348/tcp", "34350/tcp"),
    *("34347/udp", "34349/udp", "34351/sctp", "34352/sctp"),
)
"""What the pods on the hosts' own network serve; UDP on the host's own address alone, so that it
answers from there."""


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
            Probe(p.src, nodes.here(p.address), p.port, p.protocol.lower()): (
                OPEN if p.allowed else SHUT
            )
            for p in scene.probes
        }
        manifests = json.loads(json.dumps([*scene.policies.values()]).replace(THEIRS, OURS))
        shown = Scene(
            pods=pods,
            namespaces=scene.namespaces,
            objects=(*map(to_policy, manifests), *scene.own),
        )
        ask(cnp_stage, times, shown, expected, scene.name)
