"""Damage, crashes and refusals: what is not ours stays, what is ours comes back, nothing is
left half-made. On the fake and on the real kernel."""

import errno
import os
import select
import struct
from collections.abc import Callable, Sequence

import msgspec
import pytest

from plait.agent.programmers.base import Failure
from plait.agent.programmers.rtnetlink import Suite, build
from plait.kernel.fake_netlink import FakeNetlink
from plait.kernel.netlink import Namespace, NetlinkError, Rtnetlink
from plait.kernel.stage import FakeStage, KernelStage, Stage
from plait.kernel.sysctl import Sysctl
from plait.model import marks
from plait.model.hoststate import (
    Address,
    FdbEntry,
    HostState,
    Link,
    Neighbour,
    Peer,
    PeerRoute,
    Route,
    Rule,
    Shaper,
    Vxlan,
)
from plait.wire import links as wl
from plait.wire import netlink as nl
from plait.wire import rtnetlink as rt
from plait.wire import tc

NAME = marks.host_ifname("one")
OTHER = "02:00:00:00:00:07"
VX = marks.VXLAN_LINK
IFB = marks.shaper_ifname(NAME)
SHAPER = Shaper(to_rate=10**7, to_burst=10**6, from_rate=10**7, from_burst=10**6)


def link_to(path: str, inode: int, ifname: str = "eth0") -> Link:
    return Link(
        endpoint="one",
        mtu=1450,
        peer=Peer(
            name=ifname,
            mac=marks.endpoint_mac("one"),
            netns=path,
            netns_inode=inode,
            addresses=("10.9.0.1/32", "fd00::1/128"),
            routes=(PeerRoute(dst="0.0.0.0/0", via=marks.GATEWAY4),),
            neighbours=((marks.GATEWAY4, marks.HOST_MAC),),
        ),
        addresses=("fe80::1/64",),
        sysctls=(("ipv4/conf/{name}/route_localnet", "1"),),
    )


def whole(path: str, inode: int) -> HostState:
    mac = marks.vtep_mac("node")
    device = Vxlan(
        vni=99, port=4789, local="192.0.2.1", mac=mac, mtu=1450, addresses=("fe80::99/64",)
    )
    return HostState(
        links={NAME: link_to(path, inode)},
        addresses=frozenset({Address(link="lo", address="169.254.1.1/32")}),
        tunnels={VX: device},
        neighbours=frozenset({Neighbour(link=VX, address="fe80::7", mac=OTHER)}),
        fdb=frozenset({FdbEntry(link=VX, mac=OTHER, dst="192.0.2.7")}),
        routes=frozenset(
            {
                Route(dst="10.9.0.1/32", link=NAME),
                Route(dst="fd00::1/128", link=NAME),
                Route(dst="10.9.7.0/26", link=VX, via="fe80::7", onlink=True),
            }
        ),
        rules=frozenset({Rule(family=4, priority=112, table=112, mark=1, mask=3)}),
        shapers={NAME: SHAPER},
    )


def settle(suite: Suite, wanted: HostState) -> list[Failure]:
    return [f for programmer in suite for f in programmer.apply(programmer.plan(wanted))]


def differences(suite: Suite, wanted: HostState) -> list[str]:
    return [str(op) for programmer in suite for op in programmer.plan(wanted)]


def observed(stage: Stage) -> Suite:
    suite = build(stage.netlink, stage.sysctl)
    for programmer in suite:
        programmer.observe()
    return suite


def ours(stage: Stage) -> list[str]:
    """Names of links that an endpoint could have left."""
    return sorted(link.name for link in stage.netlink.links("veth"))


Hand = Callable[[Rtnetlink], bytes]
NEARBY = rt.RouteInfo("10.9.0.1/32", protocol=112)

