"""Run benchmarks, one process each, and print one table: `scripts/bench [NAME…]`."""

from __future__ import annotations

import argparse
import datetime
import importlib
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import msgspec

from bench import table
from bench.table import Row

BENCHES = {
    "startup": "up, join, lab, and the time that --help takes",
    "attach": "attach and detach beside Debian's CNI plugins",
    "cni": "ADD and DEL beside bridge, host-local, portmap and bandwidth; limits of speed",
    "attach_kernel": "the kernel's share of attaching, beside ip -batch",
    "filter": "one set element and one endpoint in the filter",
    "throughput": "streams and request-response beside a topology made by hand",
    "policy": "a change of policy, label or member to every kernel; memory",
    "policy_path": "streams and first packets under 1 policy and under 10,000",
    "services": "first packets to Services and changes of one beside kube-proxy",
    "pods": "100 pods on one Kubernetes node, from their creation until they are reached",
    "watch": "a change to 1,000 watchers",
    "reflector": "10,000 pods listed from a Kubernetes API server",
    "store": "durable puts",
    "dns": "answers a second beside dnsmasq",
    "memory": "idle, and with 10,000 endpoints",
}


class Report(msgspec.Struct, kw_only=True):
    """What `--json` writes."""

    date: str
    """RFC 3339, UTC."""
    machine: str
    seconds: float
    rows: dict[str, list[Row]]


def machine() -> str:
    """CPU, number of cores and kernel."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}"


def one(name: str) -> list[Row]:
    """The rows of a benchmark, run in a process of its own; none when it fails."""
    print(f"==> {name}: {BENCHES[name]}", file=sys.stderr, flush=True)
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "bench", "--child", name], stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        said = child.stdout.read()
        code = child.wait()
    except BaseException:
        # It had the same Ctrl-C, or gets it now, and takes its things down first.
        child.send_signal(signal.SIGINT)
        child.wait()
        raise
    if code:
        print(f"    {name} failed with exit code {code}", file=sys.stderr)
        return []
    return msgspec.json.decode(said, type=list[Row])


def in_child(name: str) -> None:
    """Run a benchmark here: its rows go to standard output, all else to standard error."""
    rows = os.dup(1)
    os.dup2(2, 1)
    found = importlib.import_module(f"bench.{name}").rows()
    with os.fdopen(rows, "wb") as out:
        out.write(msgspec.json.encode(found))


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"  {name:14} {what}" for name, what in BENCHES.items()),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; all by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--markdown", action="store_true", help="print the table for a document")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        try:
            in_child(options.child)
        except KeyboardInterrupt:
            return 130
        return 0
    names = options.names or list(BENCHES)
    for name in names:
        if name not in BENCHES:
            parser.error(f"there is no benchmark {name}: choose from {', '.join(BENCHES)}")
    began = time.monotonic()
    report = Report(
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=machine(),
        seconds=0,
        rows={},
    )
    try:
        for name in names:
            report.rows[name] = one(name)
    except KeyboardInterrupt:
        print("    interrupted; everything was taken down", file=sys.stderr)
        return 130
    report.seconds = round(time.monotonic() - began, 1)
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    rows = [row for found in report.rows.values() for row in found]
    print(f"{report.date}, {report.machine}, {report.seconds:.0f} s; medians unless said\n")
    print(table.markdown(rows) if options.markdown else table.plain(rows))
    return 0 if all(report.rows.values()) else 1


def _interrupt(_number: int, _frame: object) -> NoReturn:
    # Once: a second one would interrupt the taking down.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
