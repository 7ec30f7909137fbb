"""The protocol itself: environment, versions, codes, GC, STATUS, and calls in the wrong order.

Groups 26 (skel's checks) and 3 of facts/flannel-weave-cni.md section 3, the duties of
specification 1.1.0 that no reference plugin has, and what containerd really does.
"""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.lab.cni.conftest import CONFIG, Box, now, ours, refused, request
from tests.lab.conftest import eventually
from tests.support.libcni import VERSIONS, PluginError, outcome

from plait.wire.cni import errors

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("nothing_stays")]

GOOD = {
    "CNI_CONTAINERID": "some-container",
    "CNI_NETNS": "/run/netns/none",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
}


def call(box: Box, environment: dict[str, str], config: Any = CONFIG) -> Any:
    text = config if isinstance(config, str) else json.dumps(config)
    done: subprocess.CompletedProcess[str] = box.execute("plait", environment, text)
    return outcome("plait", environment.get("CNI_COMMAND", ""), done)


@pytest.mark.parametrize("verb", ["ADD", "CHECK", "DEL", "GC", "STATUS"])
@pytest.mark.parametrize("missing", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"])
def test_26_required_variables(box: Box, verb: str, missing: str) -> None:
    required = {
        "CNI_CONTAINERID": {"ADD", "CHECK", "DEL"},
        "CNI_NETNS": {"ADD", "CHECK"},
        "CNI_IFNAME": {"ADD", "CHECK", "DEL"},
        "CNI_PATH": {"GC", "STATUS"},
    }
    environment = {key: val for key, val in GOOD.items() if key != missing}
    config = {**CONFIG, "cni.dev/valid-attachments": []}
    if verb in required[missing]:
        error = refused(4, lambda: call(box, {**environment, "CNI_COMMAND": verb}, config))
        assert missing in error.msg
    elif verb in ("DEL", "GC", "STATUS"):
        assert call(box, {**environment, "CNI_COMMAND": verb}, config) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CNI_CONTAINERID", "../escape"),
        ("CNI_CONTAINERID", "-x"),
        ("CNI_CONTAINERID", "a b"),
        ("CNI_CONTAINERID", "x" * 300),
        ("CNI_IFNAME", "sixteen-letters-"),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", "a:b"),
        ("CNI_IFNAME", "a b"),
        ("CNI_COMMAND", "FLY"),
        ("CNI_ARGS", "no-equals"),
        ("CNI_ARGS", "UNKNOWN=1"),
        ("CNI_ARGS", "IgnoreUnknown=1;MAC=xx"),
        ("CNI_NETNS", "/run/netns/none"),
        ("CNI_NETNS", "/etc/hostname"),
        ("CNI_NETNS", "relative"),
        ("CNI_NETNS", "/proc/1/ns/net"),
    ],
)
def test_24_26_variables_that_are_not_valid(box: Box, name: str, value: str) -> None:
    at = box.container()
    good = {**GOOD, "CNI_COMMAND": "ADD", "CNI_CONTAINERID": at.container, "CNI_NETNS": at.netns}
    refused(4, lambda: call(box, {**good, name: value}))
    assert box.endpoints() == ()
    assert box.links(at) == ["lo"]


@pytest.mark.parametrize(
    ("code", "config"),
    [
        (1, {"name": "podnet"}),
        (1, {**CONFIG, "cniVersion": "0.2.0"}),
        (1, {**CONFIG, "cniVersion": "9.0.0"}),
        (2, {**CONFIG, "ipam": {"type": "host-local"}}),
        (6, "{"),
        (6, "\0\1garbage"),
        (6, "[]"),
        (6, ""),
        (6, {**CONFIG, "prevResult": []}),
        (6, {**CONFIG, "prevResult": {"ips": [{"address": "10.0.0.1"}], "interfaces": 3}}),
        (6, {**CONFIG, "prevResult": {"ips": [{"address": "10.0.0.1/24", "interface": 0}]}}),
        (7, {key: val for key, val in CONFIG.items() if key != "name"}),
        (7, {**CONFIG, "name": "a/b"}),
        (7, {**CONFIG, "network": "no-such-network"}),
        (7, {**CONFIG, "network": 3}),
        (7, {**CONFIG, "identity": "nobody"}),
        (7, {**CONFIG, "deadline": 1000}),
        (7, {**CONFIG, "runtimeConfig": {"ips": ["10.0.0.1", "10.0.0.2"]}}),
        (7, {**CONFIG, "runtimeConfig": {"mac": "01:00:5e:00:00:01"}}),
        (7, {**CONFIG, "runtimeConfig": {"portMappings": [{"hostPort": 0, "containerPort": 1}]}}),
    ],
)
def test_26_configurations_that_are_not_valid(box: Box, code: int, config: Any) -> None:
    at = box.container()
    environment = {
        **GOOD,
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": at.container,
        "CNI_NETNS": at.netns,
    }
    refused(code, lambda: call(box, environment, config))
    assert box.endpoints() == ()
    assert box.links(at) == ["lo"]


@pytest.mark.parametrize("version", ["", *VERSIONS, "9.0.0"])
def test_26_version(box: Box, version: str) -> None:
    said = call(box, {"CNI_COMMAND": "VERSION"}, {"cniVersion": version})
    assert said["cniVersion"] == (version or VERSIONS[-1])
    assert tuple(said["supportedVersions"]) == VERSIONS


def test_3_a_newer_configuration_deletes_what_an_older_one_made(box: Box) -> None:
    """containerd deletes with the configuration of today: only name and ids count."""
    at = box.container()
    box.network(ours(network="plait", deadline=20), version="0.4.0").add(at)
    newer = box.network(ours(network="gone", identity="kubernetes", deadline="?"), version="1.1.0")
    newer.delete(at, cached=False)
    assert box.endpoints() == ()


