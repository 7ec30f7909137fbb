"""Published ports, limits of speed, and lists with Debian's plugins before and after ours.

Groups 18 to 25 of facts/flannel-weave-cni.md section 3. `portmap`, `bandwidth`, `tuning`,
`firewall` and `bridge` are those of Debian's containernetworking-plugins (1.1.1, CNI 1.0.0).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.lab.cni.conftest import PATIENCE, SILENCE, Box, ours, refused
from tests.lab.conftest import eventually, remove_network
from tests.support.libcni import VERSIONS, Attachment

from plait.lab.workloads import PLAIT
from plait.wire.cni import errors

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("nothing_stays")]

PORT = 8090
DEBIANS = VERSIONS[1:-1]
"""Versions of CNI that Debian's plugins know."""


@pytest.fixture
def addresses(box: Box) -> tuple[str, str]:
    """Of the host, a family each."""
    interface = box.lab.plan.hosts[box.host].interface
    return interface.address4.partition("/")[0], interface.address6.partition("/")[0]


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def mapping(proto: str, host_port: int = PORT, **more: Any) -> list[dict[str, Any]]:
    return [{"hostPort": host_port, "containerPort": 80, "protocol": proto, **more}]


# 18, 19: published ports.


@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_18_a_published_port_leads_to_the_container(
    box: Box, addresses: tuple[str, str], proto: str
) -> None:
    network, at = box.network(), box.container()
    network.add(at, portMappings=mapping(proto))
    network.check(at)
    with box.serving(at, proto, 80):
        for address in addresses:
            assert box.ask_from("router", proto, address, PORT)
        for address in (*addresses, "127.0.0.1"):
            assert box.ask(None, proto, address, PORT)
        network.delete(at)
    assert box.ask_from("router", proto, addresses[0], PORT, seconds=SILENCE) == ""


def test_18_a_port_of_one_address_only(box: Box, addresses: tuple[str, str]) -> None:
    network, at = box.network(), box.container()
    network.add(at, portMappings=mapping("TCP", hostIP=addresses[0]))
    with box.serving(at, "tcp", 80):
        assert box.ask_from("router", "tcp", addresses[0], PORT)
        assert box.ask_from("router", "tcp", addresses[1], PORT, seconds=SILENCE) == ""


def test_18_udp_works_on_after_the_port_went_to_another(
    box: Box, addresses: tuple[str, str]
) -> None:
    """A client that never pauses, always from one port: its flow must not lead to the dead."""
    network, first, second = box.network(), box.container(), box.container()
    network.add(first, portMappings=mapping("udp"))
    with box.serving(first, "udp", 80):
        assert box.ask_from("router", "udp", addresses[0], PORT, 45454)
    network.delete(first)
    assert box.ask_from("router", "udp", addresses[0], PORT, 45454, SILENCE) == ""
    network.add(second, portMappings=mapping("udp"))
    with box.serving(second, "udp", 80):
        assert box.ask_from("router", "udp", addresses[0], PORT, 45454)


def test_18_a_port_that_is_taken_is_refused(box: Box, version: str) -> None:
    network = box.network(version=version)
    network.add(box.container(), portMappings=mapping("tcp"))
    error = refused(
        errors.PORT_TAKEN, lambda: network.add(box.container(), portMappings=mapping("tcp"))
    )
    assert str(PORT) in error.msg
    assert len(box.endpoints()) == 1
    network.add(box.container(), portMappings=mapping("udp"))


# 20, 21: limits of speed.

RATES = {"ingressRate": 8_000_000, "ingressBurst": 80_000_000, "egressRate": 16_000_000}
RATES |= {"egressBurst": 80_000_000}


def rates(box: Box) -> set[int]:
    """Bytes a second of every token bucket of the host."""
    found = json.loads(box.sh("tc", "-j", "qdisc", "show"))
    return {entry["options"]["rate"] for entry in found if entry["kind"] == "tbf"}


def test_20_the_runtime_s_limits(box: Box, version: str) -> None:
    network, at = box.network(version=version), box.container()
    network.add(at, bandwidth=RATES)
    assert rates(box) == {1_000_000, 2_000_000}
    if version >= "0.4.0":
        network.check(at)
    network.delete(at)
    eventually("no bucket is left", lambda: not rates(box))


def test_20_those_of_the_configuration_count_first(box: Box, version: str) -> None:
    network = box.network(ours(ingressRate=24_000_000, ingressBurst=80_000_000), version=version)
    network.add(box.container(), bandwidth=RATES)
    assert rates(box) == {3_000_000}


@pytest.mark.parametrize(
    "wrong",
    [
        {"ingressRate": -1, "ingressBurst": 10},
        {"ingressRate": 0, "ingressBurst": 10},
        {"egressRate": 1, "egressBurst": 8 * 2**32},
        {"egressRate": "fast"},
    ],
)
def test_21_limits_that_are_none_are_refused(box: Box, version: str, wrong: Any) -> None:
    network = box.network(version=version)
    refused(errors.BAD_CONFIGURATION, lambda: network.add(box.container(), bandwidth=wrong))
    assert box.endpoints() == ()


# 22 to 25: lists.


