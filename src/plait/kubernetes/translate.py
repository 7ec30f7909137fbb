"""Kubernetes' objects as ours. Pure.

Each becomes one object of ours whose key depends on its name alone (but for Nodes, which `hosts`
pairs). What cannot be read becomes nothing, with a problem that says why; a policy that cannot be
read becomes one that closes (`policies`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

from plait.kubernetes import objects
from plait.kubernetes.kinds import (
    CLUSTER_NETWORK_POLICIES,
    ENDPOINT_SLICES,
    NAMESPACES,
    NETWORK_POLICIES,
    NODES,
    PODS,
    SERVICES,
    Kind,
)
from plait.kubernetes.marks import marked
from plait.kubernetes.policies import cluster_network_policy, network_policy
from plait.kubernetes.services import endpoint_slice, service
from plait.model.errors import PlaitError
from plait.model.objects import (
    LEAVING_LABEL,
    AnyObject,
    EndpointSlice,
    Metadata,
    NamedPort,
    Namespace,
    Node,
    Object,
    Pod,
    Policy,
    Service,
    object_key,
)
from plait.model.pods import PodSpec
from plait.model.selectors import NAMESPACE_NAME
from plait.policy.kubernetes import policy_name

SCALED_DOWN: Final = "ToBeDeletedByClusterAutoscaler"
"""Key of the taint of a node that the cluster autoscaler is about to delete."""

_PROTOCOLS: Final[dict[str, Literal["tcp", "udp", "sctp"]]] = {
    "TCP": "tcp",
    "UDP": "udp",
    "SCTP": "sctp",
}


class Surroundings(NamedTuple):
    """What a translation depends on beside the object."""

    network: str
    """Plait's network that pods are in."""
    domain: str
    """Of Plait's own names."""
    host: Callable[[str], str]
    """Our name of a node of Kubernetes."""
    balancer_pools: tuple[str, ...] = ()
    """CIDRs of which Plait gives load-balancer addresses."""


class Translated(NamedTuple):
    """What an object of Kubernetes becomes."""

    object: AnyObject | None
    problem: str = ""


def node(found: objects.Node, around: Surroundings) -> Translated:
    """Its labels, and whether it is about to go: kube-proxy's health port says so as well
    (KEP-3836)."""
    name, labels = around.host(found.metadata.name), found.metadata.labels
    if found.metadata.deletion_timestamp or any(t.key == SCALED_DOWN for t in found.spec.taints):
        labels = {**labels, LEAVING_LABEL: ""}
    return Translated(Node(metadata=Metadata(name=name, labels=labels)))


def namespace(found: objects.Namespace, around: Surroundings) -> Translated:
    """Its labels, but for the one that every namespace has."""
    del around
    labels = {key: value for key, value in found.metadata.labels.items() if key != NAMESPACE_NAME}
    return Translated(Namespace(metadata=Metadata(name=found.metadata.name, labels=labels)))


def pod(found: objects.Pod, around: Surroundings) -> Translated:
    """What kubelet says of it."""
    meta, spec = found.metadata, found.spec
    return Translated(
        marked(
            Pod(
                metadata=Metadata(name=meta.name, namespace=meta.namespace, labels=meta.labels),
                spec=PodSpec(
                    uid=meta.annotations.static_uid or meta.uid,
                    node=around.host(spec.node_name) if spec.node_name else "",
                    hostname=spec.hostname,
                    subdomain=spec.subdomain,
                    named_ports=tuple(_named_ports(spec)),
                    host_network=spec.host_network,
                    addresses=found.addresses,
                    ready=found.ready,
                    terminating=found.metadata.deletion_timestamp is not None,
                    finished=found.finished,
                ),
            )
        )
    )


def _named_ports(spec: objects.PodSpec) -> Iterator[NamedPort]:
    """Those of the containers that run beside each other: init containers that restart always are
    among them. Of one name and protocol the first counts."""
    seen = set()
    beside = (c for c in spec.init_containers if c.restart_policy == "Always")
    for container in (*spec.containers, *beside):
        for port in container.ports:
            protocol = _PROTOCOLS.get(port.protocol)
            if not port.name or protocol is None or (port.name, protocol) in seen:
                continue
            seen.add((port.name, protocol))
            yield NamedPort(name=port.name, protocol=protocol, port=port.container_port)


def _policy(read: Callable[..., tuple[Policy | None, str]]) -> Callable[..., Translated]:
    def translate(found: Any, around: Surroundings) -> Translated:
        policy, problem = read(found, around.domain)
        return Translated(None if policy is None else marked(policy), problem)

    return translate


def _service(found: objects.Service, around: Surroundings) -> Translated:
    made = service(found, around.network, around.balancer_pools)
    return Translated(None if made is None else marked(made))


def _slice(found: objects.EndpointSlice, around: Surroundings) -> Translated:
    made = endpoint_slice(found, around.host)
    return Translated(None if made is None else marked(made))


class Row(NamedTuple):
    """How a kind of Kubernetes comes over."""

    source: Kind[Any]
    target: type[Object]
    translate: Callable[[Any, Surroundings], Translated]
    nodes: Callable[[Any], Iterator[str]] | None = None
    """The nodes that it names, so that it changes when one of them gets another pair; None: none
    ever."""


def _of_node(found: objects.Node) -> Iterator[str]:
    yield found.metadata.name


def _of_pod(found: objects.Pod) -> Iterator[str]:
    yield found.spec.node_name


def _of_slice(found: objects.EndpointSlice) -> Iterator[str]:
    for endpoint in found.endpoints or ():
        yield endpoint.node
        if endpoint.hints is not None:
            yield from (each.name for each in endpoint.hints.for_nodes)


ROWS: Final = (
    Row(NAMESPACES, Namespace, namespace),
    Row(NODES, Node, node, nodes=_of_node),
    Row(NETWORK_POLICIES, Policy, _policy(network_policy)),
    Row(CLUSTER_NETWORK_POLICIES, Policy, _policy(cluster_network_policy)),
    Row(SERVICES, Service, _service),
    Row(ENDPOINT_SLICES, EndpointSlice, _slice, nodes=_of_slice),
    Row(PODS, Pod, pod, nodes=_of_pod),
)
"""Every kind that comes over, in the order in which they should."""

SOURCES: Final[Mapping[type[Object], tuple[Kind[Any], ...]]] = {
    row.target: tuple(other.source for other in ROWS if other.target is row.target) for row in ROWS
}
"""The kinds of Kubernetes that a kind of ours is made of."""


def target_key(row: Row, namespace: str, name: str, around: Surroundings) -> str:
    """Key of the object of ours that an object of Kubernetes becomes."""
    if row.target is Policy:
        return object_key(Policy, policy_name(row.source.name, name, namespace))
    if row.target is Node:
        return object_key(Node, around.host(name))
    return object_key(row.target, name, namespace)


def translate(row: Row, found: Any, around: Surroundings) -> Translated:
    """What an object becomes; never raises for what stands in the object."""
    try:
        return row.translate(found, around)
    except PlaitError as error:
        why = f": {error.why}" if error.why else ""
        where = f"{error.where}: " if error.where else ""
        return Translated(None, f"{where}{error.detail}{why}")
