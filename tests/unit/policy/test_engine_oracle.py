"""Kubernetes' own answers, against the compiled rules: the sender's host walks its rules for
egress, the receiver's for ingress. The changes of a case reach the same engines one by one."""

from __future__ import annotations

import pytest
from tests.support.oracle import (
    Case,
    Conformance,
    Probe,
    Scene,
    cases,
    conformance,
    needs_oracle,
)
from tests.support.policies import local

from plait.model.objects import AnyObject, Endpoint
from plait.policy.engine import Engine
from plait.policy.walk import Packet, Walker

CASES = [case for family in (4, 6) for case in cases(family)]
NODES = ("node-1", "node-2")


class Hosts:
    """The engines of all hosts, which follow from scene to scene."""

    def __init__(self) -> None:
        self._engines = {node: Engine(node) for node in NODES}
        self._there: dict[str, AnyObject] = {}
        self._walkers: dict[str, Walker] = {}

    def follow(self, scene: Scene) -> None:
        wanted = {obj.key: obj for obj in scene.objects()}
        for key, obj in self._there.items():
            if key not in wanted:
                self._tell(obj, there=False)
        for key, obj in wanted.items():
            if self._there.get(key) != obj:
                self._tell(obj, there=True)
        self._there = wanted
        self._walkers = {n: Walker(engine.ruleset()) for n, engine in self._engines.items()}

    def _tell(self, obj: AnyObject, *, there: bool) -> None:
        for node, engine in self._engines.items():
            (engine.put if there else engine.delete)(obj)
            if isinstance(obj, Endpoint) and obj.spec.node == node:
                engine.set_local(obj.key, local(obj) if there else None)

    def egress(self, scene: Scene, probe: Probe, address: str) -> bool:
        pod = scene.pods[probe.src]
        packet = Packet("egress", pod.ip, address, probe.protocol.lower(), probe.port)
        return self._walkers[pod.node].walk(packet).accepted

    def ingress(self, scene: Scene, probe: Probe) -> bool:
        pod = scene.pods.get(probe.dst)
        if pod is None:
            return True
        source = scene.pods[probe.src].ip
        packet = Packet("ingress", source, pod.ip, probe.protocol.lower(), probe.port)
        return self._walkers[pod.node].walk(packet).accepted


def wrong(hosts: Hosts, scene: Scene) -> list[str]:
    """Probes that are answered otherwise than Kubernetes answers them."""
    hosts.follow(scene)
    found = []
    for probe in scene.probes:
        pod = scene.pods.get(probe.dst)
        address = probe.address or (pod.ip if pod else "")
        egress, ingress = hosts.egress(scene, probe, address), hosts.ingress(scene, probe)
        expected = (
            egress if probe.egress is None else probe.egress,
            ingress if probe.ingress is None else probe.ingress,
            probe.allowed,
        )
        if (egress, ingress, egress and ingress) != expected:
            found.append(f"{probe}: {egress, ingress}, should be {expected}")
    return found


@needs_oracle
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"v{case.family}-{case.id}")
def test_network_policy(case: Case) -> None:
    hosts = Hosts()
    for scene in case.scenes():
        assert wrong(hosts, scene) == [], scene.name


@needs_oracle
@pytest.mark.parametrize("test", conformance(), ids=lambda test: test.name)
def test_cluster_network_policy(test: Conformance) -> None:
    hosts = Hosts()
    for scene in test.scenes():
        assert wrong(hosts, scene) == [], scene.name
