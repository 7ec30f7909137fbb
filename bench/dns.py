"""DNS answers per second on one core, ours beside dnsmasq in the same run.

    taskset is set by itself: the server on one core, dnsperf on the other.
    Run: scripts/bench dns, or for more of it
    PYTHONPATH=. .venv/bin/python -P -m bench.dns [--seconds 5] [--names 1000] [--json]

Needs `dnsperf`; `dnsmasq` (Debian: dnsmasq-base) is measured when it is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import itertools
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.table import Row, at_least

if TYPE_CHECKING:
    from plait.dns.zone import Zone

BUDGET = 20_000
SERVICES = 30_000
DOMAIN = "default.plait.local"


def addresses(count: int) -> list[str]:
    first = ipaddress.IPv4Address("10.112.0.10")
    return [str(first + i) for i in range(count)]


CHANGE_EVERY = 0.01
"""Seconds between changes of who answers for one of the Services."""


async def serve(port: int, names: int, loop_name: str, services: int = 0) -> None:
    """Our server, in a process of its own."""
    from plait.dns.server import DnsServer
    from plait.dns.zone import Zone
    from plait.model.objects import Endpoint, EndpointSpec, EndpointStatus, Metadata

    zone = Zone()
    for i, address in enumerate(addresses(names)):
        zone.put(
            Endpoint(
                metadata=Metadata(name=f"e{i}", namespace="default"),
                spec=EndpointSpec(node="n", network="net", name=f"web{i}", addresses=(address,)),
                status=EndpointStatus(phase="ready"),
            )
        )
    # The client is an endpoint, as in life: its scope is looked up with each packet.
    zone.put(
        Endpoint(
            metadata=Metadata(name="client", namespace="default"),
            spec=EndpointSpec(node="n", network="net", name="client", addresses=("127.0.0.1",)),
            status=EndpointStatus(phase="ready"),
        )
    )
    transparent = os.geteuid() == 0
    server = DnsServer(
        zone, binds=(("127.0.0.1", port),), transparent=transparent, host_servers=lambda: ()
    )
    put_services(zone, services)
    await server.start()
    print(f"ready {loop_name}", flush=True)
    changing = itertools.cycle(range(services)) if services else ()
    for i in changing:
        zone.services.moved("default", f"s{i}")
        await asyncio.sleep(CHANGE_EVERY)
    await asyncio.Event().wait()


def put_services(zone: Zone, count: int) -> None:
    """Services of a Kubernetes cluster, as many as its largest ones have."""
    from plait.model.objects import Metadata, Service
    from plait.model.policies import Origin
    from plait.model.services import ServicePort, ServiceSpec

    first = ipaddress.IPv4Address("10.96.0.10")
    for i in range(count):
        spec = ServiceSpec(
            network="net",
            addresses=(str(first + i),),
            ports=(ServicePort(port=80),),
            origin=Origin(kind="Service", name=f"s{i}", namespace="default"),
        )
        zone.services.put(Service(metadata=Metadata(name=f"s{i}", namespace="default"), spec=spec))


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def ours(names: int, loop: str, services: int = 0) -> Iterator[tuple[int, int]]:
    port = free_port()
    argv = [
        "taskset",
        "-c",
        "0",
        sys.executable,
        "-P",
        "-m",
        "bench.dns",
        "--serve",
        str(port),
        loop,
    ]
    argv += ["--names", str(names), "--services", str(services)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready"), "the server did not start"
            yield port, process.pid
        finally:
            process.kill()


@contextmanager
def dnsmasq(directory: Path, names: int) -> Iterator[tuple[int, int]]:
    port = free_port()
    hosts = directory / "hosts"
    lines = (f"{a} web{i}.{DOMAIN}" for i, a in enumerate(addresses(names)))
    hosts.write_text("\n".join(lines) + "\n")
    argv = ["taskset", "-c", "0", "dnsmasq", "-k", "-p", str(port), "-h", "-R", "-C", "/dev/null"]
    argv += [f"--addn-hosts={hosts}", "--listen-address=127.0.0.1", "--bind-interfaces"]
    argv += ["--user=root", f"--pid-file={directory}/pid", "--local-ttl=1"]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until_answering(port)
            yield port, process.pid
        finally:
            process.kill()


def wait_until_answering(port: int) -> None:
    query = b"\0\1\1\0\0\1\0\0\0\0\0\0\4web0\7default\5plait\5local\0\0\1\0\1"
    for _ in range(100):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.1)
            try:
                sock.connect(("127.0.0.1", port))
                sock.send(query)
                sock.recv(512)
            except (ConnectionRefusedError, TimeoutError):
                time.sleep(0.05)
                continue
            return
    raise RuntimeError("the server does not answer")


def rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+)", status)
    return int(match[1]) / 1024 if match else 0.0


def dnsperf(port: int, queries: Path, seconds: float, edns: bool) -> float:
    argv = ["taskset", "-c", "1", "dnsperf", "-s", "127.0.0.1", "-p", str(port)]
    argv += ["-d", str(queries), "-l", str(seconds), "-c", "4", "-q", "64"]
    argv += ["-e"] if edns else []
    out = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    rate = re.search(r"Queries per second:\s+([\d.]+)", out)
    lost = re.search(r"Queries lost:\s+(\d+)", out)
    bad = re.search(r"Response codes:\s+NOERROR \d+ \(100\.00%\)", out)
    if rate is None or lost is None or bad is None:
        raise RuntimeError(f"dnsperf: {out}")
    return float(rate[1])


def measure(
    seconds: float, rounds: int, names: int, loops: Sequence[str] = ("asyncio", "uvloop")
) -> tuple[dict[tuple[str, bool], list[float]], dict[str, float]]:
    """Answers a second of every server, without and with EDNS; and its resident MiB."""
    makers: dict[str, Callable[[Path], AbstractContextManager[tuple[int, int]]]] = {
        f"plait ({loop})": lambda _, loop=loop: ours(names, loop) for loop in loops
    }
    if shutil.which("dnsmasq"):
        makers["dnsmasq"] = lambda directory: dnsmasq(directory, names)
    rates: dict[tuple[str, bool], list[float]] = {}
    memory: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        queries = directory / "queries"
        queries.write_text("".join(f"web{i}.{DOMAIN} A\n" for i in range(names)))
        for _ in range(rounds):
            for server, make in makers.items():
                with make(directory) as (port, pid):
                    for edns in (False, True):
                        rate = dnsperf(port, queries, seconds, edns)
                        rates.setdefault((server, edns), []).append(rate)
                    memory[server] = rss_mib(pid)
    return rates, memory


def measure_services(seconds: float, rounds: int, services: int) -> float:
    """Answers a second about Services, one of which changes each `CHANGE_EVERY`."""
    rates = []
    with tempfile.TemporaryDirectory() as name:
        queries = Path(name) / "queries"
        asked = range(0, services, max(services // 1000, 1))
        queries.write_text("".join(f"s{i}.default.svc.cluster.local A\n" for i in asked))
        for _ in range(rounds):
            with ours(1, "uvloop", services) as (port, _):
                rates.append(dnsperf(port, queries, seconds, edns=False))
    return statistics.median(rates)


def rows() -> list[Row]:
    """For the table of all benchmarks: the agent's loop is uvloop."""
    rates, _ = measure(2.0, 3, 1000, ("uvloop",))
    changing = Row(
        what=f"DNS answers on one core, {SERVICES:,} Services, one changes each 10 ms",
        unit="/s",
        ours=measure_services(2.0, 3, SERVICES),
        budget=at_least(BUDGET),
    )
    return [*_beside_dnsmasq(rates), changing]


