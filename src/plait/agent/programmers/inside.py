"""The container side of an endpoint: one list of steps, which prints and acts.

The steps run in the endpoint's own namespace, in one send. `missing` compares a namespace with
what was wanted, for a repair on request; the resync never enters namespaces.
"""

from __future__ import annotations

from plait.agent.desired.inputs import V4_ANY, V6_ANY
from plait.agent.programmers.support import Step
from plait.kernel.netlink import Rtnetlink
from plait.model import marks
from plait.model.hoststate import Peer, PeerRoute
from plait.wire import links as wl
from plait.wire import rtnetlink as rt


def steps(peer: Peer, index: int = 0, loopback: int = 1) -> list[Step]:
    """Everything inside, from a peer that has just been born there, down and bare."""
    at = f"nsenter --net={peer.netns} ip"
    found = [
        Step(f"{at} link set lo up", wl.set_link(loopback, up=True)),
        Step(f"{at} link set {peer.name} up", wl.set_link(index, up=True)),
    ]
    found += [_address(at, peer, address, index) for address in peer.addresses]
    found += [_neighbour(at, peer, address, mac, index) for address, mac in peer.neighbours]
    # Routes of scope link first: another route's gateway may be behind one.
    ordered = sorted(peer.routes, key=lambda route: bool(route.via))
    return found + [_route(at, peer, route, index) for route in ordered]


def missing(netlink: Rtnetlink, peer: Peer, mtu: int) -> list[Step] | None:
    """What has to be done again inside, ours that is no longer wanted included.

    None: the interface is not there under its name. Foreign addresses and routes are left. With
    another MAC the link was made over by somebody after us (CNI's tuning plugin): then its MTU is
    theirs, and the neighbours, which went when it was lowered for that, are found by asking.
    """
    index = netlink.index(peer.name)
    link = next((found for found in netlink.links("veth") if found.index == index), None)
    if link is None:
        return None
    at = f"nsenter --net={peer.netns} ip"
    found: list[Step] = []
    theirs = link.mac != peer.mac
    if link.mtu != mtu and not theirs:
        text = f"{at} link set {peer.name} mtu {mtu}"
        found.append(Step(text, wl.set_link(index, mtu=mtu)))
    if not link.up:
        found.append(Step(f"{at} link set {peer.name} up", wl.set_link(index, up=True)))
    add, delete = _addresses(netlink, peer, index, at)
    # With a link's last IPv4 address the kernel drops its IPv4 routes: deletions come last.
    found += add
    for family in (rt.AF_INET, rt.AF_INET6):
        there = {(n.address, n.mac) for n in netlink.neighbours(family, index) if n.permanent}
        found += [
            _neighbour(at, peer, address, mac, index)
            for address, mac in (() if theirs else peer.neighbours)
            if rt.family_of(address) == family and (address, mac) not in there
        ]
    return found + _routes(netlink, peer, index, at) + delete


def _addresses(
    netlink: Rtnetlink, peer: Peer, index: int, at: str
) -> tuple[list[Step], list[Step]]:
    """Additions and deletions."""
    there = [
        info
        for family in (rt.AF_INET, rt.AF_INET6)
        for info in netlink.addresses(family)
        if info.index == index
    ]
    ours = {info.address for info in there if info.protocol == marks.PROTOCOL}
    delete = [
        Step(f"{at} address del {address} dev {peer.name}", rt.del_address(index, address))
        for address in sorted(ours - set(peer.addresses))
    ]
    known = {info.address for info in there}
    return [_address(at, peer, a, index) for a in peer.addresses if a not in known], delete


def _routes(netlink: Rtnetlink, peer: Peer, index: int, at: str) -> list[Step]:
    ours = {
        PeerRoute(dst=info.dst, via=info.via): info
        for family in (rt.AF_INET, rt.AF_INET6)
        for info in netlink.routes(family, marks.PROTOCOL)
        if info.index == index
    }
    found = [
        Step(f"{at} route del {_spell(peer, route, info.metric)}", rt.del_route(info))
        for route, info in ours.items()
        if route not in peer.routes
    ]
    ordered = sorted(peer.routes, key=lambda route: bool(route.via))
    return found + [_route(at, peer, route, index) for route in ordered if route not in ours]


def _address(at: str, peer: Peer, address: str, index: int) -> Step:
    nodad = " nodad" if ":" in address else ""
    text = f"{at} address add {address} dev {peer.name}{nodad} proto {marks.PROTOCOL}"
    return Step(text, rt.new_address(index, address, marks.PROTOCOL))


def _neighbour(at: str, peer: Peer, address: str, mac: str, index: int) -> Step:
    text = f"{at} neighbour replace {address} lladdr {mac} dev {peer.name} nud permanent"
    return Step(text, rt.new_neighbour(index, address, mac, marks.PROTOCOL))


def _route(at: str, peer: Peer, route: PeerRoute, index: int) -> Step:
    # Every interface without default routes leads to the resolver: the metric tells them apart.
    metric = 0 if route.dst in (V4_ANY, V6_ANY) else index
    info = rt.RouteInfo(
        dst=route.dst,
        via=route.via,
        index=index,
        onlink=bool(route.via),
        metric=metric,
        protocol=marks.PROTOCOL,
    )
    return Step(f"{at} route add {_spell(peer, route, metric)}", rt.new_route(info))


def _spell(peer: Peer, route: PeerRoute, metric: int) -> str:
    via = ""
    if route.via:
        crossing = ":" in route.via and ":" not in route.dst
        via = f" via {'inet6 ' if crossing else ''}{route.via}"
    onlink = " onlink" if route.via else ""
    preference = f" metric {metric}" if metric else ""
    return f"{route.dst}{via} dev {peer.name}{onlink} proto {marks.PROTOCOL}{preference}"