HEARD: dict[str, Hand] = {
    "link deleted": lambda n: wl.del_link(n.index(NAME)),
    "link lowered": lambda n: wl.set_link(n.index(NAME), up=False),
    "group changed": lambda n: wl.set_link(n.index(NAME), group=7),
    "MTU changed": lambda n: wl.set_link(n.index(NAME), mtu=1300),
    "MAC changed": lambda n: wl.set_link(n.index(NAME), mac=OTHER),
    "gateway deleted": lambda n: rt.del_address(n.index(NAME), "fe80::1/64"),
    "address deleted": lambda n: rt.del_address(1, "169.254.1.1/32"),
    "tunnel deleted": lambda n: wl.del_link(n.index(VX)),
    "tunnel lowered": lambda n: wl.set_link(n.index(VX), up=False),
    "tunnel's address deleted": lambda n: rt.del_address(n.index(VX), "fe80::99/64"),
    "route deleted": lambda n: rt.del_route(NEARBY),
    "rule deleted": lambda n: rt.del_rule(rt.RuleInfo(rt.AF_INET, 112, 112, 1, 3, 112)),
    "neighbour deleted": lambda n: rt.del_neighbour(n.index(VX), "fe80::7"),
    "shaper deleted": lambda n: wl.del_link(n.index(IFB)),
    "forwarding entry deleted": lambda n: rt.del_fdb(n.index(VX), OTHER, "192.0.2.7"),
}
UNHEARD: dict[str, Hand] = {
    "alias changed": lambda n: wl.set_link(n.index(NAME), alias="something"),
    "address added": lambda n: rt.new_address(n.index(NAME), "fe80::55/64", 112),
    "route led elsewhere": lambda n: rt.new_route(
        msgspec.structs.replace(NEARBY, index=n.index(VX)), rt.REPLACE
    ),
    "route added": lambda n: rt.new_route(
        rt.RouteInfo("10.77.0.0/16", kind="blackhole", protocol=112)
    ),
    "neighbour changed": lambda n: rt.new_neighbour(n.index(VX), "fe80::7", marks.HOST_MAC),
    "forwarding entry changed": lambda n: rt.new_fdb(n.index(VX), OTHER, "192.0.2.66"),
    "forwarding entry added": lambda n: rt.new_fdb(n.index(VX), marks.HOST_MAC, "192.0.2.6"),
    "shaper lowered": lambda n: wl.set_link(n.index(IFB), up=False),
    "bucket deleted": lambda n: tc.del_bucket(n.index(NAME), marks.QDISC_HANDLE),
    "bucket widened": lambda n: tc.new_bucket(
        n.index(IFB), marks.QDISC_HANDLE, tc.Bucket(10**9, 10**6, 10**7), change=True
    ),
    "redirection deleted": lambda n: tc.del_filters(n.index(NAME), marks.FILTER_PRIORITY),
    "filters deleted": lambda n: tc.del_clsact(n.index(NAME)),
    "rule added": lambda n: rt.new_rule(rt.RuleInfo(rt.AF_INET, 9, 9, 9, 9, 112)),
}


@pytest.mark.parametrize("damage", [*HEARD, *UNHEARD])
def test_damage_is_repaired(stage: Stage, damage: str) -> None:
    wanted = whole(*stage.add_netns())
    suite = observed(stage)
    assert settle(suite, wanted) == []
    listener = stage.netlink.subscribe()
    by_hand = {**HEARD, **UNHEARD}[damage]
    assert stage.netlink.execute([by_hand(stage.netlink)]) == [None]
    if damage in HEARD:
        while True:
            assert select.select([listener], [], [], 5)[0], "nobody noticed"
            events = listener.read()
            if any(programmer.notice(events) for programmer in suite):
                break
    listener.close()
    for programmer in suite:
        programmer.observe()
    assert differences(suite, wanted) != []
    assert settle(suite, wanted) == []
    assert differences(suite, wanted) == []
    assert differences(observed(stage), wanted) == []


@pytest.mark.parametrize("alias", ["something", ""])
def test_a_link_that_lost_its_alias_keeps_its_container(stage: Stage, alias: str) -> None:
    """To make it anew would take the interface from a container that a runtime has set up."""
    wanted = whole(*stage.add_netns())
    assert settle(observed(stage), wanted) == []
    index = stage.netlink.index(NAME)
    bare = nl.message(wl.RTM_SETLINK, nl.NLM_F_ACK, only_alias(index, alias))
    assert stage.netlink.execute([bare]) == [None]
    suite = observed(stage)
    assert differences(suite, wanted) == [f"ip link set {NAME} alias plait:one"]
    assert settle(suite, wanted) == []
    assert stage.netlink.index(NAME) == index


