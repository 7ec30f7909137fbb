"""Admission of every kind. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from plait.model import syntax
from plait.model.errors import PlaitError
from plait.model.objects import (
    AddressBlock,
    AnyObject,
    Cluster,
    Endpoint,
    EndpointSlice,
    Group,
    Metadata,
    Namespace,
    Network,
    Node,
    Object,
    Pod,
    Policy,
    Service,
)
from plait.model.syntax import invalid
from plait.server.admission import (
    block,
    endpoint,
    endpoint_slice,
    group,
    network,
    node,
    pod,
    policy,
    scope,
    service,
)
from plait.server.admission.base import DEFAULT_NAMESPACE, Admitted, Context, Removal
from plait.server.state import Entry, State


def admit(state: State, context: Context, old: Object | None, new: AnyObject) -> Admitted:
    """Check an object and fill in what the server owns."""
    checked = _metadata(context, old, new)
    return ADMIT[type(new)](state, context, old, checked)


def remove(state: State, entry: Entry) -> Removal:
    """Check that an object may go."""
    return REMOVE[entry.kind](state, entry)


def _metadata(context: Context, old: Object | None, new: AnyObject) -> AnyObject:
    meta = new.metadata
    kind = type(new)
    _name_rule(kind)(meta.name, "metadata.name")
    namespace = meta.namespace
    if kind.namespaced:
        namespace = syntax.dns_label(namespace or DEFAULT_NAMESPACE, "metadata.namespace")
    elif namespace:
        raise invalid("metadata.namespace", f"a {new.kind} belongs to no namespace")
    syntax.label_map(meta.labels, "metadata.labels")
    syntax.annotation_map(meta.annotations, "metadata.annotations")
    if meta.uid:
        syntax.uid(meta.uid, "metadata.uid")
    if old is not None and meta.uid and meta.uid != old.metadata.uid:
        raise PlaitError(
            "PLAIT-API-006",
            f"the {kind.__name__} {meta.name} is another one than the one meant",
            where="metadata.uid",
            why=f"it has the uid {old.metadata.uid}; the one meant was deleted",
        )
    own = context.node_uid if kind is Node else ""
    wanted = Metadata(
        name=meta.name,
        namespace=namespace,
        uid=old.metadata.uid if old else (meta.uid or own or context.new_uid()),
        labels=meta.labels,
        annotations=meta.annotations,
        created_at=old.metadata.created_at if old else context.now,
    )
    return msgspec.structs.replace(new, metadata=wanted)


def _name_rule(kind: type[Object]) -> Callable[[str, str], str]:
    return NAME_RULE.get(kind, syntax.dns_label)


NAME_RULE: Final[dict[type[Object], Callable[[str, str], str]]] = {
    Endpoint: syntax.endpoint_id,
    AddressBlock: syntax.block_id,
    Policy: syntax.dns_subdomain,
    Pod: syntax.dns_subdomain,
    EndpointSlice: syntax.dns_subdomain,
}
"""What a name may be; where it is not a DNS label."""

Admit = Callable[[State, Context, Object | None, AnyObject], Admitted]

ADMIT: Final[dict[type[Object], Admit]] = {
    Cluster: scope.admit_cluster,
    Namespace: scope.admit_namespace,
    Node: node.admit,
    Network: network.admit,
    AddressBlock: block.admit,
    Pod: pod.admit,
    Endpoint: endpoint.admit,
    Service: service.admit,
    EndpointSlice: endpoint_slice.admit,
    Policy: policy.admit,
    Group: group.admit,
}
REMOVE: Final[dict[type[Object], Callable[[State, Entry], Removal]]] = {
    Cluster: scope.remove_cluster,
    Namespace: scope.remove_namespace,
    Node: node.remove,
    Network: network.remove,
    AddressBlock: block.remove,
    Pod: pod.remove,
    Endpoint: endpoint.remove,
    Service: service.remove,
    EndpointSlice: endpoint_slice.remove,
    Policy: policy.remove,
    Group: group.remove,
}
