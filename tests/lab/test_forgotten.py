"""A host that is forgotten while it lives: silent as soon as it is told, whole after a join."""

from __future__ import annotations

import json

import pytest
from tests.lab.census import ready, verbs
from tests.lab.conftest import eventually, made, unique

from plait.client.agent_socket import run as at_once
from plait.lab import workloads
from plait.lab.lab import Lab
from plait.lab.state import WorkloadState
from plait.lab.workloads import PLAIT, Order, probe

pytestmark = pytest.mark.root


def _answers(lab: Lab, source: WorkloadState, target: WorkloadState) -> bool:
    orders = [Order(ip=address, port=80, proto="tcp") for address in target.addresses]
    return all(each.result == "connected" for each in probe(lab, source, orders))


def _phases(lab: Lab) -> set[str]:
    return {endpoint.phase for endpoint in at_once(verbs(lab, "h2").endpoints())}


def test_a_forgotten_host_is_silent_until_it_joins_again() -> None:
    with made(unique("forgot"), 2) as lab:
        one = workloads.run(lab, "h2", "one", listen=("80/tcp",))
        two = workloads.run(lab, "h2", "two", listen=("80/tcp",))
        eventually("both talk", lambda: _answers(lab, one, two))
        lab.run("h1", [*PLAIT, "node", "forget", "h2", "--force"])
        eventually("it is told", lambda: _phases(lab) == {"degraded"})
        # Not even to each other: by now the addresses may be others'.
        eventually("they are silent", lambda: not _answers(lab, one, two))
        status = json.loads(lab.run("h2", [*PLAIT, "status", "--json"]).stdout)
        told = [each["text"] for each in status["problems"]]
        assert any("forgotten this node" in text and "plait join" in text for text in told), told
        token = json.loads(lab.run("h1", [*PLAIT, "token", "create", "--json"]).stdout)["token"]
        at = lab.plan.hosts["h1"].interface.address4.partition("/")[0]
        lab.run("h2", [*PLAIT, "join", at, "--token", token])
        eventually("it is a node again", lambda: ready(lab, "h2"))
        eventually("both talk again", lambda: _phases(lab) == {"ready"} and _answers(lab, one, two))
