"""Named states of the rtnetlink parts, walked every way: the kernel's end state depends on the
current desired state alone, on the fake and on the real kernel."""

import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
import pytest

from plait.agent.programmers.rtnetlink import Suite, build
from plait.kernel.netlink import Rtnetlink
from plait.kernel.stage import FakeStage, KernelStage, Stage
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
from plait.wire import rtnetlink as rt
from plait.wire import tc

KEYS = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")
MBIT = 1_000_000
OTHER = "02:00:00:00:00:07"
Space = tuple[str, int]


class Play:
    """A stage with three containers' namespaces, and the programmers on it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.spaces = [stage.add_netns() for _ in range(3)]
        stage.netlink.execute([wl.set_link(1, up=True)])
        self.suite = self.amnesia()

    def amnesia(self) -> Suite:
        """Programmers that know nothing but what they observe."""
        suite = build(self.stage.netlink, self.stage.sysctl, KEYS)
        for programmer in suite:
            programmer.observe()
        return suite


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def play(request: pytest.FixtureRequest) -> Iterator[Play]:
    stage: Stage = FakeStage() if request.param == "fake" else KernelStage()
    yield Play(stage)
    stage.close()


def endpoint(ident: str, number: int, space: Space, mtu: int = 1450, **peer: Any) -> Link:
    fields: dict[str, Any] = {
        "name": "eth0",
        "mac": marks.endpoint_mac(ident),
        "netns": space[0],
        "netns_inode": space[1],
        "addresses": (f"10.9.0.{number}/32", f"fd00::{number:x}/128"),
        "routes": (
            PeerRoute(dst="0.0.0.0/0", via=marks.GATEWAY4),
            PeerRoute(dst="::/0", via=marks.GATEWAY6),
        ),
        "neighbours": ((marks.GATEWAY4, marks.HOST_MAC), (marks.GATEWAY6, marks.HOST_MAC)),
    }
    return Link(
        endpoint=ident,
        mtu=mtu,
        peer=Peer(**{**fields, **peer}),
        addresses=("fe80::1/64",),
        sysctls=(("ipv4/conf/{name}/route_localnet", "1"),),
    )


def links(*made: Link) -> dict[str, Link]:
    return {marks.host_ifname(link.endpoint): link for link in made}


def to_endpoint(ident: str, number: int) -> frozenset[Route]:
    name = marks.host_ifname(ident)
    return frozenset(
        {Route(dst=f"10.9.0.{number}/32", link=name), Route(dst=f"fd00::{number:x}/128", link=name)}
    )


def shaped(ident: str, **rates: int) -> dict[str, Shaper]:
    return {marks.host_ifname(ident): Shaper(**rates)}


def tunnel(vni: int = marks.VXLAN_VNI, mtu: int = 1450, local: str = "192.0.2.1") -> Vxlan:
    mac = marks.vtep_mac("node-1")
    address = f"{marks.link_local(mac)}/64"
    return Vxlan(
        vni=vni, port=marks.VXLAN_PORT, local=local, mac=mac, mtu=mtu, addresses=(address,)
    )


BASE = HostState(
    addresses=frozenset(
        {
            Address(link="lo", address=f"{marks.GATEWAY4}/32"),
            Address(link="lo", address=f"{marks.RESOLVER6}/128"),
        }
    ),
    rules=frozenset({Rule(family=f, priority=112, table=112, mark=1, mask=3) for f in (4, 6)}),
    routes=frozenset(
        {
            Route(dst="0.0.0.0/0", kind="local", link="lo", table=112),
            Route(dst="::/0", kind="local", link="lo", table=112),
            Route(dst="10.9.0.0/26", kind="blackhole"),
            Route(dst="fd00::/122", kind="unreachable"),
        }
    ),
    sysctls=dict.fromkeys(KEYS, "1"),
)
VX = marks.VXLAN_LINK
REMOTE = {
    "neighbours": frozenset({Neighbour(link=VX, address="fe80::7", mac=OTHER)}),
    "fdb": frozenset({FdbEntry(link=VX, mac=OTHER, dst="192.0.2.7")}),
}
REMOTE_ROUTES = frozenset(
    {
        Route(dst="10.9.7.0/26", link=VX, via="fe80::7", onlink=True, mtu=1400),
        Route(dst="fd00:7::/122", link=VX, via="fe80::7", onlink=True),
    }
)


def states(spaces: list[Space]) -> dict[str, HostState]:
    one, two, three = spaces
    replace = msgspec.structs.replace
    first = endpoint("one", 1, one)
    both = links(first, endpoint("two", 2, two))
    waiting = endpoint("wait", 3, ("", 0), name=marks.peer_ifname("wait"))
    both_routes = to_endpoint("one", 1) | to_endpoint("two", 2)
    remote = replace(BASE, tunnels={VX: tunnel()}, routes=BASE.routes | REMOTE_ROUTES, **REMOTE)
    return {
        "nothing": HostState(sysctls=dict.fromkeys(KEYS, "0")),
        "base": BASE,
        "one endpoint": replace(
            BASE, links=links(first), routes=BASE.routes | to_endpoint("one", 1)
        ),
        "two and one that waits": replace(
            BASE, links={**both, **links(waiting)}, routes=BASE.routes | both_routes
        ),
        "one shaped": replace(
            BASE,
            links=links(first),
            shapers=shaped("one", to_rate=MBIT, to_burst=MBIT, from_rate=2 * MBIT, from_burst=MBIT),
        ),
        "one shaped otherwise": replace(
            BASE,
            links=both,
            shapers=shaped("one", from_rate=3 * MBIT, from_burst=MBIT)
            | shaped("two", to_rate=1 << 60, to_burst=MBIT),
        ),
        "one shaped elsewhere": replace(
            BASE,
            links=links(endpoint("one", 1, three)),
            shapers=shaped("one", to_rate=MBIT, to_burst=MBIT, from_rate=2 * MBIT, from_burst=MBIT),
        ),
        "one elsewhere": replace(BASE, links=links(endpoint("one", 1, three))),
        "one renumbered": replace(
            BASE,
            links=links(endpoint("one", 9, one, mtu=1400, routes=(PeerRoute(dst="10.9.0.0/16"),))),
            routes=BASE.routes | to_endpoint("one", 9),
        ),
        "remote": remote,
        "remote moved": replace(
            remote,
            tunnels={VX: tunnel(vni=77, mtu=1300)},
            fdb=frozenset({FdbEntry(link=VX, mac=OTHER, dst="192.0.2.8")}),
            routes=BASE.routes
            | {Route(dst="10.9.7.0/26", link=VX, via="fe80::8", onlink=True, mtu=1300)},
        ),
        "remote and local": replace(
            remote, links=both, routes=remote.routes | both_routes, sysctls=BASE.sysctls
        ),
    }


def settle(suite: Suite, wanted: HostState, *, singly: bool = False) -> None:
    """What the loop does: plan and apply each part, in order."""
    for programmer in suite:
        ops = programmer.plan(wanted)
        for batch in [[op] for op in ops] if singly else [ops]:
            assert programmer.apply(batch) == ()


def differences(suite: Suite, wanted: HostState) -> list[str]:
    return [str(op) for programmer in suite for op in programmer.plan(wanted)]


def inside(netlink: Rtnetlink) -> dict[str, Any]:
    link = next((link for link in netlink.links("veth") if link.name == "eth0"), None)
    if link is None:
        return {}
    both = (rt.AF_INET, rt.AF_INET6)
    return {
        "link": (link.up, link.mtu, link.mac, link.group),
        "addresses": {a.address for f in both for a in netlink.addresses(f) if a.protocol == 112},
        "routes": {(r.dst, r.via, r.onlink) for f in both for r in netlink.routes(f, 112)},
        "neighbours": {
            (n.address, n.mac)
            for f in both
            for n in netlink.neighbours(f, link.index)
            if n.permanent
        },
    }


def picture(play: Play) -> dict[str, Any]:
    """The kernel's state by names alone, of the host and of every container."""
    netlink = play.stage.netlink
    both = (rt.AF_INET, rt.AF_INET6)
    alive = [link for link in netlink.links() if link.group != marks.DOOM_GROUP]
    alive = [link for link in alive if link.kind == "vxlan" or link.alias]
    index = netlink.index(VX)
    doomed = {link.index for link in netlink.links() if link.group == marks.DOOM_GROUP}
    return {
        "links": {
            link.name: (link.up, link.group, link.mtu, link.mac, link.alias, link.vxlan)
            for link in alive
        },
        "settings": {
            link.name: (
                link.addrgen_none,
                link.sysctl("ipv4/conf/x/route_localnet"),
                link.sysctl("ipv6/conf/x/accept_ra"),
            )
            for link in alive
            if link.kind == "veth"
        },
        "addresses": {
            (netlink.name(a.index), a.address)
            for f in both
            for a in netlink.addresses(f)
            if a.protocol == marks.PROTOCOL and a.index not in doomed
        },
        "routes": {
            (r.dst, r.kind, "" if r.kind != "unicast" else netlink.name(r.index), r.via, r.mtu)
            for f in both
            for r in netlink.routes(f, marks.PROTOCOL)
        },
        "rules": {r for f in both for r in netlink.rules(f) if r.protocol == marks.PROTOCOL},
        "neighbours": {
            (n.family, n.address, n.mac)
            for f in (*both, rt.AF_BRIDGE)
            for n in (netlink.neighbours(f, index) if index else [])
            if n.permanent
        },
        "shapers": {
            netlink.name(q.index): (q.kind, q.handle, q.bucket and (q.bucket.rate, q.bucket.limit))
            for q in netlink.qdiscs()
            if q.parent == tc.ROOT and q.index not in doomed
        },
        "redirects": {
            (link.name, f.priority, netlink.name(f.target))
            for link in alive
            for f in netlink.filters(link.index, tc.INGRESS)
            if f.target
        },
        "filtered": {netlink.name(q.index) for q in netlink.qdiscs() if q.kind == "clsact"},
        "forwarding": [play.stage.sysctl.read(key) for key in KEYS],
    }


