"""CNI's ADD and DEL, all of it, beside Debian's bridge, host-local, portmap and bandwidth plugins.

Both are called as a container runtime calls them, on one lab host, in turn, on ready network
namespaces, with a published port and limits of speed in both directions. Ours is one process, the
shim; theirs are three, and the bridge plugin starts host-local itself. Theirs gives an IPv4
address and keeps one file; ours gives both families, is durable in the journal, and has its
filter enforced when it returns.

Once with nothing there, then with 1,000 and 10,000 addresses taken: files of host-local on their
side, held addresses in the agent's own books on ours; and once with 1,000 real endpoints on ours.
At the end one TCP stream in each direction through limits of both.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench import labs
from bench.attach import Namespaces, Ours, timed
from bench.plugins import Chain, HostLocal, Verb, bridge, debian
from bench.table import Row, percentile, ratio_at_most
from plait.client.agent import AttachRequest
from plait.client.agent_socket import AgentClient
from plait.cni.install import read_shim

WARM: Final = 2
COUNT: Final = 60 + WARM
GROUP: Final = 10
"""Endpoints that are deleted before their interfaces are awaited."""
SUBNET: Final = "10.200.0.0/14"
NETWORK: Final = "bench"
POOL: Final = "10.208.0.0/14"
SIDES: Final = ("ours", "theirs")
VERBS: Final[tuple[Verb, ...]] = ("ADD", "DEL")
PEER: Final = "bridge + host-local + portmap + bandwidth"
RUNS: Final = (
    (0, 0, ""),
    (1_000, 0, ", 1,000 addresses taken"),
    (10_000, 0, ", 10,000 addresses taken"),
    (1_000, 1_000, ", 1,000 real endpoints"),
)
"""Addresses taken on both sides, endpoints on ours instead of addresses, and how rows say it."""
RATE: Final = 100_000_000
"""Bits a second of the limits."""
STREAM: Final = 5
"""Seconds of a stream."""
LIMITS: Final = {
    "ingressRate": RATE,
    "ingressBurst": RATE // 100,
    "egressRate": RATE,
    "egressBurst": RATE // 100,
}


def runtime(number: int, side: str) -> dict[str, Any]:
    """What the runtime asks for: a port of its own, and limits."""
    port = 20_000 + 2 * number + SIDES.index(side)
    mapping = {"hostPort": port, "containerPort": 80, "protocol": "tcp"}
    return {"portMappings": [mapping], "bandwidth": LIMITS}


def lists(data: Path, shim: Path, taken: int) -> dict[str, Chain]:
    """Both sides' network configuration lists."""
    ipam = HostLocal(data, "bench", SUBNET)
    net = ipaddress.IPv4Network(SUBNET)
    ipam.reserve([str(net[i]) for i in range(2, taken + 2)])
    ours = {"network": NETWORK, "capabilities": {"portMappings": True, "bandwidth": True}}
    return {
        "ours": Chain("bench", [(shim, ours)]),
        "theirs": Chain(
            "bench",
            [
                bridge("bench0", ipam, masquerade=True),
                debian("portmap", "portMappings"),
                debian("bandwidth", "bandwidth"),
            ],
        ),
    }


async def fill(taken: int, crowd: list[tuple[str, str]]) -> None:
    """Addresses taken, and endpoints, on our side."""
    agent = AgentClient()
    for _ in range(taken):
        await agent.reserve(NETWORK, 4)
    for ident, path in crowd:
        await agent.attach(AttachRequest(id=ident, network=NETWORK, name="c", netns=path))


