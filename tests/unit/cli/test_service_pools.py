"""Pools for Services: chosen apart from everything, asked-for ones checked."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.cli.preflight import CANDIDATES as NETWORK_CANDIDATES
from plait.cli.preflight import Use, conflict
from plait.cli.service_pools import (
    CANDIDATES,
    ServicePools,
    choose_balancer_pools,
    choose_service_pools,
    free_service_pool,
    with_service_pools,
)
from plait.model.errors import PlaitError
from plait.model.objects import Cluster, ClusterSpec, Metadata
from plait.server.admission import scope
from plait.server.admission.base import Context
from plait.server.state import State

RANDOM = bytes.fromhex("0102030405")
POOLS = ("10.112.0.0/12", "fd00:1::/48")


def use(cidr: str) -> Use:
    return Use(cidr, f"the route {cidr} dev tun0")


def test_free_pools_of_both_families_are_chosen() -> None:
    chosen = choose_service_pools((), POOLS, (), RANDOM)
    assert chosen.cidrs == ("10.79.0.0/16", "fd01:203:405::/112")
    assert not chosen.findings
    assert choose_service_pools((), POOLS, (use("10.64.0.0/12"),), RANDOM).cidrs[0] == (
        "10.175.0.0/16"
    )


def test_an_ipv6_pool_comes_with_an_asked_ipv4_one() -> None:
    chosen = choose_service_pools(("10.70.0.0/16",), POOLS, (), RANDOM)
    assert chosen.cidrs == ("10.70.0.0/16", "fd01:203:405::/112")
    assert choose_service_pools(("fd00:9::/112",), POOLS, (), RANDOM).cidrs == ("fd00:9::/112",)


def test_no_candidate_is_one_of_networks_or_of_kubernetes() -> None:
    kubernetes = ("10.96.0.0/12", "10.43.0.0/16", "172.30.0.0/16", "10.244.0.0/16")
    taken = [use(cidr) for cidr in (*NETWORK_CANDIDATES, *kubernetes)]
    for candidate in CANDIDATES:
        assert conflict(ipaddress.ip_network(candidate), taken) is None


def test_without_a_free_one_there_is_a_warning() -> None:
    everything = [use(c) for c in ("10.0.0.0/8", "172.16.0.0/12", "100.64.0.0/10")]
    chosen = choose_service_pools((), POOLS, everything, RANDOM)
    assert [":" in cidr for cidr in chosen.cidrs] == [True]
    (finding,) = chosen.findings
    assert not finding.fatal


@pytest.mark.parametrize("asked", [("10.113.0.0/16",), ("10.8.0.0/16",), ("10.0.0.0/8",)])
def test_an_asked_one_that_overlaps_is_refused(asked: tuple[str, ...]) -> None:
    chosen = choose_service_pools(asked, POOLS, (use("10.8.0.0/24"),), RANDOM)
    assert [f.error.code for f in chosen.findings] == ["PLAIT-HOST-003"]
    assert chosen.findings[0].error.fix == ("plait up --service-pool 10.79.0.0/16",)


@pytest.mark.parametrize(
    "text", ["x", "10.79.0.0/29", "fd00::/125", "127.0.0.0/16", "10.79.0.1/16"]
)
def test_what_is_no_service_pool_is_refused(text: str) -> None:
    with pytest.raises(PlaitError, match="PLAIT-NET-004"):
        choose_service_pools((text,), POOLS, (), RANDOM)


def test_one_a_family() -> None:
    chosen = choose_service_pools(("10.79.0.0/16", "10.78.0.0/16"), POOLS, (), RANDOM)
    assert [f.error.code for f in chosen.findings] == ["PLAIT-NET-004"]


def test_balancers_pools_are_apart_from_those_of_networks_and_services() -> None:
    good = choose_balancer_pools(("192.0.2.1/32", "192.0.2.240/28"), (*POOLS, "10.79.0.0/16"))
    assert good.cidrs == ("192.0.2.1/32", "192.0.2.240/28")
    assert not good.findings
    bad = choose_balancer_pools(
        ("10.79.3.0/24", "10.112.0.0/24", "192.0.2.0/24", "192.0.2.0/25"), (*POOLS, "10.79.0.0/16")
    )
    assert [f.error.code for f in bad.findings] == ["PLAIT-HOST-003"] * 3


@given(st.lists(st.ip_addresses(v=4).map(lambda a: f"{a}/16"), max_size=20))
def test_a_free_pool_overlaps_nothing(cidrs: list[str]) -> None:
    uses = [use(cidr) for cidr in cidrs]
    found = free_service_pool(uses)
    if found:
        assert conflict(ipaddress.ip_network(found), uses) is None


def test_the_server_takes_what_is_chosen() -> None:
    services = choose_service_pools((), POOLS, (), RANDOM).cidrs
    spec = ClusterSpec(pools=POOLS, service_pools=services, load_balancer_pools=("192.0.2.0/28",))
    cluster = Cluster(metadata=Metadata(name="plait"), spec=spec)
    assert scope.admit_cluster(State(), Context("", str), None, cluster).object == cluster


def test_a_network_made_without_them_gets_those_that_are_named_later() -> None:
    old = ClusterSpec(pools=POOLS)
    assert with_service_pools(old, ServicePools()) == old
    asked = ServicePools(("10.70.0.0/16",), ("192.0.2.0/28",))
    new = with_service_pools(old, asked)
    assert (new.service_pools, new.load_balancer_pools) == (("10.70.0.0/16",), ("192.0.2.0/28",))
    assert with_service_pools(new, asked) == new
    more = with_service_pools(new, ServicePools(("fd00:9::/112",), ("192.0.2.16/28",)))
    assert more.service_pools == ("10.70.0.0/16", "fd00:9::/112")
    assert more.load_balancer_pools == ("192.0.2.0/28", "192.0.2.16/28")


def test_another_service_pool_is_refused_while_the_network_stands() -> None:
    with pytest.raises(PlaitError, match="PLAIT-HOST-009"):
        with_service_pools(
            ClusterSpec(service_pools=("10.70.0.0/16",)), ServicePools(("10.71.0.0/16",))
        )
