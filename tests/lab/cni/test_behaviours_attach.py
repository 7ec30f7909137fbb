"""Groups of behaviours of the reference plugins, as far as they are about one attachment.

The numbers are those of facts/flannel-weave-cni.md section 3. Where a group is about a bridge, the
test is about the duty that ours has in its place, and says so.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import pytest
from tests.lab.cni.conftest import Box, ours, refused
from tests.lab.conftest import eventually, remove_network
from tests.support.libcni import VERSIONS, Attachment, PluginError

from plait.cni.attachment import endpoint_id
from plait.lab.workloads import PLAIT
from plait.model.marks import GATEWAY4, GATEWAY6, HOST_MAC, endpoint_mac, host_ifname
from plait.wire.cni import call as wire
from plait.wire.cni import errors

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("nothing_stays")]

POOL4 = "10.99.16.0/24"
POOL6 = "fd99:16::/64"
TINY = "10.99.17.0/29"
NETWORKS = {
    "cni4": ("--pool", POOL4),
    "cni6": ("--pool", POOL6),
    "cniboth": ("--pool", "10.99.18.0/24", "--pool", "fd99:18::/64"),
    "cnitiny": ("--pool", TINY),
    "cnishut": ("--pool", "10.99.19.0/24", "--internal"),
}


@pytest.fixture(scope="module", autouse=True)
def networks(nothing_stays: None, cni_lab: object) -> Iterator[None]:
    """Networks of one family, of both, one that is soon used up, and one without a way out."""
    for name, options in NETWORKS.items():
        cni_lab.run("h1", [*PLAIT, "network", "create", name, "--no-docker", *options])
    yield
    for name in NETWORKS:
        remove_network(cni_lab, name)


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ident(name: str, at: Attachment) -> str:
    return endpoint_id(name, wire.Attachment(at.container, at.ifname))


def test_1_a_link_of_others_is_never_taken_over(box: Box, version: str) -> None:
    """In the place of a bridge that exists: a link that has the name of ours, and no mark."""
    network, at = box.network(version=version), box.container()
    link = host_ifname(ident("podnet", at))
    box.sh("ip", "link", "add", link, "type", "veth", "peer", "foreign")
    refused(errors.INTERFACE_EXISTS, lambda: network.add(at))
    assert "foreign" in box.sh("ip", "link", "show", link)
    assert box.links(at) == ["lo"]
    box.sh("ip", "link", "delete", link)
    assert network.add(at)["interfaces"][0]["name"] == link


@pytest.mark.parametrize("name", ["cni4", "cni6", "cniboth"])
def test_2_11_default_routes_of_each_family(box: Box, version: str, name: str) -> None:
    network, at = box.network(ours(network=name), version=version), box.container()
    result = network.add(at)
    assert result["cniVersion"] == version
    pools = [pool for pool in NETWORKS[name] if "/" in pool]
    addresses = [ipaddress.ip_interface(ip["address"]) for ip in result["ips"]]
    assert [a.version for a in addresses] == [4 + 2 * (":" in pool) for pool in pools]
    for address, pool, ip in zip(addresses, pools, result["ips"], strict=True):
        assert address.ip in ipaddress.ip_network(pool)
        assert address.network.prefixlen == address.max_prefixlen
        assert ip["gateway"] == (GATEWAY6 if address.version == 6 else GATEWAY4)
        assert result["interfaces"][ip["interface"]]["sandbox"] == at.netns
        told = str(address.version) if version < "1.0.0" else None
        assert ip.get("version") == told
    assert box.addresses(at) == {str(address) for address in addresses}
    there = {
        (route["dst"], route["gateway"])
        for family in ("-4", "-6")
        for route in box.show(at, family, "route")
        if "gateway" in route
    }
    default = {"0.0.0.0/0": "default", "::/0": "default"}
    assert there == {(default[route["dst"]], route["gw"]) for route in result["routes"]}
    network.delete(at)
    eventually("the interface has gone", lambda: box.links(at) == ["lo"])
    assert box.endpoints() == ()


def test_2_a_network_without_a_way_out_has_routes_to_itself_only(box: Box, version: str) -> None:
    network, at = box.network(ours(network="cnishut"), version=version), box.container()
    result = network.add(at)
    assert {route["dst"] for route in result["routes"]} == {"10.99.19.0/24", f"{GATEWAY4}/32"}
    there = {route["dst"] for route in box.show(at, "-4", "route")}
    assert there == {"10.99.19.0/24", GATEWAY4}


def test_3_15_a_del_of_what_was_never_added_succeeds(box: Box, version: str) -> None:
    network, at = box.network(version=version), box.container()
    network.delete(at)
    network.delete(Attachment("unknown", "", "eth0"))
    network.delete(Attachment("unknown", "/run/netns/gone", "eth0"))


def test_4_the_gateway_is_every_container_s_and_outlives_each(box: Box) -> None:
    """In the place of a bridge's gateway address: ours is on the host, shared by all."""
    network, first, second = box.network(), box.container(), box.container()
    network.add(first)
    network.add(second)
    for at in (first, second):
        (neighbour,) = box.show(at, "-4", "neigh")
        assert (neighbour["dst"], neighbour["lladdr"]) == (GATEWAY4, HOST_MAC)
    network.delete(first)
    assert box.inside(second, "ping", "-c1", "-W2", GATEWAY4)
    assert GATEWAY4 in box.sh("ip", "address", "show", "dev", "lo")


