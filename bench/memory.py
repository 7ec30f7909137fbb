"""Resident memory of the agent and the server: idle, with 10,000 endpoints in the network, and with
10,000 Services as well.

One lab host, brought up with `plait up`, without Docker. Idle is what they take once the figure
has stood still. Then 100 nodes with 100 endpoints each, and their blocks, are written through
the API by an administrator; every one of them is in the agent's snapshot, its resolver's zone
and its routes. Then come 10,000 Services, each with an EndpointSlice that names two of them, as an
orchestrator tells it; every one is in the kernel. The floor is a Python process that has only
imported what every daemon needs.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from bench import labs
from bench.table import Row, at_most
from plait.client.agent_socket import AgentClient
from plait.client.agent_socket import run as call
from plait.client.api import ApiClient
from plait.client.base import BatchOp
from plait.kernel import netns
from plait.kernel.nft_elements import NftElements
from plait.lab.lab import Lab
from plait.model.objects import (
    AddressBlock,
    AddressBlockSpec,
    AnyObject,
    Endpoint,
    EndpointSpec,
    EndpointStatus,
    Metadata,
    Node,
    NodeSpec,
    NodeStatus,
    Workload,
    block_name,
)
from plait.model.services import (
    EndpointSlice,
    EndpointSliceSpec,
    Service,
    ServicePort,
    ServiceSpec,
    SliceEndpoint,
    SlicePort,
)

NODES, EACH = 100, 100
SERVICES, BATCH = 10_000, 250
POOL = "10.99"
NETWORK = "crowd"
FLOOR = "import asyncio, uvloop, msgspec, structlog, aiohttp, ssl; input()"
FLOOR_NAME = "Python + uvloop, msgspec, structlog, aiohttp"
SETTLE, PATIENCE = 10.0, 60.0
"""Seconds for which the figure must stand still, and at most."""


def resident(pid: int) -> float:
    """MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def settled(pids: dict[str, int]) -> dict[str, float]:
    """MiB of each, once none has changed by 1 MiB for `SETTLE` seconds."""
    deadline = time.monotonic() + PATIENCE
    last, since = {name: resident(pid) for name, pid in pids.items()}, time.monotonic()
    while time.monotonic() < min(deadline, since + SETTLE):
        time.sleep(0.5)
        now = {name: resident(pid) for name, pid in pids.items()}
        if any(abs(now[name] - last[name]) > 1 for name in pids):
            last, since = now, time.monotonic()
    return {name: resident(pid) for name, pid in pids.items()}


def floor() -> float:
    """MiB of a Python that has only the imports."""
    child = subprocess.Popen([sys.executable, "-c", FLOOR], stdin=subprocess.PIPE)
    try:
        previous = 0.0
        while previous < (now := resident(child.pid)) or now < 20:
            previous = now
            time.sleep(0.5)
        return now
    finally:
        child.kill()
        child.wait()


def crowd(node: int, apps: int = 20) -> list[AnyObject]:
    """A node, its blocks and its endpoints: all that another host knows of it."""
    name = f"crowd-{node}"
    cidrs = (f"{POOL}.{node}.0/26", f"{POOL}.{node}.64/26")
    made: list[AnyObject] = [
        Node(
            metadata=Metadata(name=name, uid=f"uid-{name}"),
            spec=NodeSpec(addresses=(f"100.64.2.{node + 20}/24",), mtu=1500),
            status=NodeStatus(version="0.1.0", ready=True),
        )
    ]
    made += [
        AddressBlock(
            metadata=Metadata(name=block_name(NETWORK, cidr)),
            spec=AddressBlockSpec(network=NETWORK, cidr=cidr, node=name),
        )
        for cidr in cidrs
    ]
    made += [
        Endpoint(
            metadata=Metadata(
                name=f"{node:03x}{i:02x}{'0' * 27}",
                namespace="default",
                labels={"app": f"app{i % apps}", "tier": "web"},
            ),
            spec=EndpointSpec(
                node=name,
                network=NETWORK,
                name=f"web-{node}-{i}",
                aliases=(f"app{i % apps}",),
                addresses=(f"{POOL}.{node}.{i + 10}",),
                mac=f"02:00:00:00:{node:02x}:{i:02x}",
                workload=Workload(runtime="docker", id=f"{node:032x}{i:032x}"),
            ),
            status=EndpointStatus(phase="ready", interface=f"pl{node:05x}{i:06x}"),
        )
        for i in range(EACH)
    ]
    return made


