"""Networks: pools, gateways, reserved ranges. Pure."""

from __future__ import annotations

import ipaddress
from typing import Any, cast

import msgspec

from plait.model import syntax
from plait.model.errors import PlaitError
from plait.model.objects import AddressBlock, AnyObject, Cluster, Endpoint, Network, Object, Service
from plait.model.syntax import Address, Cidr
from plait.server import pools, service_pools
from plait.server.admission import references
from plait.server.admission.base import (
    CLUSTER_NAME,
    POOLS_GUARD,
    Admitted,
    Context,
    Removal,
    closing_key,
    in_use,
    named,
    users,
)
from plait.server.state import Entry, State


def admit(state: State, context: Context, old: Object | None, new: AnyObject) -> Admitted:
    """A network has pools of its own, now and for ever, and a gateway in each."""
    del context
    assert isinstance(new, Network)
    previous = cast("Network | None", old)
    name = new.metadata.name
    given = pools.canonical(new.spec.pools, "spec.pools")
    if previous is None:
        chosen = _new_pools(state, new, given)
    else:
        chosen = tuple(ipaddress.ip_network(pool) for pool in previous.spec.pools)
        if given and given != chosen:
            raise PlaitError(
                "PLAIT-NET-005",
                f"the pools of network {name} cannot be changed",
                where="spec.pools",
                why="it has " + ", ".join(str(pool) for pool in chosen),
                fix=("plait network create NEW --pool CIDR",),
            )
    gateways = _gateways(new, chosen, previous)
    spec = msgspec.structs.replace(
        new.spec,
        pools=tuple(str(pool) for pool in chosen),
        gateways=tuple(str(gateway) for gateway in gateways),
        reserved=_reserved(new, chosen),
    )
    status = previous.status if previous else new.status
    return Admitted(
        msgspec.structs.replace(new, spec=spec, status=status),
        also_put=() if previous else references.retold(state, Network, name, there=True),
        absent=() if previous else (closing_key(Network, name),),
        guards=() if previous else (POOLS_GUARD,),
    )


def _new_pools(state: State, new: Network, given: tuple[Cidr, ...]) -> tuple[Cidr, ...]:
    """The pools asked for, or cut from the cluster's.

    A network whose IPv4 addresses are chosen elsewhere (`externalIpam`) gets an IPv6 pool of
    ours all the same, if the cluster has one: Docker did not ask for it, its users profit.
    """
    name = new.metadata.name
    for i, pool in enumerate(given):
        pools.check_range(pool, f"spec.pools[{i}]")
        pools.check_free(state, pool, name, f"spec.pools[{i}]")
        service_pools.check_network(state, pool, f"spec.pools[{i}]")
    cluster = state.get(Cluster, CLUSTER_NAME)
    sources = cluster.spec.pools if cluster else ()
    families = {ipaddress.ip_network(pool).version for pool in sources}
    taken = list(service_pools.uses(state, [ipaddress.ip_network(pool) for pool in sources]))
    if not given:
        if not families:
            raise PlaitError(
                "PLAIT-NET-003",
                f"network {name} names no pool, and the cluster has none",
                where="spec.pools",
                fix=(f"plait network create {name} --pool CIDR",),
            )
        return tuple(
            pools.choose(state, sources, family, name, taken) for family in sorted(families)
        )
    if new.spec.external_ipam and 6 in families and all(pool.version == 4 for pool in given):
        return (*given, pools.choose(state, sources, 6, name, taken))
    return given


def _gateways(new: Network, chosen: tuple[Cidr, ...], old: Network | None) -> tuple[Address, ...]:
    """A gateway a pool, in the pools' order: as given, as it was, or the first address."""
    syntax.items(new.spec.gateways, "spec.gateways", 2)
    given: dict[int, Address] = {}
    for i, text in enumerate(new.spec.gateways):
        where = f"spec.gateways[{i}]"
        gateway = syntax.address(text, where)
        pool = next((pool for pool in chosen if pool.version == gateway.version), None)
        if pool is None or gateway not in pool or gateway.version in given:
            raise PlaitError(
                "PLAIT-IPAM-011",
                f"the gateway {gateway} is not an address of a pool of its own",
                where=where,
                why="the pools are " + ", ".join(str(pool) for pool in chosen),
            )
        if pool.version == 4 and gateway in (pool.network_address, pool.broadcast_address):
            raise PlaitError(
                "PLAIT-IPAM-014", f"{gateway} is the network's or broadcast address", where=where
            )
        given[gateway.version] = gateway
    if old is not None:
        before = tuple(ipaddress.ip_address(text) for text in old.spec.gateways)
        changed = [gw for gw in given.values() if gw not in before]
        if changed:
            raise PlaitError(
                "PLAIT-NET-005",
                f"the gateways of network {new.metadata.name} cannot be changed",
                where="spec.gateways",
                why="its endpoints use " + ", ".join(str(gateway) for gateway in before),
            )
        return before
    return tuple(given.get(pool.version) or pool.network_address + 1 for pool in chosen)


def _reserved(new: Network, chosen: tuple[Cidr, ...]) -> tuple[str, ...]:
    syntax.items(new.spec.reserved, "spec.reserved")
    result = []
    for i, text in enumerate(new.spec.reserved):
        where = f"spec.reserved[{i}]"
        net = syntax.cidr(text, where, code="PLAIT-API-002")
        if not any(inside(net, pool) for pool in chosen):
            raise PlaitError("PLAIT-IPAM-011", f"{net} is outside the network's pools", where=where)
        result.append(str(net))
    return tuple(result)


def inside(inner: Cidr, outer: Cidr) -> bool:
    """Whether one range is part of the other."""
    return inner.version == outer.version and cast(Any, inner).subnet_of(outer)


def remove(state: State, entry: Entry) -> Removal:
    """Not while endpoints or Services use it; its blocks go with it."""
    name = entry.object.metadata.name
    holders = users(state.in_network(Endpoint, name))
    if holders:
        raise in_use("network", name, holders, f"plait network inspect {name}")
    services = named(state.in_network(Service, name))
    if services:
        raise in_use("network", name, services, "plait service ls", who="services")
    return Removal(
        also_put=references.retold(state, Network, name, there=False),
        also_delete=tuple(block.key for block in state.in_network(AddressBlock, name)),
        closing=closing_key(Network, name),
    )
