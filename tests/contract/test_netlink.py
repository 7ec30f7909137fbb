"""The rtnetlink door: one contract, kept by the real kernel and by the fake."""

import errno
import select
from collections.abc import Iterator

import pytest

from plait.kernel.fake_netlink import FakeNetlink
from plait.kernel.netlink import Event, Rtnetlink
from plait.kernel.netns import NamespaceGone
from plait.kernel.stage import FakeStage, KernelStage, Stage
from plait.wire import links as wl
from plait.wire import rtnetlink as rt

MAC = "02:00:00:00:00:01"
HOST_MAC = "ee:ee:ee:ee:ee:ee"


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    made: Stage = FakeStage() if request.param == "fake" else KernelStage()
    yield made
    made.close()


def codes(netlink: Rtnetlink, *messages: bytes) -> list[int]:
    return [problem.code if problem else 0 for problem in netlink.execute(messages)]


def veth(netlink: Rtnetlink, name: str = "pl1", peer: str = "pt1", netns: int = -1) -> int:
    made = wl.new_veth(
        name,
        mac=HOST_MAC,
        mtu=1450,
        group=112,
        peer_name=peer,
        peer_mac=MAC,
        peer_group=0 if netns >= 0 else 112,
        peer_netns=netns,
    )
    assert codes(netlink, made) == [0]
    return netlink.index(name)


def up(netlink: Rtnetlink, *names: str) -> None:
    messages = [wl.set_link(netlink.index(name), up=True) for name in names]
    assert codes(netlink, *messages) == [0] * len(messages)


def by_name(netlink: Rtnetlink, name: str) -> wl.LinkInfo:
    return next(link for link in netlink.links() if link.name == name)


def test_a_new_namespace_has_loopback_down(stage: Stage) -> None:
    lo = by_name(stage.netlink, "lo")
    assert (lo.index, lo.up, lo.mtu) == (1, False, 65536)
    assert stage.netlink.name(1) == "lo"
    assert stage.netlink.index("nothing") == 0
    assert stage.netlink.name(77777) == ""


def test_both_ends_of_a_veth_are_born_down_in_their_group(stage: Stage) -> None:
    veth(stage.netlink)
    host, peer = by_name(stage.netlink, "pl1"), by_name(stage.netlink, "pt1")
    assert (host.group, host.mtu, host.mac, host.up) == (112, 1450, HOST_MAC, False)
    assert (peer.group, peer.mtu, peer.mac, peer.up) == (112, 1450, MAC, False)
    assert (host.peer, host.peer_elsewhere) == (peer.index, False)
    assert {link.name for link in stage.netlink.links("veth")} == {"pl1", "pt1"}


def test_links_of_one_group(stage: Stage) -> None:
    index = veth(stage.netlink)
    assert codes(stage.netlink, wl.set_link(index, group=113)) == [0]
    assert [link.name for link in stage.netlink.links("veth", 113)] == ["pl1"]
    assert [link.name for link in stage.netlink.links("", 112)] == ["pt1"]
    assert stage.netlink.links("vxlan", 113) == stage.netlink.links("veth", 114) == []


def test_a_peer_is_born_in_another_namespace_under_its_final_name(stage: Stage) -> None:
    path, inode = stage.add_netns()
    with stage.netlink.open(path, inode) as there:
        assert not there.is_own
        veth(stage.netlink, peer="eth0", netns=there.fd)
        assert by_name(there.netlink, "eth0").mac == MAC
    assert stage.netlink.index("eth0") == 0
    assert by_name(stage.netlink, "pl1").peer_elsewhere


def test_opening_a_namespace_that_is_gone_or_another_says_so(stage: Stage) -> None:
    path, inode = stage.add_netns()
    with pytest.raises(NamespaceGone):
        stage.netlink.open(path, inode + 1)
    with pytest.raises(NamespaceGone):
        stage.netlink.open("/run/netns/there-is-none")


def test_a_name_is_unique_in_its_namespace(stage: Stage) -> None:
    path, inode = stage.add_netns()
    veth(stage.netlink)
    again = wl.new_veth("pl1", mac=MAC, mtu=1500, group=0, peer_name="pt2", peer_mac=MAC)
    assert codes(stage.netlink, again) == [errno.EEXIST]
    with stage.netlink.open(path, inode) as there:
        veth(stage.netlink, "pl2", "eth0", there.fd)
        taken = wl.new_veth(
            "pl3", mac=MAC, mtu=1500, group=0, peer_name="eth0", peer_mac=MAC, peer_netns=there.fd
        )
        assert codes(stage.netlink, taken) == [errno.EEXIST]
    assert stage.netlink.index("pl3") == 0


