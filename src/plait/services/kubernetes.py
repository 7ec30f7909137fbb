"""Kubernetes' manifests of Services and EndpointSlices, for networks without Kubernetes. Pure.

`plait apply -f` reads them: a Service keeps its selector, which then means endpoints of Plait's.
What the connector makes of objects of a running cluster is `plait.kubernetes`'s: there an
orchestrator says who the backends are.

v1 Service, discovery.k8s.io/v1 and v1beta1 EndpointSlice. Fields that mean nothing here are passed
over, as an API server's status is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from plait.model.objects import EndpointSlice, Metadata, Service
from plait.model.selectors import Selector
from plait.model.services import (
    EndpointSliceSpec,
    ServicePort,
    ServiceProtocol,
    ServiceSpec,
    SliceEndpoint,
    SlicePort,
)
from plait.model.syntax import invalid

SERVICE: Final = ("v1", "Service")
SLICES: Final = (
    ("discovery.k8s.io/v1", "EndpointSlice"),
    ("discovery.k8s.io/v1beta1", "EndpointSlice"),
)
KINDS: Final = (SERVICE, *SLICES)
"""What is read: `apiVersion` and `kind`."""
SERVICE_NAME: Final = "kubernetes.io/service-name"
"""Label of an EndpointSlice: its Service (discovery/v1)."""
AFFINITY: Final = 10800
"""Seconds of ClientIP affinity where none are said (core/v1, ClientIPConfig)."""
FAMILIES: Final[dict[str, Literal[4, 6]]] = {"IPv4": 4, "IPv6": 6}
"""By `ipFamilies`, and by `addressType` of an EndpointSlice."""
PREFERENCES: Final[dict[str, Literal["node", "site"]]] = {
    "PreferSameNode": "node",
    "PreferSameZone": "site",
    "PreferClose": "site",
}
"""By `trafficDistribution`."""

Traffic = Literal["Cluster", "Local"]


class _Read(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Fields that are not named here are passed over."""


class _Metadata(_Read, frozen=True, kw_only=True):
    name: str
    namespace: str = "default"
    labels: dict[str, str] | None = None


class _Port(_Read, frozen=True, kw_only=True):
    port: int
    name: str | None = None
    protocol: ServiceProtocol = "TCP"
    target_port: int | str | None = None
    node_port: int = 0


class _ClientIp(_Read, frozen=True, kw_only=True):
    timeout_seconds: int | None = None
    """None: `AFFINITY`."""


class _Affinity(_Read, frozen=True, kw_only=True):
    client_ip: _ClientIp | None = msgspec.field(name="clientIP", default=None)


class _Spec(_Read, frozen=True, kw_only=True):
    type: Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] = "ClusterIP"
    ports: tuple[_Port, ...] | None = None
    selector: dict[str, str] | None = None
    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    cluster_ips: tuple[str, ...] | None = msgspec.field(name="clusterIPs", default=None)
    ip_families: tuple[Literal["IPv4", "IPv6"], ...] | None = None
    external_ips: tuple[str, ...] | None = msgspec.field(name="externalIPs", default=None)
    load_balancer_ip: str = msgspec.field(name="loadBalancerIP", default="")
    load_balancer_source_ranges: tuple[str, ...] | None = None
    allocate_load_balancer_node_ports: bool | None = None
    session_affinity: Literal["", "None", "ClientIP"] = "None"
    session_affinity_config: _Affinity | None = None
    internal_traffic_policy: Traffic | None = None
    external_traffic_policy: Traffic | Literal[""] = "Cluster"
    health_check_node_port: int = 0
    publish_not_ready_addresses: bool = False
    traffic_distribution: str | None = None
    external_name: str = ""


class _Service(_Read, frozen=True, kw_only=True):
    metadata: _Metadata
    spec: _Spec = _Spec()


class _SlicePort(_Read, frozen=True, kw_only=True):
    port: int | None = None
    name: str | None = None
    protocol: ServiceProtocol | None = None


