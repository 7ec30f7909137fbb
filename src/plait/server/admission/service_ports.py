"""Node ports of a Service: those it asked for, those it had, and new ones. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from plait.model import syntax
from plait.model.errors import PlaitError
from plait.model.services import ServiceSpec
from plait.server import claims
from plait.server.admission.service_fields import OPENED

CHOSEN_SHARE: Final = 32
CHOSEN_MOST: Final = 128
"""The lowest part of the range is left to those who choose: see `claims.static_part`."""

Free = Callable[[str], bool]
"""Whether nobody else has a claim."""


def choose(
    spec: ServiceSpec, old: ServiceSpec | None, ports: range, seed: str, free: Free
) -> ServiceSpec:
    """The spec with its node ports and its port for health checks.

    A port that names none keeps the one that it had. `ports` is the cluster's range; a given one
    must be in it, unless the Service is somebody else's, who has a range of their own.
    PLAIT-SERVICE-003 when a given one is taken, PLAIT-SERVICE-004 when none is free.
    """
    had = _had(old) if old is not None and old.type in OPENED else {}
    opened = spec.type == "NodePort" or (spec.type == "LoadBalancer" and spec.node_ports)
    taken: dict[str, str] = {}
    """Claims of this Service, and the fields that make them."""
    found = [port.node_port for port in spec.ports]
    for i, port in enumerate(spec.ports):
        if port.node_port:
            where = f"spec.ports[{i}].nodePort"
            _given(port.protocol, port.node_port, where, spec, had, ports, free)
            _once(taken, claims.node_port(port.protocol, port.node_port), where)
    health = _health(spec, old, had, ports, free)
    if health:
        _once(taken, claims.node_port("TCP", health), "spec.healthCheckNodePort")
    for by_name in (True, False) if opened else ():
        for i, port in enumerate(spec.ports):
            number = had.get((port.protocol, port.name if by_name else port.port), 0)
            claim = claims.node_port(port.protocol, number)
            if number and not found[i] and claim not in taken:
                found[i], taken[claim] = number, f"spec.ports[{i}].nodePort"

    def usable(protocol: str, number: int) -> bool:
        claim = claims.node_port(protocol, number)
        return claim not in taken and free(claim)

    for i, port in enumerate(spec.ports):
        if opened and not found[i]:
            # One number for both protocols of a port, as DNS has them, where that is possible.
            same = [n for n, p in zip(found, spec.ports, strict=True) if n and p.port == port.port]
            found[i] = _free(ports, same, f"{seed} {port.port}", port.protocol, usable)
            taken[claims.node_port(port.protocol, found[i])] = ""
    if _is_balanced(spec) and _has_health(spec) and not health:
        health = _free(ports, (), f"{seed} health", "TCP", usable)
    return msgspec.structs.replace(
        spec,
        ports=tuple(
            msgspec.structs.replace(port, node_port=number)
            for port, number in zip(spec.ports, found, strict=True)
        ),
        health_check_node_port=health,
    )


Had = dict[tuple[str, str | int], int]


def _had(old: ServiceSpec) -> Had:
    """Node ports by protocol and, for whichever stays, the port's name or its number."""
    found: Had = {}
    for port in old.ports:
        if port.node_port:
            found[port.protocol, port.port] = port.node_port
            found[port.protocol, port.name] = port.node_port
    return found


def _is_balanced(spec: ServiceSpec) -> bool:
    return spec.type == "LoadBalancer"


def _has_health(spec: ServiceSpec) -> bool:
    """Whether it may have a port for health checks. Of somebody else's Services those have one too
    that a load balancer calls by their node ports."""
    called = _is_balanced(spec) or (spec.type == "NodePort" and spec.origin is not None)
    return called and spec.external_traffic == "Local"


def _health(spec: ServiceSpec, old: ServiceSpec | None, had: Had, ports: range, free: Free) -> int:
    given, was = spec.health_check_node_port, old.health_check_node_port if old else 0
    where = "spec.healthCheckNodePort"
    if not _has_health(spec):
        if given and given != was:
            raise syntax.invalid(
                where,
                "only a Service of type LoadBalancer and `externalTraffic: Local` has a port for"
                " health checks",
                fix="leave it out, or write `externalTraffic: Local` and `type: LoadBalancer`",
            )
        return 0
    if given and given != was:
        _given("TCP", given, where, spec, had, ports, free)
    return given or (was if _is_balanced(spec) else 0)


def _given(
    protocol: str, number: int, where: str, spec: ServiceSpec, had: Had, ports: range, free: Free
) -> None:
    kept = number in had.values()
    if number not in ports and not kept and spec.origin is None:
        raise syntax.invalid(
            where,
            f"{number} is not in the cluster's range of node ports",
            why=f"it is {ports.start}-{ports.stop - 1}; below and above it hosts use ports",
            fix="leave it out, and one is chosen",
        )
    if not free(claims.node_port(protocol, number)):
        raise PlaitError(
            "PLAIT-SERVICE-003",
            f"the node port {number} of {protocol} is another Service's",
            where=where,
            fix=("plait service ls", "leave it out, and one is chosen"),
        )


def _once(taken: dict[str, str], claim: str, where: str) -> None:
    if claim in taken:
        raise syntax.invalid(where, f"{taken[claim]} has the same node port")
    taken[claim] = where


def _free(
    ports: range,
    first: Iterable[int],
    seed: str,
    protocol: str,
    usable: Callable[[str, int], bool],
) -> int:
    for number in first:
        if usable(protocol, number):
            return number
    low = claims.static_part(len(ports), CHOSEN_SHARE, CHOSEN_MOST)
    for offset in claims.scattered(len(ports), low, seed):
        if usable(protocol, ports[offset]):
            return ports[offset]
    raise PlaitError(
        "PLAIT-SERVICE-004",
        f"no node port of {protocol} is free",
        where="spec.ports",
        why=f"all of {ports.start}-{ports.stop - 1} are taken",
        fix=("plait service ls", "widen the Cluster's spec.nodePorts"),
    )
