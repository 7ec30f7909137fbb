"""First packets to Services and changes of one, beside kube-proxy 1.20 in iptables mode.

Run as root: `scripts/bench services`, or for other numbers of Services
`PYTHONPATH=. .venv/bin/python -P -m bench.services [SERVICES…]`. Each Service has two backends.
Ours is measured from the objects on (engine, plan, transaction); of kube-proxy, whose API server
runs in this process, the CPU of its own process and of what it runs, and the wall time until a
caller finds the new backend.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from itertools import cycle
from statistics import median
from typing import Final

import msgspec

from bench.kube_proxy import PROGRAM, KubeProxy
from bench.services_stage import (
    BACKEND_PORT,
    BACKENDS,
    CALLER,
    POOL,
    PORT,
    SERVICE_POOL,
    Stage,
    cluster_ip,
    drawn,
)
from bench.table import Row, percentile
from plait.agent.programmers.filter import FilterBase, FilterEndpoints
from plait.agent.programmers.filter_table import FilterTable
from plait.agent.programmers.services import FilterServices
from plait.kernel import netns
from plait.kernel.conntrack import Conntrack, FlowReaper
from plait.kernel.nft import Nft
from plait.model.hoststate import Filter, FilterEndpoint, FilterNetwork, HostState
from plait.model.meta import Metadata
from plait.model.services import (
    EndpointSlice,
    EndpointSliceSpec,
    Service,
    ServicePort,
    ServiceSpec,
    SliceEndpoint,
    SlicePort,
)
from plait.services.engine import Engine

SIZES: Final = (100, 1_000, 10_000)
CALLS: Final = 2_000
UPDATES: Final = {"ours": 50, "theirs": 5}
FIRST, SECOND = BACKENDS[:2], BACKENDS[2:]


class Measured(msgspec.Struct, kw_only=True):
    """Of one number of Services. Times are medians."""

    load: float
    """Seconds from nothing to all."""
    load_cpu: float
    """Seconds."""
    calls: list[float]
    """Milliseconds of handshakes."""
    update: float
    """Milliseconds from a change of one Service to what callers find."""
    update_cpu: float
    """Milliseconds."""


def _objects(number: int, backends: tuple[str, ...]) -> tuple[Service, EndpointSlice]:
    name = f"s{number}"
    service = Service(
        metadata=Metadata(name=name, namespace="default", uid=name),
        spec=ServiceSpec(addresses=(cluster_ip(number),), ports=(ServicePort(port=PORT),)),
    )
    held = EndpointSlice(
        metadata=Metadata(name=name, namespace="default"),
        spec=EndpointSliceSpec(
            service=name,
            ports=(SlicePort(port=BACKEND_PORT),),
            endpoints=tuple(SliceEndpoint(addresses=(each,)) for each in backends),
        ),
    )
    return service, held


def ours(count: int) -> Measured:
    """Plait's figures."""
    with ExitStack() as stack:
        stage = Stage(stack)
        with netns.inside(stage.host):
            door, flows = Nft(), FlowReaper(Conntrack())
        stack.callback(door.close)
        stack.callback(flows.close)
        table = FilterTable(door)
        base, endpoints = FilterBase(table), FilterEndpoints(table, flows)
        services = FilterServices(table, flows)
        engine = Engine("node")
        state = HostState(
            filter=Filter(
                networks={"n": FilterNetwork(pools=(POOL,))},
                pools=(POOL,),
                endpoints={
                    "plcaller": FilterEndpoint(network="n", addresses=(CALLER,)),
                    "plbackends": FilterEndpoint(network="n", addresses=BACKENDS),
                },
                service_pools=(SERVICE_POOL,),
            )
        )
        for programmer in (base, services, endpoints):
            programmer.observe()
            assert not programmer.apply(programmer.plan(state))

        def bring() -> None:
            want = msgspec.structs.replace(state, services=engine.table())
            failures = services.apply(services.plan(want))
            assert not failures, failures

        objects = [_objects(number, FIRST) for number in range(count)]
        began, used = time.perf_counter(), time.process_time()
        for service, held in objects:
            engine.put(service)
            engine.put(held)
        bring()
        load, load_cpu = time.perf_counter() - began, time.process_time() - used
        calls = stage.calls(CALLS, count)
        walls, cpus = [], []
        changed = [_objects(7, SECOND)[1], _objects(7, FIRST)[1]]
        for _, held in zip(range(UPDATES["ours"]), cycle(changed), strict=False):
            began, used = time.perf_counter(), time.process_time()
            engine.put(held)
            bring()
            walls.append((time.perf_counter() - began) * 1e3)
            cpus.append((time.process_time() - used) * 1e3)
            assert stage.call(7)[1] in (SECOND if held is changed[0] else FIRST)
        return Measured(
            load=load,
            load_cpu=load_cpu,
            calls=calls,
            update=median(walls),
            update_cpu=median(cpus),
        )


def theirs(count: int) -> Measured:
    """kube-proxy's figures."""
    with ExitStack() as stack:
        stage = Stage(stack)
        proxy = KubeProxy(stack, stage.host)
        began = time.perf_counter()
        proxy.start(count, FIRST)
        while not all(stage.call(number)[1] for number in (0, count // 2, count - 1)):
            time.sleep(0.05)
        load = time.perf_counter() - began
        load_cpu = proxy.cpu()
        proxy.settled()
        # Of tens of thousands it may write some in a later round.
        for number in drawn(CALLS, count):
            while not stage.call(number)[1]:
                time.sleep(0.05)
                load, load_cpu = time.perf_counter() - began, proxy.cpu()
        calls = stage.calls(CALLS, count)
        walls, cpus = [], []
        for _, backends in zip(range(UPDATES["theirs"]), cycle((SECOND, FIRST)), strict=False):
            began, used = time.perf_counter(), proxy.cpu()
            proxy.change(7, backends)
            while stage.call(7)[1] not in backends:
                time.sleep(0.005)
            walls.append((time.perf_counter() - began) * 1e3)
            proxy.settled()
            cpus.append((proxy.cpu() - used) * 1e3)
        return Measured(
            load=load,
            load_cpu=load_cpu,
            calls=calls,
            update=median(walls),
            update_cpu=median(cpus),
        )


def rows(sizes: tuple[int, ...] = SIZES) -> list[Row]:
    """For the table of all benchmarks."""
    found = []
    for count in sizes:
        mine = ours(count)
        peer = theirs(count) if PROGRAM.exists() else None
        name = "kube-proxy 1.20, iptables" if peer else ""
        lines = [
            ("first packet", "ms", lambda m: median(m.calls)),
            ("first packet, p99", "ms", lambda m: percentile(m.calls, 0.99)),
            ("one Service's backends change", "ms", lambda m: m.update),
            ("CPU of that", "ms", lambda m: m.update_cpu),
            ("all from nothing", "s", lambda m: m.load),
            ("CPU of that", "s", lambda m: m.load_cpu),
        ]
        found += [
            Row(
                what=f"{count:,} Services: {what}",
                unit=unit,
                ours=figure(mine),
                peer=name,
                theirs=figure(peer) if peer else None,
            )
            for what, unit, figure in lines
        ]
    return found


if __name__ == "__main__":
    from bench import table

    print(table.plain(rows(tuple(map(int, sys.argv[1:])) or SIZES)))
