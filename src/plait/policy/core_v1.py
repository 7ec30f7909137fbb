"""Kubernetes' Namespace, Pod and Node (core v1) as ours, for answers without a server. Pure.

Of these only what policies look at is read; they have many more fields.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from plait.model import syntax
from plait.model.meta import Metadata
from plait.model.objects import (
    Endpoint,
    EndpointSpec,
    EndpointStatus,
    NamedPort,
    Namespace,
    Node,
    NodeSpec,
)
from plait.model.selectors import NAMESPACE_NAME
from plait.policy.fields import (
    below,
    chosen,
    integer,
    labels,
    mapping,
    required,
    sequence,
    text,
)

NETWORK: Final = "plait"
"""Network of all pods: Kubernetes has one."""
DEFAULT_NAMESPACE: Final = "default"
ENDED: Final = ("Succeeded", "Failed")
"""Phases of pods whose addresses may be others' by now."""

_PROTOCOLS: Final[dict[str, Literal["tcp", "udp", "sctp"]]] = {
    "TCP": "tcp",
    "UDP": "udp",
    "SCTP": "sctp",
}


def namespace(data: Mapping[str, Any]) -> Namespace:
    """A namespace with its labels, but for the one that every namespace has."""
    meta = mapping(data.get("metadata"), "metadata")
    name = syntax.dns_label(required(meta.get("name"), "metadata.name"), "metadata.name")
    found = labels(meta)
    found.pop(NAMESPACE_NAME, None)
    return Namespace(metadata=Metadata(name=name, labels=found))


def pod(data: Mapping[str, Any]) -> Endpoint | None:
    """A pod with its addresses; None for one that has none of its own: it uses those of its host,
    has ended, or was not started yet."""
    meta = mapping(data.get("metadata"), "metadata")
    spec, status = mapping(data.get("spec"), "spec"), mapping(data.get("status"), "status")
    addresses = tuple(_addresses(status))
    if spec.get("hostNetwork") or status.get("phase") in ENDED or not addresses:
        return None
    name = required(meta.get("name"), "metadata.name")
    syntax.dns_subdomain(name, "metadata.name")
    scope = text(meta.get("namespace"), "metadata.namespace") or DEFAULT_NAMESPACE
    syntax.dns_label(scope, "metadata.namespace")
    return Endpoint(
        metadata=Metadata(name=name, namespace=scope, labels=labels(meta)),
        spec=EndpointSpec(
            node=text(spec.get("nodeName"), "spec.nodeName"),
            network=NETWORK,
            name=name,
            addresses=addresses,
            named_ports=tuple(_ports(spec)),
        ),
        status=EndpointStatus(phase="ready"),
    )


def _addresses(status: Mapping[str, Any]) -> Iterator[str]:
    """`podIPs`; `podIP` is the first of them."""
    at = "status.podIPs"
    given = sequence(status.get("podIPs"), at)
    found = [required(mapping(item, at).get("ip"), f"{at}[{i}].ip") for i, item in enumerate(given)]
    if not found and status.get("podIP"):
        at, found = "status.podIP", [text(status["podIP"], "status.podIP")]
    for item in found:
        yield str(syntax.address(item, at))


def _ports(spec: Mapping[str, Any]) -> Iterator[NamedPort]:
    """Named ports of the containers that run beside each other: init containers that restart
    always are among them. Of one name and protocol the first counts."""
    seen = set()
    for group in ("containers", "initContainers"):
        for i, item in enumerate(sequence(spec.get(group), f"spec.{group}")):
            at = f"spec.{group}[{i}]"
            container = mapping(item, at)
            if group == "initContainers" and container.get("restartPolicy") != "Always":
                continue
            for k, entry in enumerate(sequence(container.get("ports"), f"{at}.ports")):
                port = _port(mapping(entry, f"{at}.ports[{k}]"), f"{at}.ports[{k}]")
                if port is not None and (port.name, port.protocol) not in seen:
                    seen.add((port.name, port.protocol))
                    yield port


def _port(value: Mapping[str, Any], where: str) -> NamedPort | None:
    name = text(value.get("name"), f"{where}.name")
    if not name:
        return None
    at = f"{where}.protocol"
    protocol = value.get("protocol")
    return NamedPort(
        name=syntax.port_name(name, f"{where}.name"),
        protocol="tcp" if protocol is None else _PROTOCOLS[chosen(protocol, at, tuple(_PROTOCOLS))],
        port=integer(value.get("containerPort"), f"{where}.containerPort", 1, 65535),
    )


def node(data: Mapping[str, Any]) -> Node:
    """A node with its labels and internal addresses; prefixes are not known, so each is alone."""
    meta = mapping(data.get("metadata"), "metadata")
    status = mapping(data.get("status"), "status")
    name = syntax.dns_subdomain(required(meta.get("name"), "metadata.name"), "metadata.name")
    at = "status.addresses"
    addresses = []
    for i, item in enumerate(sequence(status.get("addresses"), at)):
        found = mapping(item, f"{at}[{i}]")
        if found.get("type") == "InternalIP":
            where = below(f"{at}[{i}]", "address")
            address = syntax.address(required(found.get("address"), where), where)
            addresses.append(str(ipaddress.ip_interface(address)))
    return Node(
        metadata=Metadata(name=name, labels=labels(meta)),
        spec=NodeSpec(addresses=tuple(addresses)),
    )
