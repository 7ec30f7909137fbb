"""Routes and rules: local endpoints, other nodes' blocks, loans, pools, Services, answers to other
nodes, the resolver's packets."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from plait.agent.desired.inputs import (
    V4_ANY,
    V6_ANY,
    Attachment,
    Host,
    View,
    bare,
    host_cidr,
    is6,
)
from plait.agent.desired.paths import path, peers
from plait.model.hoststate import Route, Rule
from plait.model.marks import (
    DNS_MARK,
    DNS_MARK_MASK,
    DNS_ROUTE_TABLE,
    NODE_MARK,
    NODE_ROUTE_TABLE,
    RULE_PRIORITY,
    VXLAN_LINK,
    link_local,
    vtep_mac,
)
from plait.model.objects import Node

UNREACHABLE_METRIC = 4096
"""Metric of the routes that keep unknown addresses of ours from leaving by the default route."""


def remote_routes(view: View, host: Host) -> frozenset[Route]:
    """Everything that does not depend on local endpoints."""
    routes: dict[str, Route] = {}
    to_node: dict[tuple[str, bool], Route | None] = {}

    def towards(node: str, dst: str) -> None:
        key = (node, is6(dst))
        if key not in to_node:
            peer = view.nodes.get(node)
            to_node[key] = None if peer is None else _route(view, host, peer, is6(dst))
        template = to_node[key]
        if template is not None:
            # The host itself is known to other nodes by its address on the underlay.
            routes[dst] = Route(
                dst=dst,
                link=template.link,
                via=template.via,
                onlink=template.onlink,
                src=bare(host.underlay.address(6 if is6(dst) else 4)),
            )

    for block in view.blocks.values():
        spec = block.spec
        if spec.node and spec.node != host.node:
            towards(spec.node, spec.cidr)
    # After the blocks: a block of one address that is lent out has the loan's destination.
    for block in view.blocks.values():
        for loan in block.spec.loans:
            if loan.state == "granted" and loan.node != host.node:
                towards(loan.node, host_cidr(loan.address))
    pools = {pool for network in view.networks.values() for pool in network.spec.pools}
    unreachable = {Route(dst=pool, kind="unreachable", metric=UNREACHABLE_METRIC) for pool in pools}
    return frozenset(
        (
            *routes.values(),
            *unreachable,
            *_dns_routes(host),
            *_service_routes(view, host),
            *_node_routes(view, host),
        )
    )


def _service_routes(view: View, host: Host) -> Iterator[Route]:
    """Addresses of Services for the host's own sockets.

    A socket wants a route, and takes its own address from it, before the packet is led to a
    backend; a host need not have a default route. No packet takes this one: what is not led
    elsewhere is refused before (`service_base.to_frontends`).
    """
    spec = view.cluster.spec
    for pool in (*spec.service_pools, *spec.load_balancer_pools):
        yield Route(
            dst=pool,
            link=host.underlay.interface,
            src=bare(host.underlay.address(6 if is6(pool) else 4)),
            metric=UNREACHABLE_METRIC,
        )


def _node_routes(view: View, host: Host) -> Iterator[Route]:
    """Other nodes' own addresses, for answers of endpoints: through the tunnel where an endpoint of
    that node is reached through it."""
    for peer in peers(view, host):
        for address in map(bare, peer.spec.addresses):
            way = _route(view, host, peer, is6(address))
            if way is not None and way.link == VXLAN_LINK:
                yield msgspec.structs.replace(way, dst=host_cidr(address), table=NODE_ROUTE_TABLE)


def _route(view: View, host: Host, peer: Node, v6: bool) -> Route | None:
    way = path(view, host, peer, 6 if v6 else 4)
    if way.encap == "direct":
        return Route(dst="", link=host.underlay.interface, via=way.via)
    if way.encap == "vxlan":
        next_hop = link_local(vtep_mac(peer.metadata.uid))
        return Route(dst="", link=VXLAN_LINK, via=next_hop, onlink=True)
    return None


def _dns_routes(host: Host) -> frozenset[Route]:
    if not host.dns:
        return frozenset()
    # Packets with the resolver's mark are delivered locally, whatever their destination
    # (Documentation/networking/tproxy.rst).
    return frozenset(
        Route(dst=dst, kind="local", link="lo", table=DNS_ROUTE_TABLE) for dst in (V4_ANY, V6_ANY)
    )


def own_routes(item: Attachment) -> frozenset[Route]:
    """A host route for every address of a local endpoint."""
    return frozenset(Route(dst=host_cidr(a), link=item.interface) for a in item.addresses)


def routes(remote: frozenset[Route], local: frozenset[Route]) -> frozenset[Route]:
    """Both; an endpoint that lives here is here, whatever a block says of its address."""
    here = set(map(identity, local))
    if any(identity(route) in here for route in remote):
        remote = frozenset(route for route in remote if identity(route) not in here)
    return remote | local


def identity(route: Route) -> tuple[str, int, int]:
    """What makes it the same route in the kernel."""
    return route.dst, route.table, route.metric


def rules(host: Host) -> frozenset[Rule]:
    """The marks of the resolver's packets and of answers to other nodes lead to their tables."""
    tables = [(NODE_MARK, NODE_ROUTE_TABLE)]
    if host.dns:
        tables.append((DNS_MARK, DNS_ROUTE_TABLE))
    return frozenset(
        Rule(family=family, priority=RULE_PRIORITY, table=table, mark=mark, mask=DNS_MARK_MASK)
        for family in (4, 6)
        for mark, table in tables
    )
