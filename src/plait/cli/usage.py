"""How full networks are: pure counting over networks, blocks and endpoints."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import msgspec

from plait.model.objects import AddressBlock, Endpoint, Network


class PoolUse(msgspec.Struct, frozen=True, rename="camel"):
    """Use of one pool."""

    cidr: str
    size: int
    """Addresses in the pool."""
    claimed: int
    """Addresses in blocks that nodes own."""
    used: int
    """Addresses of endpoints."""
    blocks: int

    @property
    def percent(self) -> str:
        """Claimed share, `<1%` when it is small but there."""
        if not self.claimed:
            return "0%"
        share = 100 * self.claimed / self.size
        return "<1%" if share < 1 else f"{share:.0f}%"


class NetworkUse(msgspec.Struct, frozen=True, rename="camel"):
    """Use of one network."""

    network: str
    internal: bool
    endpoints: int
    pools: tuple[PoolUse, ...]


def network_use(
    networks: Sequence[Network], blocks: Sequence[AddressBlock], endpoints: Sequence[Endpoint]
) -> list[NetworkUse]:
    """Use of each network, by name. Counts; touches no address arithmetic but containment."""
    result = []
    for network in sorted(networks, key=lambda n: n.metadata.name):
        name = network.metadata.name
        members = [e for e in endpoints if e.spec.network == name]
        addresses = [ipaddress.ip_address(a) for e in members for a in e.spec.addresses]
        owned = [
            ipaddress.ip_network(b.spec.cidr)
            for b in blocks
            if b.spec.network == name and b.spec.node
        ]
        pools = []
        for text in network.spec.pools:
            pool = ipaddress.ip_network(text)
            inside = [b for b in owned if b.network_address in pool]
            pools.append(
                PoolUse(
                    cidr=text,
                    size=pool.num_addresses,
                    claimed=sum(b.num_addresses for b in inside),
                    used=sum(1 for a in addresses if a in pool),
                    blocks=len(inside),
                )
            )
        result.append(NetworkUse(name, network.spec.internal, len(members), tuple(pools)))
    return result
