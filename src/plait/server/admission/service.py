"""Services. Pure.

The server gives a Service its addresses and node ports, and keeps what it once gave: an update
that names none changes none. What one Service holds no other gets, whatever writes come at once:
every claim has a guard (`server.claims`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, cast

import msgspec

from plait.model import syntax
from plait.model.errors import PlaitError
from plait.model.objects import (
    AnyObject,
    Cluster,
    ClusterSpec,
    Namespace,
    Network,
    Object,
    Service,
    object_key,
)
from plait.model.services import ServiceSpec, ServiceStatus
from plait.server import claims, service_pools
from plait.server.admission import service_addresses, service_fields, service_ports
from plait.server.admission.base import (
    CLUSTER_NAME,
    POOLS_GUARD,
    Admitted,
    Context,
    Removal,
    closing_key,
    in_namespace,
    known_network,
)
from plait.server.state import Entry, State, with_revision

BALANCERS_GUARD: Final = "/guards/balancers"
"""Guard of the rule that nobody lacks a load-balancer address while one is free: whoever begins to
lack one, and whoever frees some, touches it."""


class Given(NamedTuple):
    """Services that got what they lacked, and the guards of that."""

    services: tuple[Service, ...] = ()
    guards: tuple[str, ...] = ()


def admit(state: State, context: Context, old: Object | None, new: AnyObject) -> Admitted:
    """A Service is in a network that exists, and has addresses and ports of its own."""
    assert isinstance(new, Service)
    previous = cast("Service | None", old)
    before = previous.spec if previous else None
    cluster = service_pools.settings(state)
    spec = service_fields.check(service_fields.of_type(previous, new.spec))
    network = known_network(state, spec.network, "spec.network")
    seed, free = f"{new.metadata.namespace}/{new.metadata.name}", _free(state, new.key)
    spec = service_addresses.choose(spec, before, cluster, seed, free, network.spec)
    service_addresses.check_outside(spec, free)
    service_addresses.check_backends(spec, cluster, free)
    ports = syntax.port_range(cluster.node_ports, "spec.nodePorts")
    spec = service_ports.choose(spec, before, ports, seed, free)
    foreign = _check_foreign(state, spec, before)
    _check_hosts(state, cluster, spec, before)
    _check_own_ports(state, context.own_ports, spec)
    usable = service_addresses.free_for_balancing(state, free)
    balanced = service_addresses.balance(spec, before, cluster, usable)
    admitted = _balanced(new, spec, balanced)
    had = set(claims.claims(previous)) if previous else set()
    fresh = [claim for claim in claims.claims(admitted) if claim not in had]
    given = _pass_on(state, cluster, before, admitted.spec, new.key)
    same_network = before is not None and before.network == spec.network
    return Admitted(
        admitted,
        also_put=(*in_namespace(state, context, new.metadata.namespace), *given.services),
        needs=(network.key, object_key(Cluster, CLUSTER_NAME)) if fresh else (network.key,),
        absent=(
            *(() if same_network else (closing_key(Network, spec.network),)),
            *(() if previous else (closing_key(Namespace, new.metadata.namespace),)),
        ),
        guards=(
            *claims.guards(fresh),
            *given.guards,
            *((POOLS_GUARD,) if foreign else ()),
            *((BALANCERS_GUARD,) if claims.LACKING in fresh else ()),
        ),
    )


def _free(state: State, *but: str) -> Callable[[str], bool]:
    """Whether nobody but the objects of these keys has a claim."""
    return lambda claim: all(entry.key in but for entry in state.claimants(claim))


def _balanced(service: Service, spec: ServiceSpec, balanced: service_addresses.Balanced) -> Service:
    return msgspec.structs.replace(
        service,
        spec=msgspec.structs.replace(spec, load_balancer_addresses=balanced.addresses),
        status=ServiceStatus(message=balanced.message),
    )


def _check_foreign(state: State, spec: ServiceSpec, before: ServiceSpec | None) -> bool:
    """No address is a network's; whether a network could take one of those that are new."""
    fields = ("addresses", "external_addresses", "load_balancer_addresses")
    names = ("addresses", "externalAddresses", "loadBalancerAddresses")
    foreign = False
    for field, name in zip(fields, names, strict=True):
        known = getattr(before, field) if before is not None else ()
        for i, text in enumerate(getattr(spec, field)):
            if text not in known:
                address = ipaddress.ip_address(text)
                foreign |= service_pools.check_foreign(state, address, f"spec.{name}[{i}]")
    return foreign


