"""Milliseconds to make and to remove one endpoint in the kernel, ours beside `ip -batch`.

    Run as root: scripts/bench attach_kernel, or for more of it
    PYTHONPATH=. .venv/bin/python -P -m bench.attach_kernel [--count 100] [--json]

Both make the same: a veth pair, the peer born in the container's namespace, addresses, permanent
neighbours and default routes of both families, the host side's gateway address, settings and
alias, two host routes. They take turns in one run. `ip` runs twice an endpoint (once in each
namespace) without a fork of `nsenter`. Removing: ours is the share of a detach, with the reaping
of all of them added, beside one `ip link del` each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from bench.table import Row
from plait.agent.programmers.rtnetlink import build
from plait.kernel import netns
from plait.kernel.stage import KernelStage
from plait.model import marks
from plait.model.hoststate import HostState, Link, Peer, PeerRoute, Route


def endpoint(ident: str, number: int, path: str, inode: int) -> Link:
    return Link(
        endpoint=ident,
        mtu=1450,
        peer=Peer(
            name="eth0",
            mac=marks.endpoint_mac(ident),
            netns=path,
            netns_inode=inode,
            addresses=(f"10.9.{number >> 8}.{number & 255}/32", f"fd00:9::{number + 1:x}/128"),
            routes=(
                PeerRoute(dst="0.0.0.0/0", via=marks.GATEWAY4),
                PeerRoute(dst="::/0", via=marks.GATEWAY6),
            ),
            neighbours=((marks.GATEWAY4, marks.HOST_MAC), (marks.GATEWAY6, marks.HOST_MAC)),
        ),
        addresses=("fe80::1/64",),
        sysctls=(("ipv4/conf/{name}/route_localnet", "1"),),
    )


def routes_to(link: Link) -> frozenset[Route]:
    name = marks.host_ifname(link.endpoint)
    return frozenset(Route(dst=address, link=name) for address in link.peer.addresses)


def batch(fd: int, lines: list[str]) -> None:
    with netns.inside(fd):
        subprocess.run(["ip", "-batch", "-"], input="\n".join(lines).encode(), check=True)


def by_ip(stage: KernelStage, link: Link, fd: int) -> None:
    name, peer = marks.host_ifname(link.endpoint), link.peer
    host = [
        f"link add {name} mtu {link.mtu} group {marks.LINK_GROUP} address {marks.HOST_MAC} "
        f"type veth peer name {peer.name} address {peer.mac} mtu {link.mtu} netns {peer.netns}",
        f"link set {name} addrgenmode none",
        f"link set {name} up",
        f"address add fe80::1/64 dev {name} nodad",
        f"link set {name} alias {marks.ALIAS_PREFIX}{link.endpoint}",
        *(f"route add {address} dev {name} proto 112" for address in peer.addresses),
    ]
    within = [
        "link set lo up",
        f"link set {peer.name} up",
        *(
            f"address add {address} dev {peer.name}{' nodad' if ':' in address else ''}"
            for address in peer.addresses
        ),
        *(
            f"neighbour replace {address} lladdr {mac} dev {peer.name} nud permanent"
            for address, mac in peer.neighbours
        ),
        *(f"route add {route.dst} via {route.via} dev {peer.name} onlink" for route in peer.routes),
    ]
    batch(stage.fd, host)
    batch(fd, within)
    stage.sysctl.write(f"net/ipv6/conf/{name}/accept_ra", "0")
    stage.sysctl.write(f"net/ipv4/conf/{name}/route_localnet", "1")


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1e3


def measure(count: int) -> dict[str, float]:
    stage = KernelStage()
    suite = build(stage.netlink, stage.sysctl)
    for programmer in suite:
        programmer.observe()
    state = HostState()
    ours, theirs, detach, remove = [], [], [], []

    def go(wanted: HostState) -> None:
        for programmer in (suite.links, suite.routes):
            failures = programmer.apply(programmer.plan(wanted))
            assert not failures, failures

    peers = []
    for number in range(count):
        link = endpoint(f"ours-{number}", number, *stage.add_netns())
        state = HostState(
            links={**state.links, marks.host_ifname(link.endpoint): link},
            routes=state.routes | routes_to(link),
        )
        ours.append(timed(lambda wanted=state: go(wanted)))
        path, inode = stage.add_netns()
        peer = endpoint(f"theirs-{number}", 20_000 + number, path, inode)
        peers.append(peer)
        fd = int(path.rpartition("/")[2])
        theirs.append(timed(lambda peer=peer, fd=fd: by_ip(stage, peer, fd)))
    for name in list(state.links):
        gone = state.links[name]
        rest = {key: link for key, link in state.links.items() if key != name}
        state = HostState(links=rest, routes=state.routes - routes_to(gone))
        detach.append(timed(lambda wanted=state: go(wanted)))
    reaped = timed(suite.links.reap)
    for peer in peers[:20]:
        line = [f"link del {marks.host_ifname(peer.endpoint)}"]
        remove.append(timed(lambda line=line: batch(stage.fd, line)))
    stage.close()
    p99 = int(count * 0.99)
    return {
        "attach_ours_ms": statistics.median(ours),
        "attach_ours_p99_ms": sorted(ours)[p99],
        "attach_ip_batch_ms": statistics.median(theirs),
        "attach_ip_batch_p99_ms": sorted(theirs)[p99],
        "detach_ours_ms": statistics.median(detach),
        "detach_ours_reaped_ms": statistics.median(detach) + reaped / count,
        "detach_ip_ms": statistics.median(remove),
    }


def rows() -> list[Row]:
    """For the table of all benchmarks."""
    found = measure(100)
    peer = "ip -batch, twice"
    return [
        Row(
            what="attach, the kernel's share",
            unit="ms",
            ours=found["attach_ours_ms"],
            peer=peer,
            theirs=found["attach_ip_batch_ms"],
        ),
        Row(
            what="detach, the kernel's share with reaping",
            unit="ms",
            ours=found["detach_ours_reaped_ms"],
            peer="ip link del",
            theirs=found["detach_ip_ms"],
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.stderr.write("attach_kernel: needs root\n")
        return 1
    found = measure(options.count)
    ratio = found["attach_ours_ms"] / found["attach_ip_batch_ms"]
    if options.json:
        sys.stdout.write(json.dumps({**found, "attach_ratio": ratio}) + "\n")
        return 0
    rows = [
        ("attach, median", found["attach_ours_ms"], found["attach_ip_batch_ms"]),
        ("attach, p99", found["attach_ours_p99_ms"], found["attach_ip_batch_p99_ms"]),
        ("detach, until the answer", found["detach_ours_ms"], found["detach_ip_ms"]),
        ("detach, with reaping", found["detach_ours_reaped_ms"], found["detach_ip_ms"]),
    ]
    sys.stdout.write(f"{'':26}{'Plait ms':>10}{'ip ms':>10}{'ratio':>8}\n")
    for label, mine, peer in rows:
        sys.stdout.write(f"{label:26}{mine:10.2f}{peer:10.2f}{mine / peer:8.2f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
