"""Faults of the underlay, as one nft ruleset of the router's namespace. Pure.

The router bridges within a site and routes between sites, so a pair of hosts is cut in both
places: by bridge ports where the frame is bridged, by underlay addresses where it is routed.
The ruleset is written whole: what is not in `cuts` is healed.
"""

from __future__ import annotations

from collections.abc import Iterable

from plait.lab.topology import HostPlan, Plan

TABLE = "plait_lab"


def _host_address(address: str) -> str:
    return address.partition("/")[0]


def _pair(a: HostPlan, b: HostPlan) -> list[str]:
    pairs = [(a, b), (b, a)]
    if a.site == b.site:
        return [
            f'add rule bridge {TABLE} forward iifname "{x.interface.port}" '
            f'oifname "{y.interface.port}" drop'
            for x, y in pairs
        ]
    return [
        f"add rule inet {TABLE} forward {family} saddr {source} {family} daddr {target} drop"
        for x, y in pairs
        for family, source, target in (
            ("ip", _host_address(x.interface.address4), _host_address(y.interface.address4)),
            ("ip6", _host_address(x.interface.address6), _host_address(y.interface.address6)),
        )
    ]


def ruleset(lab: Plan, cuts: Iterable[tuple[str, str]]) -> str:
    """nft text that makes exactly these cuts, in one transaction."""
    lines = []
    for family in ("bridge", "inet"):
        lines += [
            f"add table {family} {TABLE}",
            f"flush table {family} {TABLE}",
            f"add chain {family} {TABLE} forward "
            "{ type filter hook forward priority 0; policy accept; }",
        ]
    for a, b in sorted(cuts):
        lines += _pair(lab.hosts[a], lab.hosts[b])
    return "\n".join(lines) + "\n"
