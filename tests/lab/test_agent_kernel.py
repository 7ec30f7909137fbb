"""The agent over the real kernel, in a network namespace of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from tests.support.waiting import until

from plait.agent import fake
from plait.agent.agent import Agent, Config, Doors
from plait.agent.policing import PolicyDoors
from plait.agent.programmers import in_order
from plait.agent.programmers.domains import DomainSets
from plait.agent.programmers.ended import EndedFlows
from plait.agent.programmers.filter import FilterBase, FilterEndpoints
from plait.agent.programmers.filter_table import FilterTable
from plait.agent.programmers.policy import FilterPolicy
from plait.agent.programmers.rtnetlink import build
from plait.agent.state import Identity
from plait.agent.watchers import RtnetlinkWatcher
from plait.client.agent import AttachRequest, EndpointIdentity
from plait.client.fake_api import FakeApi, FakeServer
from plait.kernel import hostfacts, netns
from plait.kernel.conntrack import Conntrack
from plait.kernel.netlink import Netlink
from plait.kernel.nft import Nft, NftMonitor
from plait.kernel.nft_inspect import NftInspector
from plait.kernel.sysctl import KernelSysctl
from plait.model.errors import PlaitError
from plait.model.objects import AddressBlock, Metadata, Network, NetworkSpec

pytestmark = pytest.mark.root


def sh(*argv: str, ns: int | None = None) -> str:
    """Output of a command, run in this namespace or in another."""
    prefix = ("nsenter", f"--net=/proc/{os.getpid()}/fd/{ns}") if ns is not None else ()
    done = subprocess.run((*prefix, *argv), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


def ping(ns: int, address: str) -> bool:
    done = subprocess.run(
        ("nsenter", f"--net=/proc/{os.getpid()}/fd/{ns}", "ping", "-c1", "-W1", address),
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


@pytest.fixture
def host() -> Iterator[None]:
    """This thread lives in a namespace of its own, with an underlay interface."""
    back = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    fd = netns.create()
    try:
        with netns.inside(fd):
            # Else pictures differ by whether an address is still looked for elsewhere.
            sh("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
            sh("ip", "link", "set", "lo", "up")
            sh("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "wire")
            sh("ip", "link", "set", "wire", "up")
            sh("ip", "link", "set", "eth0", "up")
            sh("ip", "addr", "add", "192.0.2.1/24", "dev", "eth0")
            sh("ip", "addr", "add", "2001:db8::1/64", "dev", "eth0", "nodad")
            sh("ip", "route", "add", "default", "via", "192.0.2.254")
            yield
    finally:
        os.close(fd)
        os.close(back)


@pytest.fixture
def container() -> Iterator[Callable[[], int]]:
    made: list[int] = []

    def make() -> int:
        made.append(netns.create())
        return made[-1]

    yield make
    for fd in made:
        with contextlib.suppress(OSError):
            os.close(fd)


def build_agent(server: FakeServer, directory: Path, **settings: object) -> Agent:
    netlink, sysctl = Netlink(), KernelSysctl()
    nft, conntrack, connections = Nft(), Conntrack(), Conntrack()
    inspector = NftInspector()
    table = FilterTable(nft)
    gate = FilterEndpoints(table, conntrack)
    programmers = in_order((*build(netlink, sysctl), FilterBase(table), FilterPolicy(table), gate))
    return Agent(
        Config(
            identity=Identity(name="h1", uid="uid-h1"),
            directory=directory,
            socket=directory / "agent.sock",
            **settings,  # type: ignore[arg-type]
        ),
        Doors(
            api=FakeApi(server),
            programmers=programmers,
            facts=hostfacts.read,
            sysctl=sysctl,
            boot=hostfacts.boot_identity(),
            counters=nft,
            policy=PolicyDoors(
                flows=connections,
                domains=DomainSets(table, time.monotonic),
                inspector=inspector,
                bar=EndedFlows(table).bar,
            ),
            watchers=(RtnetlinkWatcher(netlink.subscribe(), programmers), NftMonitor(nft)),
            purge=(
                table.purge,
                nft.close,
                netlink.close,
                conntrack.close,
                connections.close,
                inspector.close,
            ),
        ),
    )


@pytest.fixture
async def agent(host: None, tmp_path: Path) -> AsyncIterator[Agent]:
    made = build_agent(fake.server(), tmp_path)
    await made.start()
    await until(lambda: len(made.state.snapshot.blocks) == 2)
    yield made
    await made.purge()
    await made.stop()


def request(ident: str, fd: int | None = None, **more: object) -> AttachRequest:
    path = f"/proc/{os.getpid()}/fd/{fd}" if fd is not None else ""
    return AttachRequest(id=ident, network="plait", name=ident, netns=path, **more)  # type: ignore[arg-type]


async def test_two_endpoints_reach_each_other_and_detach_leaves_no_trace(
    agent: Agent, container: Callable[[], int]
) -> None:
    before = sh("ip", "-o", "addr"), sh("ip", "route", "show", "table", "all")
    a, b = container(), container()
    one = await agent.service.attach(request("one", a))
    two = await agent.service.attach(request("two", b))
    for address in two.addresses:
        assert await asyncio.to_thread(ping, a, address), f"no answer from {address}"
    assert one.mtu == 1450
    assert await agent.service.plan() == ""
    again = await agent.service.attach(request("one", a))
    assert again == one
    assert await agent.service.detach("one")
    assert await agent.service.detach("two")
    assert not await agent.service.detach("two")
    await until(lambda: "pl" not in sh("ip", "-o", "link", "show", "type", "veth"))
    assert (sh("ip", "-o", "addr"), sh("ip", "route", "show", "table", "all")) == before


async def test_a_container_in_several_networks(
    host: None, tmp_path: Path, container: Callable[[], int]
) -> None:
    """Each of its interfaces leads to the resolver; one has the default routes."""
    more = (("b", "10.7.0.0/20", "fd07::/64"), ("c", "10.8.0.0/20", "fd08::/64"))
    made = build_agent(
        fake.server(
            *(
                Network(metadata=Metadata(name=n), spec=NetworkSpec(pools=tuple(p)))
                for n, *p in more
            )
        ),
        tmp_path,
    )
    await made.start()
    inside = container()
    try:
        await until(lambda: len(made.state.snapshot.blocks) == 6)
        for number, network in enumerate(("plait", "b", "c", "c")):
            place = {"ifname": f"eth{number}", "default_route": not number}
            asked = msgspec.structs.replace(request(f"e{number}", inside, **place), network=network)
            await made.service.attach(asked)
        for number in (1, 2):
            assert await made.service.check(f"e{number}") == ()
            await made.service.detach(f"e{number}")
        assert await made.service.check("e3") == ()
        await until(lambda: "dev eth3" in sh("ip", "route", "get", "169.254.1.1", ns=inside))
        assert "dev eth0" in sh("ip", "route", "get", "198.51.100.1", ns=inside)
        with pytest.raises(PlaitError) as refused:
            await made.service.attach(request("e4", inside, ifname="eth4"))
        assert refused.value.code == "PLAIT-KERNEL-001"
        assert "route add 0.0.0.0/0" in refused.value.why
    finally:
        await made.purge()
        await made.stop()


async def test_damage_is_repaired(agent: Agent, container: Callable[[], int]) -> None:
    a, b = container(), container()
    one = await agent.service.attach(request("one", a))
    two = await agent.service.attach(request("two", b))
    v4 = next(x for x in one.addresses if ":" not in x)
    sh("ip", "route", "del", v4)
    sh("ip", "addr", "del", "169.254.1.1/32", "dev", "lo")
    sh("ip", "rule", "del", "priority", "112")
    sh("sysctl", "-qw", "net.ipv4.ip_forward=0")
    await until(lambda: sum(agent.loop.repairs.values()) >= 4, seconds=10)
    for address in two.addresses:
        assert await asyncio.to_thread(ping, a, address)


async def test_unknown_until_identified(agent: Agent, container: Callable[[], int]) -> None:
    a, b = container(), container()
    two = await agent.service.attach(request("two", b))
    await agent.service.attach(request("one", a, identified=False))
    assert not await asyncio.to_thread(ping, a, two.addresses[0])
    await agent.service.identify(
        "one",
        EndpointIdentity(
            name="one",
            aliases=(),
            labels={},
            namespace="default",
            workload=two and request("x").workload,
        ),
    )
    assert await asyncio.to_thread(ping, a, two.addresses[0])


async def test_a_restart_changes_nothing_in_the_kernel(
    host: None, tmp_path: Path, container: Callable[[], int]
) -> None:
    server = fake.server()
    first = build_agent(server, tmp_path)
    await first.start()
    await until(lambda: len(first.state.snapshot.blocks) == 2)
    a, b = container(), container()
    await first.service.attach(request("one", a))
    two = await first.service.attach(request("two", b))
    await first.stop()
    for step in first._doors.purge[1:]:
        step()  # Close the doors; leave the table.
    before = sh("ip", "-j", "addr"), sh("ip", "-j", "route", "show", "table", "all")
    assert await asyncio.to_thread(ping, a, two.addresses[0]), "stopped agent, cut traffic"
    server.cut()
    second = build_agent(server, tmp_path)
    await second.start()
    try:
        assert await second.service.plan() == ""
        now = sh("ip", "-j", "addr"), sh("ip", "-j", "route", "show", "table", "all")
        assert json.loads(now[0]) == json.loads(before[0])
        assert now[1] == before[1]
        assert await asyncio.to_thread(ping, a, two.addresses[0])
        # The server is away: the prefetched block serves.
        c = container()
        three = await second.service.attach(request("three", c))
        assert await asyncio.to_thread(ping, c, two.addresses[0])
        assert set(three.addresses).isdisjoint(two.addresses)
    finally:
        await second.purge()
        await second.stop()


async def test_a_vanished_namespace_is_detached(agent: Agent) -> None:
    fd = netns.create()
    await agent.service.attach(request("one", fd))
    os.close(fd)
    await until(lambda: not agent.state.records.ledger.endpoints)
    await until(lambda: "pl" not in sh("ip", "-o", "link", "show", "type", "veth"))


async def test_purge_leaves_the_host_as_it_was(
    host: None, tmp_path: Path, container: Callable[[], int]
) -> None:
    def everything() -> tuple[str, ...]:
        return (
            sh("ip", "-o", "addr"),
            sh("ip", "route", "show", "table", "all"),
            sh("ip", "-6", "route", "show", "table", "all"),
            sh("ip", "rule"),
            sh("ip", "-6", "rule"),
            sh("nft", "list", "tables"),
            sh("sysctl", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"),
        )

    before = everything()
    agent = build_agent(fake.server(), tmp_path)
    await agent.start()
    await until(lambda: len(agent.state.snapshot.blocks) == 2)
    await agent.service.attach(request("one", container()))
    assert "112" in sh("ip", "rule")
    assert await agent.purge() == ()
    await agent.stop()
    assert everything() == before


async def test_attaching_is_quick(agent: Agent, container: Callable[[], int]) -> None:
    """Prints, and asserts no time: the figure goes into the bench."""
    took = []
    for number in range(20):
        fd = container()
        begin = time.perf_counter()
        await agent.service.attach(request(f"e{number}", fd))
        took.append((time.perf_counter() - begin) * 1000)
    print(f"attach p50 {statistics.median(took):.2f} ms, max {max(took):.2f} ms")
    assert len(await agent.service.endpoints()) == 20
    blocks = [b for b in agent.state.snapshot.blocks.values() if isinstance(b, AddressBlock)]
    assert len(blocks) == 2
