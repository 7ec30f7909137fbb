"""Kubernetes' objects, with the fields that Plait needs, decoded straight from JSON. Pure.

The meaning of every field is Kubernetes' own (`k8s.io/api`: core/v1, networking/v1, discovery/v1
and v1beta1; `sigs.k8s.io/network-policy-api`, v1alpha2). What is not named here is skipped without
being made, which is where time and memory go. Words that an API server chooses from a list are
`str`: a newer server's word is for the translator to judge, not a reason to lose the object.
Lists that Go writes as `null` when they are empty may be None on the wire; properties give tuples.

Policies keep their spec as it came: `plait.policy.kubernetes` reads manifests.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

HOSTNAME_LABEL: Final = "kubernetes.io/hostname"
ZONE_LABEL: Final = "topology.kubernetes.io/zone"
SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
"""Label of an EndpointSlice: the Service that it belongs to."""


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False, omit_defaults=True):
    """Options of all structs here. They hold no cycles, so the garbage collector needs not look."""


class Metadata(Part, frozen=True, kw_only=True):
    """Identity of an object (meta/v1 ObjectMeta), without annotations: nothing here means anything
    to Plait, and `kubectl apply` keeps whole manifests there."""

    name: str = ""
    namespace: str = ""
    """Empty for kinds of the whole cluster."""
    uid: str = ""
    resource_version: str = ""
    """Opaque, but for equality."""
    generation: int = 0
    labels: dict[str, str] = {}
    deletion_timestamp: str | None = None
    """RFC 3339; set once the object is on its way out."""

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return self.namespace, self.name


class PodAnnotations(Part, frozen=True, kw_only=True):
    """The annotation of pods that is used; the others can be large. Limits of speed and host ports
    come to the plug-in from the runtime."""

    static_uid: str = msgspec.field(name="kubernetes.io/config.mirror", default="")
    """Of a mirror of a static pod: the uid by which kubelet and runtime know it."""


class PodMetadata(Part, frozen=True, kw_only=True):
    """`Metadata` with the annotations of pods."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] = {}
    annotations: PodAnnotations = PodAnnotations()
    deletion_timestamp: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return self.namespace, self.name


class Condition(Part, frozen=True, kw_only=True):
    """A condition of a pod or a node."""

    type: str = ""
    status: str = ""
    """`True`, `False` or `Unknown`."""


# Pod


class ContainerPort(Part, frozen=True, kw_only=True):
    """A port that a container declares."""

    container_port: int = 0
    name: str = ""
    protocol: str = "TCP"


class Container(Part, frozen=True, kw_only=True):
    """A container of a pod."""

    ports: tuple[ContainerPort, ...] = ()
    restart_policy: str = ""
    """`Always` for an init container that goes on beside the others (a sidecar)."""


class PodSpec(Part, frozen=True, kw_only=True):
    """What was asked for."""

    node_name: str = ""
    host_network: bool = False
    hostname: str = ""
    subdomain: str = ""
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()


class PodAddress(Part, frozen=True, kw_only=True):
    """One of at most two addresses."""

    ip: str = ""


class PodStatus(Part, frozen=True, kw_only=True):
    """What kubelet says."""

    phase: str = ""
    """`Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`."""
    pod_ip: str = msgspec.field(name="podIP", default="")
    pod_ips: tuple[PodAddress, ...] = msgspec.field(name="podIPs", default=())
    conditions: tuple[Condition, ...] = ()


