"""100 pods created at once on one Kubernetes node, from creation to the first TCP connection.

Two clusters of one node each, one after the other: the same control plane, containerd, kubelet and
image, with Plait as the network (server, agent and connector on that node, too), and with Debian's
bridge, host-local and portmap plugins in a cluster that came up without one. A pod's time begins
when its creation is sent to the API server and ends when the node has a connection to its server;
most of it is the kubelet's, containerd's and runc's. `bench.pods_stage` is what runs on the node.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Final

from bench import labs
from bench.table import Row, percentile
from plait.client.polling import poll
from plait.lab.kubernetes import cluster, layout
from plait.lab.lab import Lab

COUNT: Final = 100
"""A kubelet takes 110 unless told otherwise."""
NODE: Final = "h1"
PEER: Final = "bridge + host-local + portmap"
READY: Final = 60.0
"""Seconds for containerd and the kubelet to find a network."""
CONFLIST: Final = {
    "cniVersion": "1.0.0",
    "name": "bench",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.200.0.0/22"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
"""As in the documentation of the plugins, with the range of addresses that 100 pods need."""


def _measure(made: Lab, count: int, addresses: str) -> list[float]:
    argv = ("--count", str(count), "--addresses", addresses)
    found: list[float] = labs.module(made, NODE, "bench.pods_stage", *argv)
    return found


def ours(count: int) -> list[float]:
    """Seconds of each pod, with Plait."""
    with labs.lab("pods", 1, kubernetes=1) as made:
        return _measure(made, count, "routes")


def theirs(count: int) -> list[float]:
    """Seconds of each pod, with Debian's plugins."""
    with labs.lab("pods-bare", 1, bare=True, kubernetes=1) as made:
        layout.write(
            made.directory / NODE, {f"{layout.CNI_CONF}/10-bench.conflist": json.dumps(CONFLIST)}
        )
        if not poll(lambda: NODE in cluster.nodes(made, ready=True), seconds=READY, every=0.5):
            raise SystemExit(f"the node has no network: {cluster.logs(made)}")
        return _measure(made, count, "leases")


def rows(count: int = COUNT) -> list[Row]:
    mine, others = ours(count), theirs(count)

    def row(what: str, own: float, other: float) -> Row:
        name = f"one of {count} pods started at once on a node, reached{what}"
        return Row(what=name, unit="s", ours=own, theirs=other, peer=PEER)

    return [
        row("", statistics.median(mine), statistics.median(others)),
        row(", p99", percentile(mine, 0.99), percentile(others, 0.99)),
        row(", the last", max(mine), max(others)),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=COUNT, help="pods; 100 by default")
    for found in rows(parser.parse_args().count):
        print(f"{found.what}: {found.ours:.2f} s, {found.theirs:.2f} s, ratio {found.ratio:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
