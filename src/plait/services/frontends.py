"""Where a Service is called on a host, and which backends answer there."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple

from plait.model.service_table import Frontend
from plait.model.services import Service, ServicePort, ServiceSpec
from plait.selection.parties import canonical
from plait.selection.ranges import Range, join, of_cidr, text

Protocol = Literal["tcp", "udp", "sctp"]
Reach = Literal["Cluster", "Local"]
"""All backends, or those of this host alone."""

PROTOCOLS: Final[dict[str, Protocol]] = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}
ANY: Final = {4: "0.0.0.0", 6: "::"}
"""The address of a node port."""
NOBODY: Final = {4: "0.0.0.0-0.0.0.0", 6: "::-::"}
"""Source ranges of a family of which none was named: no sender has these addresses."""


_Opened = tuple[tuple[str, ...], Reach, Reach]


class Opening(NamedTuple):
    """A frontend of a Service."""

    frontend: Frontend
    port: int
    """Which of the Service's ports, from 0."""
    inside: Reach
    outside: Reach
    sources: tuple[str, ...] = ()
    """See `service_table.Entry`."""


def service_id(service: Service) -> str:
    """Opaque identity for the kernel: no text of a user reaches a ruleset."""
    meta = service.metadata
    ident = meta.uid or f"{meta.namespace}/{meta.name}"
    return "s" + hashlib.sha256(ident.encode()).hexdigest()[:15]


def openings(spec: ServiceSpec) -> Iterator[Opening]:
    """All frontends of a Service, each once."""
    if not _is_called(spec):
        return
    # Senders of our own reach every backend from everywhere: it is outside alone that chose this
    # host by sending to an address of many hosts.
    cluster: _Opened = canonical(spec.addresses), spec.internal_traffic, spec.internal_traffic
    balanced: _Opened = balancer_addresses(spec), "Cluster", spec.external_traffic
    external: _Opened = canonical(spec.external_addresses), "Cluster", spec.external_traffic
    hosts: _Opened = (
        tuple(ANY[number] for number in families(spec)),
        "Cluster",
        spec.external_traffic,
    )
    allowed = {number: sources(spec, number) for number in (4, 6)} if spec.source_ranges else {}
    for index, port in enumerate(spec.ports):
        seen: set[str] = set()
        for number, opened in (
            (port.port, cluster),
            (port.port, balanced),
            (port.port, external),
            (node_port(spec, port), hosts),
        ):
            addresses, inside, outside = opened
            for address in addresses if number else ():
                if address not in seen:
                    seen.add(address)
                    who = allowed.get(family(address), ()) if opened is balanced else ()
                    frontend = Frontend(address, PROTOCOLS[port.protocol], number)
                    yield Opening(frontend, index, inside, outside, who)


def node_port(spec: ServiceSpec, port: ServicePort) -> int:
    """The port on every host; 0: none."""
    return port.node_port if spec.type in ("NodePort", "LoadBalancer") else 0


def own_addresses(spec: ServiceSpec) -> tuple[str, ...]:
    """Addresses that are nobody else's."""
    if not _is_called(spec):
        return ()
    return canonical((*spec.addresses, *balancer_addresses(spec)))


def balancer_addresses(spec: ServiceSpec) -> tuple[str, ...]:
    """Its load-balancer addresses."""
    return canonical(spec.load_balancer_addresses) if spec.type == "LoadBalancer" else ()


def families(spec: ServiceSpec) -> tuple[int, ...]:
    """Those that it is called in; of its cluster addresses where it does not say."""
    return spec.families or tuple(dict.fromkeys(map(family, spec.addresses))) or (4, 6)


def family(address: str) -> Literal[4, 6]:
    """4 or 6."""
    return 6 if ":" in address else 4


def sources(spec: ServiceSpec, number: int) -> tuple[str, ...]:
    """Who of a family may call the load-balancer addresses: see `service_table.Entry`. What is no
    CIDR lets nobody in."""
    ranges = join(_ranges(spec.source_ranges))
    found = tuple(text(one) for one in ranges if one.family == number)
    whole = text(of_cidr("0.0.0.0/0" if number == 4 else "::/0"))
    return () if found == (whole,) else found or (NOBODY[number],)


def _ranges(cidrs: Iterable[str]) -> Iterator[Range]:
    for cidr in cidrs:
        with contextlib.suppress(ValueError):
            yield of_cidr(cidr)


def _is_called(spec: ServiceSpec) -> bool:
    return not spec.headless and spec.type != "ExternalName"
