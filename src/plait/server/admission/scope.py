"""The cluster and its namespaces. Pure."""

from __future__ import annotations

import msgspec

from plait.model import syntax
from plait.model.errors import PlaitError
from plait.model.objects import AnyObject, Cluster, ClusterSpec, Endpoint, Namespace, Object
from plait.model.selectors import NAMESPACE_NAME
from plait.model.syntax import invalid
from plait.server import pools, service_pools
from plait.server.admission import service
from plait.server.admission.base import (
    CLUSTER_NAME,
    DEFAULT_NAMESPACE,
    POOLS_GUARD,
    Admitted,
    Context,
    Removal,
    closing_key,
    in_use,
    users,
)
from plait.server.state import Entry, State


def admit_cluster(state: State, context: Context, old: Object | None, new: AnyObject) -> Admitted:
    """There is one cluster, and its pools do not overlap each other."""
    del context
    assert isinstance(new, Cluster)
    before = old.spec if isinstance(old, Cluster) else ClusterSpec()
    if new.metadata.name != CLUSTER_NAME:
        raise invalid("metadata.name", f'there is one Cluster, and its name is "{CLUSTER_NAME}"')
    syntax.items(new.spec.pools, "spec.pools", 64)
    parsed = [syntax.cidr(pool, f"spec.pools[{i}]") for i, pool in enumerate(new.spec.pools)]
    for i, pool in enumerate(parsed):
        pools.check_range(pool, f"spec.pools[{i}]")
        other = pools.overlap(pool, [pools.Use(net, "pool") for net in parsed[:i]])
        if other is not None:
            raise invalid(f"spec.pools[{i}]", f"the pool {pool} overlaps {other.cidr}")
    syntax.number(new.spec.vxlan_port, "spec.vxlanPort", 1, 65535)
    syntax.number(new.spec.vni, "spec.vni", 1, (1 << 24) - 1)
    syntax.dns_name(new.spec.domain, "spec.domain")
    syntax.dns_name(new.spec.kubernetes_domain, "spec.kubernetesDomain")
    if _nested(new.spec.domain, new.spec.kubernetes_domain):
        raise invalid("spec.kubernetesDomain", "one of the two domains is part of the other")
    syntax.port_range(new.spec.node_ports, "spec.nodePorts")
    spec = msgspec.structs.replace(new.spec, pools=tuple(str(pool) for pool in parsed))
    admitted = msgspec.structs.replace(new, spec=service_pools.check_cluster(state, before, spec))
    changed = admitted.spec != before
    given = service.give(state, admitted.spec) if old and changed else service.Given()
    return Admitted(
        admitted,
        also_put=given.services,
        guards=(*given.guards, POOLS_GUARD) if changed else (),
    )


def _nested(one: str, other: str) -> bool:
    """Whether one domain is the other one or below it."""
    first, second = f".{one}", f".{other}"
    return first.endswith(second) or second.endswith(first)


def admit_namespace(state: State, context: Context, old: Object | None, new: AnyObject) -> Admitted:
    """Nothing but its metadata; the label that every namespace has is its name."""
    del state, context, old
    name = new.metadata.name
    if new.metadata.labels.get(NAMESPACE_NAME, name) != name:
        raise invalid(
            "metadata.labels",
            f"the label {NAMESPACE_NAME} of the namespace {name} is another name",
            why="selectors find a namespace by it",
            fix=f"leave {NAMESPACE_NAME} out",
        )
    return Admitted(new)


def remove_cluster(state: State, entry: Entry) -> Removal:
    """Never."""
    del state, entry
    raise PlaitError(
        "PLAIT-API-011",
        "the Cluster cannot be deleted",
        where=f"clusters/{CLUSTER_NAME}",
        why="it holds the settings of the whole network",
        fix=("plait down --purge",),
    )


def remove_namespace(state: State, entry: Entry) -> Removal:
    """Not while anything is in it, and never the default one."""
    name = entry.object.metadata.name
    if name == DEFAULT_NAMESPACE:
        raise PlaitError(
            "PLAIT-API-011",
            f"the namespace {name} cannot be deleted",
            where=f"namespaces/{name}",
            why="what names no namespace is in it",
        )
    inside = state.in_namespace(name)
    holders = users([entry for entry in inside if entry.kind is Endpoint])
    if holders:
        raise in_use("namespace", name, holders, f"plait get endpoints --namespace {name}")
    if inside:
        others = sorted(f"{e.kind.__name__} {e.key.split('/', 3)[3]}" for e in inside)
        fix = f"plait get {inside[0].kind.plural} -n {name}"
        raise in_use("namespace", name, others, fix, who="objects")
    return Removal(closing=closing_key(Namespace, name))
