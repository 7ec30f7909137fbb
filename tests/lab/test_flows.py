"""The flow log with real packets, rules, agents and a server: two hosts.

`web` and `near` are on h1, `far` on h2; `near` may not use web's port 9, `far` not its port 80.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.lab.conftest import eventually, made, unique

from plait.client.polling import poll
from plait.lab import bringup, daemons, hosts, workloads
from plait.lab.lab import Lab
from plait.lab.state import WorkloadState
from plait.lab.workloads import PLAIT, Order

pytestmark = pytest.mark.root

FAR_DENIED = "deny.default.web.from.default.far"
NEAR_DENIED = "deny.default.web.from.default.near"
FLOOD = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect((sys.argv[1], 9))
for _ in range(int(sys.argv[2])):
    sock.send(b"x")
"""

Row = dict[str, Any]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with made(unique("flows"), 2) as lab:
        yield lab


@pytest.fixture(scope="module")
def loads(lab: Lab) -> dict[str, WorkloadState]:
    places = (("web", "h1", ("80/tcp",)), ("near", "h1", ()), ("far", "h2", ()))
    found = {name: workloads.run(lab, host, name, listen=ports) for name, host, ports in places}
    daemons.plait(lab, "h1", "deny", "web", "--from", "far", "--port", "80/tcp")
    daemons.plait(lab, "h1", "deny", "web", "--from", "near", "--port", "9/udp")
    return found


def ask(lab: Lab, source: WorkloadState, target: WorkloadState) -> list[str]:
    """What comes of a connection to port 80, a family each."""
    orders = [Order(ip=ip, port=80, proto="tcp", timeout=0.7) for ip in target.addresses]
    return [result.result for result in workloads.probe(lab, source, orders)]


def flows(lab: Lab, host: str, *words: str) -> list[Row]:
    return [json.loads(t) for t in daemons.plait(lab, host, "flows", "--json", *words).splitlines()]


def between(rows: list[Row], src: str, dst: str) -> set[tuple[str, ...]]:
    """Where, in which direction and how each record between two endpoints was decided."""
    return {
        (row["node"], row["direction"], row["decision"], row.get("policy", ""))
        for row in rows
        if (row["src"].get("name"), row["dst"].get("name")) == (src, dst)
    }


def comes(what: str, look: Callable[[], bool]) -> None:
    eventually(what, look)


def test_both_ends_decisions_are_told_on_every_host(
    lab: Lab, loads: dict[str, WorkloadState]
) -> None:
    comes("the denial holds", lambda: ask(lab, loads["far"], loads["web"]) == ["timed out"] * 2)
    assert ask(lab, loads["near"], loads["web"]) == ["connected"] * 2
    denied = {("h2", "egress", "accept", ""), ("h1", "ingress", "deny", FAR_DENIED)}
    accepted = {("h1", "egress", "accept", ""), ("h1", "ingress", "accept", "")}
    for host in ("h1", "h2"):

        def told(host: str = host) -> bool:
            # A host that has not heard of an endpoint yet tells of its flows without its name.
            ask(lab, loads["far"], loads["web"])
            rows = flows(lab, host)
            return (
                between(rows, "far", "web") >= denied and between(rows, "near", "web") == accepted
            )

        eventually(f"both flows are told on {host}", told)
    refused = flows(lab, "h2", "--denied", "--endpoint", "default/far")
    assert {row["decision"] for row in refused} == {"deny"}
    assert {row["dstPort"] for row in refused} == {80}
    assert {":" in row["src"]["address"] for row in refused} == {True, False}
    assert flows(lab, "h2", "--namespace", "nobody") == []
    local = flows(lab, "h2", "--local")
    assert {row["node"] for row in local} == {"h2"}


def test_rules_are_counted_over_all_hosts(lab: Lab, loads: dict[str, WorkloadState]) -> None:
    ask(lab, loads["far"], loads["web"])
    comes("two denied packets are counted", lambda: counted(lab) >= 2)


