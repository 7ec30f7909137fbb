"""EndpointSlices. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from plait.model import syntax
from plait.model.objects import AnyObject, EndpointSlice, Namespace, Object
from plait.model.services import SliceEndpoint
from plait.server.admission.base import Admitted, Context, Removal, closing_key, in_namespace
from plait.server.admission.service_fields import MAX_PORTS, reachable
from plait.server.state import Entry, State

MAX_BACKENDS: Final = 1000
MAX_ADDRESSES: Final = 100
MAX_HINTS: Final = 64
"""Limits of Kubernetes' discovery/v1; hints are eight there."""


def admit(state: State, context: Context, old: Object | None, new: AnyObject) -> Admitted:
    """Its Service need not be there yet: whoever writes both writes them in whatever order."""
    assert isinstance(new, EndpointSlice)
    spec, namespace = new.spec, new.metadata.namespace
    syntax.dns_label(spec.service, "spec.service")
    syntax.items(spec.ports, "spec.ports", MAX_PORTS)
    names: set[str] = set()
    for i, port in enumerate(spec.ports):
        where = f"spec.ports[{i}]"
        syntax.number(port.port, f"{where}.port", 1, 65535)
        if port.name:
            syntax.dns_label(port.name, f"{where}.name")
        if port.name in names:
            raise syntax.invalid(f"{where}.name", f"two ports have the name {port.name!r}")
        names.add(port.name)
    syntax.items(spec.endpoints, "spec.endpoints", MAX_BACKENDS)
    backends = tuple(_backend(b, f"spec.endpoints[{i}]") for i, b in enumerate(spec.endpoints))
    return Admitted(
        msgspec.structs.replace(new, spec=msgspec.structs.replace(spec, endpoints=backends)),
        also_put=() if old else in_namespace(state, context, namespace),
        absent=() if old else (closing_key(Namespace, namespace),),
    )


def _backend(backend: SliceEndpoint, where: str) -> SliceEndpoint:
    syntax.items(backend.addresses, f"{where}.addresses", MAX_ADDRESSES)
    addresses = tuple(
        str(reachable(text, f"{where}.addresses[{i}]")) for i, text in enumerate(backend.addresses)
    )
    if backend.hostname:
        syntax.dns_label(backend.hostname, f"{where}.hostname")
    for name, value in (("pod", backend.pod), ("node", backend.node)):
        if value:
            syntax.dns_subdomain(value, f"{where}.{name}")
    syntax.text(backend.site, f"{where}.site", 63)
    for name, hints in (("forNodes", backend.for_nodes), ("forSites", backend.for_sites)):
        syntax.items(hints, f"{where}.{name}", MAX_HINTS)
        for i, hint in enumerate(hints):
            syntax.text(hint, f"{where}.{name}[{i}]", 253)
    return msgspec.structs.replace(backend, addresses=addresses)


def remove(state: State, entry: Entry) -> Removal:
    """Always."""
    del state, entry
    return Removal()
