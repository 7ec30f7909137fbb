"""What the agent tells of itself: problems as conditions, numbers as metrics."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.support.waiting import until

from plait.agent import fake
from plait.agent.agent import CONDITION_LENGTH, Agent
from plait.agent.metrics import counter, gauge, render
from plait.agent.underlay import Overlaps
from plait.kernel.hostfacts import RouteFact
from plait.model.objects import Metadata, Network, NetworkSpec, Node


@contextlib.asynccontextmanager
async def running(host: fake.FakeHost, **kwargs: Path) -> AsyncIterator[Agent]:
    agent = host.agent(**kwargs)
    await agent.start()
    try:
        yield agent
    finally:
        await agent.stop()


def conditions(host: fake.FakeHost) -> tuple[str, ...]:
    node = host.server.objects.get(f"/nodes/{host.name}")
    return node.status.conditions if isinstance(node, Node) else ()


@pytest.fixture
def host(tmp_path: Path) -> fake.FakeHost:
    return fake.FakeHost(fake.server(), tmp_path)


async def test_problems_of_other_parts_reach_status_and_node(host: fake.FakeHost) -> None:
    async with running(host) as agent:
        told = ["one", "two\x1b[31m\nlines " + "x" * 2000]
        agent.problem_sources.append(lambda: told)
        assert (await agent.service.status()).problems == tuple(told)
        agent.sync.kick()
        await until(lambda: len(conditions(host)) == 2)
        first, second = conditions(host)
        assert first == "one"
        assert second.startswith("two [31m lines x")
        assert len(second) == CONDITION_LENGTH
        told[:] = [f"problem {i}" for i in range(100)]
        agent.sync.kick()
        await until(lambda: len(conditions(host)) == 64)
        told.clear()
        agent.sync.kick()
        await until(lambda: conditions(host) == ())


async def test_metrics_of_other_parts_stand_beside_the_agents_own(
    host: fake.FakeHost, tmp_path: Path
) -> None:
    socket = tmp_path / "agent.sock"
    async with running(host, socket=socket) as agent:
        agent.metric_sources.append(lambda: [counter("plait_dns_answers", 3, rcode="NOERROR")])
        reader, writer = await asyncio.open_unix_connection(socket)
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
    assert "\nplait_agent_endpoints 0\n" in text
    assert '\nplait_dns_answers_total{rcode="NOERROR"} 3\n' in text


async def test_a_route_that_overlaps_a_network_is_told(host: fake.FakeHost) -> None:
    tunnel = RouteFact("10.9.0.0/24", "eth0", "192.0.2.9", 0, 3)
    host.facts = msgspec.structs.replace(host.facts, routes=(*host.facts.routes, tunnel))
    async with running(host) as agent:
        await until(lambda: agent.state.snapshot.networks)
        (problem,) = (await agent.service.status()).problems
        assert problem.startswith("the network plait (10.9.0.0/16) overlaps 10.9.0.0/24, which")
        await until(lambda: conditions(host) == (problem,))


def test_overlaps() -> None:
    def network(*pools: str) -> Network:
        return Network(metadata=Metadata(name="n"), spec=NetworkSpec(pools=pools))

    overlaps = Overlaps()
    used = ("0.0.0.0/1", "10.1.0.0/16", "fd00::/8")
    assert overlaps(used, {"n": network("10.2.0.0/16")}) == ()
    found = overlaps(used, {"n": network("10.0.0.0/8", "fd00:1::/64")})
    assert [words.split(", which")[0] for words in found] == [
        "the network n (10.0.0.0/8) overlaps 10.1.0.0/16",
        "the network n (fd00:1::/64) overlaps fd00::/8",
    ]
    assert overlaps(used, {"n": network("10.0.0.0/8", "fd00:1::/64")}) is found
    assert overlaps((), {"n": network("10.0.0.0/8")}) == ()
    (services,) = overlaps(used, {}, ("10.1.4.0/24", "fc00::/112"))
    assert services.startswith("the service pool (10.1.4.0/24) overlaps 10.1.0.0/16, which")


def test_the_exposition() -> None:
    samples = [
        counter("a", 1, part='x"y\\'),
        gauge("b", True),
        counter("a", 2.5, part="z"),
    ]
    assert render(samples).decode() == (
        '# TYPE a_total counter\na_total{part="x\\"y\\\\"} 1\na_total{part="z"} 2.5\n'
        "# TYPE b gauge\nb 1\n"
    )
