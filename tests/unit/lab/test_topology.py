"""The plan of a lab, and the cuts as nft text."""

import ipaddress

import pytest

from plait.lab import bringup, faults, topology


def test_hosts_are_dealt_out_to_the_sites() -> None:
    plan = topology.plan("t", 5, sites=2)
    sites = {name: host.site for name, host in plan.hosts.items()}
    assert sites == {"h1": 1, "h2": 2, "h3": 1, "h4": 2, "h5": 1, "outside": 99}
    assert plan.bridges == {1: "site1", 2: "site2", 99: "site99"}


@pytest.mark.parametrize(("hosts", "sites"), [(1, 1), (3, 2), (200, 1), (200, 90), (2, 2)])
def test_addresses_are_unique_and_on_the_link_of_their_gateway(hosts: int, sites: int) -> None:
    plan = topology.plan("t", hosts, sites)
    seen = set()
    for host in plan.hosts.values():
        at = host.interface
        for address, gateway in ((at.address4, at.gateway4), (at.address6, at.gateway6)):
            interface = ipaddress.ip_interface(address)
            assert ipaddress.ip_address(gateway) in interface.network
            assert str(interface.ip) != gateway
            seen.add(interface.ip)
        assert len(at.port) <= 15
    assert len(seen) == 2 * (hosts + 1)
    assert len({host.interface.mac for host in plan.hosts.values()}) == hosts + 1


@pytest.mark.parametrize(
    ("hosts", "sites", "mtu"),
    [
        (0, 1, 1500),
        (201, 1, 1500),
        (3, 0, 1500),
        (3, 91, 1500),
        (200, 91, 1500),
        (2, 3, 1500),
        (3, 1, 1279),
        (3, 1, 9001),
    ],
)
def test_numbers_out_of_range(hosts: int, sites: int, mtu: int) -> None:
    with pytest.raises(ValueError, match="lab"):
        topology.plan("t", hosts, sites, mtu)


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "../x", "A", "a b", "a" * 31, "a\n", "a" * 10_000]
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="name") as error:
        topology.plan(name, 1)
    assert len(str(error.value)) < 120


def test_every_link_has_the_mtu_of_the_lab() -> None:
    plan = topology.plan("t", 2, mtu=1400)
    lines = topology.router_commands(plan) + topology.link_commands(plan, plan.hosts["h1"], 7)
    assert [line for line in lines if " type veth" in line] == [
        "link add p-h1 mtu 1400 type veth peer name eth0 mtu 1400 address 02:00:00:01:00:0b netns 7"
    ]
    assert "link set site1 mtu 1400 up" in lines


def test_no_cut_is_an_empty_ruleset() -> None:
    text = faults.ruleset(topology.plan("t", 3, 2), ())
    assert "drop" not in text
    assert text.count("flush table") == 2


def test_a_cut_within_a_site_is_made_where_frames_are_bridged() -> None:
    text = faults.ruleset(topology.plan("t", 3, 2), [("h1", "h3")])
    drops = [line for line in text.splitlines() if line.endswith("drop")]
    assert drops == [
        'add rule bridge plait_lab forward iifname "p-h1" oifname "p-h3" drop',
        'add rule bridge plait_lab forward iifname "p-h3" oifname "p-h1" drop',
    ]


def test_a_cut_across_sites_is_made_where_packets_are_routed() -> None:
    text = faults.ruleset(topology.plan("t", 3, 2), [("h1", "h2")])
    drops = [line for line in text.splitlines() if line.endswith("drop")]
    assert drops == [
        "add rule inet plait_lab forward ip saddr 100.64.1.11 ip daddr 100.64.2.12 drop",
        "add rule inet plait_lab forward ip6 saddr fd64:1::b ip6 daddr fd64:2::c drop",
        "add rule inet plait_lab forward ip saddr 100.64.2.12 ip daddr 100.64.1.11 drop",
        "add rule inet plait_lab forward ip6 saddr fd64:2::c ip6 daddr fd64:1::b drop",
    ]


def test_a_description_names_every_host() -> None:
    plan = topology.plan("t", 3, 2)
    text = "\n".join(bringup.describe(plan))
    for host in plan.hosts.values():
        assert host.name in text
        assert host.interface.address4 in text