def measure(chains: dict[str, Chain], taken: int, crowd: int) -> dict[str, list[float]]:
    """Milliseconds of each call, on this host."""
    ours, made = Ours(), Namespaces()
    neighbours = [(f"crowd-{i}", made.make()) for i in range(crowd)]
    asyncio.run(fill(taken - crowd, neighbours))
    found: dict[str, list[float]] = {f"{side} {verb}": [] for side in SIDES for verb in VERBS}
    spots = [(f"bench-{i}", {side: made.make() for side in SIDES}) for i in range(COUNT)]

    def call(side: str, verb: Verb, number: int) -> None:
        ident, paths = spots[number]
        work = partial(chains[side].call, verb, ident, paths[side], **runtime(number, side))
        found[f"{side} {verb}"].append(timed(work))

    for number in range(COUNT):
        # Each goes first as often as the other.
        for side in SIDES if number % 2 else reversed(SIDES):
            call(side, "ADD", number)
    for start in range(0, COUNT, GROUP):
        group = range(start, min(start + GROUP, COUNT))
        for number in group:
            call("ours", "DEL", number)
        # Interfaces are deleted after the answer: nobody else is measured meanwhile.
        ours.settle()
        for number in group:
            call("theirs", "DEL", number)
    for ident, _ in neighbours:
        ours.detach(ident)
    made.close()
    # The first calls pay for what is made once: bridges, chains, a block of addresses.
    return {name: took[WARM:] for name, took in found.items()}


@contextmanager
def listening(path: str) -> Iterator[None]:
    """An iperf3 server in a network namespace."""
    argv = ["nsenter", f"--net={path}", "iperf3", "-s", "--forceflush"]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert child.stdout is not None
        while "listening" not in child.stdout.readline():
            assert child.poll() is None, "iperf3 does not start"
        yield
    finally:
        child.terminate()
        child.communicate()


def streams(chains: dict[str, Chain]) -> dict[str, list[float]]:
    """Mbit/s of one TCP stream to an endpoint with limits, and from it."""
    found: dict[str, list[float]] = {}
    made = Namespaces()
    for side in SIDES:
        path = made.make()
        result = chains[side].call("ADD", "stream", path, **runtime(999, side))
        address = result["ips"][0]["address"].partition("/")[0]
        with listening(path):
            for way, flags in (("to", ()), ("from", ("-R",))):
                argv = ["iperf3", "-c", address, "-J", "-t", str(STREAM), *flags]
                said = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
                found[f"{side} {way}"] = [said["end"]["sum_received"]["bits_per_second"] / 1e6]
        chains[side].call("DEL", "stream", path, **runtime(999, side))
    made.close()
    return found


def judged(found: dict[str, list[float]], with_what: str) -> list[Row]:
    """Rows of one run."""
    return [
        Row(
            what=f"CNI {verb}{suffix}{with_what}",
            unit="ms",
            ours=of(found[f"ours {verb}"]),
            peer=PEER,
            theirs=of(found[f"theirs {verb}"]),
            budget=ratio_at_most(limit),
        )
        for verb in VERBS
        for suffix, of, limit in (
            ("", statistics.median, 0.25),
            (", p99", partial(percentile, share=0.99), 0.5),
        )
    ]


def of_streams(found: dict[str, list[float]]) -> list[Row]:
    """Rows of what passes through the limits."""
    return [
        Row(
            what=f"TCP stream {way} an endpoint limited to {RATE / 1e6:g} Mbit/s",
            unit="Mbit/s",
            ours=found[f"ours {way}"][0],
            peer="bandwidth plugin, the same limits",
            theirs=found[f"theirs {way}"][0],
        )
        for way in ("to", "from")
    ]


def rows() -> list[Row]:
    result: list[Row] = []
    limits: list[Row] = []
    for taken, crowd, with_what in RUNS:
        with labs.lab(f"cni{taken}-{crowd}", 1) as lab:
            # One family, as host-local's, and room for so many.
            labs.plait(lab, "h1", "network", "create", NETWORK, "--pool", POOL)
            options = ["--taken", str(taken), "--crowd", str(crowd)]
            found = labs.module(lab, "h1", "bench.cni", *options)
        result += judged(found, with_what)
        limits = limits or of_streams(found)
    return result + limits


def main() -> int:
    """On a lab host."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--taken", type=int, default=0)
    parser.add_argument("--crowd", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="plait-bench-cni-") as directory:
        shim = Path(directory) / "plait"
        shim.write_bytes(read_shim())
        shim.chmod(0o755)
        chains = lists(Path(directory) / "data", shim, options.taken)
        found = measure(chains, options.taken, options.crowd)
        found |= streams(chains)
    sys.stdout.write(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
