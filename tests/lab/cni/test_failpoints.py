"""kill -9 of the agent at each step of an ADD and of a DEL, as a container runtime meets it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab.census import assert_back, at_rest
from tests.lab.cni.conftest import Box, now, refused, request
from tests.lab.conftest import eventually, made, unique
from tests.lab.victim import Victim, mortal
from tests.support.libcni import Attachment, Network

from plait.agent.failpoints import FAILPOINTS
from plait.lab.lab import Lab

pytestmark = pytest.mark.root

HOST = "h2"
TRY_AGAIN = 11
ATTACH = [name for name in FAILPOINTS if name.startswith("attach.")]
DETACH = [name for name in FAILPOINTS if name.startswith("detach.")]
ALL_OF_IT: dict[str, Any] = {
    "portMappings": [{"hostPort": 8083, "containerPort": 80, "protocol": "tcp"}],
    "bandwidth": {
        "ingressRate": 8_000_000,
        "ingressBurst": 800_000,
        "egressRate": 8_000_000,
        "egressBurst": 800_000,
    },
}
"""So that an attach has every step there is."""


@pytest.fixture(scope="module")
def own_lab() -> Iterator[Lab]:
    with made(unique("cnidead"), 2) as lab:
        yield lab


@pytest.fixture(scope="module")
def victim(own_lab: Lab) -> Iterator[Victim]:
    with mortal(own_lab, HOST) as victim:
        yield victim


@pytest.fixture(scope="module")
def before(victim: Victim, shim: Path) -> frozenset[str]:
    """The host with blocks claimed, and nothing attached."""
    box = Box(victim.lab, HOST, shim)
    network, at = box.network(), box.container()
    network.add(at, **ALL_OF_IT)
    network.delete(at)
    box.clean()
    return at_rest(victim.lab, HOST)


@pytest.fixture
def box(victim: Victim, shim: Path, before: frozenset[str]) -> Iterator[Box]:
    box = Box(victim.lab, HOST, shim)
    try:
        yield box
    finally:
        victim.disarm()
        box.clean()


def add(network: Network, at: Attachment) -> Any:
    return network.add(at, **ALL_OF_IT)


@pytest.mark.parametrize("step", ATTACH)
def test_add(box: Box, victim: Victim, before: frozenset[str], step: str) -> None:
    """The runtime hears that it may try again; it calls DEL first, and then ADD works."""
    network, at = box.network(), box.container()
    victim.arm(step)
    refused(TRY_AGAIN, lambda: add(network, at))
    victim.died()
    network.delete(at, cached=False)
    eventually("its interface is gone", lambda: box.links(at) == ["lo"])
    add(network, at)
    network.check(at)
    network.delete(at)
    network.gc([])
    assert_back(victim.lab, HOST, before)


@pytest.mark.parametrize("step", ["attach.journaled", "attach.programmed", "attach.done"])
def test_an_add_of_which_nobody_calls_del_is_found_by_gc(
    box: Box, victim: Victim, before: frozenset[str], step: str
) -> None:
    network, at = box.network(), box.container()
    victim.arm(step)
    refused(TRY_AGAIN, lambda: add(network, at))
    victim.died()
    network.gc([])
    assert box.endpoints() == ()
    assert_back(victim.lab, HOST, before)


def test_the_order_of_calls_is_kept_over_a_kill(
    box: Box, victim: Victim, before: frozenset[str]
) -> None:
    """An ADD after its own DEL, a DEL after the next ADD; the agent was killed in between."""
    network, at, began = box.network(), box.container(), now()
    network.delete(at)
    victim.kill()
    status, said = box.post(request("ADD", at, began))
    assert (status, said["code"]) == (TRY_AGAIN, TRY_AGAIN)
    assert box.endpoints() == ()
    began = now()
    add(network, at)
    victim.kill()
    assert box.post(request("DEL", at, began)) == (0, None)
    network.check(at)
    network.delete(at)
    network.gc([])
    assert_back(victim.lab, HOST, before)


@pytest.mark.parametrize("step", DETACH)
@pytest.mark.parametrize("namespace", ["there", "gone"])
def test_del(box: Box, victim: Victim, before: frozenset[str], step: str, namespace: str) -> None:
    """The shim keeps what the agent could not answer, so the runtime need not call again."""
    network, at = box.network(), box.container()
    add(network, at)
    victim.arm(step)
    network.delete(at)
    if namespace == "gone":
        box.sh("ip", "netns", "delete", at.container)
    victim.died()
    network.gc([])
    assert_back(victim.lab, HOST, before)