def test_5_macs_stay_the_same_from_one_life_to_the_next(box: Box, version: str) -> None:
    network, at = box.network(version=version), box.container()
    first = network.add(at)
    network.delete(at)
    second = network.add(at)
    macs = [[part["mac"] for part in result["interfaces"]] for result in (first, second)]
    assert macs[0] == macs[1] == [HOST_MAC, endpoint_mac(ident("podnet", at))]


@pytest.mark.parametrize("place", ["CNI_ARGS", "args", "runtimeConfig"])
def test_6_the_mac_is_the_one_asked_for(box: Box, version: str, place: str) -> None:
    """Said in one place, and in all that count less."""
    macs = {
        "CNI_ARGS": "c2:b0:57:49:47:01",
        "args": "C2-B0-57-49-47-02",
        "runtimeConfig": "c2:b0:57:49:47:03",
    }
    keys = {} if place == "CNI_ARGS" else {"args": {"cni": {"mac": macs["args"]}}}
    said = {"mac": macs[place]} if place == "runtimeConfig" else {}
    network, at = box.network(ours(**keys), version=version), box.container()
    result = network.add(at, args=f"IgnoreUnknown=1;MAC={macs['CNI_ARGS']}", **said)
    expected = macs[place].lower().replace("-", ":")
    assert result["interfaces"][1]["mac"] == expected
    (link,) = box.show(at, "link", "show", "dev", "eth0")
    assert link["address"] == expected


def test_7_an_address_is_given_back_when_a_later_step_fails(box: Box, version: str) -> None:
    network, at = box.network(ours(network="cni4"), version=version), box.container()
    address = f"10.99.16.{40 + VERSIONS.index(version)}"
    box.inside(at, "ip", "link", "add", "eth0", "type", "veth", "peer", "eth9")
    refused(errors.INTERFACE_EXISTS, lambda: network.add(at, ips=[address]))
    box.inside(at, "ip", "link", "delete", "eth0")
    assert box.endpoints() == ()
    assert network.add(at, ips=[address])["ips"][0]["address"] == f"{address}/32"


def test_8_what_leaves_the_network_has_the_host_s_address(box: Box) -> None:
    """Masquerading, IPv4 and IPv6, and only on the way out."""
    network, at, other = box.network(), box.container(), box.container()
    result = network.add(at)
    peers = [ip["address"].partition("/")[0] for ip in network.add(other)["ips"]]
    plan = box.lab.plan.hosts["h1"].interface
    hosts = [plan.address4.partition("/")[0], plan.address6.partition("/")[0]]
    mine = [ip["address"].partition("/")[0] for ip in result["ips"]]
    with box.serving_on("router", "tcp", 8100), box.serving(other, "tcp", 8100):
        assert [box.ask(at, "tcp", a, 8100) for a in (plan.gateway4, plan.gateway6)] == hosts
        assert [box.ask(at, "tcp", a, 8100) for a in peers] == mine


def test_9_add_check_del(box: Box, version: str) -> None:
    network, at = box.network(version=version), box.container()
    network.add(at)
    if version < "0.4.0":
        refused(errors.INCOMPATIBLE_VERSION, lambda: network.check(at))
    else:
        network.check(at)
    cached = network.cache[at.container, at.ifname]
    network.delete(at)
    if version >= "0.4.0":
        network.cache[at.container, at.ifname] = cached
        refused(errors.UNKNOWN_CONTAINER, lambda: network.check(at))