def only_alias(index: int, alias: str) -> bytes:
    return struct.pack("=BBHiII", 0, 0, 0, index, 0, 0) + nl.attribute(
        wl.IFLA_IFALIAS, alias.encode()
    )


def test_what_we_do_ourselves_is_no_damage(stage: Stage) -> None:
    listener = stage.netlink.subscribe()
    wanted = whole(*stage.add_netns())
    suite = observed(stage)
    assert settle(suite, wanted) == []
    for state in (wanted, HostState(), wanted):
        assert settle(suite, state) == []
        suite.links.reap()
        events = listener.read()
        assert [p.name for p in suite if p.notice(events)] == []
    listener.close()


def test_a_setting_changed_by_hand_is_put_back(stage: Stage) -> None:
    wanted = whole(*stage.add_netns())
    suite = observed(stage)
    assert settle(suite, wanted) == []
    stage.sysctl.write(f"net/ipv4/conf/{NAME}/route_localnet", "0")
    suite.links.observe()
    [op] = suite.links.plan(wanted)
    assert str(op) == f"sysctl -w net/ipv4/conf/{NAME}/route_localnet=1"
    assert suite.links.apply([op]) == ()
    assert stage.sysctl.read(f"net/ipv4/conf/{NAME}/route_localnet") == "1"


def test_a_second_far_end_is_taken_away(stage: Stage) -> None:
    wanted = whole(*stage.add_netns())
    suite = observed(stage)
    assert settle(suite, wanted) == []
    suite.fdb.actual = {(VX, OTHER): frozenset({"192.0.2.7", "192.0.2.9"})}
    assert differences(suite, wanted) == [f"bridge fdb del {OTHER} dev {VX} dst 192.0.2.9 self"]


def test_the_inside_is_checked_and_repaired_on_request(stage: Stage) -> None:
    path, inode = stage.add_netns()
    wanted = link_to(path, inode)
    suite = observed(stage)
    assert settle(suite, HostState(links={NAME: wanted})) == []
    assert suite.links.check_inside(wanted) == ()
    there = stage.inside(path)
    index = there.index("eth0")
    by_hand = [
        rt.del_route(rt.RouteInfo("0.0.0.0/0", index=index, protocol=112)),
        rt.del_neighbour(index, marks.GATEWAY4),
        rt.new_address(index, "10.9.0.66/32", 112),
        rt.new_address(index, "10.9.0.77/32"),
        rt.del_address(index, "fd00::1/128"),
        wl.set_link(index, mtu=1300),
    ]
    assert there.execute(by_hand) == [None] * 6
    assert len(suite.links.check_inside(wanted)) == 5
    wanted = msgspec.structs.replace(wanted, mtu=1400)
    assert settle(suite, HostState(links={NAME: wanted})) == []
    assert suite.links.check_inside(wanted) == ()
    left = {a.address for a in there.addresses(rt.AF_INET) if a.index == index}
    assert left == {"10.9.0.1/32", "10.9.0.77/32"}


# Refusals


def test_ipv6_that_is_turned_off_is_turned_on_for_our_links_alone(stage: Stage) -> None:
    """As hardened hosts have it, and Docker in the namespaces of containers without IPv6."""
    path, inode = stage.add_netns()
    key = "net/ipv6/conf/default/disable_ipv6"
    with stage.netlink.open(path) as there:
        there.sysctl.write(key, "1")
        stage.sysctl.write(key, "1")
        wanted = whole(path, inode)
        suite = observed(stage)
        assert settle(suite, wanted) == []
        assert differences(observed(stage), wanted) == []
        assert suite.links.check_inside(wanted.links[NAME]) == ()
        for sysctl in (there.sysctl, stage.sysctl):
            assert sysctl.read(key) == "1"


def test_an_mtu_that_changed_while_the_agent_was_away(stage: Stage) -> None:
    link = link_to(*stage.add_netns())
    assert settle(observed(stage), HostState(links={NAME: link})) == []
    smaller = msgspec.structs.replace(link, mtu=1280)
    suite = observed(stage)
    assert settle(suite, HostState(links={NAME: smaller})) == []
    assert suite.links.check_inside(smaller) == ()


