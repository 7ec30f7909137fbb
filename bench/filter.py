"""Cost of one endpoint in the filter, with many there already.

Run as root: `.venv/bin/python bench/filter.py [ENDPOINTS]`. Works in a namespace of its own. The
floor is the same elements sent by the door alone, without a plan.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import msgspec

from plait.agent.desired import filter_sets, ruleset
from plait.agent.programmers.filter import FilterBase, FilterEndpoints
from plait.agent.programmers.filter_table import FilterTable
from plait.kernel import netns
from plait.kernel.conntrack import Conntrack, FlowReaper
from plait.kernel.nft import Nft
from plait.model.hoststate import Filter, FilterEndpoint, FilterNetwork, HostState
from plait.wire import nft

ROUNDS = 200


def endpoint(i: int) -> FilterEndpoint:
    tail = f"{i >> 8}.{i & 255}"
    return FilterEndpoint(network="n", addresses=(f"10.1.{tail}", f"fd01::{i:x}"))


def timed(act: Callable[[], object]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    act()
    return (time.perf_counter() - start) * 1e3


def main(count: int) -> None:
    namespace = netns.create()
    with netns.inside(namespace):
        door, flows = Nft(), FlowReaper(Conntrack())
    os.close(namespace)
    table = FilterTable(door)
    programmers = (FilterBase(table), FilterEndpoints(table, flows))
    pools = ("10.1.0.0/16", "fd01::/64")
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

    print(f"{'load':34} {timed(lambda: go(HostState(filter=wanted))):9.3f} ms")
    table.observe(force=True)
    print(f"{'read all back':34} {timed(lambda: table.observe(force=True)):9.3f} ms")
    add, remove, floor = [], [], []
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
    single = []
    for _ in range(ROUNDS):
        single.append(timed(lambda: door.commit(one)))
        door.commit([nft.DeleteElements(filter_sets.KNOWN, one[0].elements)])
    for name, values in (
        ("add an endpoint, plan and all", add),
        ("remove an endpoint, plan and all", remove),
        ("its 4 elements, door alone", floor),
        ("1 element, door alone", single),
    ):
        values.sort()
        print(f"{name:34} {median(values):9.3f} ms   p99 {values[-2]:.3f} ms")
    door.close()
    flows.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