def contained(play: Play) -> list[dict[str, Any]]:
    # What is doomed may still stand in its namespace.
    play.suite.links.reap()
    play.suite.shapers.reap()
    return [inside(play.stage.inside(path)) for path, _ in play.spaces]


def walk(play: Play, names: Iterable[str], *, singly: bool = False, reap: bool = False) -> None:
    """Go from state to state; each must be reached exactly, and recognised after amnesia."""
    known = states(play.spaces)
    for name in names:
        settle(play.suite, known[name], singly=singly)
        if reap:
            play.suite.links.reap()
            play.suite.shapers.reap()
        assert differences(play.suite, known[name]) == [], name
        for programmer in play.suite:
            programmer.observe()
        assert differences(play.suite, known[name]) == [], name
        assert differences(play.amnesia(), known[name]) == [], name


NAMES = list(states([("", 0)] * 3))


def shuffled(seed: int) -> list[str]:
    return random.Random(seed).sample(NAMES, len(NAMES))


WALKS: dict[str, Callable[[Play], None]] = {
    "forwards": lambda play: walk(play, NAMES),
    "backwards": lambda play: walk(play, reversed(NAMES)),
    "reaped": lambda play: walk(play, NAMES, reap=True),
    "split": lambda play: walk(play, [*NAMES, *reversed(NAMES)], singly=True),
    **{f"shuffled {n}": lambda play, n=n: walk(play, shuffled(n)) for n in range(4)},
}