def test_a_namespace_that_is_gone(stage: Stage) -> None:
    path, inode = stage.add_netns()
    suite = observed(stage)
    for link in (link_to("/run/netns/there-is-none", 0), link_to(path, inode + 1)):
        [failure] = settle(suite, HostState(links={NAME: link}))
        assert failure.gone
        assert ours(stage) == []


@pytest.mark.root
def test_the_hosts_own_namespace_and_what_is_none_are_refused() -> None:
    stage = KernelStage()
    try:
        suite = observed(stage)
        own = f"/proc/{os.getpid()}/fd/{stage.fd}"
        [failure] = settle(suite, HostState(links={NAME: link_to(own, 0)}))
        assert "own namespace" in failure.error
        [failure] = settle(suite, HostState(links={NAME: link_to("/etc/hostname", 0)}))
        assert failure.gone
        assert "not a network namespace" in failure.error
        assert ours(stage) == []
    finally:
        stage.close()


def test_a_taken_interface_name_leaves_no_trace(stage: Stage) -> None:
    path, inode = stage.add_netns()
    there = stage.inside(path)
    foreign = wl.new_veth("eth0", mac=OTHER, mtu=1500, group=0, peer_name="x", peer_mac=OTHER)
    assert there.execute([foreign]) == [None] or there.index("eth0")
    suite = observed(stage)
    [failure] = settle(suite, HostState(links={NAME: link_to(path, inode)}))
    assert failure.error == f"an interface eth0 exists in {path} already"
    assert failure.errno == errno.EEXIST
    assert ours(stage) == []
    assert there.index("eth0")


def test_a_foreign_link_of_our_name_is_not_touched(stage: Stage) -> None:
    path, inode = stage.add_netns()
    foreign = wl.new_veth(NAME, mac=OTHER, mtu=1500, group=0, peer_name="x", peer_mac=OTHER)
    assert stage.netlink.execute([foreign]) == [None]
    suite = observed(stage)
    [failure] = settle(suite, HostState(links={NAME: link_to(path, inode)}))
    assert "not ours" in failure.error
    assert settle(suite, HostState()) == []
    [link] = [link for link in stage.netlink.links("veth") if link.name == NAME]
    assert (link.mac, link.mtu, link.group) == (OTHER, 1500, 0)


def test_a_refusal_inside_leaves_no_trace(stage: Stage) -> None:
    path, inode = stage.add_netns()
    link = link_to(path, inode)
    peer = msgspec.structs.replace(
        link.peer,
        routes=(
            PeerRoute(dst="10.0.0.0/8", via=marks.GATEWAY4),
            PeerRoute(dst="10.0.0.0/8", via="169.254.7.7"),
        ),
    )
    suite = observed(stage)
    wanted = HostState(links={NAME: msgspec.structs.replace(link, peer=peer)})
    [failure] = settle(suite, wanted)
    assert "ip route add 10.0.0.0/8 via 169.254.7.7 dev eth0 onlink" in failure.error
    assert "File exists" in failure.error
    assert ours(stage) == []
    assert stage.inside(path).index("eth0") == 0
    assert settle(suite, HostState(links={NAME: link})) == []


def test_one_bad_object_does_not_stop_the_rest(stage: Stage) -> None:
    path, inode = stage.add_netns()
    wanted = whole(path, inode)
    bad = msgspec.structs.replace(link_to("/run/netns/none", 0), endpoint="bad")
    name = marks.host_ifname("bad")
    state = msgspec.structs.replace(
        wanted,
        links={name: bad, **wanted.links},
        routes=wanted.routes | {Route(dst="10.9.0.9/32", link=name)},
    )
    suite = observed(stage)
    failures = settle(suite, state)
    assert [(f.op.part, f.gone) for f in failures] == [("links", True), ("routes", False)]
    assert differences(suite, wanted) == []