@pytest.fixture(params=DEBIANS)
def debians(request: pytest.FixtureRequest) -> str:
    """A version that ours and Debian's plugins know."""
    return str(request.param)


BRIDGE = {
    "type": "bridge",
    "bridge": "cnibr0",
    "isGateway": True,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.98.1.0/24"}]]},
}


@pytest.fixture
def bridge(box: Box) -> Iterator[dict[str, Any]]:
    """Debian's bridge plugin, without a trace afterwards."""
    yield BRIDGE
    box.sh("ip", "link", "delete", "cnibr0", check=False)


def test_22_what_came_before_us_stays_as_it_is(
    box: Box, debians: str, bridge: dict[str, Any]
) -> None:
    alone, first = box.network(bridge, version=debians, name="alone"), box.container()
    before = alone.add(first)
    network = box.network(bridge, ours(ifname="plait0"), version=debians)
    at = box.container()
    result = network.add(at)
    assert [part["name"] for part in result["interfaces"][:3]] == [
        "cnibr0",
        result["interfaces"][1]["name"],
        "eth0",
    ]
    assert len(result["interfaces"]) == len(before["interfaces"]) + 2
    assert [result["interfaces"][ip["interface"]]["name"] for ip in result["ips"]] == [
        "eth0",
        "plait0",
        "plait0",
    ]
    mine = at._replace(ifname="plait0")
    assert box.addresses(mine) == {ip["address"] for ip in result["ips"][1:]}
    # The bridge gave no default route, so it is ours.
    assert {route["dev"] for route in box.show(at, "route", "show", "default")} == {"plait0"}
    if debians >= "0.4.0":
        # bridge 1.1.1 looks for every address of the result on its own interface.
        network.check(at, besides=["bridge"])
    network.delete(at)
    eventually("both interfaces have gone", lambda: box.links(at) == ["lo"])
    alone.delete(first)


def test_22_no_default_route_beside_that_of_another(
    box: Box, debians: str, bridge: dict[str, Any]
) -> None:
    first = {**bridge, "isDefaultGateway": True}
    network, at = box.network(first, ours(ifname="plait0"), version=debians), box.container()
    network.add(at)
    assert {route["dev"] for route in box.show(at, "route", "show", "default")} == {"eth0"}
    network.delete(at)


def test_22_two_interfaces_of_one_name_are_refused(
    box: Box, debians: str, bridge: dict[str, Any]
) -> None:
    network, at = box.network(bridge, ours(), version=debians), box.container()
    refused(errors.INTERFACE_EXISTS, lambda: network.add(at))
    network.delete(at)
    assert box.endpoints() == ()


def test_23_containers_of_one_network_reach_each_other_and_no_others(box: Box) -> None:
    """In the place of the firewall plugin's same-bridge policy."""
    box.lab.run("h1", [*PLAIT, "network", "create", "apart", "--no-docker"])
    network, apart = box.network(), box.network(ours(network="apart"), name="apart")
    asker, same, other = box.container(), box.container(), box.container()
    network.add(asker)
    targets = [network.add(same), apart.add(other)]
    answers = []
    for at, result in zip((same, other), targets, strict=True):
        with box.serving(at, "tcp", 80):
            ips = [ip["address"].partition("/")[0] for ip in result["ips"]]
            patience = PATIENCE if at is same else SILENCE
            answers.append([bool(box.ask(asker, "tcp", ip, 80, patience)) for ip in ips])
    assert answers == [[True, True], [False, False]]
    apart.delete(other)
    remove_network(box.lab, "apart")


CHAIN = (
    ours(capabilities={"ips": True, "mac": True}),
    {"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.log_martians": "1"}},
    {"type": "firewall"},
    {"type": "bandwidth", "capabilities": {"bandwidth": True}},
    {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
)


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0"])
def test_24_25_debian_s_plugins_work_behind_ours(
    box: Box, version: str, addresses: tuple[str, str]
) -> None:
    network, at = box.network(*CHAIN, version=version), box.container()
    result = network.add(at, portMappings=mapping("tcp"), bandwidth=RATES)
    assert {ip["address"] for ip in result["ips"]} == box.addresses(at)
    assert rates(box) == {1_000_000, 2_000_000}
    key = "/proc/sys/net/ipv4/conf/eth0/log_martians"
    assert box.inside(at, "cat", key).strip() == "1"
    # portmap 1.1.1 looks for rules with addresses of the other family.
    network.check(at, besides=["portmap"])
    with box.serving(at, "tcp", 80):
        assert box.ask_from("router", "tcp", addresses[0], PORT)
        assert box.ask(None, "tcp", addresses[0], PORT)
    network.delete(at)
    network.delete(at)
    assert box.endpoints() == ()
    eventually("no bucket is left", lambda: not rates(box))


def test_24_check_takes_what_a_later_plugin_changed(box: Box, debians: str) -> None:
    tuning = {"type": "tuning", "mac": "c2:11:22:33:44:55", "mtu": 1300}
    network, at = box.network(ours(), tuning, version=debians), box.container()
    result = network.add(at)
    assert result["interfaces"][1]["mac"] == "c2:11:22:33:44:55"
    if debians >= "0.4.0":
        network.check(at)
    network.delete(Attachment(at.container, ""), cached=False)
    assert box.endpoints() == ()