class _Conditions(_Read, frozen=True, kw_only=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Zone(_Read, frozen=True, kw_only=True):
    name: str


class _Hints(_Read, frozen=True, kw_only=True):
    for_zones: tuple[_Zone, ...] | None = None
    for_nodes: tuple[_Zone, ...] | None = None


class _Target(_Read, frozen=True, kw_only=True):
    kind: str = ""
    name: str = ""


class _Endpoint(_Read, frozen=True, kw_only=True):
    addresses: tuple[str, ...]
    conditions: _Conditions = _Conditions()
    hostname: str | None = None
    node_name: str | None = None
    zone: str | None = None
    topology: dict[str, str] | None = None
    """v1beta1's `nodeName` and `zone`, as labels of the node."""
    hints: _Hints | None = None
    target_ref: _Target | None = None


class _Slice(_Read, frozen=True, kw_only=True):
    metadata: _Metadata
    address_type: str = "IPv4"
    endpoints: tuple[_Endpoint, ...] | None = None
    ports: tuple[_SlicePort, ...] | None = None


def to_object(data: Mapping[str, Any]) -> Service | EndpointSlice:
    """The object of a manifest of one of `KINDS`. PLAIT-API-002 says what is wrong where;
    msgspec.ValidationError where a field is missing or of another type."""
    if (data.get("apiVersion"), data.get("kind")) == SERVICE:
        return to_service(data)
    return to_slice(data)


def to_service(data: Mapping[str, Any]) -> Service:
    """The Service of a manifest. See `to_object`."""
    read = msgspec.convert(data, _Service)
    meta, spec = read.metadata, read.spec
    told: dict[str, Any] = {
        "type": spec.type,
        "external_name": spec.external_name.rstrip("."),
        "publish_not_ready": spec.publish_not_ready_addresses,
    }
    if spec.type != "ExternalName":
        headless = spec.cluster_ip == "None"
        addresses = (spec.cluster_ips or (spec.cluster_ip,)) if spec.cluster_ip else ()
        client = (spec.session_affinity_config or _Affinity()).client_ip or _ClientIp()
        sticky = spec.session_affinity == "ClientIP"
        balanced = spec.type == "LoadBalancer"
        asked = (spec.load_balancer_ip,) if spec.load_balancer_ip else ()
        told |= {
            "external_name": "",
            "ports": tuple(map(_port, spec.ports or ())),
            "selector": Selector(match_labels=spec.selector) if spec.selector else None,
            "headless": headless,
            "addresses": () if headless else addresses,
            "families": tuple(FAMILIES[name] for name in spec.ip_families or ()),
            "external_addresses": spec.external_ips or (),
            "load_balancer_addresses": asked if balanced else (),
            "source_ranges": (spec.load_balancer_source_ranges or ()) if balanced else (),
            "node_ports": spec.allocate_load_balancer_node_ports is not False,
            "affinity_seconds": (client.timeout_seconds or AFFINITY) if sticky else 0,
            "internal_traffic": spec.internal_traffic_policy or "Cluster",
            "external_traffic": spec.external_traffic_policy or "Cluster",
            "health_check_node_port": spec.health_check_node_port,
            "prefer": PREFERENCES.get(spec.traffic_distribution or "", ""),
        }
    return Service(metadata=_metadata(meta), spec=ServiceSpec(**told))


def _port(port: _Port) -> ServicePort:
    target = port.target_port
    # YAML's `targetPort: "8080"` is a number that somebody quoted.
    if isinstance(target, str) and target.isdigit():
        target = int(target)
    return ServicePort(
        port=port.port,
        name=port.name or "",
        protocol=port.protocol,
        target_port=target or None,
        node_port=port.node_port,
    )


def to_slice(data: Mapping[str, Any]) -> EndpointSlice:
    """The EndpointSlice of a manifest. See `to_object`."""
    read = msgspec.convert(data, _Slice)
    if read.address_type == "FQDN":
        raise invalid("addressType", "names are no addresses", fix="write IPv4 or IPv6")
    service = (read.metadata.labels or {}).get(SERVICE_NAME, "")
    if not service:
        raise invalid("metadata.labels", f"the label {SERVICE_NAME} does not say whose slice it is")
    ports = tuple(
        SlicePort(port=port.port, name=port.name or "", protocol=port.protocol or "TCP")
        # None stands for every port: there is nothing to translate to.
        for port in read.ports or ()
        if port.port is not None
    )
    return EndpointSlice(
        metadata=_metadata(read.metadata),
        spec=EndpointSliceSpec(
            service=service, ports=ports, endpoints=tuple(map(_endpoint, read.endpoints or ()))
        ),
    )


def _endpoint(one: _Endpoint) -> SliceEndpoint:
    conditions, hints, target = one.conditions, one.hints or _Hints(), one.target_ref or _Target()
    topology = one.topology or {}
    # "A nil value should be interpreted as true", of ready and of serving as ready (discovery/v1).
    ready = conditions.ready is not False
    serving = ready if conditions.serving is None else conditions.serving
    return SliceEndpoint(
        addresses=one.addresses,
        hostname=one.hostname or "",
        pod=target.name if target.kind == "Pod" else "",
        node=one.node_name or topology.get("kubernetes.io/hostname", ""),
        site=one.zone or topology.get("topology.kubernetes.io/zone", ""),
        ready=ready,
        serving=serving,
        terminating=bool(conditions.terminating),
        for_nodes=tuple(node.name for node in hints.for_nodes or ()),
        for_sites=tuple(zone.name for zone in hints.for_zones or ()),
    )


def _metadata(meta: _Metadata) -> Metadata:
    return Metadata(name=meta.name, namespace=meta.namespace, labels=meta.labels or {})