@pytest.mark.parametrize("name", WALKS)
def test_walk(play: Play, name: str) -> None:
    WALKS[name](play)


@pytest.mark.root
@pytest.mark.parametrize("last", NAMES)
def test_fake_and_real_kernel_end_equal_however_the_state_was_reached(last: str) -> None:
    """Squashed on the fake, by way of everything else on the real kernel."""
    real, fake = KernelStage(), FakeStage()
    try:
        long, short = Play(real), Play(fake)
        walk(long, [name for name in shuffled(7) if name != last])
        walk(long, [last])
        walk(short, [last])
        assert picture(long) == picture(short)
        assert contained(long) == contained(short)
    finally:
        real.close()
        fake.close()


@pytest.mark.root
def test_ip_shows_what_was_wanted() -> None:
    stage = KernelStage()
    try:
        play = Play(stage)
        wanted = states(play.spaces)["remote and local"]
        settle(play.suite, wanted)

        def ip(*words: str, path: str = "") -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = json.loads(stage.run("ip", "-j", *words, path=path))
            return found

        shown = {link["ifname"]: link for link in ip("-d", "link")}
        for name, link in wanted.links.items():
            seen = shown[name]
            assert (seen["ifalias"], seen["group"]) == (f"plait:{link.endpoint}", "112")
            assert (seen["mtu"], seen["address"]) == (link.mtu, marks.HOST_MAC)
            assert seen["inet6_addr_gen_mode"] == "none"
            assert "UP" in seen["flags"]
            local = [a["local"] for a in ip("addr", "show", name)[0]["addr_info"]]
            assert local == ["fe80::1"]
        device = shown[VX]["linkinfo"]["info_data"]
        assert (device["id"], device["local"], device["port"]) == (0x706C, "192.0.2.1", 4789)
        assert device["learning"] is False
        for family, flag in ((4, "-4"), (6, "-6")):
            kept = {
                (r["dst"], r.get("type", "unicast"))
                for r in ip(flag, "route", "show", "table", "all", "protocol", "112")
            }
            assert kept == {
                (_as_ip_shows(route.dst), route.kind)
                for route in wanted.routes
                if (":" in route.dst) == (family == 6)
            }
        [entry] = json.loads(stage.run("bridge", "-j", "fdb", "show", "dev", VX))
        assert (entry["mac"], entry["dst"], entry["state"]) == (OTHER, "192.0.2.7", "permanent")
        [neighbour] = ip("neigh", "show", "dev", VX)
        assert (neighbour["dst"], neighbour["state"]) == ("fe80::7", ["PERMANENT"])
        path = play.spaces[0][0]
        [default] = ip("-6", "route", "show", "default", path=path)
        assert (default["gateway"], default["dev"]) == ("fe80::1", "eth0")
    finally:
        stage.close()


def _as_ip_shows(dst: str) -> str:
    if dst.endswith("/0"):
        return "default"
    return dst.removesuffix("/32").removesuffix("/128")


def test_every_op_prints_and_no_two_states_are_the_same(play: Play) -> None:
    known = states(play.spaces)
    for one, other in itertools.combinations(known.values(), 2):
        assert one != other
    for wanted in known.values():
        for programmer in play.suite:
            for op in programmer.plan(wanted):
                assert str(op).split()[0] in {"ip", "bridge", "sysctl", "tc"}
                assert op.part == programmer.name
