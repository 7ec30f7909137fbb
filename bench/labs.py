"""Labs for benchmarks: of a name of their own, gone at the end whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plait.lab import bringup, daemons, hosts, state
from plait.lab.lab import Lab

ROOT = Path(__file__).resolve().parents[1]


def lab_name(suffix: str) -> str:
    """A name that nobody else on this machine uses."""
    return f"bench-{os.getpid()}-{suffix}"


@contextmanager
def lab(
    suffix: str, count: int, *, sites: int = 1, bare: bool = False, kubernetes: int = 0
) -> Iterator[Lab]:
    """A lab with Plait in it, or without; its first `kubernetes` hosts are nodes of a cluster."""
    made = bringup.up(lab_name(suffix), count, sites=sites, bare=bare, kubernetes=kubernetes)
    try:
        yield made
    finally:
        with state.locked(made.directory):
            left = made.destroy()
        if left:
            print(f"    left behind: {', '.join(left)}", file=sys.stderr)


def plait(made: Lab, host: str, *argv: str, timeout: float = 60) -> str:
    """The output of a `plait` command on a lab host."""
    command = [sys.executable, "-P", "-m", "plait", *argv]
    done = made.run(host, command, check=False, timeout=timeout)
    if done.returncode:
        # Not the whole command: it may hold a token.
        raise SystemExit(f"plait {argv[0]} on {host}: {done.stderr or done.stdout}")
    return done.stdout


def module(made: Lab, host: str, name: str, *argv: str) -> Any:
    """Run a module of this package on a lab host: what it writes to standard output as JSON."""
    command = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-P", "-m", name, *argv]
    child = hosts.popen(made.host(host), command, stdout=subprocess.PIPE)
    try:
        said, _ = child.communicate()
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    if child.returncode:
        raise SystemExit(f"{name} on {host} failed with exit code {child.returncode}")
    return json.loads(said)


def inside(made: Lab, host: str, path: str) -> Path:
    """A file of a lab host as seen from here."""
    return Path(f"/proc/{made.host(host).pid}/root{path}")


def outer_pid(made: Lab, host: str, program: str) -> int:
    """Pid, as seen from here, of a host's `server` or `agent`."""
    inner = daemons.program_pid(made, host, program)
    own = made.host(host).pid
    space = Path(f"/proc/{own}/ns/pid").readlink()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "ns/pid").readlink() != space:
                continue
            status = (entry / "status").read_text()
        except OSError:
            continue
        pids = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
        if int(pids[-1]) == inner:
            return int(entry.name)
    raise SystemExit(f"no {program} runs on {host}")


def netns(pid: int, argv: Sequence[str]) -> list[str]:
    """argv that runs a command in the network namespace of a process."""
    return ["nsenter", "-t", str(pid), "-n", "--", *argv]
