"""Numbers and problems of the parts beside the agent."""

from __future__ import annotations

import asyncio

import pytest

from plait.agent.metrics import render
from plait.dns.server import DnsServer
from plait.dns.zone import Zone
from plait.kernel.conntrack import FakeConntrack, FlowReaper
from plait.model.errors import PlaitError
from plait.wiring import agent as wiring
from plait.wiring.telling import dns_metrics, flow_metrics, flow_problems


class BrokenConntrack(FakeConntrack):
    """A kernel that refuses."""

    def forget_addresses(self, addresses: object) -> int:
        raise OSError(12, "Cannot allocate memory")


def test_flows_that_cannot_be_ended_are_a_problem() -> None:
    flows = FlowReaper(BrokenConntrack())
    try:
        assert flow_problems(flows) == ()
        flows.forget_addresses(["10.0.0.1"])
        assert flows.wait(5.0)
        (problem,) = flow_problems(flows)
        assert "Cannot allocate memory" in problem
        assert b"plait_conntrack_forgotten_flows_total 0" in render(flow_metrics(flows))
    finally:
        flows.close()


async def test_the_resolver_is_counted() -> None:
    server = DnsServer(Zone(), binds=(("127.0.0.1", 0),), transparent=False)
    server.stats.answers[3] = 7
    await server.start()
    try:
        text = render(dns_metrics(server)).decode()
    finally:
        await server.stop()
    assert 'plait_dns_answers_total{rcode="NXDOMAIN"} 7' in text
    assert "plait_dns_listening 1" in text


async def test_a_part_that_cannot_start_is_a_problem_until_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wiring, "RETRY", 0.0)
    missing: dict[str, str] = {}
    seen: list[dict[str, str]] = []

    async def start() -> None:
        seen.append(dict(missing))
        if len(seen) < 3:
            raise PlaitError("PLAIT-DNS-001", "another program listens")

    async with asyncio.timeout(5):
        await wiring.keep_trying("resolver", start, missing)
    assert seen[0] == {}
    assert "another program listens" in seen[2]["resolver"]
    assert missing == {}
