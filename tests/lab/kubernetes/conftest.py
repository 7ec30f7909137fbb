"""One cluster for all scenes: three nodes, and a fourth host with a dockerd, on two sites."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.lab.conftest import made, unique
from tests.lab.kubernetes.stage import Stage

from plait.lab.kubernetes import cluster, programs
from plait.lab.lab import Lab

DOCKER_HOST = "h4"


@pytest.fixture(scope="session")
def kube_lab() -> Iterator[Lab]:
    """Three nodes and a Docker host, with Plait as their network."""
    if gone := programs.missing():
        pytest.skip(f"Kubernetes is not built on this machine ({gone[0]}): scripts/kube")
    with made(unique("kube"), 4, sites=2, kubernetes=3, docker=True) as lab:
        yield lab


@pytest.fixture
def stage(kube_lab: Lab) -> Iterator[Stage]:
    """A namespace that goes with the test."""
    name = unique("scene")
    cluster.kubectl(kube_lab, "create", "namespace", name)
    made_here = Stage(kube_lab, name)
    try:
        made_here.until(
            "the account of pods",
            lambda: made_here.kubectl("get", "serviceaccount", "default", check=False),
        )
        yield made_here
    finally:
        cluster.kubectl(kube_lab, "delete", "namespace", name, "--wait=false", check=False)
