"""Kubernetes' Services and EndpointSlices as ours. Pure.

What kube-proxy leaves to others is left to them: Services that another proxy serves (label
`service.kubernetes.io/service-proxy-name`), and those that are labelled headless though they have
an address (pkg/proxy, `noProxyName` and `noHeadlessEndpoints`).

Addresses of load balancers that somebody wrote into the status count, whoever it was; where there
are none yet, Plait's server gives some, unless the Service is for a load balancer of another class.

`loadBalancerIP` is written by whoever may make Services: it counts only within the pools of which
Plait gives such addresses, or anybody could lead an address of somebody else's to pods of theirs.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final, Literal

from plait.kubernetes import objects
from plait.model import syntax
from plait.model.objects import EndpointSlice, Metadata, Service
from plait.model.policies import Origin
from plait.model.services import (
    EndpointSliceSpec,
    ServicePort,
    ServiceProtocol,
    ServiceSpec,
    SliceEndpoint,
    SlicePort,
)
from plait.model.syntax import invalid, shown
from plait.services.kubernetes import AFFINITY, FAMILIES, PREFERENCES

PROXY_LABEL: Final = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL: Final = "service.kubernetes.io/headless"
CLASS: Final = "plait.dev/load-balancer"
"""`loadBalancerClass` of Services whose load balancer is Plait; those without one are too."""
NO_ADDRESS: Final = "None"
"""`clusterIP` of a headless Service."""

_PROTOCOLS: Final[dict[str, ServiceProtocol]] = {"TCP": "TCP", "UDP": "UDP", "SCTP": "SCTP"}

ServiceType = Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]
_TYPES: Final[dict[str, ServiceType]] = {
    "ClusterIP": "ClusterIP",
    "NodePort": "NodePort",
    "LoadBalancer": "LoadBalancer",
    "ExternalName": "ExternalName",
}


def is_others(found: objects.Service) -> bool:
    """Whether another proxy serves it."""
    labels = found.metadata.labels
    addressed = found.spec.cluster_ip != NO_ADDRESS
    return PROXY_LABEL in labels or (HEADLESS_LABEL in labels and addressed)


def is_balanced_here(found: objects.Service) -> bool:
    """Whether Plait is its load balancer."""
    spec = found.spec
    return (
        spec.type == "LoadBalancer"
        and spec.load_balancer_class in ("", CLASS)
        and not is_others(found)
    )


def ingress(found: objects.Service) -> tuple[str, ...]:
    """Addresses in its status that lead to our hosts as they are: not those of a proxy before
    them (`ipMode: Proxy`), nor names."""
    listed = found.status.load_balancer.ingress
    return tuple(each.ip for each in listed if each.ip and each.ip_mode != "Proxy")


def within(text: str, pools: Iterable[str]) -> bool:
    """Whether an address is of one of these CIDRs."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return any(address in ipaddress.ip_network(pool) for pool in pools)


def service(
    found: objects.Service, network: str, balancer_pools: Collection[str] = ()
) -> Service | None:
    """The Service; None for one that another proxy serves."""
    if is_others(found):
        return None
    meta, spec = found.metadata, found.spec
    kind = _TYPES.get(spec.type)
    if kind is None:
        raise invalid("spec.type", f"{shown(spec.type)} is no type of Service that Plait knows")
    origin = Origin(kind="Service", name=meta.name, namespace=meta.namespace)
    metadata = Metadata(name=meta.name, namespace=meta.namespace, labels=meta.labels)
    if kind == "ExternalName":
        alias = spec.external_name.rstrip(".")
        return Service(
            metadata=metadata,
            spec=ServiceSpec(type=kind, network=network, external_name=alias, origin=origin),
        )
    balancers: tuple[str, ...] = ()
    if kind == "LoadBalancer":
        asked = (spec.load_balancer_ip,) if within(spec.load_balancer_ip, balancer_pools) else ()
        balancers = (asked or ingress(found)) if is_balanced_here(found) else ingress(found)
        if not balancers and (not is_balanced_here(found) or found.status.load_balancer.ingress):
            # Somebody else balances, and not to an address of its own: what is left of a
            # LoadBalancer is its node ports.
            kind = "NodePort" if any(port.node_port for port in spec.ports) else "ClusterIP"
    local = spec.external_traffic_policy == "Local"
    addresses = _addresses(spec.cluster_ips or (spec.cluster_ip,), "spec.clusterIPs")
    balanced, opened = kind == "LoadBalancer", kind in ("NodePort", "LoadBalancer")
    return Service(
        metadata=metadata,
        spec=ServiceSpec(
            type=kind,
            network=network,
            ports=tuple(_ports(spec.ports)),
            headless=spec.cluster_ip == NO_ADDRESS,
            addresses=addresses,
            families=_families(spec.ip_families, addresses),
            external_addresses=_addresses(spec.external_ips, "spec.externalIPs"),
            load_balancer_addresses=_addresses(balancers, "status.loadBalancer.ingress"),
            node_ports=spec.allocate_load_balancer_node_ports if balanced else True,
            affinity_seconds=_affinity(spec),
            internal_traffic="Local" if spec.internal_traffic_policy == "Local" else "Cluster",
            external_traffic="Local" if local else "Cluster",
            source_ranges=_ranges(spec.load_balancer_source_ranges) if balanced else (),
            # Whoever balances outside asks there whether to send anything to a host.
            health_check_node_port=spec.health_check_node_port if opened and local else 0,
            prefer=PREFERENCES.get(spec.traffic_distribution, ""),
            publish_not_ready=spec.publish_not_ready_addresses,
            origin=origin,
        ),
    )


