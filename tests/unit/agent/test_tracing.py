"""The rules as they stand in the kernel, executed: they decide as the ruleset they were made of."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.policies import POOLS, address, local, packets, scenes
from tests.unit.agent.test_policing import applied, attach, policy
from tests.unit.agent.test_service import running, settled

from plait.agent import fake
from plait.agent.programmers.filter import FilterBase, FilterEndpoints
from plait.agent.programmers.filter_table import FilterTable
from plait.agent.programmers.policy import FilterPolicy
from plait.agent.tracing import _decider, _received, _sent
from plait.kernel.conntrack import FakeConntrack
from plait.kernel.fake_nft import FakeNft
from plait.kernel.nft_inspect import FakeInspector
from plait.model.errors import PlaitError
from plait.model.hoststate import Filter, FilterEndpoint, FilterNetwork, HostState
from plait.model.objects import AnyObject, Endpoint
from plait.model.policies import Port, Rule
from plait.model.traces import Trace, TraceQuery
from plait.policy.engine import Engine
from plait.policy.walk import Packet, walk
from plait.wire.nft_machine import Machine

NETWORKS = [ipaddress.ip_network(pool) for pool in POOLS]


def in_pools(text: str) -> bool:
    ip = ipaddress.ip_address(text)
    return any(ip in pool for pool in NETWORKS)


def programmed(scene: list[AnyObject]) -> tuple[Engine, FakeNft, dict[str, str]]:
    """A host that has all endpoints, and its kernel; links by address."""
    engine = Engine("here")
    links: dict[str, str] = {}
    endpoints: dict[str, FilterEndpoint] = {}
    for obj in scene:
        engine.put(obj)
        if isinstance(obj, Endpoint):
            engine.set_local(obj.metadata.name, local(obj))
            link = f"pl{obj.metadata.name}"
            endpoints[link] = FilterEndpoint(network="n", addresses=obj.spec.addresses)
            links |= dict.fromkeys(obj.spec.addresses, link)
    want = HostState(
        filter=Filter(networks={"n": FilterNetwork(pools=POOLS)}, endpoints=endpoints, pools=POOLS),
        policy=engine.ruleset(),
    )
    door = FakeNft()
    table = FilterTable(door)
    parts = (FilterBase(table), FilterPolicy(table), FilterEndpoints(table, FakeConntrack()))
    for part in parts:
        part.observe()
        assert part.apply(part.plan(want)) == ()
    return engine, door, links


@settings(max_examples=10)
@given(scenes(), st.sampled_from([4, 6]))
def test_the_machine_does_with_every_packet_what_the_walk_does(
    scene: list[AnyObject], family: Any
) -> None:
    engine, door, links = programmed(scene)
    ruleset = engine.ruleset()
    machine = Machine(FakeInspector(door))
    own = sorted(a for a in links if (":" in a) == (family == 6))
    for src in own[:2]:
        for dst in (*own[-2:], address(0, family)):
            if src == dst:
                continue
            for asked in packets(family):
                if asked.protocol == "gre":
                    continue
                query = TraceQuery(
                    src=src,
                    dst=dst,
                    protocol=asked.protocol,  # type: ignore[arg-type]
                    port=asked.port,
                    icmp_type=max(asked.icmp_type, 0),
                    icmp_code=max(asked.icmp_code, 0),
                )
                for direction, run in (("egress", _sent), ("ingress", _received)):
                    passage = run(machine, query, links, frozenset())
                    packet = Packet(direction, src, dst, *asked)  # type: ignore[arg-type]
                    outcome = walk(ruleset, packet, in_pools=in_pools)
                    assert (passage.verdict == "accept") == outcome.accepted, (packet, passage)
                    assert (passage.verdict == "reject") == outcome.reject
                    assert _decider(passage) == outcome.id, (packet, passage)


@pytest.fixture
def host(tmp_path: Path) -> fake.FakeHost:
    return fake.FakeHost(fake.server(), tmp_path)


async def test_an_agent_answers_for_the_ends_that_are_its_own(host: fake.FakeHost) -> None:
    host.server.put(policy(ingress=(Rule(name="web", ports=(Port(protocol="TCP", port=80),)),)))
    async with running(host) as agent:
        await settled(host, agent)
        made = await agent.service.attach(attach())
        await applied(host, agent)
        for web in made.addresses:
            other = "10.9.200.1" if "." in web else "fd09::c8:1"

            async def asked(src: str, dst: str, port: int = 80) -> Trace:
                query = TraceQuery(src=src, dst=dst, protocol="tcp", port=port)
                return await agent.service.trace(query)

            (side,) = (await asked(other, web)).sides
            assert (side.direction, side.allowed, side.agrees) == ("ingress", True, True)
            assert (side.policy, side.rule, side.rule_name) == ("allow", 0, "web")
            assert side.path[-1].endswith("-> accept")
            (side,) = (await asked(other, web, 81)).sides
            assert (side.allowed, side.policy, side.rule, side.agrees) == (False, "allow", -1, True)
            (side,) = (await asked(web, other)).sides
            assert (side.direction, side.allowed, side.policy) == ("egress", True, "")
            assert (await asked(other, other)).sides == ()


async def test_a_resolver_elsewhere_is_closed_by_ours_and_not_by_the_kernel(
    host: fake.FakeHost,
) -> None:
    host.server.put(policy(ingress=(), isolate=("egress",)))
    async with running(host) as agent:
        await settled(host, agent)
        made = await agent.service.attach(attach())
        await applied(host, agent)
        web = next(address for address in made.addresses if "." in address)
        for resolver, allowed in (("192.0.2.1", True), ("203.0.113.53", False)):
            query = TraceQuery(src=web, dst=resolver, protocol="udp", port=53)
            (side,) = (await agent.service.trace(query)).sides
            assert (side.allowed, side.agrees) == (allowed, True)
            assert side.policy == ("" if allowed else "allow")


async def test_addresses_are_checked(host: fake.FakeHost) -> None:
    async with running(host) as agent:
        await settled(host, agent)
        with pytest.raises(PlaitError, match="different families"):
            await agent.service.trace(TraceQuery(src="10.9.0.1", dst="fd09::1", protocol="tcp"))
        with pytest.raises(PlaitError, match="PLAIT-IPAM-011"):
            await agent.service.trace(TraceQuery(src="no", dst="fd09::1", protocol="tcp"))


async def test_without_a_table_nothing_is_refused_and_that_is_said(host: fake.FakeHost) -> None:
    host.server.put(policy())
    async with running(host) as agent:
        await settled(host, agent)
        made = await agent.service.attach(attach())
        await applied(host, agent)
        web = next(a for a in made.addresses if "." in a)
        query = TraceQuery(src="10.9.200.1", dst=web, protocol="tcp", port=80)
        held = host.nft.kernel.tables.pop("plait")
        (side,) = (await agent.service.trace(query)).sides
        assert (side.allowed, side.agrees, side.path) == (True, False, ())
        assert side.expected.startswith("denies: ")
        host.nft.kernel.tables["plait"] = held


async def test_one_question_at_a_time_is_read_from_the_kernel(host: fake.FakeHost) -> None:
    """They share a socket, and what was read of the table."""
    reading: list[bool] = []

    async def in_thread(work: Callable[[], object]) -> object:
        assert not reading
        reading.append(True)
        await asyncio.sleep(0)
        reading.clear()
        return work()

    host.server.put(policy())
    async with running(host) as agent:
        await settled(host, agent)
        made = await agent.service.attach(attach())
        web = next(a for a in made.addresses if "." in a)
        query = TraceQuery(src="10.9.200.1", dst=web, protocol="tcp", port=80)
        agent.policing.tracer._offload = in_thread
        traces = [agent.service.trace(query) for _ in range(3)]
        assert len({len(trace.sides) for trace in await asyncio.gather(*traces)}) == 1
