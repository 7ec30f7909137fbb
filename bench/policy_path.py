"""Streams, request-response and first packets under one policy and under 10,000.

Two labs of the same plan, as in `bench.throughput`. In Plait's, 10,000 policies are stored, of
which 100 apply to the servers; the last of them lets the client in. Beside it stands the topology
made by hand: without any rule, with the same policies as chains of iptables (dispatched by
address, as node agents do), and as one chain of nftables (`bench.policy_world`).

All let the packets of known flows pass at once: streams, and the processor time of a packet
(`bench.path`), say what that costs. Only the first packet of a flow sees policies: its processor
time is taken from `FLOWS` new UDP flows of one process. Ours counts and logs it too.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from bench import labs, memory, path, throughput
from bench.policy import IPTABLES_CHAINS, ONE_CHAIN
from bench.policy_world import APPS, CALLER, grants, iptables, one_chain, policy
from bench.table import Row, ratio_at_least
from bench.throughput import HAND, Side
from plait.client.agent_socket import AgentClient
from plait.client.agent_socket import run as call
from plait.client.api import ApiClient
from plait.client.base import BatchOp
from plait.kernel import netns
from plait.lab import workloads
from plait.lab.lab import Lab
from plait.model.objects import AnyObject, Endpoint

COUNTS = (1, 10_000)
FLOWS = 400
ROUNDS = 5
HOSTS = ("h1", "h2", "h3")
WAYS = {"near": "same host", "site": "across hosts, direct"}
NODES = 10
"""Of the crowd: each app has an endpoint on every one."""
SERVER = 0
"""App of the servers: the only one that has a policy when there is one policy."""


# Plait


async def store(socket_path: Path, ops: Sequence[BatchOp]) -> int:
    """Write in batches; the revision of the last."""
    async with ApiClient("http://localhost", unix_socket=socket_path, timeout=120) as api:
        for start in range(0, len(ops), 500):
            stored = await api.batch(ops[start : start + 500])
    return stored[-1].metadata.revision


def written(lab: Lab, verb: str, objects: Sequence[AnyObject]) -> None:
    """Store objects and wait until every kernel follows."""
    ops = [BatchOp(verb=verb, object=obj) for obj in objects]  # type: ignore[arg-type]
    revision = asyncio.run(store(labs.inside(lab, "h1", "/run/plait/server.sock"), ops))
    agents = [AgentClient(labs.inside(lab, host, "/run/plait/agent.sock")) for host in HOSTS]
    memory.wait_for(
        "enforcing",
        lambda: all(call(agent.status()).applied >= revision for agent in agents),
        seconds=120,
    )


def attached(lab: Lab) -> Side:
    """A client and its servers, in the crowd's network."""
    labs.plait(lab, "h1", "network", "create", memory.NETWORK, "--pool", f"{memory.POOL}.0.0/16")
    for node in range(NODES):
        written(lab, "create", memory.crowd(node, APPS))
    loads = {}
    for name, host in throughput.PLACES.items():
        app = CALLER if name == "client" else SERVER
        loads[name] = workloads.run(
            lab, host, name, network=memory.NETWORK, labels=[f"app=app{app}"]
        )
    addresses = {name: load.addresses[0] for name, load in loads.items()}
    return Side(loads, addresses)


# The peers


def members(hand: Side) -> dict[int, list[str]]:
    """Addresses of each app: those of Plait's lab, and the workloads made by hand."""
    found: dict[int, list[str]] = {}
    for node in range(NODES):
        for obj in memory.crowd(node, APPS):
            if isinstance(obj, Endpoint):
                app = int(obj.metadata.labels["app"].removeprefix("app"))
                found.setdefault(app, []).extend(obj.spec.addresses)
    for name, address in hand.addresses.items():
        found[CALLER if name == "client" else SERVER].append(address)
    return found


EMPTY_TABLE = "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"
NO_CHAIN = "table inet naive\ndelete table inet naive\n"


def furnish(lab: Lab, hand: Side, peer: str, count: int) -> None:
    """Give the hosts made by hand the rules of a peer, and no others."""
    rules, who = grants(count), members(hand)
    for host in HOSTS:
        local = [hand.addresses[n] for n, load in hand.loads.items() if load.host == host]
        chains = iptables(rules, who, local) if peer == IPTABLES_CHAINS else EMPTY_TABLE
        chain = one_chain(rules, who) if peer == ONE_CHAIN else NO_CHAIN
        lab.run(host, ["iptables-nft-restore"], stdin=chains)
        lab.run(host, ["nft", "-f", "-"], stdin=chain)