def test_a_refusal_does_not_stop_the_next_request(stage: Stage) -> None:
    index = veth(stage.netlink)
    found = codes(stage.netlink, wl.set_link(9999, up=True), wl.set_link(index, mtu=1400))
    assert found == [errno.ENODEV, 0]
    assert by_name(stage.netlink, "pl1").mtu == 1400


def test_alias_group_mac_and_address_generation_are_set(stage: Stage) -> None:
    index = veth(stage.netlink)
    assert not by_name(stage.netlink, "pl1").addrgen_none
    messages = [
        wl.set_link(index, addrgen_none=True),
        wl.set_link(index, alias="plait:x", group=113, mac=MAC),
        wl.set_link(index, up=True),
    ]
    assert codes(stage.netlink, *messages) == [0, 0, 0]
    link = by_name(stage.netlink, "pl1")
    assert (link.alias, link.group, link.mac, link.up) == ("plait:x", 113, MAC, True)
    assert link.addrgen_none
    assert [a for a in stage.netlink.addresses(rt.AF_INET6) if a.index == index] == []


def test_settings_are_seen_in_the_dump(stage: Stage) -> None:
    veth(stage.netlink)
    assert by_name(stage.netlink, "pl1").sysctl("ipv4/conf/pl1/route_localnet") == "0"
    assert by_name(stage.netlink, "pl1").sysctl("ipv6/conf/pl1/accept_ra") == "1"
    stage.sysctl.write("net/ipv4/conf/pl1/route_localnet", "1")
    stage.sysctl.write("net/ipv6/conf/pl1/accept_ra", "0")
    link = by_name(stage.netlink, "pl1")
    assert link.sysctl("ipv4/conf/pl1/route_localnet") == "1"
    assert link.sysctl("ipv6/conf/pl1/accept_ra") == "0"
    assert link.sysctl("ipv4/conf/pl1/tag") is None


def test_settings_of_what_is_not_there(stage: Stage) -> None:
    assert stage.sysctl.read("net/ipv4/conf/none/forwarding") is None
    with pytest.raises(FileNotFoundError):
        stage.sysctl.write("net/ipv4/conf/none/forwarding", "1")
    for key in ("", "../../etc/passwd", "net//x"):
        with pytest.raises(ValueError, match="not a sysctl key"):
            stage.sysctl.read(key)


def test_deleting_one_end_deletes_the_pair(stage: Stage) -> None:
    index = veth(stage.netlink)
    assert codes(stage.netlink, wl.del_link(index)) == [0]
    assert stage.netlink.links("veth") == []
    assert codes(stage.netlink, wl.del_link(index)) == [errno.ENODEV]


def test_deleting_a_group(stage: Stage) -> None:
    for number in range(3):
        index = veth(stage.netlink, f"pl{number}", f"pt{number}")
        if number < 2:
            assert codes(stage.netlink, wl.set_link(index, group=4242)) == [0]
    assert codes(stage.netlink, wl.del_group(4242)) == [0]
    assert {link.name for link in stage.netlink.links("veth")} == {"pl2", "pt2"}
    assert codes(stage.netlink, wl.del_group(4242)) == [errno.ENODEV]


def test_addresses_carry_their_protocol(stage: Stage) -> None:
    up(stage.netlink, "lo")
    messages = [
        rt.new_address(1, "169.254.1.1/32", 112),
        rt.new_address(1, "fd00::1/128", 112),
        rt.new_address(1, "169.254.1.1/32", 112),
        rt.new_address(9999, "10.0.0.1/32"),
    ]
    assert codes(stage.netlink, *messages) == [0, 0, errno.EEXIST, errno.ENODEV]
    ours = {
        address.address
        for family in (rt.AF_INET, rt.AF_INET6)
        for address in stage.netlink.addresses(family)
        if address.protocol == 112
    }
    assert ours == {"169.254.1.1/32", "fd00::1/128"}
    gone = [rt.del_address(1, "169.254.1.1/32"), rt.del_address(1, "169.254.1.1/32")]
    assert codes(stage.netlink, *gone) == [0, errno.EADDRNOTAVAIL]


def routes(netlink: Rtnetlink) -> set[rt.RouteInfo]:
    return {r for f in (rt.AF_INET, rt.AF_INET6) for r in netlink.routes(f, 112)}


