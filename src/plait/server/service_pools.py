"""Where Services get addresses: pools of the cluster, and who else may not have them. Pure."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Final, Literal

import msgspec

from plait.model import syntax
from plait.model.errors import PlaitError
from plait.model.objects import Cluster, ClusterSpec
from plait.model.syntax import Address, Cidr
from plait.server import claims, pools
from plait.server.pools import Use
from plait.server.state import State

CLUSTER_NAME: Final = "plait"
Family = Literal[4, 6]
FAMILIES: Final[tuple[Family, Family]] = (4, 6)
CHOSEN_SHARE: Final = 16
CHOSEN_MOST: Final = 256
"""The lowest sixteenth of a service pool, at most so many, is left to those who choose."""

parsed: Final = lru_cache(maxsize=4096)(ipaddress.ip_network)


def settings(state: State) -> ClusterSpec:
    """The cluster's settings, or what a cluster without any has."""
    cluster = state.get(Cluster, CLUSTER_NAME)
    return cluster.spec if cluster else ClusterSpec()


def uses(state: State, wanted: Sequence[Cidr]) -> Iterator[Use]:
    """Ranges of the `wanted` ones that no network may have: pools for Services, and addresses of
    Services that lie outside of them."""
    spec = settings(state)
    known: list[Cidr] = []
    for text in spec.service_pools:
        known.append(parsed(text))
        yield Use(parsed(text), "the service pool")
    for text in spec.load_balancer_pools:
        known.append(parsed(text))
        yield Use(parsed(text), "the load-balancer pool")
    # There may be tens of thousands: only those that matter become addresses.
    inside, outside = [*map(_bounds, wanted)], [*map(_bounds, known)]
    for prefix in (claims.cluster(""), claims.outside("")):
        for text in state.claimed(prefix):
            packed = socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
            if _among(packed, inside) and not _among(packed, outside):
                yield Use(ipaddress.ip_network(packed), f"a Service with {text}")


def _bounds(pool: Cidr) -> tuple[bytes, bytes]:
    return pool.network_address.packed, pool.broadcast_address.packed


def _among(packed: bytes, ranges: Iterable[tuple[bytes, bytes]]) -> bool:
    size = len(packed)
    return any(len(low) == size and low <= packed <= high for low, high in ranges)


def check_network(state: State, pool: Cidr, where: str) -> None:
    """Refuse a network's pool that Services have addresses of."""
    other = pools.overlap(pool, uses(state, [pool]))
    if other is not None:
        raise _overlaps(f"the pool {pool}", other, where)


def check_cluster(state: State, old: ClusterSpec, new: ClusterSpec) -> ClusterSpec:
    """The pools for Services in canonical form. PLAIT-SERVICE-006 when a new one overlaps others.

    A load-balancer pool may be part of the hosts' own network: that is how its addresses lead to
    some host.
    """
    syntax.items(new.service_pools, "spec.servicePools", 2)
    syntax.items(new.load_balancer_pools, "spec.loadBalancerPools", 64)
    services = _canonical(new.service_pools, "spec.servicePools")
    balancers = _canonical(new.load_balancer_pools, "spec.loadBalancerPools")
    if len({pool.version for pool in services}) != len(services):
        raise syntax.invalid("spec.servicePools", "there is at most one service pool a family")
    taken = [Use(parsed(pool), "the cluster's pools") for pool in new.pools]
    taken += pools.network_uses(state)
    hosts = pools.node_uses(state)
    for i, pool in enumerate(services):
        where = f"spec.servicePools[{i}]"
        pools.check_range(pool, where)
        fresh = str(pool) not in old.service_pools
        _apart(pool, [*taken, *(hosts if fresh else ())], where)
        taken.append(Use(pool, "the service pool"))
    for i, pool in enumerate(balancers):
        where = f"spec.loadBalancerPools[{i}]"
        pools.check_reserved(pool, where)
        _apart(pool, taken, where)
        taken.append(Use(pool, "the load-balancer pool"))
    return msgspec.structs.replace(
        new,
        service_pools=tuple(map(str, services)),
        load_balancer_pools=tuple(map(str, balancers)),
    )


def _canonical(given: Sequence[str], where: str) -> list[Cidr]:
    return [syntax.cidr(pool, f"{where}[{i}]") for i, pool in enumerate(given)]


def _apart(pool: Cidr, taken: Sequence[Use], where: str) -> None:
    other = pools.overlap(pool, taken)
    if other is not None:
        raise _overlaps(f"the pool {pool}", other, where)


def _overlaps(what: str, other: Use, where: str) -> PlaitError:
    return PlaitError(
        "PLAIT-SERVICE-006",
        f"{what} overlaps {other.cidr} of {other.owner}",
        where=where,
        why="an address is either a Service's or somebody's own",
        fix=("plait get clusters   # shows the pools",),
    )


def choose_cluster_address(
    spec: ClusterSpec, family: Family, seed: str, free: Callable[[str], bool], where: str
) -> str:
    """A free address of the service pool of a family. PLAIT-SERVICE-007 when there is no such
    pool, PLAIT-SERVICE-002 when it is used up."""
    pool = next((p for p in map(parsed, spec.service_pools) if p.version == family), None)
    if pool is None:
        raise PlaitError(
            "PLAIT-SERVICE-007",
            f"the cluster has no service pool of IPv{family}",
            where=where,
            why="its service pools are " + (", ".join(spec.service_pools) or "none"),
            fix=("plait up --service-pool CIDR   # on the server's host",),
        )
    low = claims.static_part(pool.num_addresses, CHOSEN_SHARE, CHOSEN_MOST)
    # The first and the last address of a range are, to much software, nobody's own.
    ends = {0, pool.num_addresses - 1}
    for number in claims.scattered(pool.num_addresses, low, seed):
        text = str(pool.network_address + number)
        if number not in ends and free(text):
            return text
    raise PlaitError(
        "PLAIT-SERVICE-002",
        f"no address of {pool} is free",
        where=where,
        fix=("plait service ls", "plait service rm NAME"),
    )


def choose_balancer_address(
    spec: ClusterSpec, family: Family, free: Callable[[str], bool]
) -> str | None:
    """The lowest free address of the load-balancer pools of a family; None when there is none."""
    for pool in map(parsed, spec.load_balancer_pools):
        if pool.version == family:
            for number in islice(range(pool.num_addresses), claims.MOST_TRIED):
                text = str(pool.network_address + number)
                if free(text):
                    return text
    return None


def has_balancer_pool(spec: ClusterSpec, family: Family) -> bool:
    """Whether load-balancer addresses of a family can be given at all."""
    return any(parsed(pool).version == family for pool in spec.load_balancer_pools)


def check_foreign(state: State, address: Address, where: str) -> bool:
    """Refuse an address of a network; whether it lies outside of the pools for Services, so that
    a new network could take it."""
    spec = settings(state)
    if any(address in parsed(pool) for pool in (*spec.service_pools, *spec.load_balancer_pools)):
        return False  # Those are apart from all networks.
    owners = (
        Use(parsed(pool), f"network {network.metadata.name}")
        for network in state.networks()
        for pool in network.spec.pools
    )
    other = pools.overlap(ipaddress.ip_network(address), owners)
    if other is not None:
        raise _overlaps(f"the address {address}", other, where)
    return True
