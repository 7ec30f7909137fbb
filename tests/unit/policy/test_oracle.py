"""Kubernetes' own answers, against the evaluator: every case, every step, every probe."""

from __future__ import annotations

import msgspec
import pytest
from tests.support.oracle import (
    NETWORK,
    Case,
    Conformance,
    Family,
    Probe,
    Scene,
    cases,
    conformance,
    needs_oracle,
)
from tests.support.worlds import network

from plait.model.objects import AnyObject
from plait.policy.evaluate import Verdict, evaluate
from plait.policy.flow import Flow
from plait.policy.world import World

CASES = [case for family in (4, 6) for case in cases(family)]


POOLS = network(NETWORK, "10.244.0.0/16", "fd00:10:244::/48")


def wrong(scene: Scene, *more: AnyObject) -> list[str]:
    """Probes that are answered otherwise than Kubernetes answers them."""
    world = World.of([*scene.objects(), *more])
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
    src = world.party(scene.pods[probe.src].ip)
    dst = world.party(probe.address or scene.pods[probe.dst].ip)
    return evaluate(world, Flow(src, dst, probe.protocol, probe.port))


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
        assert wrong(scene, POOLS) == [], scene.name


@needs_oracle
@pytest.mark.parametrize("test", conformance(), ids=lambda test: test.name)
def test_cluster_network_policy(test: Conformance) -> None:
    for scene in test.scenes():
        assert wrong(scene, POOLS) == [], scene.name
        # Without a Network the default of hosts is Kubernetes' own.
        assert wrong(msgspec.structs.replace(scene, own=())) == [], scene.name
