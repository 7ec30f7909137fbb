"""A host reaches its own containers whatever their policies: kubelet probes them so."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.lab.census import server_objects, status
from tests.lab.cni.conftest import SILENCE, Box
from tests.lab.conftest import eventually

from plait.lab.workloads import PLAIT
from plait.model.objects import Policy

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("nothing_stays")]

NOBODY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "nobody", "namespace": "default"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
}
"""Nobody may talk to anybody."""
PORT = 8080


@pytest.fixture
def deny_all(box: Box) -> Iterator[None]:
    applied = box.lab.run(box.host, [*PLAIT, "apply", "-f", "-"], stdin=json.dumps(NOBODY))
    assert applied.returncode == 0
    revision = max(p.metadata.revision for p in server_objects(box.lab, Policy))
    eventually(
        "the agent has heard of it",
        lambda: (said := status(box.lab, box.host)) and said.applied >= revision,
    )
    yield
    box.lab.run(box.host, [*PLAIT, "delete", "-f", "-"], stdin=json.dumps(NOBODY))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_the_host_reaches_what_nobody_else_may(
    box: Box, deny_all: None, proto: str, family: int
) -> None:
    network, server, client = box.network(), box.container(), box.container()
    network.add(server)
    network.add(client)
    address = next(
        a.partition("/")[0] for a in box.addresses(server) if (":" in a) == (family == 6)
    )
    with box.serving(server, proto, PORT):
        # Policies stand when the ADD returns.
        assert not box.ask(client, proto, address, PORT, SILENCE)
        eventually("the host is answered", lambda: box.ask(None, proto, address, PORT))
