"""Kubernetes' own answers, against the evaluator: every case, every step, every probe."""

from __future__ import annotations

import msgspec
import pytest
from tests.support.oracle import (
    NETWORK,
    Case,
    Conformance,
    Family,
    Scene,
    cases,
    conformance,
    needs_oracle,
)
from tests.support.oracle_answers import differing
from tests.support.worlds import network

from plait.model.objects import AnyObject
from plait.policy.world import World

CASES = [case for family in (4, 6) for case in cases(family)]
POOLS = network(NETWORK, "10.244.0.0/16", "fd00:10:244::/48")


def wrong(scene: Scene, *more: AnyObject) -> list[str]:
    """Probes that are answered otherwise than Kubernetes answers them."""
    return differing(World.of([*scene.objects(), *more]), scene)


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