def test_routes_of_every_kind_come_back_as_they_went(stage: Stage) -> None:
    index = veth(stage.netlink)
    up(stage.netlink, "lo", "pl1", "pt1")
    wanted = {
        rt.RouteInfo("10.0.0.2/32", index=index, protocol=112),
        rt.RouteInfo("fd00::2/128", index=index, protocol=112),
        rt.RouteInfo("10.1.0.0/16", index=index, via="192.0.2.1", onlink=True, protocol=112),
        rt.RouteInfo("10.2.0.0/16", index=index, via="fe80::5", onlink=True, protocol=112),
        rt.RouteInfo("fd02::/64", index=index, via="fe80::5", mtu=1400, protocol=112),
        rt.RouteInfo("10.3.0.0/16", kind="blackhole", table=1000, protocol=112),
        rt.RouteInfo("10.4.0.0/16", kind="unreachable", metric=7, protocol=112),
        rt.RouteInfo("0.0.0.0/0", kind="local", index=1, table=112, protocol=112),
        rt.RouteInfo("10.0.0.2/32", index=index, metric=9, protocol=112),
    }
    ordered = sorted(wanted, key=lambda route: (bool(route.via), route.dst, route.metric))
    assert codes(stage.netlink, *map(rt.new_route, ordered)) == [0] * len(ordered)
    assert routes(stage.netlink) == wanted
    assert codes(stage.netlink, *map(rt.new_route, ordered)) == [errno.EEXIST] * len(ordered)
    assert codes(stage.netlink, *map(rt.del_route, ordered)) == [0] * len(ordered)
    assert codes(stage.netlink, *map(rt.del_route, ordered)) == [errno.ESRCH] * len(ordered)
    assert routes(stage.netlink) == set()


def test_replacing_a_route_leaves_one(stage: Stage) -> None:
    index = veth(stage.netlink)
    other = veth(stage.netlink, "pl2", "pt2")
    up(stage.netlink, "pl1", "pt1", "pl2", "pt2")
    for dst in ("10.0.0.0/26", "fd00::/122"):
        first = rt.RouteInfo(dst, index=index, protocol=112)
        second = rt.RouteInfo(dst, index=other, protocol=112)
        found = codes(stage.netlink, rt.new_route(first), rt.new_route(second, rt.REPLACE))
        assert found == [0, 0]
    assert {route.index for route in routes(stage.netlink)} == {other}
    assert len(routes(stage.netlink)) == 2


def test_a_route_is_deleted_only_under_its_protocol(stage: Stage) -> None:
    index = veth(stage.netlink)
    up(stage.netlink, "pl1", "pt1")
    foreign = rt.RouteInfo("10.0.0.0/26", index=index, protocol=4)
    assert codes(stage.netlink, rt.new_route(foreign)) == [0]
    ours = rt.RouteInfo("10.0.0.0/26", index=index, protocol=112)
    assert codes(stage.netlink, rt.del_route(ours)) == [errno.ESRCH]
    assert codes(stage.netlink, rt.new_route(ours)) == [errno.EEXIST]
    assert routes(stage.netlink) == set()


def test_a_route_needs_a_link_that_is_up_and_a_gateway_within_reach(stage: Stage) -> None:
    index = veth(stage.netlink)
    route = rt.RouteInfo("10.0.0.0/26", index=index, protocol=112)
    assert codes(stage.netlink, rt.new_route(route)) == [errno.ENETDOWN]
    up(stage.netlink, "pl1", "pt1")
    far = rt.RouteInfo("10.0.0.0/26", via="192.0.2.1", protocol=112)
    [problem] = stage.netlink.execute([rt.new_route(far)])
    assert problem is not None
    assert problem.code == errno.ENETUNREACH
    assert "gateway" in str(problem)
    near = rt.new_address(index, "192.0.2.9/24", 112)
    assert codes(stage.netlink, near, rt.new_route(far)) == [0, 0]
    assert {route.index for route in routes(stage.netlink)} == {index}
    nobody = rt.RouteInfo("10.9.0.0/26", index=index, src="203.0.113.1", protocol=112)
    assert codes(stage.netlink, rt.new_route(nobody)) == [errno.EINVAL]


