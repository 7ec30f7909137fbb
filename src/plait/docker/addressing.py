"""Pools, gateways and routes of a network as Docker wants them. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from itertools import islice
from typing import Literal

from plait.client.agent import AttachResult
from plait.model.errors import PlaitError
from plait.model.objects import Network
from plait.wire.docker import ROUTE_NEXT_HOP, ROUTE_ON_LINK, StaticRoute

Family = Literal[4, 6]
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
FAMILIES: tuple[Family, Family] = (4, 6)


def parse_pool(text: str) -> IpNetwork:
    """A pool as a network; PLAIT-NET-004 when it is no CIDR or has host bits."""
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise PlaitError("PLAIT-NET-004", f"{text!r} is not a pool: {error}") from error


def bare(address: str) -> str:
    """An address of dockerd without its prefix length, in canonical form; empty stays empty."""
    if not address:
        return ""
    try:
        return str(ipaddress.ip_interface(address).ip)
    except ValueError as error:
        raise PlaitError("PLAIT-DOCKER-001", f"{address!r} is not an address") from error


def host_prefix(address: str) -> str:
    """`/32` or `/128` form of an address: containers share no segment (layer 3 only)."""
    return f"{address}/{ipaddress.ip_address(address).max_prefixlen}"


def of_family(values: Iterable[str], family: Family) -> str:
    """The first address or CIDR of a family; empty when there is none."""
    for value in values:
        if ipaddress.ip_interface(value).version == family:
            return value
    return ""


def first_address(pool: str) -> str:
    """The gateway of a pool that names none: its first usable address."""
    return str(next(islice(parse_pool(pool).hosts(), 1)))


def gateway(network: Network, family: Family) -> str:
    """A network's gateway; empty when it has no pool of the family."""
    named = of_family(network.spec.gateways, family)
    if named:
        return named
    pool = of_family(network.spec.pools, family)
    return first_address(pool) if pool else ""


def halves(pool: str) -> tuple[str, ...]:
    """The two more specific halves of a pool; a pool of one address is its own half."""
    network = parse_pool(pool)
    if network.prefixlen == network.max_prefixlen:
        return (pool,)
    return tuple(str(half) for half in network.subnets(prefixlen_diff=1))


def join_routes(result: AttachResult, *, on_segment: bool) -> tuple[StaticRoute, ...]:
    """Static routes of a container: its gateways on-link, its network through them.

    `on_segment` says that the container's address carries the pool's prefix length (Docker's
    default IPAM chose it): then the kernel takes the whole pool for one segment and would ask
    for other hosts' containers by ARP, which nobody hears. The pool's halves are more specific
    and lead to the gateway.

    Every route is of this network alone: dockerd refuses a Join whose static route another
    network of the container has given already.
    """
    routes = []
    for family in FAMILIES:
        via = of_family(result.gateways, family)
        pool = of_family(result.pools, family)
        if not via or not pool or not of_family(result.addresses, family):
            continue
        routes.append(StaticRoute(destination=host_prefix(via), route_type=ROUTE_ON_LINK))
        routes += [
            StaticRoute(destination=part, route_type=ROUTE_NEXT_HOP, next_hop=via)
            for part in (halves(pool) if on_segment else (pool,))
        ]
    return tuple(routes)
