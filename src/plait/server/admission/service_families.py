"""In which families a Service is called: those in which somebody may answer. Pure."""

from __future__ import annotations

from collections.abc import Collection

from plait.model.objects import ClusterSpec, NetworkSpec
from plait.model.services import ServiceSpec
from plait.model.syntax import invalid
from plait.server.service_pools import FAMILIES, Family


def family_of(text: str) -> Family:
    """4 or 6."""
    return 6 if ":" in text else 4


def answering(spec: ServiceSpec, network: NetworkSpec) -> frozenset[Family]:
    """Those of the backends, or of the network whose endpoints they are; an orchestrator's may be
    of any."""
    if spec.backends:
        return frozenset(family_of(backend.address) for backend in spec.backends)
    if spec.selector is not None:
        return frozenset(map(family_of, network.pools))
    return frozenset(FAMILIES)


def choose(pools: ClusterSpec, useful: Collection[Family]) -> tuple[Family, ...]:
    """Of those of the service pools the `useful` ones; all, if that means none."""
    present = {family_of(pool) for pool in pools.service_pools}
    return tuple(f for f in FAMILIES if f in present and f in useful) or tuple(
        f for f in FAMILIES if f in present
    )


def check(
    spec: ServiceSpec,
    old: ServiceSpec | None,
    families: Collection[Family],
    useful: Collection[Family],
) -> None:
    """Nobody asks anew for a family in which nobody can answer, nor for a backend of another one:
    a flow stays in its family. What an orchestrator says (`origin`) is taken as it is."""
    if spec.origin is not None:
        return
    for family in spec.families if old is None or old.families != spec.families else ():
        if family not in useful:
            whose = "its backends have" if spec.backends else f"the network {spec.network} has"
            raise invalid(
                "spec.families",
                f"nobody answers in IPv{family}",
                why=f"{whose} no address of that family",
                fix="leave it out, and the families of the backends are chosen",
            )
    for i, backend in enumerate(spec.backends):
        family = family_of(backend.address)
        if family not in families and (old is None or backend not in old.backends):
            raise invalid(
                f"spec.backends[{i}].address",
                f"{backend.address} is IPv{family}, and the Service has no IPv{family} address",
                why="a flow stays in its family",
                fix="write `families: [4, 6]` (--family 4 --family 6)",
            )
