"""Promises P4 and P6 of the filter: nothing is lost or let through while agents change."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from tests.lab.filter.conftest import programmers

from plait.agent.programmers.filter import FilterBase
from plait.agent.programmers.filter_table import FilterTable
from plait.kernel import netns
from plait.kernel.nft import Nft, NftMonitor
from plait.model.errors import PlaitError
from plait.model.hoststate import FilterEndpoint, HostState

pytestmark = pytest.mark.root

A1, A2, B1 = ("10.1.0.1", 7), ("10.1.0.2", 7), ("10.2.0.1", 7)


@contextmanager
def unbroken(world: Any) -> Iterator[None]:
    """Questions and answers between a1 and a2 go on, each on a flow of its own; none is lost.

    What a1 sends to another network meanwhile never arrives.
    """
    stop = threading.Event()
    lost: list[str] = []
    count = 0
    server = world.socket("a2", *A2)
    forbidden = world.socket("b1", *B1)
    forbidden.setblocking(False)

    def run() -> None:
        nonlocal count
        while not stop.is_set() and not lost:
            try:
                world.send("a1", B1)
                world.talk("a1", A2, server)
            except TimeoutError:
                lost.append(f"packet {count}")
            count += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        leaked = True
        try:
            forbidden.recv(64)
        except BlockingIOError:
            leaked = False
        server.close()
        forbidden.close()
    assert lost == []
    assert count > 0
    assert not leaked


def restart(world: Any) -> None:
    """The agent's socket closes, as kill -9 does it, and another agent starts."""
    world.nft.close()
    with netns.inside(world.ns["host"]):
        world.nft = Nft()
    world.table = FilterTable(world.nft)
    world.programmers = programmers(world.table, world.flows)


def test_traffic_goes_on_while_agents_follow_each_other(world: Any) -> None:
    with unbroken(world):
        for _ in range(10):
            restart(world)
            world.apply()
            assert world.table.adopted()


def test_traffic_goes_on_while_endpoints_and_networks_come_and_go(world: Any) -> None:
    with unbroken(world):
        for i in range(20):
            more = world.filter.endpoints | {
                f"plx{i}": FilterEndpoint(network="net a", addresses=(f"10.1.0.{100 + i}",))
            }
            world.apply(msgspec.structs.replace(world.filter, endpoints=more))
            world.apply()


def test_a_flush_by_hand_does_nothing_while_the_agent_lives(world: Any) -> None:
    with unbroken(world), netns.inside(world.ns["host"]):
        listing = subprocess.run(["nft", "-s", "list", "ruleset"], check=True, capture_output=True)
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        ours = subprocess.run(
            ["nft", "-s", "list", "table", "inet", "plait"], check=True, capture_output=True
        )
        assert ours.stdout in listing.stdout
        refused = subprocess.run(
            ["nft", "flush", "chain", "inet", "plait", "source"], check=False, capture_output=True
        )
        assert b"Operation not permitted" in refused.stderr
        # What was flushed of others comes back, for the fixture's last check.
        subprocess.run(["nft", "-f", "-"], input=world.foreign, check=True)


def test_a_flush_while_no_agent_lives_is_repaired_by_the_next(world: Any) -> None:
    world.nft.close()
    with netns.inside(world.ns["host"]):
        subprocess.run(["nft", "delete", "table", "inet", "plait"], check=True)
    restart(world)
    world.apply()
    world.expect_drop("another network", lambda: world.send("a1", B1))
    with world.socket("a2", *A2) as server:
        assert world.talk("a1", A2, server) == A1[0]


def test_the_agent_before_must_be_gone(world: Any) -> None:
    with netns.inside(world.ns["host"]):
        door = Nft()
    table = FilterTable(door)
    with pytest.raises(PlaitError) as caught:
        FilterBase(table).observe()
    door.close()
    assert caught.value.code == "PLAIT-HOST-004"
    assert str(world.nft.port) in caught.value.why


def test_without_an_owner_the_monitor_tells_and_the_next_round_repairs(world: Any) -> None:
    # As on kernels before 6.9: the table belongs to nobody.
    world.table.purge()
    world.nft._features = world.nft.features._replace(owner=False)
    world.apply()
    with netns.inside(world.ns["host"]):
        monitor = NftMonitor(world.nft)
        try:
            subprocess.run(["nft", "flush", "chain", "inet", "plait", "source"], check=True)
            assert monitor.drain()
            for programmer in world.programmers:
                programmer.observe()
            (op,) = world.programmers[0].plan(HostState(filter=world.filter))
            assert op.key == ("chain", "source")
            assert "flush chain inet plait source" in str(op)
            assert world.programmers[0].apply([op]) == ()
            assert not monitor.drain()
            world.expect_drop("unknown source", lambda: world.send("unknown", A1))
        finally:
            monitor.close()
            world.table.purge()
            restart(world)