class Pod(Part, frozen=True, kw_only=True):
    """Containers that share a network namespace."""

    metadata: PodMetadata = PodMetadata()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its addresses, the one of the primary family first."""
        found = tuple(each.ip for each in self.status.pod_ips if each.ip)
        return found or ((self.status.pod_ip,) if self.status.pod_ip else ())

    @property
    def ready(self) -> bool:
        """Condition Ready is True."""
        return holds("Ready", self.status.conditions)

    @property
    def finished(self) -> bool:
        """It has ended and will not run again."""
        return self.status.phase in ("Succeeded", "Failed")


def holds(kind: str, conditions: tuple[Condition, ...]) -> bool:
    """Whether a condition is there and True."""
    return any(each.type == kind and each.status == "True" for each in conditions)


# Namespace, Node


class Namespace(Part, frozen=True, kw_only=True):
    """Room for names."""

    metadata: Metadata = Metadata()


class Taint(Part, frozen=True, kw_only=True):
    """Keeps pods that do not tolerate it from a node."""

    key: str = ""
    value: str = ""
    effect: str = ""


class NodeSpec(Part, frozen=True, kw_only=True):
    """What was asked for."""

    taints: tuple[Taint, ...] = ()


class NodeAddress(Part, frozen=True, kw_only=True):
    """`InternalIP`, `ExternalIP`, `Hostname`, `InternalDNS` or `ExternalDNS`."""

    type: str = ""
    address: str = ""


class NodeStatus(Part, frozen=True, kw_only=True):
    """What kubelet and the cloud say."""

    addresses: tuple[NodeAddress, ...] = ()
    conditions: tuple[Condition, ...] = ()


class Node(Part, frozen=True, kw_only=True):
    """A host that runs pods."""

    metadata: Metadata = Metadata()
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


# Policies


class NetworkPolicy(Part, frozen=True, kw_only=True):
    """networking.k8s.io/v1; `manifest` is what `plait.policy.kubernetes` reads."""

    metadata: Metadata = Metadata()
    spec: dict[str, Any] = {}

    def manifest(self) -> dict[str, Any]:
        """The object as a manifest."""
        return _manifest("networking.k8s.io/v1", self)


class ClusterNetworkPolicy(Part, frozen=True, kw_only=True):
    """policy.networking.k8s.io/v1alpha2; `manifest` is what `plait.policy.kubernetes` reads."""

    metadata: Metadata = Metadata()
    spec: dict[str, Any] = {}

    def manifest(self) -> dict[str, Any]:
        """The object as a manifest."""
        return _manifest("policy.networking.k8s.io/v1alpha2", self)


def _manifest(version: str, policy: NetworkPolicy | ClusterNetworkPolicy) -> dict[str, Any]:
    meta = policy.metadata
    return {
        "apiVersion": version,
        "kind": type(policy).__name__,
        "metadata": {
            "name": meta.name,
            **({"namespace": meta.namespace} if meta.namespace else {}),
            "uid": meta.uid,
            "labels": meta.labels,
        },
        "spec": policy.spec,
    }


# Service


class ServicePort(Part, frozen=True, kw_only=True):
    """A port on which a Service is called."""

    name: str = ""
    port: int = 0
    protocol: str = "TCP"
    target_port: int | str | None = None
    node_port: int = 0


class ClientIp(Part, frozen=True, kw_only=True):
    """Of `SessionAffinity`."""

    timeout_seconds: int | None = None
    """None: 10800."""


class SessionAffinity(Part, frozen=True, kw_only=True):
    """How long a client stays with its backend."""

    client_ip: ClientIp | None = msgspec.field(name="clientIP", default=None)


class ServiceSpec(Part, frozen=True, kw_only=True):
    """What was asked for, with what the API server gave."""

    type: str = "ClusterIP"
    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    """An address, `None` for a headless Service, or empty."""
    cluster_ips: tuple[str, ...] = msgspec.field(name="clusterIPs", default=())
    """Older servers leave it out."""
    ip_families: tuple[str, ...] = ()
    external_ips: tuple[str, ...] = msgspec.field(name="externalIPs", default=())
    external_name: str = ""
    selector: dict[str, str] = {}
    ports: tuple[ServicePort, ...] = ()
    session_affinity: str = "None"
    session_affinity_config: SessionAffinity | None = None
    internal_traffic_policy: str = ""
    external_traffic_policy: str = ""
    traffic_distribution: str = ""
    health_check_node_port: int = 0
    load_balancer_ip: str = msgspec.field(name="loadBalancerIP", default="")
    load_balancer_class: str = ""
    load_balancer_source_ranges: tuple[str, ...] = ()
    allocate_load_balancer_node_ports: bool = True
    publish_not_ready_addresses: bool = False


class LoadBalancerIngress(Part, frozen=True, kw_only=True):
    """Where a load balancer listens."""

    ip: str = ""
    hostname: str = ""
    ip_mode: str = ""
    """`VIP` or `Proxy`."""


class LoadBalancerStatus(Part, frozen=True, kw_only=True):
    """What was given to a Service of type LoadBalancer."""

    ingress: tuple[LoadBalancerIngress, ...] = ()


class ServiceStatus(Part, frozen=True, kw_only=True):
    """What whoever made the load balancer wrote."""

    load_balancer: LoadBalancerStatus = LoadBalancerStatus()


class Service(Part, frozen=True, kw_only=True):
    """One address for many pods."""

    metadata: Metadata = Metadata()
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


# EndpointSlice


class EndpointConditions(Part, frozen=True, kw_only=True):
    """None is "not said"; what that means differs, and `SliceEndpoint` knows it."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Target(Part, frozen=True, kw_only=True):
    """The object behind an endpoint."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class ForNode(Part, frozen=True, kw_only=True):
    """A node that should use an endpoint."""

    name: str = ""


class ForZone(Part, frozen=True, kw_only=True):
    """A zone that should use an endpoint."""

    name: str = ""


class Hints(Part, frozen=True, kw_only=True):
    """Who should use an endpoint."""

    for_zones: tuple[ForZone, ...] = ()
    for_nodes: tuple[ForNode, ...] = ()


class SliceEndpoint(Part, frozen=True, kw_only=True):
    """A backend. One struct for v1 and v1beta1: where they differ, use the properties."""

    addresses: tuple[str, ...] | None = None
    conditions: EndpointConditions = EndpointConditions()
    hostname: str | None = None
    target_ref: Target | None = None
    node_name: str | None = None
    v1_zone: str | None = msgspec.field(name="zone", default=None)
    topology: dict[str, str] | None = None
    """v1beta1 alone."""
    hints: Hints | None = None

    @property
    def node(self) -> str:
        """The node that it runs on; empty if it is on none, or nobody said."""
        return self.node_name or (self.topology or {}).get(HOSTNAME_LABEL, "")

    @property
    def zone(self) -> str:
        """The zone of its node, or empty."""
        return self.v1_zone or (self.topology or {}).get(ZONE_LABEL, "")

    @property
    def ready(self) -> bool:
        """Takes new connections; not said means it does (discovery/v1, EndpointConditions)."""
        return self.conditions.ready is not False

    @property
    def serving(self) -> bool:
        """Answers, terminating or not; not said means as `ready`."""
        said = self.conditions.serving
        return self.ready if said is None else said

    @property
    def terminating(self) -> bool:
        """Is on its way out; not said means it is not."""
        return self.conditions.terminating is True


class SlicePort(Part, frozen=True, kw_only=True):
    """A port of all endpoints of a slice."""

    name: str | None = None
    protocol: str | None = None
    """None: TCP."""
    port: int | None = None
    """None: all ports, which no proxy supports."""


class EndpointSlice(Part, frozen=True, kw_only=True):
    """Some of the backends of a Service."""

    metadata: Metadata = Metadata()
    address_type: str = ""
    """`IPv4`, `IPv6` or `FQDN`."""
    endpoints: tuple[SliceEndpoint, ...] | None = None
    ports: tuple[SlicePort, ...] | None = None

    @property
    def service(self) -> str:
        """Name of its Service, in its namespace; empty if it belongs to none."""
        return self.metadata.labels.get(SERVICE_NAME_LABEL, "")