def _check_hosts(
    state: State, cluster: ClusterSpec, spec: ServiceSpec, before: ServiceSpec | None
) -> None:
    """PLAIT-SERVICE-001 when a cluster address, or one of the load-balancer pools, is a host's own.
    Elsewhere a balancer may well lead to hosts by their own addresses."""
    pools = [*map(service_pools.parsed, cluster.load_balancer_pools)]
    known = (*before.addresses, *before.load_balancer_addresses) if before is not None else ()
    given = [("spec.addresses", text) for text in spec.addresses]
    given += [
        ("spec.loadBalancerAddresses", text)
        for text in spec.load_balancer_addresses
        if any(ipaddress.ip_address(text) in pool for pool in pools)
    ]
    fresh = [(where, text) for where, text in given if text not in known]
    hosts = service_addresses.of_hosts(state) if fresh else frozenset()
    for where, text in fresh:
        if text in hosts:
            raise PlaitError(
                "PLAIT-SERVICE-001",
                f"the address {text} is a host's own",
                where=where,
                why="whoever calls the host would come to the Service",
                fix=("leave it out",),
            )


def _check_own_ports(state: State, own: frozenset[int], spec: ServiceSpec) -> None:
    """Where agents call servers no Service answers: it would have their credentials shown to it,
    and nobody on that host could take it away again."""
    for i, port in enumerate(spec.ports):
        if port.protocol != "TCP":
            continue
        at = f"spec.ports[{i}]"
        if port.node_port in own:
            raise PlaitError(
                "PLAIT-SERVICE-003",
                f"the node port {port.node_port} is that of Plait's servers",
                where=f"{at}.nodePort",
                fix=("leave `nodePort` out",),
            )
        if port.port in own and not service_addresses.of_hosts(state).isdisjoint(
            (*spec.external_addresses, *spec.load_balancer_addresses)
        ):
            raise PlaitError(
                "PLAIT-SERVICE-001",
                f"port {port.port} of a host is that of Plait's servers",
                where=f"{at}.port",
                fix=("choose another port, or an address that is no host's",),
            )


def _pass_on(
    state: State, cluster: ClusterSpec, before: ServiceSpec | None, after: ServiceSpec, key: str
) -> Given:
    """Give load-balancer addresses that a Service has no more to those that wait for one."""
    kept = set(after.load_balancer_addresses)
    freed = [a for a in (before.load_balancer_addresses if before else ()) if a not in kept]
    return give(state, cluster, without=key, held=kept, most=len(freed)) if freed else Given()


def give(
    state: State,
    cluster: ClusterSpec,
    *,
    without: str = "",
    held: Iterable[str] = (),
    most: int | None = None,
) -> Given:
    """Give load-balancer addresses to Services that lack them, in order of their keys; at most
    `most` Services get one.

    `without` is the key of a Service that is about to change or to go; it will hold `held`.
    """
    waiting = sorted(state.claimants(claims.LACKING), key=lambda entry: entry.key)
    taken = set(held)
    services: list[Service] = []
    fresh: list[str] = []
    for entry in waiting:
        if most is not None and len(fresh) >= most:
            break
        if entry.key == without:
            continue
        service = cast(Service, entry.object)
        unclaimed = _free(state, without, entry.key)
        usable = service_addresses.free_for_balancing(state, unclaimed, taken)
        balanced = service_addresses.balance(service.spec, None, cluster, usable)
        changed = _balanced(service, service.spec, balanced)
        if changed == service:
            continue
        got = set(balanced.addresses) - set(service.spec.load_balancer_addresses)
        taken |= got
        fresh += [claims.outside(text) for text in got]
        services.append(cast(Service, with_revision(changed, 0)))
    return Given(tuple(services), (*claims.guards(fresh), BALANCERS_GUARD))


def remove(state: State, entry: Entry) -> Removal:
    """Always; its load-balancer addresses go to those that lack one."""
    spec = cast(Service, entry.object).spec
    cluster = service_pools.settings(state)
    given = Given()
    if spec.load_balancer_addresses:
        most = len(spec.load_balancer_addresses)
        given = give(state, cluster, without=entry.key, most=most)
    return Removal(also_put=given.services, guards=given.guards)
