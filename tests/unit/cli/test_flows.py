"""`plait flows`: what a line says, what is asked for, and what happens when the server is away."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import click
import msgspec
import pytest
from click.testing import CliRunner

from plait.__main__ import plait
from plait.cli import connect
from plait.cli.flows import decided_by, line
from plait.client.fake_api import FakeApi, FakeServer
from plait.model.config import AgentConfig
from plait.model.flowring import FlowRing
from plait.model.flows import FlowEnd, FlowPage, FlowQuery, FlowRecord

WEB = FlowEnd(address="10.112.0.1", namespace="shop", name="web", id="e1", node="h1")
DB = FlowEnd(address="fd00::2", namespace="shop", name="db", id="e2", node="h2")
HOST = FlowEnd(address="192.0.2.1", node="h1")
BASE = FlowRecord(
    time=datetime(2026, 3, 4, 5, 6, 7, 89000, tzinfo=UTC),
    node="h1",
    decision="deny",
    direction="ingress",
    protocol="tcp",
    src=WEB,
    dst=DB,
    src_port=40000,
    dst_port=5432,
    policy="guard",
    index=1,
    rule="no front",
    id="r1",
)


def record(**fields: object) -> FlowRecord:
    return msgspec.structs.replace(BASE, **fields)


def words(text: str) -> list[str]:
    return [word for word in text.split("  ") if word]


@pytest.mark.parametrize(
    ("found", "ends", "why"),
    [
        (
            record(),
            "shop/web:40000 -> shop/db:5432/tcp, IPv6",
            'policy guard, ingress rule 2 "no front"',
        ),
        (
            record(dst=FlowEnd(address="2001:db8::1"), src=HOST, rule="", count=1234),
            "host h1:40000 -> [2001:db8::1]:5432/tcp, IPv6",
            "policy guard, ingress rule 2",
        ),
        (
            record(protocol="icmp", icmp_type=8, icmp_code=0, src_port=0, dst_port=0, dst=HOST),
            "shop/web -> host h1 icmp type 8 code 0",
            'policy guard, ingress rule 2 "no front"',
        ),
        (
            record(policy="a", isolating=("a", "b"), index=-1, rule="", reason="isolated"),
            "shop/web:40000 -> shop/db:5432/tcp, IPv6",
            "isolated: policy a, b",
        ),
        (
            record(policy="", index=-1, rule="", reason="another network", dst=HOST),
            "shop/web:40000 -> host h1:5432/tcp",
            "another network",
        ),
        (
            record(protocol="47", src_port=0, dst_port=0, policy="", index=-1, rule="", dst=HOST),
            "shop/web -> host h1 47",
            "a rule that is gone (r1)",
        ),
    ],
)
def test_a_line_says_who_and_why(found: FlowRecord, ends: str, why: str) -> None:
    shown = words(click.unstyle(line(found, UTC)))
    assert shown[0] == "05:06:07.089"
    assert "denied" in shown[1]
    assert shown[2].strip() == "ingress"
    assert shown[3:5] == [ends, why]
    assert shown[5:] == (["(1,234 packets)"] if found.count > 1 else [])


def test_names_of_others_reach_no_terminal_as_they_are() -> None:
    evil = record(src=msgspec.structs.replace(WEB, name="\x1b[2J\n"), rule='"\r')
    assert "\x1b[2J" not in line(evil, UTC)
    assert "\n" not in line(evil, UTC)
    assert decided_by(evil)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """A server that nodes told of flows; the CLI talks to it."""
    server = FakeServer()

    @contextlib.asynccontextmanager
    async def api() -> AsyncIterator[FakeApi]:
        yield FakeApi(server)

    monkeypatch.setattr(connect, "api", api)
    return server


def now(**fields: object) -> FlowRecord:
    return record(time=datetime.now(UTC), **fields)


def test_every_page_is_shown_and_what_is_missing_is_told(seen: FakeServer) -> None:
    seen.flows.extend((now(dst_port=port) for port in range(1, 900)), lost=5)
    done = CliRunner().invoke(plait, ["flows", "--json", "--since", "1h"])
    assert done.exit_code == 0, done.output
    found = [json.loads(text) for text in done.stdout.splitlines()]
    assert [f["dstPort"] for f in found] == list(range(1, 900))
    assert found[0]["src"]["name"] == "web"
    assert "5 more packets" in done.stderr


def test_only_what_is_asked_for_is_shown(seen: FakeServer) -> None:
    seen.flows.extend(
        [
            now(decision="accept"),
            now(decision="staged", policy="soon"),
            record(policy="yesterday"),
            now(src=HOST, dst=FlowEnd(address="192.0.2.9"), policy="hosts"),
        ]
    )

    def shown(*args: str) -> str:
        return CliRunner().invoke(plait, ["flows", *args]).stdout

    assert len(shown().splitlines()) == 3
    assert "soon" in shown("--denied")
    assert "accepted" not in shown("--denied")
    assert "hosts" not in shown("--namespace", "shop")
    assert "policy hosts" in shown("--endpoint", "h1")
    assert len(shown("--endpoint", "shop/db").splitlines()) == 2


def test_the_agent_answers_when_the_server_is_away(
    seen: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = FlowRing(capacity=10, wall=lambda: 0.0)
    ring.add(now(policy="local"))

    class Agent:
        async def flows(self, query: FlowQuery) -> FlowPage:
            return ring.page(after=query.after, only=query)

    monkeypatch.setattr(connect, "agent", Agent)
    monkeypatch.setattr(connect, "remote", lambda _environ: None)
    config = AgentConfig(node="h1", server="https://192.0.2.1:6440")
    monkeypatch.setattr(connect, "agent_config", lambda _paths: config)
    seen.away = True
    done = CliRunner().invoke(plait, ["flows"])
    assert "policy local" in done.stdout
    assert "this host's flows only" in done.stderr
    # Somebody's own server elsewhere has no agent here to speak for it.
    monkeypatch.setattr(connect, "agent_config", lambda _paths: None)
    assert CliRunner().invoke(plait, ["flows"]).exit_code != 0
