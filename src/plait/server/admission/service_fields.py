"""What the fields of a Service must satisfy by themselves. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from plait.model import syntax
from plait.model.objects import Service
from plait.model.services import FixedBackend, ServicePort, ServiceSpec
from plait.model.syntax import Address, invalid
from plait.policy import validate

MAX_PORTS: Final = syntax.MAX_ITEMS
"""Of a Service, and of an EndpointSlice. Kubernetes bounds the one by its size alone, the other at
20,000: a range of ports, as RTP uses them, is so many ports."""
MAX_AFFINITY: Final = 86_400
MAX_OUTSIDE: Final = 32
"""External or load-balancer addresses, each."""
MAX_RANGES: Final = 256

CALLED: Final = ("ClusterIP", "NodePort", "LoadBalancer")
OPENED: Final = ("NodePort", "LoadBalancer")


class TypeField(NamedTuple):
    """A field that means something for some types only."""

    name: str
    types: tuple[str, ...]
    empty: Any


TYPE_FIELDS: Final = (
    TypeField("addresses", CALLED, ()),
    TypeField("families", CALLED, ()),
    TypeField("headless", ("ClusterIP",), False),
    TypeField("external_addresses", CALLED, ()),
    TypeField("load_balancer_addresses", ("LoadBalancer",), ()),
    TypeField("source_ranges", ("LoadBalancer",), ()),
    TypeField("health_check_node_port", OPENED, 0),
    TypeField("external_name", ("ExternalName",), ""),
)


def of_type(old: Service | None, spec: ServiceSpec) -> ServiceSpec:
    """The spec without what its type does not have.

    What stands there from another type goes with that type; what somebody writes anew is refused,
    for it would not do what they expect.
    """
    was = old.spec if old is not None and old.spec.type != spec.type else None
    dropped: dict[str, Any] = {}
    for field in TYPE_FIELDS:
        value = getattr(spec, field.name)
        if spec.type in field.types or value == field.empty:
            continue
        if was is None or value != getattr(was, field.name):
            raise invalid(
                f"spec.{_camel(field.name)}",
                f"a Service of type {spec.type} has none",
                fix=f"leave it out, or write `type: {field.types[-1]}`",
            )
        dropped[field.name] = field.empty
    opened = {p.node_port for p in was.ports} if was is not None else set()
    ports = []
    for i, port in enumerate(spec.ports):
        if port.node_port and spec.type not in OPENED:
            if port.node_port not in opened:
                raise invalid(
                    f"spec.ports[{i}].nodePort",
                    f"a Service of type {spec.type} has no node ports",
                    fix="leave it out, or write `type: NodePort`",
                )
            port = msgspec.structs.replace(port, node_port=0)
        ports.append(port)
    return msgspec.structs.replace(spec, ports=tuple(ports), **dropped)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def check(spec: ServiceSpec) -> ServiceSpec:
    """A valid spec in canonical form. `PlaitError` names the field."""
    _ports(spec)
    validate.selector(spec.selector, "spec.selector")
    if spec.selector is not None and spec.backends:
        raise invalid("spec.backends", "a Service has either a selector or backends of its own")
    backends = _backends(spec)
    if len(set(spec.families)) != len(spec.families):
        raise invalid("spec.families", "a family stands twice")
    if spec.headless and spec.addresses:
        raise invalid(
            "spec.headless",
            "a headless Service has no cluster address",
            fix="leave one of them out; a Service that has an address keeps it, so make another",
        )
    syntax.number(spec.affinity_seconds, "spec.affinitySeconds", 0, MAX_AFFINITY)
    if spec.health_check_node_port:
        syntax.number(spec.health_check_node_port, "spec.healthCheckNodePort", 1, 65535)
    syntax.items(spec.source_ranges, "spec.sourceRanges", MAX_RANGES)
    ranges = tuple(
        str(syntax.cidr(text, f"spec.sourceRanges[{i}]", code="PLAIT-API-002"))
        for i, text in enumerate(spec.source_ranges)
    )
    if spec.type == "ExternalName":
        syntax.dns_name(spec.external_name.removesuffix("."), "spec.externalName")
    if spec.origin is not None:
        validate.origin(spec.origin)
    return msgspec.structs.replace(
        spec,
        backends=backends,
        source_ranges=ranges,
        addresses=_cluster(spec),
        external_addresses=_outside(spec.external_addresses, "spec.externalAddresses"),
        load_balancer_addresses=_outside(
            spec.load_balancer_addresses, "spec.loadBalancerAddresses"
        ),
    )


def _ports(spec: ServiceSpec) -> None:
    syntax.items(spec.ports, "spec.ports", MAX_PORTS)
    if not spec.ports and spec.type != "ExternalName" and not spec.headless:
        raise invalid("spec.ports", "a Service needs a port", fix="--port 80")
    numbers: set[tuple[str, int]] = set()
    names: set[str] = set()
    for i, port in enumerate(spec.ports):
        where = f"spec.ports[{i}]"
        _port(port, where)
        if (port.protocol, port.port) in numbers:
            raise invalid(f"{where}.port", f"port {port.port} of {port.protocol} stands twice")
        numbers.add((port.protocol, port.port))
        if not port.name and len(spec.ports) > 1:
            raise invalid(f"{where}.name", "a port needs a name where there are several")
        if port.name in names:
            raise invalid(f"{where}.name", f"two ports have the name {port.name}")
        names.add(port.name)


def _port(port: ServicePort, where: str) -> None:
    syntax.number(port.port, f"{where}.port", 1, 65535)
    if port.name:
        syntax.dns_label(port.name, f"{where}.name")
    if isinstance(port.target_port, str):
        syntax.port_name(port.target_port, f"{where}.targetPort")
    elif port.target_port is not None:
        syntax.number(port.target_port, f"{where}.targetPort", 1, 65535)
    if port.node_port:
        syntax.number(port.node_port, f"{where}.nodePort", 1, 65535)


def _backends(spec: ServiceSpec) -> tuple[FixedBackend, ...]:
    syntax.items(spec.backends, "spec.backends")
    named = any(isinstance(port.target_port, str) for port in spec.ports)
    found: dict[FixedBackend, None] = {}
    for i, backend in enumerate(spec.backends):
        where = f"spec.backends[{i}]"
        address = reachable(backend.address, f"{where}.address")
        if backend.port:
            syntax.number(backend.port, f"{where}.port", 1, 65535)
        elif named:
            raise invalid(
                f"{where}.port",
                "the Service's target port is a name, and an address has no named ports",
                fix="write the backend's port, or a number as `targetPort`",
            )
        found[FixedBackend(address=str(address), port=backend.port)] = None
    return tuple(found)


def reachable(text: str, where: str) -> Address:
    """An address of one host that others can reach: the same rule as Kubernetes' endpoints have,
    for whoever writes a backend must not have a host's own services called."""
    address = syntax.address(text, where)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        raise invalid(where, f"{address} is an IPv4 address in IPv6's form")
    for bad, what in (
        (address.is_unspecified, "nobody's"),
        (address.is_loopback, "every host's own"),
        (address.is_link_local, "of one link only"),
        (address.is_multicast, "a multicast group"),
        (str(address) == "255.255.255.255", "everybody's"),
    ):
        if bad:
            raise invalid(where, f"the address {address} is {what}")
    return address


def _cluster(spec: ServiceSpec) -> tuple[str, ...]:
    """At most one a family, in the order in which they were given."""
    syntax.items(spec.addresses, "spec.addresses", 2)
    addresses = [reachable(text, f"spec.addresses[{i}]") for i, text in enumerate(spec.addresses)]
    families = [address.version for address in addresses]
    if len(set(families)) != len(families):
        raise invalid("spec.addresses", "a Service has at most one address a family")
    if spec.families and not set(families) <= set(spec.families):
        raise invalid("spec.addresses", "an address is of none of the Service's families")
    return tuple(map(str, addresses))


def _outside(given: Sequence[str], where: str) -> tuple[str, ...]:
    syntax.items(given, where, MAX_OUTSIDE)
    return tuple(
        dict.fromkeys(str(reachable(text, f"{where}[{i}]")) for i, text in enumerate(given))
    )
