"""Addresses on links that belong to no endpoint: gateways and the resolver, on `lo`."""

from __future__ import annotations

from plait.agent.desired.inputs import Host, View, gateways, host_cidr, is6
from plait.model.hoststate import Address
from plait.model.marks import GATEWAY4, RESOLVER6


def addresses(view: View, host: Host) -> frozenset[Address]:
    """The resolver's addresses, and the IPv4 gateway of each network with an endpoint here
    whose runtime sends to the network's gateway (the kernel answers ARP for any local
    address)."""
    taken_by_runtime = {item.network for item in host.attachments.values() if not item.netns}
    local = [host_cidr(GATEWAY4), host_cidr(RESOLVER6)]
    for name in taken_by_runtime & view.networks.keys():
        local += [host_cidr(g) for g in gateways(view.networks[name]) if not is6(g)]
    return frozenset(Address(link="lo", address=address) for address in local)
