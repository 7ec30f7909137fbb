"""100 pods created at once on one Kubernetes node, from creation to the first TCP connection.

Two clusters of one node each, measured one after the other: the same control plane, containerd,
kubelet and image, with Plait as the network (server, agent and connector on that node, too), and
with Debian's bridge, host-local and portmap plugins in a cluster that came up without one. A pod's
time begins when its creation is sent to the API server and ends when the node has a connection to
its server; most of it is the kubelet's, containerd's and runc's. Processor time is that of all
programs of the node, control plane included: other work on the machine moves it least.
`bench.pods_stage` is what runs on the node.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Final, NamedTuple

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


class Found(NamedTuple):
    """What came of one side."""

    seconds: list[float]
    """Of each pod."""
    processor: float
    """Seconds of all programs of the node, for all pods."""


def _processor(made: Lab) -> float:
    """Seconds that the programs of the node have had so far, those that ended included.

    A process that ended is counted with whoever waited for it: proc(5), `cutime` and `cstime`.
    """
    space = Path(f"/proc/{made.host(NODE).pid}/ns/pid").readlink()
    ticks = 0
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if (process / "ns/pid").readlink() == space:
                # After the name, which may hold anything, come the fields from the third on.
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))
        except OSError:
            continue
    return ticks / os.sysconf("SC_CLK_TCK")


def _measure(made: Lab, count: int, addresses: str) -> Found:
    argv = ("--count", str(count), "--addresses", addresses)
    before = _processor(made)
    seconds: list[float] = labs.module(made, NODE, "bench.pods_stage", *argv)
    return Found(seconds, _processor(made) - before)


def _give_network(made: Lab) -> None:
    """Debian's plugins, for a cluster without a network."""
    layout.write(
        made.directory / NODE, {f"{layout.CNI_CONF}/10-bench.conflist": json.dumps(CONFLIST)}
    )
    if not poll(lambda: NODE in cluster.nodes(made, ready=True), seconds=READY, every=0.5):
        raise SystemExit(f"the node has no network: {cluster.logs(made)}")


def measure(count: int) -> tuple[Found, Found]:
    """Ours and theirs. Both clusters are there before the first pod is, so that as little time as
    can be lies between the two."""
    with (
        labs.lab("pods", 1, kubernetes=1) as ours,
        labs.lab("pods-bare", 1, bare=True, kubernetes=1) as theirs,
    ):
        _give_network(theirs)
        # The crowd of the first stays and is idle; that is to the disadvantage of the second.
        other = _measure(theirs, count, "leases")
        return _measure(ours, count, "routes"), other


def rows(count: int = COUNT) -> list[Row]:
    ours, theirs = measure(count)

    def row(what: str, own: float, other: float) -> Row:
        name = f"one of {count} pods started at once on a node{what}"
        return Row(what=name, unit="s", ours=own, theirs=other, peer=PEER)

    mine, others = ours.seconds, theirs.seconds
    return [
        row(", reached", statistics.median(mine), statistics.median(others)),
        row(", reached, p99", percentile(mine, 0.99), percentile(others, 0.99)),
        row(", the last reached", max(mine), max(others)),
        row(", processor time", ours.processor / count, theirs.processor / count),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=COUNT, help="pods; 100 by default")
    for found in rows(parser.parse_args().count):
        print(f"{found.what}: {found.ours:.2f} s, {found.theirs:.2f} s, ratio {found.ratio:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
