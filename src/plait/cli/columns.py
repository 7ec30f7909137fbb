"""Which columns a table of each kind has: one entry a kind, cells made from the object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from plait.model.objects import Object
from plait.model.policies import Subject
from plait.model.services import ServicePort, ServiceSpec
from plait.policy.words import isolation_words, subject_words

Column = tuple[str, Callable[[Any], str]]

SERVICE_TYPES: Final = {
    "ClusterIP": "cluster",
    "NodePort": "node",
    "LoadBalancer": "balancer",
    "ExternalName": "alias",
}
"""Types of Services as people type and read them."""


def joined(values: Sequence[str]) -> str:
    """Values in one cell."""
    return ", ".join(values)


def port_text(port: Any) -> str:
    """A published port as `docker ps` writes it: `8080->80/tcp`."""
    host = port.host_ip
    if ":" in host:
        host = f"[{host}]"
    return f"{host + ':' if host else ''}{port.host_port}->{port.port}/{port.protocol}"


def ports_text(ports: Sequence[Any]) -> str:
    """Published ports in one cell, by host port."""
    ordered = sorted(ports, key=lambda p: (p.host_port, p.protocol, p.host_ip))
    return joined([port_text(p) for p in ordered])


def labels_text(labels: dict[str, str]) -> str:
    """Labels as `a=b, c=d`."""
    return joined([f"{k}={v}" for k, v in sorted(labels.items())])


def members_text(group: Any) -> str:
    """What a group is made of: its CIDRs, at most five of them, or its selectors."""
    if not group.cidrs:
        return subject_words(Subject(namespaces=group.namespaces, endpoints=group.endpoints))
    more = len(group.cidrs) - 5
    return joined(group.cidrs[:5]) + (f" and {more} more" if more > 0 else "")


def service_port_text(port: ServicePort) -> str:
    """`80->8080/tcp`, with the node port as `80:30080->8080/tcp`."""
    outer = f"{port.port}:{port.node_port}" if port.node_port else f"{port.port}"
    same = port.target_port in (None, port.port)
    inner = "" if same else f"->{port.target_port}"
    return f"{outer}{inner}/{port.protocol.lower()}"


def service_ports_text(spec: ServiceSpec) -> str:
    """All ports in one cell."""
    return joined([service_port_text(port) for port in spec.ports])


def type_text(spec: ServiceSpec) -> str:
    """What kind of Service it is, in a word."""
    return "headless" if spec.headless else SERVICE_TYPES[spec.type]


def addresses_text(spec: ServiceSpec) -> str:
    """Where it is called, all in one cell."""
    if spec.type == "ExternalName":
        return spec.external_name
    balanced = spec.load_balancer_addresses if spec.type == "LoadBalancer" else ()
    return joined([*spec.addresses, *balanced, *spec.external_addresses])


def pod_state(spec: Any) -> str:
    """How a Pod is. `pending`: it has no network yet."""
    if spec.finished:
        return "finished"
    if spec.terminating:
        return "terminating"
    if spec.ready:
        return "ready"
    return "not ready" if spec.addresses else "pending"


def age(timestamp: str, now: datetime) -> str:
    """The time since an RFC 3339 timestamp in its largest unit: `41m`, `3d`."""
    try:
        then = datetime.fromisoformat(timestamp)
    except ValueError:
        return ""
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    seconds = max(0, int((now - then).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def short_age(timestamp: str) -> str:
    """`age` against this machine's clock."""
    return age(timestamp, datetime.now(UTC))


COLUMNS: Final[dict[str, tuple[Column, ...]]] = {
    "Cluster": (
        ("name", lambda o: o.metadata.name),
        ("pools", lambda o: joined(o.spec.pools)),
        ("encap", lambda o: o.spec.encap),
        ("domain", lambda o: o.spec.domain),
    ),
    "Namespace": (
        ("name", lambda o: o.metadata.name),
        ("labels", lambda o: labels_text(o.metadata.labels)),
    ),
    "Node": (
        ("name", lambda o: o.metadata.name),
        ("ready", lambda o: "yes" if o.is_ready else "no"),
        ("addresses", lambda o: joined(o.spec.addresses)),
        ("mtu", lambda o: str(o.spec.mtu)),
        ("docker", lambda o: "yes" if o.status.docker else "no"),
        ("version", lambda o: o.status.version),
        ("seen", lambda o: short_age(o.status.last_seen)),
    ),
    "Network": (
        ("name", lambda o: o.metadata.name),
        ("pools", lambda o: joined(o.spec.pools)),
        ("gateways", lambda o: joined(o.spec.gateways)),
        ("internal", lambda o: "yes" if o.spec.internal else "no"),
    ),
    "AddressBlock": (
        ("network", lambda o: o.spec.network),
        ("cidr", lambda o: o.spec.cidr),
        ("node", lambda o: o.spec.node),
        ("loans", lambda o: str(len(o.spec.loans))),
    ),
    "Endpoint": (
        ("name", lambda o: o.spec.name or o.metadata.name),
        ("namespace", lambda o: o.metadata.namespace),
        ("node", lambda o: o.spec.node),
        ("network", lambda o: o.spec.network),
        ("addresses", lambda o: joined(o.spec.addresses)),
        ("ports", lambda o: ports_text(o.spec.ports)),
        ("state", lambda o: o.status.phase),
    ),
    "Service": (
        ("name", lambda o: o.metadata.name),
        ("namespace", lambda o: o.metadata.namespace),
        ("type", lambda o: type_text(o.spec)),
        ("addresses", lambda o: addresses_text(o.spec)),
        ("ports", lambda o: service_ports_text(o.spec)),
        ("note", lambda o: o.status.message),
    ),
    "EndpointSlice": (
        ("name", lambda o: o.metadata.name),
        ("namespace", lambda o: o.metadata.namespace),
        ("service", lambda o: o.spec.service),
        ("ports", lambda o: joined([f"{p.port}/{p.protocol.lower()}" for p in o.spec.ports])),
        ("ready", lambda o: f"{sum(e.ready for e in o.spec.endpoints)}/{len(o.spec.endpoints)}"),
    ),
    "Pod": (
        ("name", lambda o: o.metadata.name),
        ("namespace", lambda o: o.metadata.namespace),
        ("node", lambda o: o.spec.node),
        ("addresses", lambda o: joined(o.spec.addresses)),
        ("state", lambda o: pod_state(o.spec)),
    ),
    "Policy": (
        ("name", lambda o: o.metadata.name),
        ("tier", lambda o: o.spec.tier),
        ("priority", lambda o: str(o.spec.priority)),
        ("subject", lambda o: subject_words(o.spec.subject)),
        ("rules", lambda o: f"{len(o.spec.ingress)} in, {len(o.spec.egress)} out"),
        ("isolates", isolation_words),
        ("note", lambda o: o.status.message or ("staged" if o.spec.staged else "")),
    ),
    "Group": (
        ("name", lambda o: o.metadata.name),
        ("members", lambda o: members_text(o.spec)),
    ),
}


def rows(objects: Sequence[Object]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of objects of one kind, ordered by what people read: names, not ids."""
    if not objects:
        return [], []
    columns = COLUMNS[objects[0].kind]
    cells = sorted([cell(o) for _, cell in columns] for o in objects)
    return [heading for heading, _ in columns], cells
