"""What runtimes want, out of the places where they say so."""

from __future__ import annotations

from typing import Any

import pytest

from plait.model.ports import PublishedPort
from plait.wire.cni.errors import CniError
from plait.wire.cni.result import Dns
from plait.wire.cni.wanted import Rates, Wanted, arguments, parse


def wanted(config: dict[str, Any] | None = None, args: str = "", **runtime: Any) -> Wanted:
    return parse({**(config or {}), "runtimeConfig": runtime}, "podnet", arguments(args))


def refused(code: int, config: dict[str, Any] | None = None, args: str = "", **runtime: Any) -> str:
    with pytest.raises(CniError) as caught:
        wanted(config, args, **runtime)
    assert caught.value.code == code
    return f"{caught.value.msg}; {caught.value.details}"


def test_nothing_is_wanted() -> None:
    assert wanted() == parse({}, "podnet", {}) == Wanted()
    assert parse({"runtimeConfig": None, "args": None, "dns": None}, "x", {}) == Wanted()


def test_the_runtime_counts_before_args_and_those_before_cni_args() -> None:
    args = {"args": {"cni": {"ips": ["10.0.0.2"], "mac": "02:00:00:00:00:02"}}}
    words = "IP=10.0.0.1;MAC=02:00:00:00:00:01"
    found = wanted(args, words, ips=["10.0.0.3/16"], mac="02:00:00:00:00:03")
    assert (found.addresses, found.mac) == (("10.0.0.3",), "02:00:00:00:00:03")
    found = wanted(args, words)
    assert (found.addresses, found.mac) == (("10.0.0.2",), "02:00:00:00:00:02")
    found = wanted({}, words)
    assert (found.addresses, found.mac) == (("10.0.0.1",), "02:00:00:00:00:01")


def test_pods_are_named_by_cni_args() -> None:
    found = wanted(
        args="K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u1;K8S_POD_INFRA_CONTAINER_ID=c"
    )
    assert (found.pod_namespace, found.pod_name, found.pod_uid) == ("shop", "web-0", "u1")


@pytest.mark.parametrize("yes", ["1", "true", "True", "TRUE", "t"])
def test_unknown_arguments_pass_when_they_may(yes: str) -> None:
    assert arguments(f"X=1;IgnoreUnknown={yes}")["X"] == "1"


@pytest.mark.parametrize("text", ["X=1", "IgnoreUnknown=0;X=1", "IgnoreUnknown=;X=1", "junk"])
def test_unknown_arguments_are_refused_otherwise(text: str) -> None:
    with pytest.raises(CniError) as caught:
        arguments(text)
    assert caught.value.code == 4


def test_ports() -> None:
    given = [
        {"hostPort": 8080, "containerPort": 80, "protocol": "TCP"},
        {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "2001:db8::1"},
        {"hostPort": 9, "containerPort": 9},
    ]
    assert wanted(portMappings=given).ports == (
        PublishedPort(protocol="tcp", port=80, host_port=8080),
        PublishedPort(protocol="udp", port=53, host_port=53, host_ip="2001:db8::1"),
        PublishedPort(protocol="tcp", port=9, host_port=9),
    )
    for wrong in (
        {"hostPort": 0, "containerPort": 80},
        {"hostPort": 80, "containerPort": 65536},
        {"hostPort": "80", "containerPort": 80},
        {"hostPort": 80, "containerPort": 80, "protocol": "icmp"},
        {"hostPort": 80, "containerPort": 80, "hostIP": "everywhere"},
        {"containerPort": 80},
    ):
        assert "portMappings" in refused(7, portMappings=[wrong])


def test_ranges_become_cidrs() -> None:
    found = wanted(
        ipRanges=[
            [{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.4", "rangeEnd": "10.0.0.9"}],
            [{"subnet": "fd00::/120"}],
        ]
    )
    assert found.ranges == ("10.0.0.4/30", "10.0.0.8/31", "fd00::/120")
    for wrong in (
        [[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.1.0/24"}]],
        [[{"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/120"}]],
        [[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.1"}]],
        [[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.4"}]],
        [[{"subnet": "10.0.0.1/24"}]],
        [[]],
        [{"subnet": "10.0.0.0/24"}],
    ):
        assert "ipRanges" in refused(7, ipRanges=wrong)


def test_limits_of_the_configuration_count_before_those_of_the_runtime() -> None:
    given = {"ingressRate": 100, "ingressBurst": 200}
    assert wanted(bandwidth=given).rates == Rates(ingress_rate=100, ingress_burst=200)
    assert wanted({"egressRate": 5}, bandwidth=given).rates == Rates(egress_rate=5)
    assert wanted(bandwidth={}).rates is None
    assert wanted(bandwidth={"ingressRate": 0, "egressRate": 0}).rates is None


def test_dns_has_two_spellings() -> None:
    static = {"dns": {"nameservers": ["192.0.2.1"], "search": None, "options": ["ndots:1"]}}
    assert wanted(static).dns == Dns(nameservers=("192.0.2.1",), options=("ndots:1",))
    said = {"servers": ["192.0.2.2"], "searches": ["a.example"]}
    assert wanted(static, dns=said).dns == Dns(nameservers=("192.0.2.2",), search=("a.example",))
    assert wanted(static, dns={}).dns == wanted(static).dns


def test_aliases_are_a_list_or_one_for_each_network() -> None:
    assert wanted(aliases=["a", "b"]).aliases == ("a", "b")
    assert wanted(aliases={"podnet": ["a"], "other": ["b"]}).aliases == ("a",)
    assert wanted(aliases={"other": ["b"]}).aliases == ()
    refused(7, aliases="a")


def test_labels_are_pairs_or_a_mapping() -> None:
    pairs = [{"key": "app", "value": "web"}]
    assert wanted({"args": {"cni": {"labels": pairs}}}).labels == {"app": "web"}
    assert wanted({"args": {"cni": {"labels": {"app": "web"}}}}).labels == {"app": "web"}
    refused(7, {"args": {"cni": {"labels": {"-": "web"}}}})


@pytest.mark.parametrize(
    ("code", "args", "runtime"),
    [
        (7, "", {"ips": ["10.0.0.1", "10.0.0.2"]}),
        (7, "", {"ips": ["10.0.0.256"]}),
        (7, "", {"ips": [1]}),
        (4, "IP=nowhere", {}),
        (7, "", {"mac": "02-00"}),
        (7, "", {"mac": 7}),
        (4, "MAC=03:00:00:00:00:00", {}),
        (7, "", {"bandwidth": {"ingressBurst": 1}}),
        (7, "", {"bandwidth": {"ingressRate": -1}}),
        (7, "", {"bandwidth": {"ingressRate": 2**64}}),
        (7, "", {"bandwidth": {"ingressRate": 1, "ingressBurst": 8 * 2**32}}),
    ],
)
def test_what_cannot_be_had_is_refused(code: int, args: str, runtime: dict[str, Any]) -> None:
    refused(code, None, args, **runtime)
