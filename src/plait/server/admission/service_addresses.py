"""Addresses of a Service: those it asked for, those it had, and new ones. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterator
from functools import cache
from typing import Final, NamedTuple

import msgspec

from plait.model.errors import PlaitError
from plait.model.objects import ClusterSpec, NetworkSpec
from plait.model.services import ServiceSpec
from plait.model.syntax import invalid
from plait.server import claims, service_pools
from plait.server.admission import service_families
from plait.server.admission.service_families import family_of
from plait.server.admission.service_fields import CALLED
from plait.server.service_pools import FAMILIES
from plait.server.state import State

Free = Callable[[str], bool]
"""Whether nobody else has a claim."""


def choose(
    spec: ServiceSpec,
    old: ServiceSpec | None,
    pools: ClusterSpec,
    seed: str,
    free: Free,
    network: NetworkSpec,
) -> ServiceSpec:
    """The spec with its cluster addresses and their families.

    An address stays while the Service has one of its family. A Service of somebody else's
    (`origin`) has what they say: they may have made another of the same name.
    PLAIT-SERVICE-001, 002, 005 and 007 say what is in the way.
    """
    if spec.type not in CALLED or spec.headless:
        return spec
    useful = service_families.answering(spec, network)
    had = {family_of(a): a for a in old.addresses} if old is not None else {}
    given = {family_of(a): a for a in spec.addresses}
    for family, text in given.items():
        before = had.get(family, text)
        if before != text and spec.origin is None:
            raise PlaitError(
                "PLAIT-SERVICE-005",
                f"the address {before} of a Service cannot become {text}",
                where="spec.addresses",
                why="its clients may remember it",
                fix=("leave `addresses` out",),
            )
        _unclaimed(text, free)
    families = spec.families or tuple(given or had) or service_families.choose(pools, useful)
    service_families.check(spec, old, families, useful)
    result = []
    for family in families:
        text = given.get(family) or had.get(family, "")
        result.append(
            text
            or service_pools.choose_cluster_address(
                pools,
                family,
                f"{seed} {family}",
                lambda text: free(claims.cluster(text)) and free(claims.outside(text)),
                "spec.addresses",
            )
        )
    if not result:
        # Says that there is no pool.
        service_pools.choose_cluster_address(pools, 4, seed, free, "spec.addresses")
    return msgspec.structs.replace(spec, addresses=tuple(result), families=tuple(families))


def _unclaimed(text: str, free: Free) -> None:
    if not (free(claims.cluster(text)) and free(claims.outside(text))):
        raise PlaitError(
            "PLAIT-SERVICE-001",
            f"the address {text} is another Service's",
            where="spec.addresses",
            fix=("plait service ls", "leave `addresses` out"),
        )


def check_outside(spec: ServiceSpec, free: Free) -> None:
    """PLAIT-SERVICE-001 when an external or load-balancer address, or a port of it, is another
    Service's."""
    fields = (
        ("spec.externalAddresses", spec.external_addresses),
        ("spec.loadBalancerAddresses", spec.load_balancer_addresses),
    )
    for where, addresses in fields:
        for i, text in enumerate(addresses):
            held = [claims.cluster(text)]
            held += [claims.frontend(text, port.protocol, port.port) for port in spec.ports]
            if text in spec.addresses or not all(map(free, held)):
                raise PlaitError(
                    "PLAIT-SERVICE-001",
                    f"the address {text}, or a port of it, is another Service's",
                    where=f"{where}[{i}]",
                    fix=("plait service ls",),
                )


def check_backends(spec: ServiceSpec, pools: ClusterSpec, free: Free) -> None:
    """No backend is a Service's address: a flow is led once, and not on from there."""
    ours = [*map(service_pools.parsed, pools.service_pools)]
    for i, backend in enumerate(spec.backends):
        address = ipaddress.ip_address(backend.address)
        held = backend.address in spec.addresses or not free(claims.cluster(backend.address))
        if held or any(address in pool for pool in ours):
            raise invalid(
                f"spec.backends[{i}].address",
                f"the address {backend.address} is a Service's",
                why="a flow is led to a backend once, and not on from there",
                fix="name who answers for that Service",
            )


class Balanced(NamedTuple):
    """Load-balancer addresses, and why there is none; empty when all is well."""

    addresses: tuple[str, ...]
    message: str = ""


def balance(spec: ServiceSpec, old: ServiceSpec | None, pools: ClusterSpec, free: Free) -> Balanced:
    """Load-balancer addresses as given, as they were, or one of each family out of the pools."""
    if spec.type != "LoadBalancer":
        return Balanced(())
    if spec.load_balancer_addresses:
        return Balanced(spec.load_balancer_addresses)
    had = old.load_balancer_addresses if old is not None else ()
    families = [f for f in spec.families or FAMILIES if service_pools.has_balancer_pool(pools, f)]
    missing = [f for f in families if f not in map(family_of, had)]
    chosen = (service_pools.choose_balancer_address(pools, f, free) for f in missing)
    found = (*had, *filter(None, chosen))
    return Balanced(found, "" if found else USED_UP if families else NO_POOL)


NO_POOL: Final = "it has no load-balancer address: the cluster has no pool for them"
USED_UP: Final = "it has no load-balancer address: those of the cluster's pools are used up"


def of_hosts(state: State) -> frozenset[str]:
    """Hosts' own addresses."""
    addresses = (text for node in state.nodes() for text in node.spec.addresses)
    return frozenset(text.partition("/")[0] for text in addresses)


def _of_subnets(state: State) -> Iterator[str]:
    """Addresses in the hosts' subnets that mean a subnet or all in it (RFC 1122, 3.2.1.3), or any
    router of it (RFC 4291, 2.6.1); two hosts on a link of their own have none (RFC 3021, 6164)."""
    nets = (
        ipaddress.ip_interface(a).network for node in state.nodes() for a in node.spec.addresses
    )
    for net in set(nets):
        if net.max_prefixlen - net.prefixlen > 1:
            yield str(net.network_address)
            if net.version == 4:
                yield str(net.broadcast_address)


def free_for_balancing(state: State, free: Free, taken: Collection[str] = ()) -> Free:
    """Whether an address is nobody's: no Service's, no host's own, none that a host's subnet has
    for itself, and not among those that are about to be `taken`."""

    @cache
    def held() -> frozenset[str]:
        return of_hosts(state).union(_of_subnets(state))

    def usable(text: str) -> bool:
        known = text in taken or text in held()
        return not known and free(claims.cluster(text)) and free(claims.outside(text))

    return usable