def test_a_foreign_route_in_the_way_is_named_and_left(stage: Stage) -> None:
    foreign = rt.RouteInfo("10.9.0.0/26", kind="blackhole", protocol=4)
    assert stage.netlink.execute([rt.new_route(foreign)]) == [None]
    suite = observed(stage)
    wanted = HostState(routes=frozenset({Route(dst="10.9.0.0/26", kind="unreachable")}))
    [failure] = settle(suite, wanted)
    assert failure.error.endswith("in the way: blackhole 10.9.0.0/26 proto 4")
    assert settle(suite, HostState()) == []
    assert stage.netlink.routes(rt.AF_INET, 4) == [foreign]


def test_a_route_of_ours_that_was_not_seen_is_taken_over(stage: Stage) -> None:
    route = rt.RouteInfo("10.9.0.0/26", kind="blackhole", protocol=112)
    suite = observed(stage)
    assert stage.netlink.execute([rt.new_route(route)]) == [None]
    wanted = HostState(routes=frozenset({Route(dst="10.9.0.0/26", kind="unreachable")}))
    assert settle(suite, wanted) == []
    assert differences(observed(stage), wanted) == []


def test_foreign_objects_survive_everything(stage: Stage) -> None:
    foreign = [
        wl.new_veth("br-peer", mac=OTHER, mtu=1500, group=112, peer_name="x", peer_mac=OTHER),
        rt.new_address(1, "10.66.0.1/32", 3),
        rt.new_route(rt.RouteInfo("10.66.1.0/24", kind="blackhole", protocol=3)),
        rt.new_rule(rt.RuleInfo(rt.AF_INET, 66, 66, 6, 6, 3)),
    ]
    assert stage.netlink.execute(foreign) == [None] * 4
    suite = observed(stage)
    for state in (whole(*stage.add_netns()), HostState()):
        assert settle(suite, state) == []
    suite.links.reap()
    assert ours(stage) == ["br-peer", "x"]
    assert "10.66.0.1/32" in {a.address for a in stage.netlink.addresses(rt.AF_INET)}
    assert len(stage.netlink.routes(rt.AF_INET, 3)) == 1
    assert len([r for r in stage.netlink.rules(rt.AF_INET) if r.protocol == 3]) == 1


def test_reaping_spares_a_foreign_link_in_our_group(stage: Stage) -> None:
    foreign = wl.new_veth(
        "mine", mac=OTHER, mtu=1500, group=marks.DOOM_GROUP, peer_name="x", peer_mac=OTHER
    )
    assert stage.netlink.execute([foreign]) == [None]
    suite = observed(stage)
    for state in (whole(*stage.add_netns()), HostState()):
        assert settle(suite, state) == []
    assert suite.links.doomed == 1
    assert observed(stage).links.doomed == 1
    assert suite.links.reap() == 1
    assert suite.links.doomed == 0
    assert ours(stage) == ["mine", "x"]


def test_an_endpoint_that_returns_waits_for_no_other_to_be_reaped(stage: Stage) -> None:
    here, there = stage.add_netns(), stage.add_netns()
    other = marks.host_ifname("other")
    both = {NAME: link_to(*here), other: link_to(*there)}
    suite = observed(stage)
    for links in (both, {}, {NAME: both[NAME]}):
        assert settle(suite, HostState(links=links)) == []
    assert ours(stage) == sorted([NAME, other]), "the other one is still there"
    # Another endpoint takes the place of one that waits: what holds its name inside must go.
    assert settle(suite, HostState(links={NAME: both[NAME], "pl0123456789a": both[other]})) == []
    assert ours(stage) == sorted([NAME, "pl0123456789a"])


