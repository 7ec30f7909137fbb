"""Pools out of which Services get addresses: chosen and checked as those of networks are. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from plait.cli.preflight import (
    Finding,
    IPNetwork,
    Pools,
    Use,
    conflict,
    parse_cidr,
    unique_local,
)
from plait.model.errors import PlaitError
from plait.model.objects import ClusterSpec

CANDIDATES: Final = (
    "10.79.0.0/16",
    "10.175.0.0/16",
    "10.207.0.0/16",
    "10.63.0.0/16",
    "172.23.0.0/16",
    "100.79.0.0/16",
)
"""IPv4 service pools that are tried in turn: apart from those of networks, and from what kubeadm
(10.96.0.0/12), k3s (10.43.0.0/16) and OpenShift (172.30.0.0/16) give to Kubernetes' own."""
LENGTH6: Final = 112
"""Prefix length of the IPv6 service pool."""
LONGEST: Final = {4: 28, 6: 124}
"""The longest prefix of a service pool that still holds a few Services."""


def choose_service_pools(
    asked: Sequence[str], pools: Sequence[str], uses: Sequence[Use], random: bytes
) -> Pools:
    """The service pools: those asked for, checked, or free ones of both families; an IPv6 one in
    any case.

    Without a free IPv4 one there is a warning only: networks need none.
    """
    taken = [*uses, *(Use(pool, f"the pool {pool}") for pool in pools)]
    chosen: list[str] = []
    findings: list[Finding] = []
    for text in asked:
        pool = parse_cidr(text)
        _check_length(pool)
        findings += _overlaps(pool, taken, "--service-pool")
        if pool.version in {ipaddress.ip_network(other).version for other in chosen}:
            error = PlaitError("PLAIT-NET-004", "there is at most one service pool a family")
            findings.append(Finding(error))
        chosen.append(str(pool))
    if not asked:
        four = free_service_pool(taken)
        chosen += [four] if four else []
        findings += [] if four else [Finding(_none_free(taken), fatal=False)]
    if not any(":" in pool for pool in chosen):
        prefix = unique_local(random).partition("/")[0]
        chosen.append(str(ipaddress.ip_network((prefix, LENGTH6))))
    return Pools(tuple(chosen), tuple(findings))


def choose_balancer_pools(asked: Sequence[str], others: Sequence[str]) -> Pools:
    """The load-balancer pools asked for; they may lie in the hosts' own network, but not in the
    `others`, pools of networks and Services."""
    taken = [Use(pool, f"the pool {pool}") for pool in others]
    chosen: list[str] = []
    findings: list[Finding] = []
    for text in asked:
        pool = parse_cidr(text)
        findings += _overlaps(pool, taken, "--load-balancer-pool")
        taken.append(Use(str(pool), f"the pool {pool}"))
        chosen.append(str(pool))
    return Pools(tuple(chosen), tuple(findings))


class ServicePools(NamedTuple):
    """Pools that a user names for a network that stands."""

    services: tuple[str, ...] = ()
    balancers: tuple[str, ...] = ()


def with_service_pools(cluster: ClusterSpec, asked: ServicePools) -> ClusterSpec:
    """The settings with what they lack of these pools.

    PLAIT-HOST-009 for another service pool of a family: Services have addresses of the one that
    there is.
    """
    services = dict(_by_family(cluster.service_pools))
    for family, pool in _by_family(asked.services):
        known = services.setdefault(family, pool)
        if known != pool:
            raise PlaitError(
                "PLAIT-HOST-009",
                "this network was set up before with another service pool",
                why=f"its Services have addresses of {known}",
                fix=("plait get clusters",),
            )
    balancers = (str(parse_cidr(text)) for text in asked.balancers)
    return msgspec.structs.replace(
        cluster,
        service_pools=tuple(services.values()),
        load_balancer_pools=tuple(dict.fromkeys([*cluster.load_balancer_pools, *balancers])),
    )


def _by_family(pools: Sequence[str]) -> Iterator[tuple[int, str]]:
    for text in pools:
        pool = parse_cidr(text)
        yield pool.version, str(pool)


def free_service_pool(taken: Sequence[Use]) -> str:
    """The first IPv4 candidate that overlaps nothing, or empty."""
    for candidate in CANDIDATES:
        if conflict(ipaddress.ip_network(candidate), taken) is None:
            return candidate
    return ""


def _check_length(pool: IPNetwork) -> None:
    if pool.prefixlen > LONGEST[pool.version]:
        raise PlaitError(
            "PLAIT-NET-004",
            f"the service pool {pool} is too small",
            why=f"each Service gets an address of it; /{LONGEST[pool.version]} is the smallest",
        )


def _overlaps(pool: IPNetwork, taken: Sequence[Use], option: str) -> list[Finding]:
    clash = conflict(pool, taken)
    if clash is None:
        return []
    free = free_service_pool(taken) if option == "--service-pool" else ""
    return [
        Finding(
            PlaitError(
                "PLAIT-HOST-003",
                f"the pool {pool} overlaps {clash.what}",
                where=f"{option} {pool}",
                why="an address is either a Service's or somebody's own",
                fix=(f"plait up {option} {free or 'CIDR'}",),
            )
        )
    ]


def _none_free(taken: Sequence[Use]) -> PlaitError:
    clash = conflict(ipaddress.ip_network(CANDIDATES[0]), taken)
    assert clash is not None
    return PlaitError(
        "PLAIT-HOST-003",
        f"Services get no IPv4 addresses: {CANDIDATES[0]} overlaps {clash.what}",
        fix=("plait up --service-pool CIDR",),
    )