def _beside_dnsmasq(rates: dict[tuple[str, bool], list[float]]) -> list[Row]:
    return [
        Row(
            what=f"DNS answers on one core{', EDNS' if edns else ''}",
            unit="/s",
            ours=statistics.median(rates["plait (uvloop)", edns]),
            peer="dnsmasq" if ("dnsmasq", edns) in rates else "",
            theirs=statistics.median(rates["dnsmasq", edns])
            if ("dnsmasq", edns) in rates
            else None,
            budget=at_least(BUDGET),
        )
        for edns in (False, True)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--names", type=int, default=1000)
    parser.add_argument("--services", type=int, default=SERVICES)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", nargs=2, metavar=("PORT", "LOOP"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        port, loop = args.serve
        if loop == "uvloop":
            import uvloop

            uvloop.install()
        asyncio.run(serve(int(port), args.names, loop, args.services))
        return 0
    if shutil.which("dnsperf") is None:
        print("dnsperf is missing: apt-get install dnsperf", file=sys.stderr)
        return 1
    rates, memory = measure(args.seconds, args.rounds, args.names)
    found = [
        {
            "server": server,
            "answers_per_s": round(statistics.median(rates[server, False])),
            "with_edns": round(statistics.median(rates[server, True])),
            "rss_mib": round(memory[server], 1),
        }
        for server in memory
    ]
    if args.json:
        print(json.dumps({"budget": BUDGET, "rows": found}))
        return 0
    print(f"DNS, one core, {args.names} names, median of {args.rounds} (budget {BUDGET:,}/s)")
    print(f"{'server':<18}{'answers/s':>12}{'with EDNS':>12}{'RSS MiB':>10}")
    for row in found:
        print(
            f"{row['server']:<18}{row['answers_per_s']:>12,}{row['with_edns']:>12,}"
            f"{row['rss_mib']:>10}"
        )
    rate = measure_services(args.seconds, args.rounds, args.services)
    print(
        f"{args.services:,} Services, one changes each {CHANGE_EVERY * 1000:.0f} ms: {rate:,.0f}/s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
