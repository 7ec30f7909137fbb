"""What the filter lets pass and what it drops, shown by packets."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.lab.filter.conftest import DEADLINE

from plait.kernel import netns
from plait.model import marks
from plait.model.hoststate import FilterNetwork, PortMap

pytestmark = pytest.mark.root

A1 = ("10.1.0.1", "fd01::1")
A2 = ("10.1.0.2", "fd01::2")
B1 = ("10.2.0.1", "fd02::1")
I1 = ("10.3.0.1", "fd03::1")
I2 = ("10.3.0.2", "fd03::2")
UNKNOWN = ("10.1.0.99", "fd01::99")
OUT = ("192.0.2.2", "fd09::2")
FAR = ("198.51.100.2", "fd08::2")
HOST = ("192.0.2.1", "fd09::1")
both = pytest.mark.parametrize("v", [0, 1], ids=["v4", "v6"])


@both
def test_endpoints_of_a_network_reach_each_other_unchanged(world: Any, v: int) -> None:
    with world.socket("a2", A2[v], 7) as server:
        assert world.talk("a1", (A2[v], 7), server) == A1[v]
    with world.socket("a2", A2[v], 80, "tcp") as server:
        assert world.connect("a1", (A2[v], 80), server) == A1[v]


@both
def test_another_network_is_out_of_reach(world: Any, v: int) -> None:
    world.expect_drop("another network", lambda: world.send("a1", (B1[v], 7)))


@both
def test_an_unknown_endpoint_neither_sends_nor_receives(world: Any, v: int) -> None:
    world.expect_drop("unknown source", lambda: world.send("unknown", (A1[v], 7)))
    world.expect_drop("unknown source", lambda: world.send("unknown", (HOST[v], 53)))
    world.expect_drop("unknown receiver", lambda: world.send("host", (UNKNOWN[v], 7)))
    world.expect_drop("unknown receiver", lambda: world.send("out", (UNKNOWN[v], 7)))
    world.expect_drop("unknown receiver", lambda: world.send("a1", (UNKNOWN[v], 7)))


@both
def test_a_spoofed_source_is_dropped(world: Any, v: int) -> None:
    device = ("lo", "lo nodad")[v]
    world.ip("a1", f"address replace {A2[v]} dev {device}")
    try:
        # Not to a2's address: that is the sender's own now.
        target = (OUT[v], 7)
        world.expect_drop("unknown source", lambda: world.send("a1", target, src=A2[v]))
    finally:
        world.ip("a1", f"address del {A2[v]} dev lo")


@pytest.mark.parametrize("kind", [134, 137], ids=["router advertisement", "redirect"])
def test_an_endpoint_is_no_router(world: Any, kind: int) -> None:
    raw = netns.ns_socket(world.ns["a1"], socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    with raw:
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        with netns.inside(world.ns["a1"]):
            scope = socket.if_nametoindex("eth0")
        message = struct.pack("!BBHIII", kind, 0, 0, 0x40 << 24, 0, 0)
        world.expect_drop("unknown source", lambda: raw.sendto(message, ("ff02::1", 0, 0, scope)))


@both
def test_what_leaves_is_masqueraded(world: Any, v: int) -> None:
    with world.socket("out", OUT[v], 7) as server:
        assert world.talk("a1", (OUT[v], 7), server) == HOST[v]
    with world.socket("out", OUT[v], 80, "tcp") as server:
        assert world.connect("a1", (OUT[v], 80), server) == HOST[v]


@both
def test_traffic_that_is_not_ours_is_left_alone(world: Any, v: int) -> None:
    with world.socket("far", FAR[v], 7) as server:
        assert world.talk("out", (FAR[v], 7), server) == OUT[v]


@both
def test_nobody_outside_reaches_an_endpoint_directly(world: Any, v: int) -> None:
    world.expect_drop("not from own network", lambda: world.send("far", (A1[v], 7)))


@both
def test_the_host_reaches_its_endpoints(world: Any, v: int) -> None:
    with world.socket("a1", A1[v], 7) as server:
        world.talk("host", (A1[v], 7), server)


@both
def test_an_endpoint_reaches_of_its_host_dns_and_echo_only(world: Any, v: int) -> None:
    world.expect_drop("to host", lambda: world.send("a1", (HOST[v], 7)))
    world.expect_drop(
        "to host", lambda: world.send("a1", ((marks.GATEWAY4, marks.RESOLVER6)[v], 7))
    )
    # Nobody listens on the resolver's address, so the question reaches the host's own server.
    with world.socket("host", HOST[v], 53) as server:
        assert world.talk("a1", (HOST[v], 53), server) == A1[v]
    family = (socket.AF_INET, socket.AF_INET6)[v]
    protocol = (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6)[v]
    with netns.ns_socket(world.ns["a1"], family, socket.SOCK_RAW, protocol) as ping:
        ping.settimeout(DEADLINE)
        echo = struct.pack("!BBHHH", (8, 128)[v], 0, 0, 7, 1)
        echo = echo[:2] + struct.pack("!H", 0xFFFF & ~sum(struct.unpack("!4H", echo))) + echo[4:]
        ping.sendto(echo, (HOST[v], 0))
        while True:
            data, peer = ping.recvfrom(64)
            if data[(20, 0)[v]] == (0, 129)[v]:
                break
        assert peer[0] == HOST[v]


@both
def test_a_pod_reaches_all_of_its_host_but_the_tunnel_and_loopback(world: Any, v: int) -> None:
    pod = msgspec.structs.replace(world.filter.endpoints["pla1"], to_host=True)
    world.apply(
        msgspec.structs.replace(world.filter, endpoints={**world.filter.endpoints, "pla1": pod})
    )
    try:
        with world.socket("host", HOST[v], 7) as server:
            assert world.talk("a1", (HOST[v], 7), server) == A1[v]
        world.expect_drop("vxlan from endpoint", lambda: world.send("a1", (HOST[v], 4789)))
        world.expect_drop("to host", lambda: world.send("a2", (HOST[v], 7)))
    finally:
        world.apply()


def test_loopback_of_the_host_is_out_of_reach(world: Any) -> None:
    with world.loopback_leads_to_host("a1", marks.GATEWAY4):
        world.expect_drop("loopback", lambda: world.send("a1", ("127.0.0.1", 53), src=A1[0]))


@both
def test_a_stranger_cannot_speak_with_an_address_of_a_network(world: Any, v: int) -> None:
    remote = ("10.1.0.200", "fd01:0:0:0:1::200")[v]
    sources = (remote, A2[v])
    nodad = ("", " nodad")[v]
    world.ip("out", *(f"address add {source} dev lo{nodad}" for source in sources))
    try:
        for source in sources:
            world.expect_drop(
                "source by a wrong way",
                lambda source=source: world.send("out", (A1[v], 7), src=source),
            )
        # The same packet by the way that leads there.
        world.ip("host", f"route add {remote} via {OUT[v]}")
        with world.socket("a1", A1[v], 7) as server:
            world.send("out", (A1[v], 7), src=remote)
            assert server.recvfrom(64)[1][0] == str(ipaddress.ip_address(remote))
        world.ip("host", f"route del {remote}")
    finally:
        world.ip("out", *(f"address del {source}/{(32, 128)[v]} dev lo" for source in sources))


@both
def test_an_internal_network_has_no_way_out_or_in(world: Any, v: int) -> None:
    with world.socket("i2", I2[v], 7) as server:
        assert world.talk("i1", (I2[v], 7), server) == I1[v]
    world.expect_drop("internal network", lambda: world.send("i1", (OUT[v], 7)))
    world.expect_drop("internal network", lambda: world.send("i1", (A1[v], 7)))
    world.expect_drop("not from own network", lambda: world.send("far", (I1[v], 7)))
    family = (socket.AF_INET, socket.AF_INET6)[v]
    with netns.ns_socket(world.ns["i1"], family, socket.SOCK_STREAM) as client:
        client.settimeout(DEADLINE)
        assert client.connect_ex((OUT[v], 7)) == errno.ENETUNREACH


def publish(world: Any, *ports: PortMap) -> None:
    world.apply(msgspec.structs.replace(world.filter, ports=frozenset(ports)))


def port_map(v: int, **changes: Any) -> PortMap:
    values = {"protocol": "tcp", "host_ip": "", "host_port": 8080, "port": 80}
    values |= {"family": (4, 6)[v], "address": A1[v]} | changes
    return PortMap(**values)


@both
@pytest.mark.parametrize("bound", [False, True], ids=["everywhere", "on one address"])
def test_a_published_port_answers(world: Any, v: int, bound: bool) -> None:
    publish(world, port_map(v, host_ip=HOST[v] if bound else ""))
    with world.socket("a1", A1[v], 80, "tcp") as server:
        to = (HOST[v], 8080)
        assert world.connect("out", to, server) == OUT[v]
        assert world.connect("host", to, server) == HOST[v]
        # From its own network, from another, and from itself.
        assert world.connect("a2", to, server) == A2[v]
        assert world.connect("b1", to, server) == B1[v]
        assert world.connect("a1", to, server) == (marks.GATEWAY4, marks.RESOLVER6)[v]
        # Not from an internal network.
        client = world.socket("i1", "::" if v else "0.0.0.0", kind="tcp")
        client.setblocking(False)
        with client:
            world.expect_drop("internal network", lambda: client.connect_ex(to))


def test_a_published_port_answers_on_127_0_0_1(world: Any) -> None:
    publish(world, port_map(0))
    with world.socket("a1", A1[0], 80, "tcp") as server:
        assert world.connect("host", ("127.0.0.1", 8080), server) == marks.GATEWAY4


@both
def test_a_published_udp_port_answers(world: Any, v: int) -> None:
    # The client sent before the port was published: its flow must not stay without translation.
    with world.socket("out", OUT[v]) as client, world.socket("a1", A1[v], 7) as server:
        client.sendto(b"early", (HOST[v], 7777))
        publish(world, port_map(v, protocol="udp", host_port=7777, port=7))
        client.sendto(b"late", (HOST[v], 7777))
        assert server.recvfrom(64)[0] == b"late"
        publish(world)
        flows = [f for f in world.flows.flows() if f.original.dport == 7777]
        assert flows == []


@both
def test_transit_to_a_published_port_is_not_hijacked(world: Any, v: int) -> None:
    publish(world, port_map(v))
    for sender, seen in (("a2", HOST[v]), ("far", FAR[v])):
        with world.socket("out", OUT[v], 8080, "tcp") as server:
            assert world.connect(sender, (OUT[v], 8080), server) == seen


def test_a_port_on_127_0_0_1_is_for_the_host_only(world: Any) -> None:
    publish(world, port_map(0, protocol="udp", host_ip="127.0.0.1", host_port=7777, port=7))
    with (
        world.loopback_leads_to_host("out", HOST[0]),
        world.socket("a1", A1[0], 7) as server,
    ):
        world.send("out", ("127.0.0.1", 7777), src=OUT[0])
        world.send("host", ("127.0.0.1", 7777), data=b"mine")
        # The stranger's packet was sent first, and never arrives.
        assert server.recvfrom(64)[0] == b"mine"


def vxlan(vni: int) -> bytes:
    return struct.pack("!II", 0x0800_0000, vni << 8) + b"payload"


@both
def test_vxlan_is_not_an_endpoints_business(world: Any, v: int) -> None:
    data = vxlan(marks.VXLAN_VNI)
    act = lambda: world.send("a1", (OUT[v], 4789), data=data)  # noqa: E731
    world.expect_drop("vxlan from endpoint", act)
    world.expect_drop("vxlan from endpoint", lambda: world.send("a1", (HOST[v], 4789), data=data))


def test_vxlan_of_ours_comes_from_nodes_only(world: Any) -> None:
    with world.socket("host", "0.0.0.0", 4789) as tunnel:
        ours, other = vxlan(marks.VXLAN_VNI), vxlan(7)
        stranger = lambda: world.send("far", (HOST[0], 4789), data=ours)  # noqa: E731
        world.expect_drop("vxlan from a stranger", stranger)
        # Another identifier is somebody else's tunnel.
        world.send("far", (HOST[0], 4789), data=other)
        assert tunnel.recvfrom(64)[0] == other
        world.send("out", (HOST[0], 4789), data=ours)
        assert tunnel.recvfrom(64)[0] == ours
        # Tracking is for what is in the tunnel.
        with netns.inside(world.ns["host"]):
            tracked = Path("/proc/thread-self/net/nf_conntrack").read_text()
        assert not re.search(rf"src={OUT[0]} dst={HOST[0]} sport=[0-9]+ dport=4789 ", tracked)


@both
@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_dns_goes_to_the_resolver_or_untouched_when_it_is_away(
    world: Any, v: int, kind: str
) -> None:
    public = ("9.9.9.9", "fd99::9")[v]
    family = (socket.AF_INET, socket.AF_INET6)[v]
    with world.socket("out", public, 53, kind) as upstream:
        ask = world.talk if kind == "udp" else world.connect
        assert ask("a1", (public, 53), upstream) == HOST[v]
    sock = netns.ns_socket(
        world.ns["host"], family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM
    )
    with sock as resolver:
        resolver.settimeout(DEADLINE)
        resolver.setsockopt(*((socket.SOL_IP, 19), (41, 75))[v], 1)
        resolver.bind(((marks.GATEWAY4, marks.RESOLVER6)[v], 53))
        if kind == "tcp":
            resolver.listen()
            assert world.connect("a1", (public, 53), resolver) == A1[v]
            assert world.connect("i1", (public, 53), resolver) == I1[v]
        else:
            world.send("a1", (public, 53), data=b"question")
            assert resolver.recvfrom(64)[0] == b"question"
            # An unknown endpoint has no names either.
            before = world.count("to resolver")
            world.expect_drop("unknown source", lambda: world.send("unknown", (public, 53)))
            assert world.count("to resolver") == before


@both
@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_an_endpoint_that_serves_dns_is_asked_itself(world: Any, v: int, kind: str) -> None:
    family = (socket.AF_INET, socket.AF_INET6)[v]
    kinds = {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}
    ask = world.talk if kind == "udp" else world.connect
    with (
        netns.ns_socket(world.ns["host"], family, kinds[kind]) as resolver,
        world.socket("a2", A2[v], 53, kind) as server,
    ):
        resolver.setsockopt(*((socket.SOL_IP, 19), (41, 75))[v], 1)
        resolver.bind(((marks.GATEWAY4, marks.RESOLVER6)[v], 53))
        if kind == "tcp":
            resolver.listen()
        assert ask("a1", (A2[v], 53), server) == A1[v]


@both
def test_a_detached_endpoint_leaves_no_flow(world: Any, v: int) -> None:
    with world.socket("a2", A2[v], 7) as server:
        world.talk("a1", (A2[v], 7), server)
    assert any(A2[v] in f.original[:2] for f in world.flows.flows())
    rest = {k: e for k, e in world.filter.endpoints.items() if k != "pla2"}
    world.apply(msgspec.structs.replace(world.filter, endpoints=rest))
    assert not any(A2[v] in (*f.original[:2], *f.reply[:2]) for f in world.flows.flows())
    world.expect_drop("unknown receiver", lambda: world.send("a1", (A2[v], 7)))


def test_a_network_may_change_in_place(world: Any) -> None:
    changed = {k: n for k, n in world.filter.networks.items() if "flush" not in k}
    changed |= {k: FilterNetwork(pools=n.pools, internal=True) for k, n in changed.items()}
    world.apply(msgspec.structs.replace(world.filter, networks=changed))
    world.expect_drop("internal network", lambda: world.send("a1", (OUT[0], 7)))
    world.expect_drop("unknown source", lambda: world.send("b1", (OUT[0], 7)))
