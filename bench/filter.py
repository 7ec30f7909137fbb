"""Cost of one endpoint in the filter, with many there already.

Run as root: `scripts/bench filter`, or for more of it
`PYTHONPATH=. .venv/bin/python -P -m bench.filter [ENDPOINTS]`. Works in a namespace of its own.
The floor is the same elements sent by the door alone, without a plan.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import msgspec

from bench.table import Row, at_most
from plait.agent.desired import filter_sets, ruleset
from plait.agent.programmers.filter import FilterBase, FilterEndpoints
from plait.agent.programmers.filter_table import FilterTable
from plait.kernel import netns
from plait.kernel.conntrack import Conntrack, FlowReaper
from plait.kernel.nft import Nft
from plait.model.hoststate import Filter, FilterEndpoint, FilterNetwork, HostState
from plait.wire import nft

ROUNDS = 200
BUDGET_MS = 1.0


def endpoint(i: int) -> FilterEndpoint:
    tail = f"{i >> 8}.{i & 255}"
    return FilterEndpoint(network="n", addresses=(f"10.1.{tail}", f"fd01::{i:x}"))


def timed(act: Callable[[], object]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    act()
    return (time.perf_counter() - start) * 1e3


def measure(count: int) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Milliseconds of what is done once, and of what is done `ROUNDS` times, by its name."""
    namespace = netns.create()
    with netns.inside(namespace):
        door, flows = Nft(), FlowReaper(Conntrack())
    os.close(namespace)
    table = FilterTable(door)
    programmers = (FilterBase(table), FilterEndpoints(table, flows))
    pools = ("10.0.0.0/8", "fd01::/64")
    wanted = Filter(
        networks={"n": FilterNetwork(pools=pools)},
        pools=pools,
        endpoints={f"pl{i:011x}": endpoint(i) for i in range(count)},
    )

    def go(state: HostState) -> None:
        for programmer in programmers:
            programmer.observe()
            failures = programmer.apply(programmer.plan(state))
            assert not failures, failures

    once = {"load": timed(lambda: go(HostState(filter=wanted)))}
    table.observe(force=True)
    once["read all back"] = timed(lambda: table.observe(force=True))
    add, remove, floor, single = [], [], [], []
    for i in range(count, count + ROUNDS):
        link = f"pl{i:011x}"
        more = msgspec.structs.replace(wanted, endpoints=wanted.endpoints | {link: endpoint(i)})
        add.append(timed(partial(go, HostState(filter=more))))
        remove.append(timed(partial(go, HostState(filter=wanted))))
        changes = [
            nft.AddElements(filter_sets.SETS[s], ((key, data),))
            for s, key, data in ruleset.endpoint_elements(link, endpoint(i))
        ]
        floor.append(timed(partial(door.commit, changes)))
        door.commit([nft.DeleteElements(c.set, c.elements) for c in changes])
    one = [nft.AddElements(filter_sets.KNOWN, ((b"x" * 16, None),))]
    for _ in range(ROUNDS):
        single.append(timed(partial(door.commit, one)))
        door.commit([nft.DeleteElements(filter_sets.KNOWN, one[0].elements)])
    door.close()
    flows.close()
    return once, {
        "add an endpoint, plan and all": add,
        "remove an endpoint, plan and all": remove,
        "its 4 elements, door alone": floor,
        "1 element, door alone": single,
    }


def nft_command() -> list[float]:
    """Milliseconds of the same change with the nft program, in a namespace of its own."""
    namespace = netns.create()
    with netns.inside(namespace):
        run = partial(subprocess.run, check=True)
        run(["nft", "add table inet t; add set inet t known { type ifname; }"])
        took = [
            timed(partial(run, ["nft", f"add element inet t known {{ x{i} }}"])) for i in range(50)
        ]
    os.close(namespace)
    return took


def rows() -> list[Row]:
    """For the table of all benchmarks."""
    theirs = median(nft_command())
    members = [
        Row(
            what=f"a member of a set of {count:,}",
            unit="ms",
            ours=median(member_changes(count)),
            peer="nft add element, a set of 50",
            theirs=theirs,
            budget=at_most(BUDGET_MS),
        )
        for count in (1_000, 100_000)
    ]
    _, times = measure(1_000)
    floor = median(times["its 4 elements, door alone"])
    endpoints = [
        Row(
            what=f"{verb} an endpoint in the filter, 1,000 there",
            unit="ms",
            ours=median(times[f"{verb} an endpoint, plan and all"]),
            peer="its 4 elements, without a plan",
            theirs=floor,
        )
        for verb in ("add", "remove")
    ]
    return members + endpoints


def member_changes(count: int) -> list[float]:
    """Milliseconds of adding one more member to a set of `count`, taken out again each time."""
    namespace = netns.create()
    with netns.inside(namespace):
        door = Nft()
    os.close(namespace)
    table = FilterTable(door)
    base = FilterBase(table)
    base.observe()
    assert not base.apply(base.plan(HostState()))
    for start in range(0, count, 1000):
        members = tuple(
            (f"m{i}".encode().ljust(16, b"\0"), None) for i in range(start, start + 1000)
        )
        refused = door.commit([nft.AddElements(filter_sets.KNOWN, members)])
        assert not refused, refused
    one = ((b"another".ljust(16, b"\0"), None),)
    took = []
    for _ in range(ROUNDS):
        took.append(timed(partial(door.commit, [nft.AddElements(filter_sets.KNOWN, one)])))
        refused = door.commit([nft.DeleteElements(filter_sets.KNOWN, one)])
        assert not refused, refused
    door.close()
    return took


def main(count: int) -> None:
    once, times = measure(count)
    for name, value in once.items():
        print(f"{name:34} {value:9.3f} ms")
    for name, values in times.items():
        values.sort()
        print(f"{name:34} {median(values):9.3f} ms   p99 {values[-2]:.3f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