def test_routes_and_ipv6_addresses_go_when_their_link_goes_down(stage: Stage) -> None:
    index = veth(stage.netlink)
    up(stage.netlink, "pl1", "pt1")
    messages = [
        rt.new_address(index, "192.0.2.9/24", 112),
        rt.new_address(index, "fe80::1/64", 112),
        rt.new_route(rt.RouteInfo("10.0.0.2/32", index=index, protocol=112)),
        rt.new_route(rt.RouteInfo("fd00::2/128", index=index, protocol=112)),
        wl.set_link(index, up=False),
    ]
    assert codes(stage.netlink, *messages) == [0] * 5
    assert routes(stage.netlink) == set()
    ours = [
        address.address
        for family in (rt.AF_INET, rt.AF_INET6)
        for address in stage.netlink.addresses(family)
        if address.index == index
    ]
    assert ours == ["192.0.2.9/24"]


def test_ipv4_routes_go_with_the_last_ipv4_address_of_their_link(stage: Stage) -> None:
    index = veth(stage.netlink)
    up(stage.netlink, "pl1", "pt1")
    messages = [
        rt.new_address(index, "192.0.2.1/32"),
        rt.new_address(index, "192.0.2.2/32"),
        rt.new_route(rt.RouteInfo("10.0.0.2/32", index=index, protocol=112)),
        rt.new_route(rt.RouteInfo("fd00::2/128", index=index, protocol=112)),
        rt.del_address(index, "192.0.2.1/32"),
    ]
    assert codes(stage.netlink, *messages) == [0] * 5
    assert len(routes(stage.netlink)) == 2
    assert codes(stage.netlink, rt.del_address(index, "192.0.2.2/32")) == [0]
    assert {route.dst for route in routes(stage.netlink)} == {"fd00::2/128"}


def test_rules(stage: Stage) -> None:
    rule = rt.RuleInfo(rt.AF_INET, 112, 112, 0x700000, 0xF00000, 112)
    assert codes(stage.netlink, rt.new_rule(rule), rt.new_rule(rule)) == [0, errno.EEXIST]
    assert [r for r in stage.netlink.rules(rt.AF_INET) if r.protocol == 112] == [rule]
    assert [r for r in stage.netlink.rules(rt.AF_INET6) if r.protocol == 112] == []
    assert codes(stage.netlink, rt.del_rule(rule), rt.del_rule(rule)) == [0, errno.ENOENT]


def vxlan(netlink: Rtnetlink, name: str = "plait.vx", vni: int = 99) -> list[int]:
    made = wl.new_vxlan(name, mac=MAC, mtu=1450, vni=vni, port=4789, local="192.0.2.1")
    return codes(netlink, made)


def test_a_vxlan_device(stage: Stage) -> None:
    assert vxlan(stage.netlink) == [0]
    [link] = stage.netlink.links("vxlan")
    assert link.vxlan == wl.VxlanInfo(99, 4789, "192.0.2.1", learning=False)
    assert (link.mac, link.mtu, link.up) == (MAC, 1450, False)
    assert vxlan(stage.netlink, "other.vx") == [errno.EEXIST]
    assert vxlan(stage.netlink, "other.vx", vni=100) == [0]


def test_neighbours_are_permanent_and_replaced(stage: Stage) -> None:
    assert vxlan(stage.netlink) == [0]
    index = stage.netlink.index("plait.vx")
    quiet = wl.set_link(index, addrgen_none=True)
    assert codes(stage.netlink, quiet, wl.set_link(index, up=True)) == [0, 0]
    for family, address in ((rt.AF_INET, "192.0.2.7"), (rt.AF_INET6, "fe80::7")):
        messages = [
            rt.new_neighbour(index, address, "02:00:00:00:00:06", 112),
            rt.new_neighbour(index, address, "02:00:00:00:00:07", 112),
        ]
        assert codes(stage.netlink, *messages) == [0, 0]
        permanent = [
            (entry.address, entry.mac)
            for entry in stage.netlink.neighbours(family, index)
            if entry.permanent
        ]
        assert permanent == [(address, "02:00:00:00:00:07")]
        gone = rt.del_neighbour(index, address)
        assert codes(stage.netlink, gone, gone) == [0, errno.ENOENT]


