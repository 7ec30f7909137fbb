"""Named snapshots and what a host wants of its kernel for each; never how it got there."""

from __future__ import annotations

import random
from typing import get_origin

import msgspec
import pytest

from plait.agent.desired import ALL, Attachment, Desired, Host, Underlay, View, desired
from plait.model.hoststate import (
    FdbEntry,
    HostState,
    Neighbour,
    PeerRoute,
    PortMap,
    Route,
    Rule,
    Shaper,
)
from plait.model.marks import host_ifname, link_local, peer_ifname, vtep_mac
from plait.model.objects import (
    AddressBlock,
    AddressBlockSpec,
    Cluster,
    ClusterSpec,
    Loan,
    Metadata,
    Network,
    NetworkSpec,
    Node,
    NodeSpec,
    PublishedPort,
)


def cluster(encap: str = "auto") -> Cluster:
    return Cluster(metadata=Metadata(name="plait"), spec=ClusterSpec(encap=encap))  # type: ignore[arg-type]


def network(name: str, *pools: str, **spec: object) -> Network:
    return Network(
        metadata=Metadata(name=name, uid=f"uid-{name}"),
        spec=NetworkSpec(pools=pools, **spec),  # type: ignore[arg-type]
    )


def node(name: str, *addresses: str, ll: str = "", uid: str = "") -> Node:
    return Node(
        metadata=Metadata(name=name, uid=uid or f"uid-{name}"),
        spec=NodeSpec(addresses=addresses, link_local=ll),
    )


def block(cidr: str, owner: str, *loans: Loan) -> AddressBlock:
    return AddressBlock(
        metadata=Metadata(name=f"a.{cidr}"),
        spec=AddressBlockSpec(network="a", cidr=cidr, node=owner, loans=loans),
    )


def view(*objects: object, encap: str = "auto") -> View:
    def of(kind: type) -> dict:  # type: ignore[type-arg]
        return {o.metadata.name: o for o in objects if isinstance(o, kind)}  # type: ignore[attr-defined]

    return View(
        cluster=cluster(encap), nodes=of(Node), networks=of(Network), blocks=of(AddressBlock)
    )


UNDERLAY = Underlay(
    interface="eth0",
    addresses=("192.0.2.1/24", "2001:db8::1/64"),
    link_local="fe80::1",
    gateways=("192.0.2.254",),
)


def host(*attachments: Attachment, **more: object) -> Host:
    return Host(
        **{  # type: ignore[arg-type]
            "node": "h1",
            "uid": "uid-h1",
            "underlay": UNDERLAY,
            "attachments": {a.id: a for a in attachments},
            **more,
        }
    )


def endpoint(ident: str = "e1", **more: object) -> Attachment:
    return Attachment(
        **{  # type: ignore[arg-type]
            "id": ident,
            "interface": host_ifname(ident),
            "network": "a",
            "addresses": ("10.9.0.5", "fd09::5"),
            "mac": "02:00:00:00:00:05",
            "netns": "/run/netns/x",
            "netns_inode": 7,
            **more,
        }
    )


A = network("a", "10.9.0.0/16", "fd09::/64")
NEAR = node("near", "192.0.2.2/24", "2001:db8::2/64", ll="fe80::2")
FAR = node("far", "198.51.100.3/24", "2001:db8:1::3/64", ll="fe80::3")
V4ONLY = node("v4only", "192.0.2.4/24", ll="fe80::4")
V6ONLY = node("v6only", "2001:db8::6/64", ll="fe80::6")
ME = node("h1", "192.0.2.1/24", "2001:db8::1/64", ll="fe80::1")
BLOCKS = (
    block("10.9.1.0/26", "near"),
    block("fd09::40/122", "near"),
    block("10.9.2.0/26", "far"),
    block("fd09::80/122", "far"),
    block("10.9.3.0/26", "h1"),
)