DAMAGE = {
    "address": ("address", "flush", "dev", "eth0"),
    "route": ("-4", "route", "delete", "default"),
    "neighbour": ("neigh", "delete", GATEWAY4, "dev", "eth0"),
    "link down": ("link", "set", "eth0", "down"),
    "mtu": ("link", "set", "eth0", "mtu", "1300"),
}
"""Nobody repairs what is inside a container before it is asked for."""


@pytest.mark.parametrize("what", DAMAGE)
def test_9_check_finds_what_the_kernel_lacks(box: Box, what: str) -> None:
    network, at = box.network(), box.container()
    network.add(at)
    box.inside(at, "ip", *DAMAGE[what])
    error = refused(errors.DIFFERS, lambda: network.check(at))
    assert error.details


def test_9_a_link_that_is_deleted_comes_back(box: Box) -> None:
    """Its other end is the host's, and so the agent's to keep."""
    network, at = box.network(), box.container()
    network.add(at)
    box.inside(at, "ip", "link", "delete", "eth0")

    def whole() -> bool:
        try:
            network.check(at)
        except PluginError:
            return False
        return True

    eventually("the link is back, and all of it", whole)


def test_9_check_compares_with_the_result(box: Box) -> None:
    network, at = box.network(), box.container()
    network.add(at)
    result = network.cache[at.container, at.ifname].result
    result["ips"][0]["address"] = "10.1.2.3/32"
    error = refused(errors.DIFFERS, lambda: network.check(at))
    assert "10.1.2.3" in error.details


def test_10_nobody_sends_with_an_address_that_is_not_his(box: Box) -> None:
    """In the place of the MAC check of a bridge: sources are checked by address, on layer 3."""
    network, at, other = box.network(), box.container(), box.container()
    network.add(at)
    victim = network.add(other)["ips"][0]["address"].partition("/")[0]
    assert box.inside(at, "ping", "-c1", "-W2", GATEWAY4)
    box.inside(at, "ip", "address", "add", "10.99.99.99/32", "dev", "eth0")
    box.inside(at, "ping", "-c1", "-W2", victim)
    said = box.inside(at, "ping", "-c1", "-W1", "-I", "10.99.99.99", victim, check=False)
    assert "100% packet loss" in said


def test_12_dns_of_the_runtime_counts_before_that_of_the_configuration(
    box: Box, version: str
) -> None:
    static = {"nameservers": ["192.0.2.1"], "domain": "a.example", "search": ["b.example"]}
    network = box.network(ours(dns=static), version=version)
    assert network.add(box.container())["dns"] == static
    given = {"servers": ["192.0.2.2"], "searches": ["c.example"], "options": ["ndots:2"]}
    assert network.add(box.container(), dns=given)["dns"] == {
        "nameservers": ["192.0.2.2"],
        "search": ["c.example"],
        "options": ["ndots:2"],
    }
    assert box.network(version=version).add(box.container())["dns"] == {}


def test_13_each_interface_of_a_container_has_an_address_of_its_own(box: Box, version: str) -> None:
    network, at = box.network(version=version), box.container()
    second = at._replace(ifname="eth1")
    addresses = [network.add(which)["ips"][0]["address"] for which in (at, second)]
    assert len(set(addresses)) == 2
    assert [min(box.addresses(which)) for which in (at, second)] == addresses
    # The first has the default routes; the second leads to its network only.
    assert {route["dev"] for route in box.show(at, "route", "show", "default")} == {"eth0"}
    network.delete(second)
    assert addresses[0] in box.addresses(at)
    network.delete(at)
    assert box.endpoints() == ()


def test_14_a_second_add_of_an_attachment_is_refused_and_leaks_nothing(
    box: Box, version: str
) -> None:
    network, at = box.network(version=version), box.container()
    result = network.add(at)
    before = box.endpoints()
    for _ in range(2):
        refused(errors.INTERFACE_EXISTS, lambda: network.add(at))
    assert box.endpoints() == before
    assert {ip["address"] for ip in result["ips"]} == box.addresses(at)
    network.delete(at)
    assert box.endpoints() == ()


def test_14_the_same_container_in_a_new_namespace_is_its_next_life(box: Box, version: str) -> None:
    """podman starts a container anew with its old id after a crash, without a DEL."""
    network, at = box.network(version=version), box.container()
    network.add(at)
    again = box.container()
    result = network.add(Attachment(at.container, again.netns))
    assert box.addresses(again) == {ip["address"] for ip in result["ips"]}
    assert len(box.endpoints()) == 1
    eventually("the interface has gone", lambda: box.links(at) == ["lo"])


