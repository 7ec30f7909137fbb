"""Streams and request-response, in Plait's network beside a topology made by hand.

Two labs of the same plan stand side by side: one with Plait, one with veths, routes and a VXLAN
device made with `ip` and not one rule. iperf3 sends one TCP stream, `bench.rr` bounces one byte;
both sides take turns, and who begins alternates. Three ways: same host, hosts of one site
(direct route), hosts of two sites (VXLAN).

Beside them stands the processor time of a packet (`bench.path`): it hardly depends on what else
the machine does. Its second peer is the hand-made topology with connection tracking and nothing
else, which is the floor of every stateful filter without a flow table.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

from bench import handmade, labs, path, rr
from bench.table import Row, ratio_at_least
from plait.lab import workloads
from plait.lab.lab import Lab
from plait.lab.state import WorkloadState

ROUNDS = 7
STREAM_SECONDS = 1.5
RR_SECONDS = 0.8
PLACES = {"client": "h1", "near": "h1", "site": "h3", "far": "h2"}
WAYS = {"near": "same host", "site": "across hosts, direct", "far": "across hosts, vxlan"}
HAND = "veth + routes by hand"
RR = (sys.executable, "-I", "-S", rr.__file__)


class Side:
    """One lab with a client and its three partners."""

    def __init__(self, loads: dict[str, WorkloadState], addresses: dict[str, str]) -> None:
        self.loads = loads
        self.addresses = addresses

    def stream(self, to: str) -> float:
        """Gbit/s of one TCP stream, as received."""
        argv = ["iperf3", "-c", self.addresses[to], "-t", str(STREAM_SECONDS), "-J"]
        done = subprocess.run(
            labs.netns(self.loads["client"].pid, argv), capture_output=True, check=True
        )
        return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e9

    def bounce(self, kind: str, to: str) -> float:
        """Thousand transactions a second."""
        argv = [*RR, "run", kind, self.addresses[to], "--seconds", str(RR_SECONDS)]
        done = subprocess.run(
            labs.netns(self.loads["client"].pid, argv), capture_output=True, check=True
        )
        return float(done.stdout) / 1e3


MEASURES: dict[str, tuple[str, Callable[[Side, str], float]]] = {
    "TCP stream": ("Gbit/s", Side.stream),
    "TCP request-response": ("k/s", lambda side, to: side.bounce("tcp", to)),
    "UDP request-response": ("k/s", lambda side, to: side.bounce("udp", to)),
}


@contextmanager
def serving(side: Side) -> Iterator[None]:
    """iperf3 and `bench.rr` servers in every partner."""
    with ExitStack() as stack:
        for name in WAYS:
            pid = side.loads[name].pid
            for argv, ready in (
                (["iperf3", "-s", "--forceflush"], "listening"),
                ([*RR, "serve"], "ready"),
            ):
                server = subprocess.Popen(
                    labs.netns(pid, argv),
                    stdout=subprocess.PIPE,
                    stdin=subprocess.DEVNULL,
                    text=True,
                )
                stack.callback(server.wait)
                stack.callback(server.kill)
                assert server.stdout is not None
                while ready not in (line := server.stdout.readline()).lower():
                    assert line, f"{argv[0]} did not start"
        yield


def attached(lab: Lab) -> Side:
    """Workloads in Plait's network."""
    loads = {name: workloads.run(lab, host, name) for name, host in PLACES.items()}
    four = {n: next(a for a in load.addresses if "." in a) for n, load in loads.items()}
    return Side(loads, four)


def by_hand(lab: Lab, mtu: int) -> Side:
    """The same workloads, connected with `ip`."""
    loads = {name: workloads.start(lab, host, name, ()) for name, host in PLACES.items()}
    handmade.build(lab, list(loads.values()), [("h1", "h3"), ("h1", "h2")], mtu)
    addresses = {
        name: handmade.address(load, number) for number, (name, load) in enumerate(loads.items(), 1)
    }
    return Side(loads, addresses)


def mtu_of(load: WorkloadState) -> int:
    """Bytes, of the workload's interface."""
    argv = labs.netns(load.pid, ["ip", "-j", "link", "show", "eth0"])
    done = subprocess.run(argv, capture_output=True, check=True)
    return int(json.loads(done.stdout)[0]["mtu"])


def measure(sides: Sequence[Side], to: str) -> dict[str, list[list[float]]]:
    """Figures a measure and a side."""
    found: dict[str, list[list[float]]] = {name: [[] for _ in sides] for name in MEASURES}
    for number in range(ROUNDS):
        for name, (_, act) in MEASURES.items():
            turns = list(enumerate(sides))
            for index, side in turns if number % 2 else reversed(turns):
                found[name][index].append(act(side, to))
    return found


TRACKING = """table inet bench
delete table inet bench
table inet bench {
    chain forward { type filter hook forward priority 0; ct state established,related accept; }
}
"""
NOTHING = "table inet bench\ndelete table inet bench\n"


def path_rows(ours: Side, hand: Side, lab: Lab) -> list[Row]:
    """Processor time a packet; `lab` is the one made by hand."""
    result = []
    for to, way in WAYS.items():
        costs: dict[str, list[float]] = {"ours": [], HAND: [], f"{HAND} + conntrack": []}
        for _ in range(ROUNDS):
            for who, side in (("ours", ours), (HAND, hand), (f"{HAND} + conntrack", hand)):
                for host in ("h1", "h2", "h3"):
                    lab.run(host, ["nft", "-f", "-"], stdin=NOTHING if who == HAND else TRACKING)
                ends = [path.udp(side.loads[n].pid, side.addresses[n]) for n in ("client", to)]
                with closing(path.Path(*ends)) as both:
                    costs[who].append(both.cost())
        mine = costs.pop("ours")
        result += [
            Row(
                what=f"processor time a packet, {way}",
                unit="µs",
                ours=statistics.median(mine),
                peer=peer,
                theirs=statistics.median(theirs),
            )
            for peer, theirs in costs.items()
        ]
    return result


def rows() -> list[Row]:
    result = []
    with labs.lab("ours", 3, sites=2) as ours, labs.lab("hand", 3, sites=2, bare=True) as hand:
        plait = attached(ours)
        mtu = mtu_of(plait.loads["client"])
        sides = (plait, by_hand(hand, mtu))
        with serving(sides[0]), serving(sides[1]):
            for to, way in WAYS.items():
                print(f"    {way}", file=sys.stderr, flush=True)
                for name, (mine, theirs) in measure(sides, to).items():
                    result.append(
                        Row(
                            what=f"{name}, {way}",
                            unit=MEASURES[name][0],
                            ours=statistics.median(mine),
                            peer=f"{HAND}{' + vxlan' if to == 'far' else ''}, MTU {mtu}",
                            theirs=statistics.median(theirs),
                            budget=ratio_at_least(0.97),
                        )
                    )
        result += path_rows(*sides, hand)
    return result