# First packets


def first_packet(side: Side, to: str) -> float:
    """Microseconds of processor time of a packet that begins a flow."""
    server = path.udp(side.loads[to].pid, side.addresses[to])
    target = server.getsockname()
    server.settimeout(2.0)
    with ExitStack() as stack:
        stack.callback(server.close)
        fd = netns.open_netns(netns.pid_path(side.loads["client"].pid))
        try:
            with netns.inside(fd):
                clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(FLOWS)]
        finally:
            os.close(fd)
        for client in clients:
            stack.callback(client.close)
            client.connect(target)
        clients.pop().send(b"x")
        server.recv(64)
        server.settimeout(None)
        start = time.process_time()
        for client in clients:
            client.send(b"x")
            server.recv(64)
        return (time.process_time() - start) / len(clients) * 1e6


def known_packet(side: Side, to: str) -> float:
    """Microseconds of processor time of a packet of a flow that stands."""
    ends = [path.udp(side.loads[name].pid, side.addresses[name]) for name in ("client", to)]
    with closing(path.Path(*ends)) as both:
        return both.cost()


COSTS: dict[str, Callable[[Side, str], float]] = {
    "a first packet": first_packet,
    "a packet of a known flow": known_packet,
}


def costs(side: Side) -> dict[tuple[str, str], float]:
    """Medians by what is measured and where to."""
    return {
        (what, to): statistics.median(act(side, to) for _ in range(ROUNDS))
        for what, act in COSTS.items()
        for to in WAYS
    }


def named(count: int) -> str:
    return "1 policy" if count == 1 else f"{count:,} policies"


def path_rows(ours: Side, hand: Side, lab: Lab, count: int) -> list[Row]:
    """Processor time beside every peer."""
    mine = costs(ours)
    theirs = {}
    for peer in (HAND, IPTABLES_CHAINS, ONE_CHAIN):
        furnish(lab, hand, peer, count)
        theirs[peer] = costs(hand)
    furnish(lab, hand, HAND, count)
    return [
        Row(
            what=f"processor time of {what}, {named(count)}, {WAYS[to]}",
            unit="µs",
            ours=figure,
            peer=peer,
            theirs=theirs[peer][what, to],
        )
        for (what, to), figure in mine.items()
        for peer in theirs
    ]


MEASURES: dict[str, tuple[str, Callable[[Side, str], float]]] = {
    name: throughput.MEASURES[name] for name in ("TCP stream", "TCP request-response")
}


def stream_rows(ours: Side, hand: Side, count: int) -> list[Row]:
    """Streams and request-response beside the topology without any rule."""
    found = []
    for to, way in WAYS.items():
        figures: dict[str, tuple[list[float], list[float]]] = {n: ([], []) for n in MEASURES}
        for number in range(ROUNDS):
            for name, (_, act) in MEASURES.items():
                turns = list(enumerate((ours, hand)))
                for index, side in turns if number % 2 else reversed(turns):
                    figures[name][index].append(act(side, to))
        found += [
            Row(
                what=f"{name}, {named(count)}, {way}",
                unit=MEASURES[name][0],
                ours=statistics.median(mine),
                peer=HAND,
                theirs=statistics.median(theirs),
                budget=ratio_at_least(0.97),
            )
            for name, (mine, theirs) in figures.items()
        ]
    return found


def rows() -> list[Row]:
    found = []
    with labs.lab("ours", 3, sites=2) as mine, labs.lab("hand", 3, sites=2, bare=True) as bare:
        plait = attached(mine)
        hand = throughput.by_hand(bare, throughput.mtu_of(plait.loads["client"]))
        with throughput.serving(plait), throughput.serving(hand):
            for count in COUNTS:
                print(f"    {named(count)}", file=sys.stderr, flush=True)
                written(mine, "update", [policy(grant) for grant in grants(count)])
                found += stream_rows(plait, hand, count)
                found += path_rows(plait, hand, bare, count)
    return found