def _ports(ports: Iterable[objects.ServicePort]) -> Iterator[ServicePort]:
    for i, port in enumerate(ports):
        yield ServicePort(
            name=port.name,
            protocol=_protocol(port.protocol, f"spec.ports[{i}].protocol"),
            port=port.port,
            target_port=port.target_port or None,
            node_port=port.node_port,
        )


def _protocol(word: str, where: str) -> ServiceProtocol:
    protocol = _PROTOCOLS.get(word or "TCP")
    if protocol is None:
        raise invalid(where, f"{shown(word)} is no protocol that Plait balances")
    return protocol


def _families(named: Iterable[str], addresses: Iterable[str]) -> tuple[Literal[4, 6], ...]:
    """Those that are said or, by a server that says none (before 1.21), those of its addresses."""
    found = tuple(FAMILIES[each] for each in named if each in FAMILIES)
    return found or tuple(6 if ":" in each else 4 for each in addresses)


def _addresses(given: Iterable[str], where: str) -> tuple[str, ...]:
    """In their shortest form: Kubernetes keeps what was written."""
    return tuple(str(syntax.address(each, where)) for each in given if each and each != NO_ADDRESS)


def _ranges(given: Iterable[str]) -> tuple[str, ...]:
    """Blanks around, and bits beyond the prefix length, count for nothing."""
    where = "spec.loadBalancerSourceRanges"
    try:
        found = [str(ipaddress.ip_network(each.strip(), strict=False)) for each in given]
    except ValueError as error:
        raise invalid(where, str(error)) from None
    return tuple(dict.fromkeys(found))


def _affinity(spec: objects.ServiceSpec) -> int:
    if spec.session_affinity != "ClientIP":
        return 0
    config = spec.session_affinity_config
    client = config.client_ip if config is not None else None
    said = client.timeout_seconds if client is not None else None
    return said or AFFINITY


def endpoint_slice(
    found: objects.EndpointSlice, host: Callable[[str], str]
) -> EndpointSlice | None:
    """The EndpointSlice; None for one of no Service, or of names. `host` gives our name of a node
    of Kubernetes."""
    meta = found.metadata
    # Its labels say what the spec says, and nobody selects slices.
    if not found.service or found.address_type not in FAMILIES:
        return None
    return EndpointSlice(
        metadata=Metadata(name=meta.name, namespace=meta.namespace),
        spec=EndpointSliceSpec(
            service=found.service,
            ports=tuple(_slice_ports(found.ports or ())),
            endpoints=tuple(
                _endpoint(each, meta.namespace, host) for each in found.endpoints or ()
            ),
        ),
    )


def _slice_ports(ports: Iterable[objects.SlicePort]) -> Iterator[SlicePort]:
    """Those with a number: without one it means all ports, and no proxy does that."""
    for port in ports:
        protocol = _PROTOCOLS.get(port.protocol or "TCP")
        if port.port and protocol is not None:
            yield SlicePort(name=port.name or "", protocol=protocol, port=port.port)


def _endpoint(
    found: objects.SliceEndpoint, namespace: str, host: Callable[[str], str]
) -> SliceEndpoint:
    target, hints = found.target_ref, found.hints
    pod = ""
    if target is not None and target.kind == "Pod" and target.namespace in ("", namespace):
        pod = target.name
    return SliceEndpoint(
        addresses=_addresses(found.addresses or (), "endpoints.addresses"),
        hostname=found.hostname or "",
        pod=pod,
        node=host(found.node) if found.node else "",
        site=found.zone,
        ready=found.ready,
        serving=found.serving,
        terminating=found.terminating,
        for_nodes=tuple(host(each.name) for each in hints.for_nodes) if hints else (),
        for_sites=tuple(each.name for each in hints.for_zones) if hints else (),
    )
