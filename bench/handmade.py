"""The topology that a network engineer makes by hand with `ip`, in a lab without Plait.

A veth a workload and a route to it; between hosts of one site a route, between sites a VXLAN
device and a route. No rule, no connection tracking, no encryption; MTU as given. Pure but for
`build`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from bench import labs
from plait.lab import hosts
from plait.lab.lab import Lab
from plait.lab.state import WorkloadState

GATEWAY = "169.254.1.1"
TUNNEL = "hand.vx"
VNI = 77


def address(load: WorkloadState, number: int) -> str:
    """Of a workload: the host's number is the third octet."""
    return f"10.200.{load.host.removeprefix('h')}.{number}"


def host_lines(made: Lab, host: str, others: Sequence[str], mtu: int) -> list[str]:
    """`ip -batch` lines for a host's way to the others."""
    mine = made.plan.hosts[host]
    lines = [f"address add {GATEWAY}/32 dev lo"]
    far = [other for other in others if made.plan.hosts[other].site != mine.site]
    if far:
        source = plain(mine.interface.address4)
        lines += [
            f"link add {TUNNEL} mtu {mtu} type vxlan id {VNI} dstport 4789 local {source} "
            f"remote {plain(made.plan.hosts[far[0]].interface.address4)}",
            f"address add 10.201.0.{host.removeprefix('h')}/24 dev {TUNNEL}",
            f"link set {TUNNEL} up",
        ]
    for other in others:
        number = other.removeprefix("h")
        if other in far:
            lines.append(f"route add 10.200.{number}.0/24 via 10.201.0.{number} dev {TUNNEL}")
        else:
            via = plain(made.plan.hosts[other].interface.address4)
            lines.append(f"route add 10.200.{number}.0/24 via {via}")
    return lines


def veth_lines(load: WorkloadState, number: int, mtu: int) -> list[str]:
    """`ip -batch` lines for a workload's link, on its host."""
    name = f"hand{number}"
    return [
        f"link add {name} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {load.pid}",
        f"link set {name} up",
        f"route add {address(load, number)} dev {name}",
    ]


def inner_lines(load: WorkloadState, number: int) -> list[str]:
    """`ip -batch` lines inside the workload."""
    return [
        "link set lo up",
        "link set eth0 up",
        f"address add {address(load, number)}/32 dev eth0",
        f"route add {GATEWAY} dev eth0",
        f"route add default via {GATEWAY} dev eth0",
    ]


def build(
    made: Lab, loads: Sequence[WorkloadState], ways: Sequence[tuple[str, str]], mtu: int
) -> None:
    """Connect the workloads; `ways` are the pairs of hosts that reach each other."""
    for host in dict.fromkeys(load.host for load in loads):
        others = [b if a == host else a for a, b in ways if host in (a, b)]
        made.run(host, ["sysctl", "-qw", "net.ipv4.ip_forward=1"])
        hosts.ip_batch(made.host(host), host_lines(made, host, others, mtu))
    for number, load in enumerate(loads, 1):
        hosts.ip_batch(made.host(load.host), veth_lines(load, number, mtu))
        subprocess.run(
            labs.netns(load.pid, ["ip", "-batch", "-"]),
            input="\n".join(inner_lines(load, number)),
            text=True,
            check=True,
        )


def plain(interface: str) -> str:
    """An address without its prefix length."""
    return interface.partition("/")[0]
