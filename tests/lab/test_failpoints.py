"""kill -9 of the agent at each step of every verb: a retry or a detach succeeds, nothing leaks."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from tests.lab.census import assert_back, at_rest, census, ready, server_objects, verbs
from tests.lab.conftest import eventually, made, unique
from tests.lab.victim import Victim, mortal

from plait.agent.failpoints import FAILPOINTS
from plait.client.agent import AttachRequest, EndpointIdentity
from plait.client.agent_socket import run as at_once
from plait.lab import workloads
from plait.lab.lab import Lab
from plait.lab.state import WorkloadState
from plait.model.errors import PlaitError
from plait.model.objects import AddressBlock, PublishedPort, Workload

pytestmark = pytest.mark.root

HOST = "h2"
LIMITED = "attach.programmed.shapers"
"""Endpoints without limits of speed never come there: see tests/lab/cni/test_failpoints.py."""
ATTACH = [name for name in FAILPOINTS if name.startswith("attach.") and name != LIMITED]
DETACH = [name for name in FAILPOINTS if name.startswith("detach.")]
ENDPOINT = re.compile(r"^p[lt][0-9a-f]{11}", re.MULTILINE)
QUICK = ("attach.begin", "attach.journaled", "attach.programmed.gate", "attach.programmed")
IMAGE = ("busybox", "sleep", "600")


@pytest.fixture(scope="module")
def own_lab() -> Iterator[Lab]:
    """Hosts of this file's own: what other tests let go of may go minutes later."""
    with made(unique("victim"), 2, docker=True) as lab:
        yield lab


@pytest.fixture(scope="module")
def victim(own_lab: Lab) -> Iterator[Victim]:
    with mortal(own_lab, HOST) as victim:
        yield victim


@pytest.fixture(scope="module")
def load(own_lab: Lab) -> Iterator[WorkloadState]:
    """A process in a network namespace of its own, attached to nothing."""
    load = workloads.start(own_lab, HOST, unique("victim"), ())
    try:
        yield load
    finally:
        workloads.kill(load)


@pytest.fixture
def before(victim: Victim) -> Iterator[frozenset[str]]:
    """The host before anything was attached, with a block claimed and its agent at ease."""
    eventually("the agent is ready", lambda: ready(victim.lab, HOST))
    eventually("no link is on its way out", lambda: not ENDPOINT.search(links(victim)))
    yield at_rest(victim.lab, HOST)
    victim.disarm()
    for endpoint in at_once(verbs(victim.lab, HOST).endpoints()):
        if endpoint.request.workload.runtime != "docker":
            at_once(verbs(victim.lab, HOST).detach(endpoint.request.id))
    victim.docker("rm", "-f", "victim")


@pytest.fixture(scope="module", autouse=True)
def claimed(victim: Victim, load: WorkloadState) -> None:
    """The node's blocks are there: a claim is a step of its own, below."""
    assert victim.plait("attach", str(load.inner_pid))[0] == 0
    assert victim.plait("detach", str(load.inner_pid))[0] == 0


def links(victim: Victim) -> str:
    return victim.lab.run(HOST, ["ip", "-br", "link"]).stdout


def published(port: int) -> tuple[PublishedPort, ...]:
    return (PublishedPort(protocol="tcp", port=80, host_port=port),)


def request(ident: str, load: WorkloadState, *, identified: bool = True) -> AttachRequest:
    return AttachRequest(
        id=ident,
        network="plait",
        name="victim",
        netns=f"/proc/{load.inner_pid}/ns/net",
        workload=Workload(runtime="process", id=str(load.inner_pid)),
        identified=identified,
    )


@pytest.mark.parametrize("step", ATTACH)
@pytest.mark.parametrize("then", ["retry", "detach"])
def test_attach(
    victim: Victim, load: WorkloadState, before: frozenset[str], step: str, then: str
) -> None:
    victim.arm(step)
    code, said = victim.plait("attach", str(load.inner_pid), "--publish", "8080:80")
    assert code != 0, said
    victim.died()
    if then == "retry":
        code, said = victim.plait("attach", str(load.inner_pid), "--publish", "8080:80")
        assert code == 0, said
    code, said = victim.plait("detach", str(load.inner_pid))
    assert code == 0, said
    assert_back(victim.lab, HOST, before)


@pytest.mark.parametrize("step", DETACH)
def test_detach(victim: Victim, load: WorkloadState, before: frozenset[str], step: str) -> None:
    code, said = victim.plait("attach", str(load.inner_pid), "--publish", "8080:80")
    assert code == 0, said
    victim.arm(step)
    code, said = victim.plait("detach", str(load.inner_pid))
    assert code != 0, said
    victim.died()
    code, said = victim.plait("detach", str(load.inner_pid))
    assert code == 0, said
    assert_back(victim.lab, HOST, before)


