"""Start-up: `plait --help`, `plait up` to ready, `plait join`, and a whole lab.

`--help` is measured beside `python -c pass` and in turn with it. The others have no peer: they
run on bare lab hosts that are made anew each time, and end when the command says that it is done,
that is when the agent answers that it is ready.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import labs
from bench.table import Row, at_most
from plait.lab import state
from plait.lab.lab import Lab

ROUNDS = 25
LABS = 3

PASS = "python -c pass"
COMMANDS: dict[str, Sequence[str]] = {
    PASS: (sys.executable, "-c", "pass"),
    "plait --help": (str(Path(sys.executable).with_name("plait")), "--help"),
    "plait network --help": (str(Path(sys.executable).with_name("plait")), "network", "--help"),
}


def timed(action: Callable[[], object]) -> float:
    """Seconds."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def commands() -> dict[str, float]:
    """Seconds, medians, in turn."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(ROUNDS + 1):
        for name, argv in COMMANDS.items():
            took = timed(
                lambda argv=argv: subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
            )
            if number:  # The first round fills caches.
                times[name].append(took)
    return {name: statistics.median(found) for name, found in times.items()}


def up_and_join() -> tuple[float, float]:
    """Seconds of `plait up` on a fresh host, and of `plait join` on another."""
    with labs.lab("join", 2, bare=True) as lab:
        up = timed(lambda: labs.plait(lab, "h1", "up"))
        token = json.loads(labs.plait(lab, "h1", "token", "create", "--json"))["token"]
        server = lab.plan.hosts["h1"].interface.address4.partition("/")[0]
        join = timed(lambda: labs.plait(lab, "h2", "join", server, "--token", token))
    return up, join


def whole_lab() -> float:
    """Seconds of `plait lab up --hosts 3`."""
    name = labs.lab_name("three")
    argv = [sys.executable, "-P", "-m", "plait", "lab", "up", "--name", name, "--hosts", "3"]
    try:
        return timed(lambda: subprocess.run(argv, stdout=subprocess.DEVNULL, check=True))
    finally:
        if name in state.names():
            Lab(name).destroy()


def rows() -> list[Row]:
    """For the table of all benchmarks."""
    helps = commands()
    joins = [up_and_join() for _ in range(LABS)]
    lab = [whole_lab() for _ in range(LABS)]
    result = [
        Row(
            what=name,
            unit="ms",
            ours=helps[name] * 1e3,
            peer=PASS,
            theirs=helps[PASS] * 1e3,
            budget=at_most(100) if name == "plait --help" else None,
        )
        for name in COMMANDS
        if name != PASS
    ]
    for what, found, limit in (
        ("plait up, to ready", [up for up, _ in joins], 10.0),
        ("plait join, to ready", [join for _, join in joins], 5.0),
        ("plait lab up --hosts 3", lab, 10.0),
    ):
        result.append(
            Row(what=what, unit="s", ours=statistics.median(found), budget=at_most(limit))
        )
    return result
