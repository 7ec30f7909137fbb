"""Kubernetes' own answers, against the evaluator: every case, every step, every probe."""

from __future__ import annotations

import pytest
from tests.support.oracle import Case, Conformance, Family, Scene, cases, conformance, needs_oracle

from plait.policy.evaluate import Verdict, evaluate
from plait.policy.flows import Flow
from plait.policy.world import World

CASES = [case for family in (4, 6) for case in cases(family)]


def wrong(scene: Scene) -> list[str]:
    """Probes that are answered otherwise than Kubernetes answers them."""
    world = World.of(scene.objects())
    found = []
    for probe in scene.probes:
        verdict = _ask(world, scene, probe.src, probe.address or probe.dst, probe)
        said = (verdict.egress.allowed, verdict.ingress.allowed, verdict.allowed)
        expected = (
            said[0] if probe.egress is None else probe.egress,
            said[1] if probe.ingress is None else probe.ingress,
            probe.allowed,
        )
        if said != expected:
            found.append(f"{probe}: {said}, should be {expected}")
    return found


def _ask(world: World, scene: Scene, src: str, dst: str, probe: object) -> Verdict:
    address = scene.pods[dst].ip if dst in scene.pods else dst
    flow = Flow(
        world.party(scene.pods[src].ip),
        world.party(address),
        probe.protocol,  # type: ignore[attr-defined]
        probe.port,  # type: ignore[attr-defined]
    )
    return evaluate(world, flow)


@needs_oracle
def test_all_of_the_oracle_is_there() -> None:
    both: tuple[Family, ...] = (4, 6)
    for family in both:
        found = cases(family)
        assert len(found) == 230
        assert sum(len(case.data["steps"]) for case in found) == 256
    assert len(conformance()) == 24
    assert sum(len(s.probes) for test in conformance() for s in test.scenes()) == 301


@needs_oracle
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"v{case.family}-{case.id}")
def test_network_policy(case: Case) -> None:
    for scene in case.scenes():
        assert wrong(scene) == [], scene.name


@needs_oracle
@pytest.mark.parametrize("test", conformance(), ids=lambda test: test.name)
def test_cluster_network_policy(test: Conformance) -> None:
    for scene in test.scenes():
        assert wrong(scene) == [], scene.name