def test_an_endpoint_that_returns_while_the_reaper_is_at_work(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reaper deletes what is in the way in the moment in which we look for it."""
    wanted = whole(*stage.add_netns())
    suite = observed(stage)
    for state in (wanted, HostState()):
        assert settle(suite, state) == []
    look = stage.netlink.link
    reaped: list[int] = []

    def late(index: int) -> wl.LinkInfo | None:
        monkeypatch.undo()
        reaped.append(suite.links.reap())
        return look(index)

    monkeypatch.setattr(stage.netlink, "link", late)
    assert settle(suite, wanted) == []
    assert reaped == [1]


# Crashes


class KilledError(BaseException):
    """The agent is gone: nothing more is sent, no clean-up runs to an effect."""


class Dying:
    """A door that lets `sends` batches through and then no more, in no namespace."""

    def __init__(self, netlink: Rtnetlink, budget: list[int]) -> None:
        self._netlink = netlink
        self._budget = budget

    def __getattr__(self, name: str) -> object:
        return getattr(self._netlink, name)

    def execute(self, messages: Sequence[bytes]) -> list[NetlinkError | None]:
        if messages and self._budget[0] == 0:
            raise KilledError
        self._budget[0] -= bool(messages)
        return self._netlink.execute(messages)

    def open(self, path: str, inode: int = 0) -> "DyingNamespace":
        return DyingNamespace(self._netlink.open(path, inode), self._budget)


class DyingNamespace:
    def __init__(self, namespace: Namespace, budget: list[int]) -> None:
        self._namespace = namespace
        self._budget = budget
        self.fd, self.is_own = namespace.fd, namespace.is_own

    @property
    def sysctl(self) -> Sysctl:
        return self._namespace.sysctl

    @property
    def netlink(self) -> Dying:
        return Dying(self._namespace.netlink, self._budget)

    def __enter__(self) -> "DyingNamespace":
        self._namespace.__enter__()
        return self

    def __exit__(self, *caught: object) -> None:
        self._namespace.__exit__(*caught)


@pytest.mark.parametrize("again", [True, False], ids=["retried", "detached"])
@pytest.mark.parametrize("sends", [0, 1, 2, 3])
def test_killed_while_attaching(stage: Stage, sends: int, again: bool) -> None:
    """After any number of sends a new agent completes the endpoint, or removes it."""
    path, inode = stage.add_netns()
    wanted = HostState(links={NAME: link_to(path, inode)})
    dying = build(Dying(stage.netlink, [sends]), stage.sysctl)  # type: ignore[arg-type]
    if sends < 3:
        with pytest.raises(KilledError):
            settle(dying, wanted)
    else:
        assert settle(dying, wanted) == []
    suite = observed(stage)
    assert (differences(suite, wanted) == []) == (sends == 3)
    assert settle(suite, wanted if again else HostState()) == []
    suite.links.reap()
    assert ours(stage) == ([NAME] if again else [])
    if again:
        assert suite.links.check_inside(wanted.links[NAME]) == ()


def test_killed_while_detaching(stage: Stage) -> None:
    """Between lowering and dooming nothing can come; what was doomed is reaped by the next."""
    path, inode = stage.add_netns()
    wanted = HostState(links={NAME: link_to(path, inode)})
    assert settle(observed(stage), wanted) == []
    assert settle(observed(stage), HostState()) == []
    suite = observed(stage)
    assert suite.links.actual == {}
    assert settle(suite, wanted) == []
    assert differences(suite, wanted) == []
    assert ours(stage) == [NAME]


def test_the_kernel_refuses_and_later_takes_it() -> None:
    stage = FakeStage()
    wanted = whole(*stage.add_netns())
    suite = observed(stage)
    kinds = (wl.RTM_NEWLINK, wl.RTM_SETLINK, rt.RTM_NEWADDR, rt.RTM_NEWROUTE, rt.RTM_NEWNEIGH)
    assert isinstance(stage.netlink, FakeNetlink)
    for kind in (*kinds, rt.RTM_NEWRULE):
        stage.netlink.fail_next(errno.ENOBUFS, kind=kind)
    failures = settle(suite, wanted)
    assert {failure.errno for failure in failures} & {errno.ENOBUFS}
    for _ in range(4):
        failures = settle(suite, wanted)
    assert failures == []
    assert differences(observed(stage), wanted) == []


def test_a_setting_that_is_refused_undoes_the_endpoint() -> None:
    stage = FakeStage()
    wanted = HostState(links={NAME: link_to(*stage.add_netns())})
    suite = observed(stage)
    stage.kernel.sysctl().fail_next(errno.EACCES)
    [failure] = settle(suite, wanted)
    assert failure.errno == errno.EACCES
    assert ours(stage) == []
    assert settle(suite, wanted) == []


def test_anothers_qdisc_is_never_replaced(stage: Stage) -> None:
    """Debian's bandwidth plugin may follow ours in a chain."""
    wanted = whole(*stage.add_netns())
    suite = observed(stage)
    assert settle(suite, msgspec.structs.replace(wanted, shapers={})) == []
    theirs = tc.Bucket(rate=1_250_000, burst=65536, limit=128_036)
    index = stage.netlink.index(NAME)
    assert stage.netlink.execute([tc.new_bucket(index, 0x1_0000, theirs)]) == [None]
    (failure,) = settle(suite, wanted)
    assert failure.errno == errno.EEXIST
    for programmer in suite:
        programmer.observe()
    assert settle(suite, msgspec.structs.replace(wanted, shapers={})) == []
    suite.shapers.reap()
    (left,) = stage.netlink.qdiscs()
    assert (left.index, left.handle) == (index, 0x1_0000)


def test_the_filters_of_others_outlive_a_shaper(stage: Stage) -> None:
    wanted = whole(*stage.add_netns())
    suite = observed(stage)
    assert settle(suite, wanted) == []
    index = stage.netlink.index(NAME)
    theirs = tc.new_redirect(index, 7, stage.netlink.index(VX))
    assert stage.netlink.execute([theirs]) == [None]
    assert settle(suite, msgspec.structs.replace(wanted, shapers={})) == []
    assert {f.priority for f in stage.netlink.filters(index, tc.INGRESS)} == {7}


OF_THE_ENDPOINT = (
    "link deleted",
    "link lowered",
    "group changed",
    "MTU changed",
    "MAC changed",
    "gateway deleted",
    "route deleted",
    "alias changed",
    "route led elsewhere",
    "shaper deleted",
    "shaper lowered",
    "bucket deleted",
    "bucket widened",
    "redirection deleted",
    "filters deleted",
)


def checked(suite: Suite, wanted: HostState) -> list[str]:
    parts = (suite.links, suite.shapers, suite.routes)
    return [text for part in parts for text in part.check(wanted, NAME)]


@pytest.mark.parametrize("damage", OF_THE_ENDPOINT)
def test_a_check_finds_what_an_endpoint_lacks(stage: Stage, damage: str) -> None:
    wanted = whole(*stage.add_netns())
    suite = observed(stage)
    assert settle(suite, wanted) == []
    assert checked(suite, wanted) == []
    by_hand = {**HEARD, **UNHEARD}[damage]
    assert stage.netlink.execute([by_hand(stage.netlink)]) == [None]
    assert checked(suite, wanted) != []
    # Neither the kernel nor what is known of it was changed: the next look finds the damage.
    for programmer in suite:
        programmer.observe()
    assert differences(suite, wanted) != []


INSIDE: dict[str, Hand] = {
    "address": lambda n: rt.del_address(n.index("eth0"), "10.9.0.1/32"),
    "route": lambda n: rt.del_route(
        rt.RouteInfo("0.0.0.0/0", via=marks.GATEWAY4, index=n.index("eth0"), protocol=112)
    ),
    "neighbour": lambda n: rt.del_neighbour(n.index("eth0"), marks.GATEWAY4),
    "MTU": lambda n: wl.set_link(n.index("eth0"), mtu=1300),
    "down": lambda n: wl.set_link(n.index("eth0"), up=False),
}


@pytest.mark.parametrize("damage", INSIDE)
def test_a_check_looks_inside(stage: Stage, damage: str) -> None:
    path, inode = stage.add_netns()
    wanted = whole(path, inode)
    suite = observed(stage)
    assert settle(suite, wanted) == []
    inside = stage.inside(path)
    assert inside.execute([INSIDE[damage](inside)]) == [None]
    assert checked(suite, wanted) != []


def test_a_link_that_was_made_over_keeps_its_mtu(stage: Stage) -> None:
    """CNI's tuning plugin, behind ours, gave it another MAC and MTU."""
    path, inode = stage.add_netns()
    wanted = whole(path, inode)
    suite = observed(stage)
    assert settle(suite, wanted) == []
    inside = stage.inside(path)
    index = inside.index("eth0")
    made_over = (wl.set_link(index, mac=OTHER), wl.set_link(index, mtu=1300))
    assert inside.execute(made_over) == [None, None]
    assert checked(suite, wanted) == []