def test_identify_and_publish(victim: Victim, load: WorkloadState, before: frozenset[str]) -> None:
    agent = verbs(victim.lab, HOST)
    at_once(agent.attach(request("fp-change", load, identified=False)))

    def identify() -> None:
        at_once(
            agent.identify(
                "fp-change",
                EndpointIdentity(
                    name="known",
                    aliases=(),
                    labels={},
                    namespace="default",
                    workload=Workload(runtime="process", id=str(load.inner_pid)),
                ),
            )
        )

    def publish() -> None:
        at_once(agent.publish("fp-change", published(8081)))

    for step, change in (("identify.journaled", identify), ("publish.journaled", publish)):
        victim.arm(step)
        with pytest.raises(PlaitError):
            change()
        victim.died()
        change()
    (known,) = at_once(agent.endpoints())
    assert (known.phase, known.request.name, known.request.ports) == (
        "ready", "known", published(8081),
    )  # fmt: skip
    assert at_once(agent.detach("fp-change"))
    assert_back(victim.lab, HOST, before)


def test_claim(victim: Victim, load: WorkloadState, before: frozenset[str]) -> None:
    """A node claims blocks of a new network by itself; the claim that it forgot is its own."""
    network = unique("fp")
    victim.arm("claim.created")
    assert victim.plait("network", "create", network)[0] == 0
    eventually("the step was come to", lambda: victim.struck)
    victim.died()
    code, said = victim.plait("attach", str(load.inner_pid), "--network", network)
    assert code == 0, said
    blocks = [
        block.spec.cidr
        for block in server_objects(victim.lab, AddressBlock)
        if (block.spec.network, block.spec.node) == (network, HOST)
    ]
    assert len(blocks) == 2, "one for each family"
    assert victim.plait("detach", str(load.inner_pid))[0] == 0
    removed = ("network", "rm", network)
    eventually("the network can go", lambda: victim.plait(*removed)[0] == 0)
    assert_back(victim.lab, HOST, before)


def test_reserve(victim: Victim, before: frozenset[str]) -> None:
    agent = verbs(victim.lab, HOST)
    victim.arm("reserve.journaled")
    with pytest.raises(PlaitError):
        at_once(agent.reserve("plait", 4))
    victim.died()
    held = [
        line.split()[-1] for line in census(victim.lab, HOST) if line.startswith("journal held")
    ]
    assert len(held) == 1, "an address that was promised to nobody waits to be let go"
    at_once(agent.release("plait", held[0]))
    assert_back(victim.lab, HOST, before)


FORGET = 90.0
"""Seconds in which an endpoint is let go that dockerd does not know of: it asked for it, did not
hear the answer and gave up. Until then the request may still be on its way."""


@pytest.mark.docker
@pytest.mark.parametrize(
    "step",
    [
        # dockerd waits before it asks again, and what it gave up is found a while later.
        *(pytest.param(step, marks=[] if step in QUICK else pytest.mark.slow) for step in ATTACH),
        "publish.journaled",
        "identify.journaled",
    ],
)
def test_docker_run(victim: Victim, before: frozenset[str], step: str) -> None:
    """dockerd asks again by itself, so most runs succeed in spite of the crash."""
    victim.arm(step)
    run = ("run", "-d", "--name", "victim", "--network", "plait", "-p", "8082:80", *IMAGE)
    code, said = victim.docker(*run)
    eventually("the step was come to", lambda: victim.struck)
    victim.died()
    if code != 0:
        victim.docker("rm", "-f", "victim")
        code, said = victim.docker(*run)
    assert code == 0, said
    eventually("the container is known by its name", lambda: known(victim))
    code, said = victim.docker("rm", "-f", "victim")
    assert code == 0, said
    assert_back(victim.lab, HOST, before, FORGET)


def known(victim: Victim) -> bool:
    """The container has its name, and so traffic."""
    found = at_once(verbs(victim.lab, HOST).endpoints())
    return any((e.request.name, e.phase) == ("victim", "ready") for e in found)


@pytest.mark.docker
@pytest.mark.parametrize(
    "step",
    # What dockerd gave up to detach is found when it is missing for long enough.
    [pytest.param("detach.begin", marks=pytest.mark.slow), *DETACH[1:]],
)
def test_docker_rm(victim: Victim, before: frozenset[str], step: str) -> None:
    code, said = victim.docker("run", "-d", "--name", "victim", "--network", "plait", *IMAGE)
    assert code == 0, said
    victim.arm(step)
    victim.docker("rm", "-f", "victim")
    victim.died()
    victim.docker("rm", "-f", "victim")
    assert_back(victim.lab, HOST, before, FORGET)


@pytest.mark.docker
def test_docker_run_with_a_chosen_address(victim: Victim, before: frozenset[str]) -> None:
    """dockerd asks for the same address again; what was held for it is given to it."""
    (block,) = (
        block.spec.cidr
        for block in server_objects(victim.lab, AddressBlock)
        if (block.spec.network, block.spec.node) == ("plait", HOST) and "." in block.spec.cidr
    )
    network, _, last = block.partition("/")[0].rpartition(".")
    chosen = f"{network}.{int(last) + 40}"
    victim.arm("reserve.journaled")
    run = ("run", "-d", "--name", "victim", "--network", "plait", "--ip", chosen, *IMAGE)
    code, said = victim.docker(*run)
    victim.died()
    if code != 0:
        victim.docker("rm", "-f", "victim")
        code, said = victim.docker(*run)
    assert code == 0, said
    victim.docker("rm", "-f", "victim")
    assert_back(victim.lab, HOST, before, FORGET)
