"""Endpoints come and go by the thousand on one host, and nothing of them stays."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.lab.census import assert_back, at_rest, inside, ready, server, verbs
from tests.lab.conftest import eventually, unique

from plait.client.agent import AttachRequest
from plait.client.agent_socket import run as at_once
from plait.client.api import ApiClient
from plait.client.base import BatchOp
from plait.lab import daemons, hosts
from plait.lab.lab import Lab
from plait.model.objects import Metadata, Namespace, Workload
from plait.server.hub import HISTORY_EVENTS

pytestmark = pytest.mark.root

HOST = "h1"
CALLERS = 4
"""Requests under way at once, as of a runtime that starts many containers."""
SPARE = 4
"""Connections that happen to be open: watches, and a request of the census."""
LEAK = 0.25
"""KiB an endpoint: its record alone is larger."""
ROOMS = str(Path(__file__).with_name("rooms.py"))


@contextmanager
def rooms(lab: Lab, count: int) -> Iterator[str]:
    """Empty namespaces below a directory of the host."""
    directory = f"/run/{unique('rooms')}"
    process = hosts.popen(
        lab.host(HOST),
        [sys.executable, "-I", ROOMS, str(count), directory],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield directory
    finally:
        process.communicate()


def fill_history(lab: Lab) -> None:
    """Let the server's history for watchers that come back be full, of changes as large as an
    endpoint's, so that what grows afterwards is not it."""
    names = [unique("filler") for _ in range(100)]

    async def work() -> None:
        async with ApiClient(
            "http://localhost", unix_socket=inside(lab, HOST, "/run/plait/server.sock")
        ) as api:
            for turn in range(HISTORY_EVENTS // len(names)):
                await api.batch([BatchOp(verb="update", object=filler(n, turn)) for n in names])
            for name in names:
                await api.delete(Namespace, name)

    asyncio.run(work())


def filler(name: str, turn: int) -> Namespace:
    note = str(turn) * 300
    return Namespace(metadata=Metadata(name=name, annotations={"note": note[:600]}))


class Use:
    """What a daemon of the host holds."""

    def __init__(self, lab: Lab, program: str) -> None:
        process = inside(lab, HOST, "/proc") / str(daemons.program_pid(lab, HOST, program))
        lines = (process / "status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        self.memory = int(fields["VmRSS"].split()[0]) / 1024
        self.descriptors = len(list((process / "fd").iterdir()))

    def __repr__(self) -> str:
        return f"{self.memory:.1f} MiB, {self.descriptors} fds"


def slope(values: list[float]) -> float:
    """Of the straight line through the values (least squares), a round."""
    return statistics.linear_regression(range(len(values)), values).slope


def each(count: int, work: Callable[[int], float]) -> list[float]:
    with ThreadPoolExecutor(CALLERS) as pool:
        return sorted(pool.map(work, range(count)))


def said(times: list[float]) -> str:
    return (
        f"median {statistics.median(times) * 1e3:.1f} ms, "
        f"p99 {times[int(len(times) * 0.99)] * 1e3:.1f} ms, longest {times[-1] * 1e3:.0f} ms"
    )


@pytest.mark.parametrize(
    ("count", "rounds", "noise"),
    [
        # `noise`: KiB a round by which an allocator may grow, the more the fewer the rounds.
        (200, 3, 2048),
        pytest.param(1000, 10, 256, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_churn(
    plait_lab: Lab, count: int, rounds: int, noise: int, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = plait_lab
    agent = verbs(lab, HOST)
    run = unique("churn")

    def timed(verb: Callable[[], object]) -> float:
        began = time.perf_counter()
        verb()
        return time.perf_counter() - began

    def present() -> int:
        """Endpoints that the server knows of."""
        return sum(run in line for line in server(lab))

    with rooms(lab, count) as directory:

        def attach(number: int) -> float:
            request = AttachRequest(
                id=f"{run}-{number}",
                network="plait",
                name=f"{run}-{number}",
                labels={"app": "churn"},
                netns=f"{directory}/{number}",
                workload=Workload(runtime="process", id=f"{directory}/{number}"),
            )
            return timed(lambda: at_once(agent.attach(request)))

        def detach(number: int) -> float:
            return timed(lambda: at_once(agent.detach(f"{run}-{number}")))

        eventually("ready", lambda: ready(lab, HOST))
        if count > 500:
            fill_history(lab)
        before: frozenset[str] = frozenset()
        agents: list[Use] = []
        servers: list[Use] = []
        for turn in range(rounds + 1):
            coming = each(count, attach)
            eventually("the server knows of all", lambda: present() == count)
            going = each(count, detach)
            if turn == 0:
                # The first round claims blocks and fills caches; from then on all is as it was.
                before = at_rest(lab, HOST)
                assert not [line for line in before if run in line]
            assert_back(lab, HOST, before, 30)
            agents.append(Use(lab, "agent"))
            servers.append(Use(lab, "server"))
            with capsys.disabled():
                print(
                    f"\n  round {turn}: {count} attached: {said(coming)}; detached: {said(going)}"
                    f"; agent {agents[-1]}; server {servers[-1]}",
                    end="",
                )
    # What is kept by right grows first, such as addresses that rest for a minute.
    for uses in (agents[-max(3, rounds // 2) :], servers[-max(3, rounds // 2) :]):
        assert uses[-1].descriptors <= uses[0].descriptors + SPARE, uses
        grown = slope([use.memory for use in uses])
        assert grown * 1024 < noise + count * LEAK, f"{grown:.2f} MiB a round: {uses}"