def counted(lab: Lab) -> int:
    shown = json.loads(daemons.plait(lab, "h2", "policy", "show", FAR_DENIED, "--json"))
    return sum(count["packets"] for count in shown["counts"])


def test_what_happens_is_followed_and_ctrl_c_ends_it_quietly(
    lab: Lab, loads: dict[str, WorkloadState]
) -> None:
    argv = [*PLAIT, "flows", "-f", "--json", "--denied", "--since", "1s"]
    pipe = subprocess.PIPE
    # As from a terminal: Ctrl-C goes to all processes of the foreground.
    follower = hosts.popen(
        lab.host("h2"),
        argv,
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        start_new_session=True,
    )
    assert follower.stdout is not None

    def told() -> bool:
        # It may begin to listen long after it was started.
        ask(lab, loads["far"], loads["web"])
        return bool(select.select([follower.stdout], [], [], 0)[0])

    try:
        eventually("a denial is told", told)
        row = json.loads(follower.stdout.readline())
        assert (row["dst"]["name"], row["policy"]) == ("web", FAR_DENIED)
    finally:
        os.killpg(follower.pid, signal.SIGINT)
        _, said = follower.communicate(timeout=15)
    assert said.strip() == ""


def test_a_flood_is_folded_and_what_is_not_read_is_counted(
    lab: Lab, loads: dict[str, WorkloadState]
) -> None:
    sent = 40_000
    near, web = loads["near"], loads["web"]
    argv = ["nsenter", "-t", str(near.inner_pid), "-n", "python3", "-c", FLOOD]
    before = told(lab)
    lab.run("h1", [*argv, web.addresses[0], str(sent)])
    seen: list[int] = []

    def whole() -> bool:
        # The number of the next packet that is logged says how many are missing before it.
        ask(lab, near, web)
        # Each is logged at both ends (web's denies the flood), and so are those of the two
        # connections of each question: every one is a part of a record, or lost.
        wanted = 2 * sent + 4 * (len(seen) + 1)
        # What was logged is read a moment later.
        seen.append(poll(lambda: told(lab) - before, lambda found: found == wanted, seconds=3))
        return seen[-1] == wanted

    eventually("every packet is accounted for", whole, seen)
    rows = [row for row in flows(lab, "h1", "--local") if row.get("dstPort") == 9]
    assert {row.get("policy", "") for row in rows} == {"", NEAR_DENIED}
    assert len(rows) < 20


def told(lab: Lab) -> int:
    """Packets of `near` that records of h1 stand for, and packets that h1 lost."""
    rows = flows(lab, "h1", "--local", "--endpoint", "default/near")
    counted = sum(row.get("count", 1) for row in rows)
    metrics = lab.run(
        "h1", ["curl", "-s", "--unix-socket", "/run/plait/agent.sock", "http://agent/metrics"]
    ).stdout.splitlines()
    (lost,) = [line.split()[1] for line in metrics if line.startswith("plait_flow_records_lost")]
    return counted + int(float(lost))


def test_without_the_server_a_host_tells_its_own_and_later_all(
    lab: Lab, loads: dict[str, WorkloadState]
) -> None:
    bringup.stop_server(lab)
    try:

        def own() -> bool:
            ask(lab, loads["far"], loads["web"])
            done = lab.run("h2", [*PLAIT, "flows", "--json", "--since", "5s"])
            assert "this host's flows only" in done.stderr
            rows = [json.loads(line) for line in done.stdout.splitlines()]
            return between(rows, "far", "web") == {("h2", "egress", "accept", "")}

        comes("h2 tells what it decided", own)
    finally:
        bringup.start_server(lab)
    # The server's memory is empty; the nodes tell it again, and what happened meanwhile.
    denied = ("h1", "ingress", "deny", FAR_DENIED)

    def all_of_it() -> bool:
        rows = flows(lab, "h2")
        return denied in between(rows, "far", "web") and bool(between(rows, "near", "web"))

    eventually("what was kept arrives", all_of_it, None, 60)
    comes("the counts are known again", lambda: counted(lab) >= 2)
