"""Addresses on links that belong to no endpoint: gateways and the resolver, on `lo`."""

from __future__ import annotations

from collections.abc import Set

from plait.agent.desired.inputs import View, gateways, host_cidr, is6
from plait.model.hoststate import Address
from plait.model.marks import GATEWAY4, RESOLVER6


def addresses(view: View, taken_by_runtime: Set[str]) -> frozenset[Address]:
    """The resolver's addresses, and the IPv4 gateway of each network with an endpoint here
    whose runtime sends to the network's gateway (the kernel answers ARP for any local
    address)."""
    local = [host_cidr(GATEWAY4), host_cidr(RESOLVER6)]
    for name in view.networks.keys() & taken_by_runtime:
        local += [host_cidr(g) for g in gateways(view.networks[name]) if not is6(g)]
    return frozenset(Address(link="lo", address=address) for address in local)