STATES: dict[str, tuple[View, Host]] = {
    "nothing": (view(), host()),
    "a network": (view(A), host()),
    "peers": (view(A, ME, NEAR, FAR, *BLOCKS), host()),
    "peers by force of vxlan": (view(A, ME, NEAR, FAR, *BLOCKS, encap="vxlan"), host()),
    "peers by force direct": (view(A, ME, NEAR, FAR, *BLOCKS, encap="direct"), host()),
    "an endpoint": (view(A, ME), host(endpoint())),
    "an endpoint and peers": (view(A, ME, NEAR, FAR, *BLOCKS), host(endpoint())),
    "two endpoints": (
        view(A, ME),
        host(endpoint(), endpoint("e2", addresses=("10.9.0.6", "fd09::6"))),
    ),
    "an unidentified endpoint": (view(A, ME), host(endpoint(identified=False))),
    "a fenced endpoint": (view(A, ME), host(endpoint(), fenced=frozenset({"e1"}))),
    "a docker endpoint": (view(A, ME), host(endpoint(netns=""), forward_accept=True)),
    "an internal network": (
        view(network("a", "10.9.0.0/16", "fd09::/64", internal=True), ME),
        host(endpoint(ports=(PublishedPort(protocol="tcp", port=80, host_port=8080),))),
    ),
    "published": (
        view(A, ME),
        host(endpoint(ports=(PublishedPort(protocol="tcp", port=80, host_port=8080),))),
    ),
    "no resolver": (view(A, ME), host(endpoint(), dns=False)),
    "a network that is not known": (view(ME), host(endpoint())),
}


def routes_to(state: HostState, dst: str) -> list[Route]:
    return [r for r in state.routes if r.dst == dst]


def test_every_state_serialises_and_compares() -> None:
    for name, (seen, here) in STATES.items():
        state = desired(seen, here)
        # What knows its changes is written as what it holds: here nothing.
        text = msgspec.json.encode(state, enc_hook=list)
        again = msgspec.json.decode(
            text, type=HostState, dec_hook=lambda kind, held: get_origin(kind)(held)
        )
        assert again == state, name


@pytest.mark.parametrize("seed", range(8))
def test_the_way_does_not_matter(seed: int) -> None:
    """Walked forwards, backwards, shuffled and repeated: the same as computed afresh."""
    walk = [*STATES, *reversed(STATES)] * 2
    random.Random(seed).shuffle(walk)
    lasting = Desired()
    for name in walk:
        seen, here = STATES[name]
        assert lasting.compute(seen, here, ALL) == desired(seen, here), name


def test_only_what_changed_is_recomputed_with_the_same_result() -> None:
    seen, here = STATES["an endpoint and peers"]
    lasting = Desired()
    first = lasting.compute(seen, here, ())
    more = host(here.attachments["e1"], endpoint("e2", addresses=("10.9.0.6", "fd09::6")))
    second = lasting.compute(seen, more, ("attachments",))
    assert second == desired(seen, more)
    name = host_ifname("e1")
    assert second.links[name] is first.links[name]
    assert second.fdb is first.fdb
    assert lasting.compute(seen, here, ("attachments",)) == first


VARIANTS: tuple[dict[str, object], ...] = (
    {},
    {"identified": False},
    {"netns": ""},
    {"ports": (PublishedPort(protocol="tcp", port=80, host_port=8080),)},
    {"shaper": Shaper(to_rate=10**7, from_rate=10**6, from_burst=10**5)},
    {"addresses": ("10.9.1.9", "fd09::49")},
    {"network": "nobody's"},
)


@pytest.mark.parametrize("seed", range(20))
def test_endpoints_come_change_and_go_and_only_they_are_looked_at(seed: int) -> None:
    """Also one whose address another node has on loan, which hides that node's route."""
    chosen = random.Random(seed)
    loan = Loan(address="10.9.1.9", node="far", state="granted")
    seen = view(A, ME, NEAR, FAR, *BLOCKS, block("10.9.1.0/26", "near", loan))
    lasting = Desired()
    there: dict[str, Attachment] = {}
    former = [(lasting.compute(seen, host(), ALL), desired(seen, host()))]
    for _ in range(30):
        touched = {f"e{chosen.randrange(5)}" for _ in range(chosen.randrange(1, 3))}
        for ident in touched:
            more = chosen.choice((None, *VARIANTS))
            there.pop(ident, None)
            if more is not None:
                number = ident[1:]
                own = {"addresses": (f"10.9.0.{number}", f"fd09::{number}")}
                there[ident] = endpoint(ident, **{**own, **more})
        now = lasting.compute(seen, host(*there.values()), ("attachments",), touched)
        former.append((now, desired(seen, host(*there.values()))))
    # At the end: none of them was changed in place.
    for now, afresh in former:
        assert now == afresh


