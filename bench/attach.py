"""Attach and detach through the agent, beside Debian's bridge and host-local CNI plugins.

Both work on one lab host, in turn, on ready network namespaces. Ours is a request over the
agent's socket: two addresses, both families, durable in the journal, filtered, masqueraded.
Theirs is one process a call, as a runtime starts them: one IPv4 address with a gateway, and
`ipMasq` as in the plugin's own documentation (judged), or without any rule (not judged: such a
container has no way out). A CNI call to Plait starts a small static program first, so the start
of one (busybox) is added to ours.

The second half has 1,000 endpoints on the agent's side and 1,000 reservations on the plugins'.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench import labs
from bench.plugins import Chain, HostLocal, Verb, bridge
from bench.table import Row, percentile, ratio_at_most
from plait.client.agent import AttachRequest
from plait.client.agent_socket import AgentClient, run
from plait.kernel import netns
from plait.kernel.netlink import Netlink
from plait.model import marks

WARM = 2
COUNT = 100 + WARM
GROUP = 17
"""Endpoints that are detached before their interfaces are awaited."""
EXISTING = 1000
PEERS = {
    "masq": "bridge + host-local, ipMasq",
    "bare": "bridge + host-local, no rules",
}
SUBNETS = {"masq": "10.200.0.0/16", "bare": "10.201.0.0/16"}
CALLS = ("attach", "shim", "detach", "reap", *(f"{p} {v}" for p in PEERS for v in ("ADD", "DEL")))


def timed(action: Callable[[], object]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1e3


class Ours:
    """Plait, by the agent's socket."""

    def __init__(self) -> None:
        self.client = AgentClient()
        self.links = Netlink()

    def attach(self, ident: str, path: str) -> None:
        run(self.client.attach(AttachRequest(id=ident, network="plait", name="b", netns=path)))

    def detach(self, ident: str) -> None:
        run(self.client.detach(ident))

    def settle(self) -> None:
        """Until the kernel has let go of every interface that was detached."""
        deadline = time.monotonic() + 30
        while any(link.group == marks.DOOM_GROUP for link in self.links.links("veth")):
            assert time.monotonic() < deadline, "detached interfaces are not reaped"
            time.sleep(0.02)


class Namespaces:
    """Ready network namespaces, held until the end: taking one down loads the kernel."""

    def __init__(self) -> None:
        self.held: list[int] = []

    def make(self) -> str:
        fd = netns.create()
        self.held.append(fd)
        return f"/proc/{os.getpid()}/fd/{fd}"

    def close(self) -> None:
        for fd in self.held:
            os.close(fd)


def shim() -> None:
    """The start of a small static program, as the CNI shim is."""
    subprocess.run(["busybox", "true"], check=True)


def measure(existing: int, data: Path) -> dict[str, list[float]]:
    """Milliseconds of each call, on this host."""
    ours, made = Ours(), Namespaces()
    theirs = {}
    for peer, subnet in SUBNETS.items():
        ipam = HostLocal(data / peer, "bench", subnet)
        plugin = bridge(f"bench-{peer}", ipam, masquerade=peer == "masq")
        theirs[peer] = Chain("bench", [plugin])
        net = ipaddress.IPv4Network(subnet)
        ipam.reserve([str(net[i]) for i in range(2, existing + 2)])
    crowd = [(f"crowd-{i}", made.make()) for i in range(existing)]
    for each in crowd:
        ours.attach(*each)
    found: dict[str, list[float]] = {call: [] for call in CALLS}
    spots = [(f"bench-{i}", {who: made.make() for who in ("ours", *PEERS)}) for i in range(COUNT)]

    def mine(ident: str, path: str) -> None:
        found["shim"].append(timed(shim))
        found["attach"].append(timed(lambda: ours.attach(ident, path)))

    def call(peer: str, verb: Verb, ident: str, path: str) -> None:
        took = timed(lambda: theirs[peer].call(verb, ident, path))
        found[f"{peer} {verb}"].append(took)

    for number, (ident, paths) in enumerate(spots):
        steps = [partial(mine, ident, paths["ours"])]
        steps += [partial(call, peer, "ADD", ident, paths[peer]) for peer in PEERS]
        # Each goes first as often as the others.
        for step in (*steps[number % 3 :], *steps[: number % 3]):
            step()
    for start in range(0, COUNT, GROUP):
        group = spots[start : start + GROUP]
        for ident, _ in group:
            found["detach"].append(timed(partial(ours.detach, ident)))
        # Interfaces are deleted after the answer: nobody else is measured meanwhile.
        found["reap"].append(timed(ours.settle) / len(group))
        for ident, paths in group:
            for peer in PEERS:
                call(peer, "DEL", ident, paths[peer])
    for ident, _ in crowd:
        ours.detach(ident)
    made.close()
    # The first calls pay for what is made once: bridges, a block of addresses, caches.
    return {name: took[WARM:] if len(took) == COUNT else took for name, took in found.items()}


def judged(found: dict[str, list[float]], with_what: str) -> list[Row]:
    """Rows of one run."""
    shim_start = statistics.median(found["shim"])
    result = []
    for mine, verb in (("attach", "ADD"), ("detach", "DEL")):
        whole = [took + start for took, start in zip(found[mine], found["shim"], strict=True)]
        for peer, label in PEERS.items():
            theirs = found[f"{peer} {verb}"]
            for suffix, of, limit in (
                ("", statistics.median, 0.25),
                (", p99", partial(percentile, share=0.99), 0.5),
            ):
                row = Row(
                    what=f"{mine}{suffix}{with_what}",
                    unit="ms",
                    ours=of(whole),
                    peer=f"{label}: {verb}",
                    theirs=of(theirs),
                    budget=ratio_at_most(limit) if peer == "masq" else None,
                )
                result.append(row)
        result.append(
            Row(
                what=f"{mine}, agent's socket alone{with_what}",
                unit="ms",
                ours=statistics.median(found[mine]),
                peer="start of a static program",
                theirs=shim_start,
            )
        )
    return result


def rows() -> list[Row]:
    result = []
    for existing, with_what in ((0, ""), (EXISTING, f", {EXISTING:,} there")):
        with labs.lab(f"attach{existing}", 1) as lab:
            found = labs.module(lab, "h1", "bench.attach", "--existing", str(existing))
        result += judged(found, with_what)
    return result


def main() -> int:
    """On a lab host."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--existing", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="plait-bench-cni-") as directory:
        found = measure(options.existing, Path(directory))
    sys.stdout.write(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