async def fill(socket: Path, apps: int = 20) -> None:
    """Write the crowd through the API."""
    api = ApiClient("http://localhost", unix_socket=socket, timeout=60)
    try:
        for node in range(NODES):
            ops = [BatchOp(verb="create", object=each) for each in crowd(node, apps)]
            await api.batch(ops)
    finally:
        await api.close()


def service(number: int) -> list[AnyObject]:
    """A Service and who answers for it."""
    name, namespace = f"app-{number}", f"team-{number % 50}"
    backends = [((number + n) % NODES, number % EACH) for n in range(2)]
    return [
        Service(
            metadata=Metadata(name=name, namespace=namespace, labels={"app": name}),
            spec=ServiceSpec(ports=(ServicePort(name="http", port=80),)),
        ),
        EndpointSlice(
            metadata=Metadata(name=f"{name}-x7k2p", namespace=namespace),
            spec=EndpointSliceSpec(
                service=name,
                ports=(SlicePort(name="http", port=8080),),
                endpoints=tuple(
                    SliceEndpoint(
                        addresses=(f"{POOL}.{node}.{i + 10}",),
                        node=f"crowd-{node}",
                        pod=f"{name}-5d8f7c9b4-{node:05x}",
                    )
                    for node, i in backends
                ),
            ),
        ),
    ]


async def fill_services(socket: Path) -> None:
    """Write the Services through the API."""
    async with ApiClient("http://localhost", unix_socket=socket, timeout=60) as api:
        for start in range(0, SERVICES, BATCH):
            made = [each for n in range(start, start + BATCH) for each in service(n)]
            await api.batch([BatchOp(verb="create", object=each) for each in made])


def wait_for(what: str, ready: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.2)


def known(lab: Lab) -> bool:
    """The agent knows every endpoint."""
    client = AgentClient(labs.inside(lab, "h1", "/run/plait/agent.sock"))
    return sum(peer.endpoints for peer in call(client.peers())) >= NODES * EACH


def led(lab: Lab) -> bool:
    """The kernel of the host leads to every Service."""
    fd = netns.open_netns(netns.pid_path(lab.host("h1").pid))
    try:
        with netns.inside(fd), closing(NftElements()) as door:
            return len(door.elements("services4")) >= SERVICES
    finally:
        os.close(fd)


def measure() -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """MiB of server and agent: idle, with the endpoints, and with Services as well."""
    with labs.lab("memory", 1) as lab:
        pids = {program: labs.outer_pid(lab, "h1", program) for program in ("server", "agent")}
        labs.plait(lab, "h1", "network", "create", NETWORK, "--pool", f"{POOL}.0.0/16")
        idle = settled(pids)
        asyncio.run(fill(labs.inside(lab, "h1", "/run/plait/server.sock")))
        wait_for("knowing every endpoint", lambda: known(lab))
        full = settled(pids)
        asyncio.run(fill_services(labs.inside(lab, "h1", "/run/plait/server.sock")))
        wait_for("leading to every Service", lambda: led(lab))
        served = settled(pids)
        for program, pid in pids.items():
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            pss = int(rollup.split("\nPss:")[1].split()[0]) / 1024
            print(
                f"    {program}: {served[program]:.0f} MiB resident, {pss:.0f} MiB proportional",
                file=sys.stderr,
            )
    return idle, full, served


def rows() -> list[Row]:
    base = floor()
    idle, full, served = measure()
    many = f"{NODES * EACH:,} endpoints"
    more = f"{many}, {SERVICES:,} Services"
    figures = (
        ("agent, idle", idle["agent"], at_most(60)),
        (f"agent, {many}", full["agent"], at_most(150)),
        ("server, idle", idle["server"], at_most(80)),
        (f"server, {many}", full["server"], None),
        (f"agent, {more}", served["agent"], None),
        (f"server, {more}", served["server"], None),
    )
    return [
        Row(
            what=f"memory of the {what}",
            unit="MiB",
            ours=ours,
            peer=FLOOR_NAME,
            theirs=base,
            budget=budget,
        )
        for what, ours, budget in figures
    ]
