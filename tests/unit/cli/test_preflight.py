"""Preflight: facts of a host in, findings out."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.cli.preflight import (
    CANDIDATES,
    Feature,
    HostFacts,
    Use,
    check_host,
    check_join,
    check_port,
    choose_address,
    choose_pools,
    conflict,
    free_pool,
    parse_pool,
    unique_local,
)
from plait.model.errors import PlaitError
from plait.wire.api import PoolUse

RANDOM = bytes.fromhex("0102030405")


def use(cidr: str) -> Use:
    return Use(cidr, f"the route {cidr} dev tun0")


def test_the_first_free_pool_is_chosen_with_a_unique_local_prefix() -> None:
    chosen = choose_pools((), (use("10.0.0.0/24"),), RANDOM)
    assert chosen.cidrs == ("10.112.0.0/12", "fd01:203:405::/48")
    assert chosen.findings == ()


def test_a_taken_default_gives_way_to_another_candidate_without_being_asked() -> None:
    chosen = choose_pools((), (use("10.112.3.0/24"),), RANDOM)
    assert chosen.cidrs[0] == "10.80.0.0/12"
    assert chosen.findings == ()


@pytest.mark.parametrize(
    ("what", "cidr"),
    [
        ("the route 10.200.0.0/16 dev tun0", "10.200.0.0/16"),
        ("the address 10.200.3.4/24 of eth0", "10.200.3.4/24"),
        ("the resolver 10.200.0.53", "10.200.0.53/32"),
        ("the pool 10.192.0.0/10 of the Docker network `x`", "10.192.0.0/10"),
    ],
)
def test_an_asked_pool_that_overlaps_is_refused_by_name_with_a_free_one(
    what: str, cidr: str
) -> None:
    chosen = choose_pools(("10.200.0.0/16",), (Use(cidr, what),), RANDOM)
    (finding,) = chosen.findings
    assert finding.fatal
    assert finding.error.code == "PLAIT-HOST-003"
    assert what in finding.error.detail
    assert finding.error.fix == ("plait up --pool 10.112.0.0/12",)


@pytest.mark.parametrize("cidr", ["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "::/0", "2000::/3"])
def test_default_routes_whole_or_halved_are_in_nobodys_way(cidr: str) -> None:
    for pool in ("10.112.0.0/12", "fd01::/48"):
        assert conflict(ipaddress.ip_network(pool), (use(cidr),)) is None


def test_a_host_that_uses_everything_is_told_so() -> None:
    uses = tuple(use(c) for c in ("10.0.0.0/8", "172.16.0.0/12", "100.64.0.0/10", "198.18.0.0/15"))
    assert free_pool(uses) == ""
    (finding,) = choose_pools((), uses, RANDOM).findings
    assert finding.error.code == "PLAIT-HOST-003"
    assert finding.error.fix


def test_pools_that_overlap_each_other_are_refused() -> None:
    found = choose_pools(("10.96.0.0/12", "10.100.0.0/16"), (), RANDOM).findings
    assert [f.error.code for f in found] == ["PLAIT-NET-001"]


@pytest.mark.parametrize(
    "text",
    ["10.0.0.1/8", "x", "10.0.0.0/33", "10.0.0.0/24", "224.0.0.0/8", "127.0.0.0/8", "::/0"],
)
def test_what_is_no_pool_is_refused(text: str) -> None:
    with pytest.raises(PlaitError) as caught:
        parse_pool(text)
    assert caught.value.code == "PLAIT-NET-004"


def test_host_bits_are_answered_with_the_pool_that_was_meant() -> None:
    with pytest.raises(PlaitError) as caught:
        parse_pool("10.1.2.3/16")
    assert caught.value.fix == ("write 10.1.0.0/16",)


@given(st.binary(min_size=5, max_size=5))
def test_unique_local_prefixes_are_rfc_4193(random: bytes) -> None:
    net = ipaddress.IPv6Network(unique_local(random))
    assert net.prefixlen == 48
    assert net.subnet_of(ipaddress.IPv6Network("fd00::/8"))
    assert net.network_address.packed[1:6] == random


@given(st.lists(st.ip_addresses(v=4).map(lambda a: f"{a}/{24}"), max_size=20))
def test_a_free_pool_never_overlaps_a_use(cidrs: list[str]) -> None:
    uses = tuple(use(cidr) for cidr in cidrs)
    found = free_pool(uses)
    if found:
        assert found in CANDIDATES
        assert conflict(ipaddress.ip_network(found), uses) is None


def test_what_a_host_lacks_is_named_with_the_command_that_mends_it() -> None:
    facts = HostFacts(
        root=True,
        missing_programs=(("ip", "iproute2"),),
        features=(
            Feature("nf_tables", False, "every rule", "modprobe nf_tables"),
            Feature("vxlan", False, "other subnets", "modprobe vxlan", required=False),
            Feature("veth", True, "endpoints", ""),
        ),
        busy_ports=(("udp", 53), ("tcp", 6440)),
    )
    found = {(f.error.code, f.fatal, f.error.fix[0]) for f in check_host(facts)}
    assert found == {
        ("PLAIT-HOST-001", True, "apt-get install -y iproute2"),
        ("PLAIT-KERNEL-002", True, "modprobe nf_tables"),
        ("PLAIT-KERNEL-002", False, "modprobe vxlan"),
        ("PLAIT-HOST-007", False, "ss -lnup sport = :53"),
    }
    assert [f.error.code for f in check_port(facts, 6440)] == ["PLAIT-HOST-007"]
    assert check_port(facts, 6441) == ()


def test_without_root_nothing_else_is_said() -> None:
    (finding,) = check_host(HostFacts(root=False, missing_programs=(("ip", "iproute2"),)))
    assert finding.error.code == "PLAIT-HOST-002"


FACTS = HostFacts(root=True, addresses=("192.0.2.7/24", "2001:db8::7/64"), interfaces=("eth0",))


@pytest.mark.parametrize(
    ("address", "interface", "found"),
    [
        ("", "", "192.0.2.7/24"),
        ("192.0.2.7", "", "192.0.2.7/24"),
        ("2001:db8::7/64", "", "2001:db8::7/64"),
        ("", "eth0", "192.0.2.7/24"),
    ],
)
def test_the_underlay_address(address: str, interface: str, found: str) -> None:
    assert str(choose_address(FACTS, address, interface)) == found


@pytest.mark.parametrize(
    ("facts", "address", "interface"),
    [
        (FACTS, "192.0.2.8", ""),
        (FACTS, "nonsense", ""),
        (FACTS, "", "eth9"),
        (HostFacts(root=True), "", ""),
    ],
)
def test_an_underlay_address_that_cannot_be(facts: HostFacts, address: str, interface: str) -> None:
    with pytest.raises(PlaitError) as caught:
        choose_address(facts, address, interface)
    assert caught.value.code == "PLAIT-HOST-006"


def test_a_host_that_overlaps_a_pool_does_not_join() -> None:
    pools = (
        PoolUse(cidr="10.112.0.0/12"),
        PoolUse(cidr="10.40.0.0/16", network="office"),
        PoolUse(cidr="fd00:1::/48"),
    )
    assert check_join(pools, (use("10.0.0.0/16"), use("0.0.0.0/1"), use("fd01::/48"))) == ()
    first, second = check_join(pools, (use("10.112.3.0/24"), use("10.40.0.0/15")))
    assert first.fatal
    assert first.error.code == "PLAIT-HOST-003"
    assert first.error.detail == (
        "the pool 10.112.0.0/12 of the cluster overlaps the route 10.112.3.0/24 dev tun0"
    )
    assert second.error.detail == (
        "the pool 10.40.0.0/16 of the network office overlaps the route 10.40.0.0/15 dev tun0"
    )
    assert "plait network rm office   # on the server" in second.error.fix


def test_what_docker_only_proposes_hinders_no_network_that_docker_chose() -> None:
    proposed = Use("172.16.0.0/12", "the pool 172.16.0.0/12 from which Docker …", proposed=True)
    chosen = PoolUse(cidr="172.20.0.0/16", network="x", external_ipam=True)
    assert check_join([chosen], [proposed]) == ()
    assert check_join([chosen], [proposed, use("172.20.0.0/24")])
    (finding,) = check_join([PoolUse(cidr="172.20.0.0/16", network="x")], [proposed])
    assert "daemon.json" in finding.error.fix[0]


@pytest.mark.parametrize(
    ("resolvers", "docker", "named", "warned"),
    [
        (("127.0.0.1",), True, False, True),
        (("127.0.0.53", "::1"), True, False, True),
        (("127.0.0.1", "192.0.2.53"), True, False, False),
        (("127.0.0.1",), False, False, False),
        (("127.0.0.1",), True, True, False),
        ((), True, False, False),
        (("nonsense",), True, False, False),
    ],
)
def test_resolvers_that_containers_cannot_reach(
    resolvers: tuple[str, ...], docker: bool, named: bool, warned: bool
) -> None:
    found = check_host(HostFacts(root=True, resolvers=resolvers, docker=docker, docker_dns=named))
    assert [(f.error.code, f.fatal) for f in found] == [("PLAIT-HOST-010", False)] * warned


def test_a_vxlan_port_that_is_taken_is_a_warning() -> None:
    (finding,) = check_host(HostFacts(root=True, foreign_vxlan_port=True))
    assert not finding.fatal
    assert "4789" in finding.error.detail