def test_nothing_still_has_the_resolver() -> None:
    state = desired(*STATES["nothing"])
    assert state.rules == {
        Rule(family=f, priority=112, table=table, mark=mark, mask=0xF00000)
        for f in (4, 6)  # type: ignore[arg-type]
        for table, mark in ((112, 0x700000), (113, 0x400000))
    }
    assert {a.address for a in state.addresses} == {
        "169.254.1.1/32",
        "fd70:6c61:6974::53/128",
    }
    assert state.links == {}
    assert state.tunnels["plait.vx"].mac == vtep_mac("uid-h1")
    assert state.tunnels["plait.vx"].mtu == 1450


def test_unknown_addresses_of_ours_do_not_leave() -> None:
    state = desired(*STATES["a network"])
    for pool in ("10.9.0.0/16", "fd09::/64"):
        assert [(r.kind, r.metric) for r in routes_to(state, pool)] == [("unreachable", 4096)]


def test_auto_is_direct_on_the_subnet_and_vxlan_beyond() -> None:
    state = desired(*STATES["peers"])
    assert routes_to(state, "10.9.1.0/26") == [
        Route(dst="10.9.1.0/26", link="eth0", via="192.0.2.2", src="192.0.2.1")
    ]
    assert routes_to(state, "fd09::40/122") == [
        Route(dst="fd09::40/122", link="eth0", via="2001:db8::2", src="2001:db8::1")
    ]
    hop = link_local(vtep_mac("uid-far"))
    for dst, own in (("10.9.2.0/26", "192.0.2.1"), ("fd09::80/122", "2001:db8::1")):
        assert routes_to(state, dst) == [
            Route(dst=dst, link="plait.vx", via=hop, onlink=True, src=own)
        ]
    assert routes_to(state, "10.9.3.0/26") == []
    assert Neighbour(link="plait.vx", address=hop, mac=vtep_mac("uid-far")) in state.neighbours
    assert FdbEntry(link="plait.vx", mac=vtep_mac("uid-far"), dst="198.51.100.3") in state.fdb
    assert state.filter.vteps == ("192.0.2.2", "198.51.100.3", "2001:db8:1::3", "2001:db8::2")


def test_forced_ways() -> None:
    state = desired(*STATES["peers by force of vxlan"])
    assert {r.link for r in state.routes if r.via} == {"plait.vx"}
    state = desired(*STATES["peers by force direct"])
    assert state.tunnels == {}
    assert state.fdb == frozenset()
    assert routes_to(state, "10.9.2.0/26")[0].via == "192.0.2.254"
    # No IPv6 default route: nowhere to send it.
    assert routes_to(state, "fd09::80/122") == []
    (link,) = desired(view(A, encap="direct"), host(endpoint())).links.values()
    assert link.mtu == 1500


def test_an_ipv4_underlay_carries_ipv6_by_the_link_local_address() -> None:
    state = desired(view(A, ME, V4ONLY, block("fd09::40/122", "v4only")), host())
    assert routes_to(state, "fd09::40/122")[0].via == "fe80::4"


def test_a_peer_without_a_common_family_is_unreachable() -> None:
    blocks = (block("10.9.1.0/26", "v6only"), block("fd09::40/122", "v6only"))
    state = desired(view(A, ME, V6ONLY, *blocks), host())
    assert routes_to(state, "10.9.1.0/26") == []
    assert routes_to(state, "fd09::40/122")[0].via == "2001:db8::6"


def test_an_ipv6_underlay_costs_more() -> None:
    here = host(
        endpoint(), underlay=Underlay(interface="eth0", addresses=("2001:db8::1/64",), mtu=1400)
    )
    state = desired(view(A, ME), here)
    assert state.links[host_ifname("e1")].mtu == 1330
    assert state.tunnels["plait.vx"].local == "2001:db8::1"