def test_3_another_configuration_deletes_nothing(box: Box) -> None:
    network, at = box.network(), box.container()
    network.add(at)
    box.network(name="other").delete(at)
    assert len(box.endpoints()) == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_3_the_namespace_goes_before_its_del(box: Box, version: str) -> None:
    network, at = box.network(version=version), box.container()
    network.add(at)
    box.sh("ip", "netns", "delete", at.container)
    network.delete(at)
    assert box.endpoints() == ()


# GC and STATUS.


def attached(box: Box) -> set[str]:
    return {endpoint.request.workload.id for endpoint in box.endpoints()}


def test_gc_removes_exactly_what_is_not_valid(box: Box) -> None:
    network, other = box.network(), box.network(name="other")
    stays, goes, foreign = (box.container() for _ in range(3))
    network.add(stays)
    network.add(stays._replace(ifname="eth1"))
    network.add(goes)
    other.add(foreign)
    # The runtime has lost what it knew, as after a crash.
    network.cache.clear()
    network.gc([stays])
    assert attached(box) == {stays.container, foreign.container}
    assert [
        e.request.ifname for e in box.endpoints() if e.request.workload.id == stays.container
    ] == ["eth0"]
    network.gc([stays])
    network.gc([])
    assert attached(box) == {foreign.container}
    other.gc([])
    assert attached(box) == set()


def test_gc_leaves_what_is_not_of_cni(box: Box) -> None:
    network, at = box.network(), box.container()
    box.sh("plait", "attach", at.netns, "--name", "byhand")
    network.gc([])
    assert [endpoint.request.name for endpoint in box.endpoints()] == ["byhand"]


@pytest.mark.parametrize("config", [{}, {"cni.dev/valid-attachments": None}])
def test_gc_without_a_list_removes_nothing(box: Box, config: dict[str, Any]) -> None:
    network, at = box.network(), box.container()
    network.add(at)
    environment = {"CNI_COMMAND": "GC", "CNI_PATH": "/opt/cni/bin"}
    refused(7, lambda: call(box, environment, {**CONFIG, **config}))
    assert attached(box) == {at.container}


@pytest.mark.parametrize("version", VERSIONS[:-1])
def test_gc_and_status_came_with_1_1(box: Box, version: str) -> None:
    network = box.network(version=version)
    refused(1, network.status)
    with pytest.raises(ExceptionGroup) as caught:
        network.gc([])
    assert [error.code for error in caught.value.exceptions] == [1]  # type: ignore[attr-defined]


def test_status_of_a_host_that_is_ready(box: Box) -> None:
    box.network().status()
    box.network(ours(identity="kubernetes")).status()


# Many at a time.


def outcomes(work: list[Any]) -> list[int]:
    """Codes of calls made at the same time, 0 for success."""

    def one(call: Any) -> int:
        try:
            call()
        except PluginError as error:
            return error.code
        return 0

    with ThreadPoolExecutor(len(work)) as pool:
        return sorted(pool.map(one, work))


def test_one_of_many_adds_of_a_container_succeeds(box: Box) -> None:
    network, at = box.network(), box.container()
    codes = outcomes([lambda: network.add(at)] * 8)
    assert codes == [0] + [errors.INTERFACE_EXISTS] * 7
    assert attached(box) == {at.container}
    assert outcomes([lambda: network.delete(at, cached=False)] * 8) == [0] * 8
    assert box.endpoints() == ()


def test_many_containers_at_a_time(box: Box) -> None:
    network = box.network()
    containers = [box.container() for _ in range(8)]
    assert outcomes([lambda at=at: network.add(at) for at in containers]) == [0] * 8
    addresses = [box.addresses(at) for at in containers]
    assert len({address for each in addresses for address in each}) == 16
    assert outcomes([lambda at=at: network.delete(at) for at in containers]) == [0] * 8


# The order of things: a runtime that dies leaves its plugin running.


def test_an_add_that_comes_after_its_del_is_refused(box: Box) -> None:
    """Seen of containerd, killed during an ADD: the plugin ended after the DEL of the same id."""
    at, began = box.container(), now()
    box.network().delete(at)
    status, said = box.post(request("ADD", at, began))
    assert (status, said["code"]) == (3, 3)
    assert box.endpoints() == ()
    assert box.links(at) == ["lo"]
    box.network().add(at)


def test_a_del_that_comes_after_the_next_add_removes_nothing(box: Box) -> None:
    network, at, began = box.network(), box.container(), now()
    network.add(at)
    assert box.post(request("DEL", at, began)) == (0, None)
    assert attached(box) == {at.container}
    network.delete(at)
    assert attached(box) == set()


def test_an_add_that_waits_ends_with_its_del(box: Box) -> None:
    """A DEL never waits for the deadline of the ADD that it undoes."""
    at = box.container()
    network = box.network(ours(identity="kubernetes", deadline=90))
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=never;K8S_POD_UID=uid-never-1"
    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(network.add, at, args=args)
        eventually("the ADD waits for its pod", lambda: box.waiting(1) or adding.done())
        network.delete(at, cached=False)
        with pytest.raises(PluginError) as caught:
            adding.result(10)
    assert caught.value.code == errors.TRY_AGAIN
    assert "DEL" in caught.value.msg


def test_an_add_that_nobody_waits_for_leaves_nothing(box: Box) -> None:
    """The runtime gives up and kills the plugin, and never asks again."""
    at = box.container()
    box.post(request("ADD", at, now()), hang_up=True)
    eventually("the agent is done with it", lambda: not box.waiting(1))
    eventually("nothing is attached", lambda: box.endpoints() == ())
    eventually("the interface has gone", lambda: box.links(at) == ["lo"])
