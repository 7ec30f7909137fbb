"""Traffic that runs while a test breaks things: `prober.py` in the namespaces of workloads."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from plait.lab import hosts
from plait.lab.lab import Lab

PROBER = str(Path(__file__).with_name("prober.py"))
PORT = 7777


class Place:
    """A network namespace: that of a process of a host, by its pid inside that host."""

    def __init__(self, host: str, pid: int, addresses: tuple[str, ...]) -> None:
        self.host = host
        self.pid = pid
        self.addresses = addresses


@contextmanager
def _prober(lab: Lab, place: Place, *words: str) -> Iterator[subprocess.Popen[str]]:
    argv = ["nsenter", "-t", str(place.pid), "-n", "--", sys.executable, "-I", PROBER, *words]
    process = hosts.popen(lab.host(place.host), argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.communicate()  # its standard input ends, and so does it


class Traffic:
    """Flows that run."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def report(self) -> dict[str, dict[str, Any]]:
        """What came of each flow since the last report."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("report\n")
        self._process.stdin.flush()
        said: dict[str, dict[str, Any]] = json.loads(self._process.stdout.readline())
        return said

    def assert_whole(self) -> None:
        """Not one packet was lost since the last report, and no connection broke."""
        for name, flow in self.report().items():
            assert flow["sent"] > 0, (name, flow)
            assert (flow["lost"], flow["retransmitted"], flow["broken"]) == ([], 0, ""), (
                name,
                flow,
            )
            assert flow["unanswered_bytes"] == 0, (name, flow)

    def assert_mended(self, seconds: float) -> None:
        """Whatever was lost, no silence was longer, no connection broke, and all flows now."""
        for name, flow in self.report().items():
            assert flow["silence"] < seconds, (name, flow)
            assert flow["broken"] == "", (name, flow)
        # TCP may still wait for its backed-off retransmission.
        deadline = time.monotonic() + 2 * seconds
        while any(flow["unanswered_bytes"] or flow["lost"] for flow in self.report().values()):
            assert time.monotonic() < deadline, self.report()
        self.assert_whole()


@contextmanager
def running(lab: Lab, source: Place, targets: Mapping[str, Place]) -> Iterator[Traffic]:
    """Flows from one place to every address of others, ended with the block."""
    with ExitStack() as stack:
        for place in targets.values():
            stack.enter_context(_prober(lab, place, "echo", str(PORT)))
        aims = [
            f"{name}/{address},{address}"
            for name, place in targets.items()
            for address in place.addresses
        ]
        yield Traffic(stack.enter_context(_prober(lab, source, "send", *aims, str(PORT))))
