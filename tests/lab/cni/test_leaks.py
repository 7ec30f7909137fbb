"""Whatever happens to a container, nothing of it stays: a census before, and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.lab.census import assert_back, at_rest, ready
from tests.lab.cni.conftest import Box
from tests.lab.cni.test_failpoints import ALL_OF_IT, HOST
from tests.lab.conftest import eventually, made, unique
from tests.support.libcni import Attachment, Network, PluginError

from plait.lab import bringup, daemons
from plait.lab.lab import Lab
from plait.wire.cni import errors

pytestmark = pytest.mark.root

AT_ONCE = 20
SHAPED: dict[str, Any] = {"bandwidth": ALL_OF_IT["bandwidth"]}


@pytest.fixture(scope="module")
def own_lab() -> Iterator[Lab]:
    with made(unique("cnileak"), 2) as lab:
        yield lab


@pytest.fixture(scope="module")
def before(own_lab: Lab, shim: Path) -> frozenset[str]:
    """The host with blocks claimed, and nothing attached."""
    box = Box(own_lab, HOST, shim)
    network = box.network()
    # As many as will be at once: each block that they need is claimed, and stays.
    containers = [box.container() for _ in range(AT_ONCE)]
    outcomes([lambda at=at: network.add(at) for at in containers])
    outcomes([lambda at=at: network.delete(at) for at in containers])
    box.clean()
    return at_rest(own_lab, HOST)


@pytest.fixture
def box(own_lab: Lab, shim: Path, before: frozenset[str]) -> Iterator[Box]:
    box = Box(own_lab, HOST, shim)
    try:
        yield box
    finally:
        box.clean()


def outcomes(work: list[Callable[[], Any]]) -> list[int]:
    """What several calls at once end in: 0, or the code of the error."""

    def one(call: Callable[[], Any]) -> int:
        try:
            call()
        except PluginError as error:
            return error.code
        return 0

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(one, work))


def nothing_left(box: Box, network: Network, before: frozenset[str]) -> None:
    """GC finds nothing to do, and the host is as it was."""
    eventually("no endpoint is left", lambda: box.endpoints() == ())
    network.gc([])
    assert_back(box.lab, box.host, before)


def test_many_adds_and_dels_of_one_container(box: Box, before: frozenset[str]) -> None:
    network, at = box.network(), box.container()
    codes = sorted(outcomes([lambda: network.add(at, **ALL_OF_IT)] * AT_ONCE))
    assert codes == [0] + [errors.INTERFACE_EXISTS] * (AT_ONCE - 1)
    assert len(box.endpoints()) == 1
    assert outcomes([lambda: network.delete(at, cached=False)] * AT_ONCE) == [0] * AT_ONCE
    nothing_left(box, network, before)


def test_adds_and_dels_of_one_container_mixed(box: Box, before: frozenset[str]) -> None:
    """They overtake each other; the last word is a DEL."""
    network, at = box.network(), box.container()
    calls = [lambda: network.add(at, **SHAPED), lambda: network.delete(at, cached=False)]
    outcomes(calls * (AT_ONCE // 2))
    network.delete(at, cached=False)
    eventually("its interface is gone", lambda: box.links(at) == ["lo"])
    nothing_left(box, network, before)


def test_many_containers_at_once(box: Box, before: frozenset[str]) -> None:
    network = box.network()
    containers = [box.container() for _ in range(AT_ONCE)]
    adds = [lambda at=at: network.add(at, **SHAPED) for at in containers]
    assert outcomes(adds) == [0] * AT_ONCE
    dels = [lambda at=at: network.delete(at) for at in containers]
    assert outcomes(dels) == [0] * AT_ONCE
    nothing_left(box, network, before)


def test_namespaces_that_vanish_during_their_add(box: Box, before: frozenset[str]) -> None:
    """Each ADD races with the end of its namespace; no DEL ever comes."""
    network = box.network()
    containers = [box.container() for _ in range(AT_ONCE // 2)]

    def end(at: Attachment) -> None:
        box.sh("ip", "netns", "delete", at.container)

    work: list[Callable[[], Any]] = []
    for at in containers:
        work += [lambda at=at: network.add(at, **SHAPED), lambda at=at: end(at)]
    outcomes(work)
    nothing_left(box, network, before)


@pytest.mark.parametrize("then", ["nothing", "del", "gc"])
def test_namespaces_that_vanish_after_their_add(
    box: Box, before: frozenset[str], then: str
) -> None:
    """The agent sees them go; a DEL that comes later, or a GC, has nothing to do."""
    network = box.network()
    containers = [box.container() for _ in range(4)]
    for at in containers:
        network.add(at, **SHAPED)
    for at in containers:
        box.sh("ip", "netns", "delete", at.container)
    for at in containers:
        if then == "del":
            network.delete(Attachment(at.container, "", at.ifname), cached=False)
    if then == "gc":
        network.gc([])
    nothing_left(box, network, before)


def test_dels_while_no_agent_runs(box: Box, before: frozenset[str]) -> None:
    network = box.network()
    containers = [box.container() for _ in range(4)]
    for at in containers:
        network.add(at, **SHAPED)
    daemons.steer(box.lab, box.host, "stop", "agent")
    for at in containers:
        for _ in range(5):
            network.delete(at, cached=False)
        box.sh("ip", "netns", "delete", at.container)
    daemons.steer(box.lab, box.host, "start", "agent")
    eventually("the agent is ready", lambda: ready(box.lab, box.host))
    nothing_left(box, network, before)


def test_a_published_port_goes_with_its_container(box: Box, before: frozenset[str]) -> None:
    network, first, second = box.network(), box.container(), box.container()
    network.add(first, **ALL_OF_IT)
    network.delete(first)
    # Nobody holds the port any more: it can be published at once, and again.
    network.add(second, **ALL_OF_IT)
    network.delete(second)
    nothing_left(box, network, before)


@pytest.mark.slow
def test_a_host_that_lost_its_power(box: Box, own_lab: Lab, before: frozenset[str]) -> None:
    """Of an earlier boot nothing lives: neither endpoints nor what was kept for them; the
    runtime's DELs, which it makes up for after its start, succeed."""
    network = box.network()
    containers = [box.container() for _ in range(4)]
    for at in containers:
        network.add(at, **SHAPED)
    daemons.steer(box.lab, box.host, "stop", "agent")
    network.delete(containers[0], cached=False)  # Kept on the disk.
    bringup.restart(own_lab, HOST)
    eventually("the agent is ready", lambda: ready(own_lab, HOST), seconds=30)
    for at in containers:
        network.delete(Attachment(at.container, "", at.ifname), cached=False)
    nothing_left(box, network, before)
