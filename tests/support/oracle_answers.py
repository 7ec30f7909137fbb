"""What the evaluator says to the oracle's questions, held against what Kubernetes says."""

from __future__ import annotations

from tests.support.oracle import Probe, Scene

from plait.policy.evaluate import Verdict, evaluate
from plait.policy.flow import Flow
from plait.policy.world import World


def differing(world: World, scene: Scene) -> list[str]:
    """Probes of the scene that are answered otherwise in this world."""
    found = []
    for probe in scene.probes:
        verdict = _ask(world, scene, probe)
        said = (verdict.egress.allowed, verdict.ingress.allowed, verdict.allowed)
        expected = (
            said[0] if probe.egress is None else probe.egress,
            said[1] if probe.ingress is None else probe.ingress,
            probe.allowed,
        )
        if said != expected:
            found.append(f"{probe}: {said}, should be {expected}")
    return found


def _ask(world: World, scene: Scene, probe: Probe) -> Verdict:
    address = probe.address or scene.pods[probe.dst].ip
    src = world.party(scene.pods[probe.src].speaking_to(address))
    return evaluate(world, Flow(src, world.party(address), probe.protocol, probe.port))
