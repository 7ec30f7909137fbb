"""Links: one veth an endpoint."""

from __future__ import annotations

from typing import Final

from plait.agent.desired.inputs import (
    V4_ANY,
    V6_ANY,
    Attachment,
    gateways,
    host_cidr,
    is6,
)
from plait.model.hoststate import Link, Peer, PeerRoute
from plait.model.marks import GATEWAY4, GATEWAY6, HOST_MAC, RESOLVER6, peer_ifname
from plait.model.objects import Network

SYSCTLS: Final = (
    # A port published on 127.0.0.1 leaves through the endpoint's link with a loopback source
    # until it is masqueraded (Documentation/networking/ip-sysctl.rst).
    ("ipv4/conf/{name}/route_localnet", "1"),
    # The source check is ours (nft, by address); the kernel's strict one would drop packets of
    # endpoints with several networks.
    ("ipv4/conf/{name}/rp_filter", "2"),
)


def link(item: Attachment, network: Network, mtu: int) -> Link:
    """One endpoint's veth."""
    addresses = [f"{GATEWAY6}/64"]
    if not item.netns:
        # A runtime configures the peer with the network's gateway as next hop; the IPv4 one
        # answers from `lo`, but ND answers for addresses of the link only.
        addresses += [host_cidr(gateway) for gateway in gateways(network) if is6(gateway)]
    return Link(
        endpoint=item.id,
        mtu=mtu,
        peer=_peer(item, network),
        addresses=tuple(addresses),
        sysctls=SYSCTLS,
    )


def _peer(item: Attachment, network: Network) -> Peer:
    if not item.netns:
        return Peer(name=peer_ifname(item.id), mac=item.mac)
    families = {is6(address) for address in item.addresses}
    routes: list[PeerRoute] = []
    for v6 in sorted(families):
        via = GATEWAY6 if v6 else GATEWAY4
        if item.default_route and not network.spec.internal:
            routes.append(PeerRoute(dst=V6_ANY if v6 else V4_ANY, via=via))
            continue
        # Only the network itself, and the resolver, lead through this interface.
        routes += [PeerRoute(dst=pool, via=via) for pool in network.spec.pools if is6(pool) == v6]
        routes.append(
            PeerRoute(dst=f"{RESOLVER6}/128", via=via) if v6 else PeerRoute(dst=f"{GATEWAY4}/32")
        )
    return Peer(
        name=item.ifname,
        mac=item.mac,
        netns=item.netns,
        netns_inode=item.netns_inode,
        addresses=tuple(host_cidr(address) for address in item.addresses),
        routes=tuple(routes),
        # The host side's MAC never changes, so the next hop needs no ARP and no ND.
        neighbours=tuple((GATEWAY6 if v6 else GATEWAY4, HOST_MAC) for v6 in sorted(families)),
    )