def test_an_endpoint_inside() -> None:
    state = desired(*STATES["an endpoint"])
    link = state.links[host_ifname("e1")]
    assert link.mtu == 1450
    assert link.addresses == ("fe80::1/64",)
    assert link.peer.addresses == ("10.9.0.5/32", "fd09::5/128")
    assert link.peer.routes == (
        PeerRoute(dst="0.0.0.0/0", via="169.254.1.1"),
        PeerRoute(dst="::/0", via="fe80::1"),
    )
    assert dict(link.peer.neighbours) == {
        "169.254.1.1": "ee:ee:ee:ee:ee:ee",
        "fe80::1": "ee:ee:ee:ee:ee:ee",
    }
    assert routes_to(state, "10.9.0.5/32") == [Route(dst="10.9.0.5/32", link=host_ifname("e1"))]
    assert set(state.filter.endpoints) == {host_ifname("e1")}


@pytest.mark.parametrize("name", ["an unidentified endpoint", "a fenced endpoint"])
def test_it_has_a_link_and_no_traffic(name: str) -> None:
    state = desired(*STATES[name])
    assert host_ifname("e1") in state.links
    assert state.filter.endpoints == {}


def test_a_runtime_takes_the_peer() -> None:
    state = desired(*STATES["a docker endpoint"])
    link = state.links[host_ifname("e1")]
    assert (link.peer.name, link.peer.netns, link.peer.addresses) == (peer_ifname("e1"), "", ())
    assert link.addresses == ("fe80::1/64", "fd09::1/128")
    assert "10.9.0.1/32" in {a.address for a in state.addresses}
    assert state.forward_accept


def test_an_internal_network_has_no_way_out() -> None:
    state = desired(*STATES["an internal network"])
    (link,) = state.links.values()
    assert {r.dst for r in link.peer.routes} == {
        "10.9.0.0/16",
        "fd09::/64",
        "169.254.1.1/32",
        "fd70:6c61:6974::53/128",
    }
    assert state.filter.ports == frozenset()
    assert all(n.internal for n in state.filter.networks.values())


def test_published_ports_in_both_families() -> None:
    state = desired(*STATES["published"])
    assert state.filter.ports == {
        PortMap(
            family=family,  # type: ignore[arg-type]
            protocol="tcp",
            host_ip="",
            host_port=8080,
            address=address,
            port=80,
        )
        for family, address in ((4, "10.9.0.5"), (6, "fd09::5"))
    }
    only4 = PublishedPort(protocol="tcp", port=80, host_port=8080, host_ip="0.0.0.0")
    state = desired(view(A), host(endpoint(ports=(only4,))))
    assert {(p.family, p.host_ip) for p in state.filter.ports} == {(4, "")}


def test_loans_lead_to_their_borrowers() -> None:
    loans = (
        Loan(address="10.9.1.9", node="far", state="granted"),
        Loan(address="10.9.1.10", node="h1", state="granted"),
        Loan(address="10.9.1.11", node="far"),
    )
    state = desired(view(A, ME, NEAR, FAR, block("10.9.1.0/26", "near", *loans)), host())
    assert routes_to(state, "10.9.1.9/32")[0].link == "plait.vx"
    assert routes_to(state, "10.9.1.10/32") == []
    assert routes_to(state, "10.9.1.11/32") == []


def test_a_lent_block_of_one_address_leads_to_the_borrower() -> None:
    loan = Loan(address="10.9.1.9", node="far", state="granted")
    state = desired(view(A, ME, NEAR, FAR, block("10.9.1.9/32", "near", loan)), host())
    (route,) = routes_to(state, "10.9.1.9/32")
    assert route.link == "plait.vx"


def test_what_lives_here_is_here() -> None:
    seen = view(A, ME, NEAR, block("10.9.0.5/32", "near"))
    (route,) = routes_to(desired(seen, host(endpoint())), "10.9.0.5/32")
    assert route.link == host_ifname("e1")


def test_no_text_of_a_user_reaches_the_filter() -> None:
    bad = network("a", "10.9.0.0/16")
    bad = msgspec.structs.replace(bad, metadata=Metadata(name='a"; flush ruleset', uid=""))
    state = desired(View(cluster=cluster(), networks={"a": bad}), host())
    (ident,) = state.filter.networks
    assert ident.isalnum()


def test_router_advertisements_stay_accepted() -> None:
    state = desired(view(), host(accept_ra=True))
    assert state.sysctls["net/ipv6/conf/eth0/accept_ra"] == "2"
    assert "net/ipv6/conf/eth0/accept_ra" not in desired(view(), host()).sysctls