def test_forwarding_entries_are_replaced(stage: Stage) -> None:
    assert vxlan(stage.netlink) == [0]
    index = stage.netlink.index("plait.vx")
    mac = "02:00:00:00:00:07"
    messages = [rt.new_fdb(index, mac, "192.0.2.7"), rt.new_fdb(index, mac, "192.0.2.8")]
    assert codes(stage.netlink, *messages) == [0, 0]
    [entry] = stage.netlink.neighbours(rt.AF_BRIDGE, index)
    assert (entry.mac, entry.address) == (mac, "192.0.2.8")
    gone = rt.del_fdb(index, mac, "192.0.2.8")
    assert codes(stage.netlink, gone, gone) == [0, errno.ENOENT]
    veth(stage.netlink)
    wrong = rt.new_fdb(stage.netlink.index("pl1"), mac, "192.0.2.7")
    if isinstance(stage.netlink, FakeNetlink):
        assert codes(stage.netlink, wrong) == [errno.EOPNOTSUPP]


def test_deletions_are_heard(stage: Stage) -> None:
    index = veth(stage.netlink)
    up(stage.netlink, "pl1", "pt1")
    rule = rt.RuleInfo(rt.AF_INET, 112, 112, 1, 1, 112)
    route = rt.RouteInfo("10.0.0.2/32", index=index, protocol=112)
    made = [
        rt.new_address(index, "192.0.2.1/32", 112),
        rt.new_neighbour(index, "192.0.2.3", MAC),
        rt.new_route(route),
        rt.new_rule(rule),
    ]
    assert codes(stage.netlink, *made) == [0] * 4
    listener = stage.netlink.subscribe()
    assert listener.read() == []
    gone = [
        rt.del_route(route),
        rt.del_rule(rule),
        rt.del_neighbour(index, "192.0.2.3"),
        rt.del_address(index, "192.0.2.1/32"),
        wl.del_link(index),
    ]
    assert codes(stage.netlink, *gone) == [0] * 5
    wanted = {"route", "rule", "neighbour", "address", "link"}
    heard: list[Event] = []
    while wanted - {event.kind for event in heard if event.deleted}:
        assert select.select([listener], [], [], 5)[0], "nothing more was heard"
        heard += listener.read()
    assert Event("route", info=route) in heard
    assert Event("rule", info=rule) in heard
    ended = {e.info.name for e in heard if isinstance(e.info, wl.LinkInfo) and e.deleted}
    assert ended == {"pl1", "pt1"}
    listener.close()


def test_a_clone_sees_the_same_namespace(stage: Stage) -> None:
    veth(stage.netlink)
    clone = stage.netlink.clone()
    assert by_name(clone, "pl1").index == stage.netlink.index("pl1")
    clone.close()
    assert stage.netlink.index("pl1")


def test_the_fake_fails_on_request() -> None:
    netlink = FakeStage().netlink
    netlink.fail_next(errno.EBUSY, kind=rt.RTM_NEWRULE)
    rule = rt.RuleInfo(rt.AF_INET, 112, 112, 1, 1, 112)
    address = rt.new_address(1, "192.0.2.1/32")
    assert codes(netlink, address, rt.new_rule(rule), rt.new_rule(rule)) == [0, errno.EBUSY, 0]


def test_one_link_and_its_addresses(stage: Stage) -> None:
    index = veth(stage.netlink)
    up(stage.netlink, "lo")
    assert codes(stage.netlink, rt.new_address(index, "192.0.2.7/24", 112)) == [0]
    found = stage.netlink.link(index)
    assert found is not None
    assert (found.name, found.group, found.mtu) == ("pl1", 112, 1450)
    assert stage.netlink.link(77777) is None
    addresses = stage.netlink.addresses(rt.AF_INET, index)
    assert [a.address for a in addresses] == ["192.0.2.7/24"]
    assert stage.netlink.addresses(rt.AF_INET, 77777) == []


def test_the_route_that_a_packet_would_take(stage: Stage) -> None:
    netlink = stage.netlink
    index = veth(netlink)
    up(netlink, "pl1", "pt1")
    routes = (
        rt.RouteInfo("10.9.0.0/16", kind="unreachable", metric=4096, protocol=112),
        rt.RouteInfo("10.9.0.1/32", index=index, protocol=112),
        rt.RouteInfo("fd00::1/128", index=index, protocol=112),
    )
    assert codes(netlink, *map(rt.new_route, routes)) == [0, 0, 0]
    for address, dst in (("10.9.0.1", "10.9.0.1/32"), ("fd00::1", "fd00::1/128")):
        found = netlink.route_to(address)
        assert found is not None
        assert (found.dst, found.index, found.protocol) == (dst, index, 112)
    assert netlink.route_to("10.9.0.2") is None
    assert netlink.route_to("198.51.100.1") is None