@pytest.mark.parametrize("place", ["CNI_ARGS", "args", "runtimeConfig"])
def test_16_the_addresses_are_those_asked_for(box: Box, version: str, place: str) -> None:
    network = box.network(
        ours(
            network="cniboth",
            **({"args": {"cni": {"ips": ["10.99.18.21"]}}} if place == "args" else {}),
        ),
        version=version,
    )
    at = box.container()
    if place == "runtimeConfig":
        result = network.add(at, args="IP=10.99.18.20", ips=["10.99.18.22/24", "fd99:18::22"])
        expected = ["10.99.18.22/32", "fd99:18::22/128"]
    else:
        result = network.add(at, args="IP=10.99.18.20")
        expected = ["10.99.18.21/32" if place == "args" else "10.99.18.20/32"]
    assert [ip["address"] for ip in result["ips"]][: len(expected)] == expected
    assert {ip["address"] for ip in result["ips"]} == box.addresses(at)


def test_16_a_requested_address_that_no_pool_has_is_refused(box: Box, version: str) -> None:
    network, at = box.network(ours(network="cni4"), version=version), box.container()
    for ips in (["10.99.20.5"], ["10.99.16.30", "fd99:16::5"]):
        refused(errors.BAD_CONFIGURATION, lambda ips=ips: network.add(at, ips=ips))
    assert box.endpoints() == ()


def test_16_addresses_come_out_of_the_ranges_asked_for(box: Box, version: str) -> None:
    network, at = box.network(ours(network="cniboth"), version=version), box.container()
    # Each version its own: released addresses rest.
    first = 200 + 4 * VERSIONS.index(version)
    low, high = (f"10.99.18.{host}" for host in (first, first + 3))
    low6, high6 = (f"fd99:18::{host:x}" for host in (first, first + 3))
    ranges = [
        [{"subnet": "10.99.18.0/24", "rangeStart": low, "rangeEnd": high}],
        [{"subnet": "fd99:18::/64", "rangeStart": low6, "rangeEnd": high6}],
    ]
    v4, v6 = (
        ipaddress.ip_interface(ip["address"]).ip for ip in network.add(at, ipRanges=ranges)["ips"]
    )
    assert ipaddress.ip_address(low) <= v4 <= ipaddress.ip_address(high)
    assert ipaddress.ip_address(low6) <= v6 <= ipaddress.ip_address(high6)


def test_17_no_address_is_given_twice_in_a_row(box: Box, version: str) -> None:
    network, at = box.network(ours(network="cni4"), version=version), box.container()
    seen = []
    for _ in range(3):
        seen.append(network.add(at)["ips"][0]["address"])
        network.delete(at)
    assert len(set(seen)) == 3


def test_17_a_taken_address_is_refused(box: Box, version: str) -> None:
    network = box.network(ours(network="cni4"), version=version)
    address = network.add(box.container())["ips"][0]["address"]
    error = refused(errors.NO_ADDRESS, lambda: network.add(box.container(), ips=[address]))
    assert "PLAIT-IPAM-010" in error.msg


def test_17_a_pool_is_used_up_without_its_first_and_last_address(box: Box) -> None:
    """Of a /29 the network, broadcast and gateway addresses are never given out."""
    network = box.network(ours(network="cnitiny"))
    given = [network.add(box.container())["ips"][0]["address"] for _ in range(5)]
    assert sorted(given) == [f"10.99.17.{host}/32" for host in range(2, 7)]
    error = refused(errors.NO_ADDRESS, lambda: network.add(box.container()))
    assert "PLAIT-IPAM-012" in error.msg


def test_26_an_interface_of_that_name_is_in_the_way(box: Box, version: str) -> None:
    network, at = box.network(version=version), box.container()
    box.inside(at, "ip", "link", "add", "eth0", "type", "veth", "peer", "eth9")
    refused(errors.INTERFACE_EXISTS, lambda: network.add(at))
    assert box.links(at) == ["lo", "eth9", "eth0"]
    assert box.endpoints() == ()


def test_26_a_second_del_succeeds(box: Box, version: str) -> None:
    network, at = box.network(version=version), box.container()
    network.add(at)
    for _ in range(5):
        network.delete(at)
        # containerd's later ones have no namespace and no result.
        network.delete(Attachment(at.container, ""), cached=False)
    assert box.endpoints() == ()
