"""Which of its backends a Service uses on a host, for one port and family."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from plait.model.service_table import BackendAddress, Choice
from plait.model.services import ServiceSpec
from plait.services.backends import Backend
from plait.services.frontends import Reach, family

Prefer = Literal["", "node", "site"]


class Here(NamedTuple):
    """The host that asks."""

    node: str
    site: str = ""


def having(backends: Iterable[Backend], port: int, number: int) -> list[Backend]:
    """Those that have a port of the Service and are of a family."""
    return [
        backend
        for backend in backends
        if 0 < backend.ports[port] < 65536 and family(backend.address) == number
    ]


def usable(backends: Sequence[Backend]) -> list[Backend]:
    """The ready ones; if there are none, those that still serve while they terminate."""
    return [backend for backend in backends if backend.ready] or [
        backend for backend in backends if backend.serving and backend.terminating
    ]


def local(backends: Iterable[Backend], here: Here) -> list[Backend]:
    """Those of this host."""
    return [backend for backend in backends if here.node and backend.node == here.node]


def nearest(backends: list[Backend], here: Here, prefer: Prefer) -> list[Backend]:
    """Those that this host should use by the hints that all of them carry or, where not all do,
    by what the Service prefers; all, if that means none."""
    if here.node and all(backend.for_nodes for backend in backends):
        hinted = [backend for backend in backends if here.node in backend.for_nodes]
        if hinted:
            return hinted
    if here.site and all(backend.for_sites for backend in backends):
        hinted = [backend for backend in backends if here.site in backend.for_sites]
        if hinted:
            return hinted
    near: list[Backend] = []
    if prefer == "node":
        near = local(backends, here)
    if prefer and here.site and not near:
        near = [backend for backend in backends if backend.site == here.site]
    return near or backends


def choice(
    backends: list[Backend],
    port: int,
    spec: ServiceSpec,
    here: Here,
    reach: Reach,
    *,
    outside: bool,
) -> Choice:
    """What a new flow gets, from outside or not; `backends` have the port and are of its family."""
    unavailable: Literal["reject", "drop"] = "reject"
    if reach == "Local":
        found = usable(local(backends, here))
        if outside and not found and usable(backends):
            unavailable = "drop"  # Another host has some: whoever balances is to find it.
    else:
        found = nearest(usable(backends), here, spec.prefer)
    sockets = {BackendAddress(backend.address, backend.ports[port]) for backend in found}
    return Choice(tuple(sorted(sockets)), spec.affinity_seconds, unavailable)
