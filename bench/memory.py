"""Resident memory of the agent and the server: idle, and with 10,000 endpoints in the network.

One lab host, brought up with `plait up`, without Docker. Idle is what they take once the figure
has stood still. Then 100 nodes with 100 endpoints each, and their blocks, are written through
the API by an administrator; every one of them is in the agent's snapshot, its resolver's zone
and its routes. The floor is a Python process that has only imported what every daemon needs.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench import labs
from bench.table import Row, at_most
from plait.client.agent_socket import AgentClient
from plait.client.agent_socket import run as call
from plait.client.api import ApiClient
from plait.client.base import BatchOp
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

NODES, EACH = 100, 100
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


def measure() -> tuple[dict[str, float], dict[str, float]]:
    """MiB of server and agent: idle, and with everything."""
    with labs.lab("memory", 1) as lab:
        pids = {program: labs.outer_pid(lab, "h1", program) for program in ("server", "agent")}
        labs.plait(lab, "h1", "network", "create", NETWORK, "--pool", f"{POOL}.0.0/16")
        idle = settled(pids)
        asyncio.run(fill(labs.inside(lab, "h1", "/run/plait/server.sock")))
        wait_for("knowing every endpoint", lambda: known(lab))
        full = settled(pids)
        for program, pid in pids.items():
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            pss = int(rollup.split("\nPss:")[1].split()[0]) / 1024
            print(
                f"    {program}: {full[program]:.0f} MiB resident, {pss:.0f} MiB proportional",
                file=sys.stderr,
            )
    return idle, full


def rows() -> list[Row]:
    base = floor()
    idle, full = measure()
    many = f"{NODES * EACH:,} endpoints"
    figures = (
        ("agent, idle", idle["agent"], at_most(60)),
        (f"agent, {many}", full["agent"], at_most(150)),
        ("server, idle", idle["server"], at_most(80)),
        (f"server, {many}", full["server"], None),
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
