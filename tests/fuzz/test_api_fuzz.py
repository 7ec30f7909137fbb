"""Whatever is sent, the answer is a problem with a known code, and nothing is half-made.

The first half mutates valid objects below HTTP, where thousands fit in a second; the second
sends raw bytes to the real server.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plait.model.errors import CODES, PlaitError
from plait.model.objects import KINDS, ClusterSpec, Object, encode
from plait.server import http
from plait.server.authorize import Actor
from plait.server.bootstrap import bootstrap
from plait.server.ca import Authority
from plait.server.clock import Clock
from plait.server.config import Config
from plait.server.server import Server
from plait.server.state import State
from plait.server.writes import Step, plan
from plait.store.memory import MemoryStore

SEEDS: dict[str, dict[str, Any]] = {
    "Cluster": {"metadata": {"name": "plait"}, "spec": {"pools": ["10.0.0.0/8", "fd00::/48"]}},
    "Namespace": {"metadata": {"name": "a", "labels": {"a": "b"}}},
    "Node": {
        "metadata": {"name": "h1", "uid": "12345678"},
        "spec": {"addresses": ["192.0.2.1/24"], "linkLocal": "fe80::1", "mtu": 1500},
        "status": {"prefixes": ["192.0.2.0/24"], "conditions": ["x"], "lastSeen": "x"},
    },
    "Network": {
        "metadata": {"name": "n"},
        "spec": {"pools": ["10.1.0.0/16"], "gateways": ["10.1.0.1"], "reserved": ["10.1.9.0/24"]},
    },
    "AddressBlock": {
        "metadata": {"name": "n.10-1-0-0-26"},
        "spec": {
            "network": "n",
            "cidr": "10.1.0.0/26",
            "node": "h1",
            "loans": [{"address": "10.1.0.5", "node": "h2", "state": "granted"}],
        },
    },
    "Endpoint": {
        "metadata": {"name": "e", "namespace": "default"},
        "spec": {
            "node": "h1",
            "network": "n",
            "name": "web",
            "aliases": ["db"],
            "addresses": ["10.1.0.5"],
            "mac": "02:00:00:00:00:01",
            "ports": [{"protocol": "tcp", "port": 80, "hostPort": 8080, "hostIp": "0.0.0.0"}],
            "namedPorts": [{"name": "http", "protocol": "tcp", "port": 80}],
            "workload": {"runtime": "docker", "id": "abc"},
        },
    },
    "Group": {"metadata": {"name": "g"}, "spec": {"cidrs": ["10.0.0.0/8"]}},
    "Policy": {
        "metadata": {"name": "knp.shop.web", "annotations": {"a": "b"}},
        "spec": {
            "tier": "application",
            "priority": 7,
            "subject": {
                "namespaces": {"matchLabels": {"team": "red"}},
                "endpoints": {
                    "matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]
                },
            },
            "isolate": ["ingress"],
            "origin": {"kind": "NetworkPolicy", "name": "web", "namespace": "shop"},
            "description": "x",
            "ingress": [
                {
                    "action": "Deny",
                    "name": "no",
                    "reject": True,
                    "peers": [
                        {"namespaces": {}, "endpoints": {}},
                        {"group": "g"},
                        {"network": "n"},
                        {"nodes": {}},
                        {"service": {"name": "db", "namespace": "shop"}},
                        {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]},
                    ],
                    "ports": [
                        {"protocol": "TCP", "port": 80, "endPort": 90},
                        {"port": "http"},
                        {"protocol": "ICMP", "icmpType": 3, "icmpCode": 1},
                    ],
                }
            ],
            "egress": [{"peers": [{"domains": ["*.example.com"]}]}],
        },
    },
}
NASTY: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1 << 70,
    1.5,
    "",
    "a\x00b",
    "\u202e",
    "x" * 10_000,
    "../../etc/passwd",
    'web"; flush ruleset; #',
    "$(reboot)",
    "10.0.0.0/33",
    "::ffff:10.0.0.1",
    "fe80::1%eth0",
    "1e309",
    [],
    {},
    ["10.0.0.0/8"] * 2000,
    {"kind": "Node"},
)
DECODERS = {kind: msgspec.json.Decoder(kind) for kind in KINDS.values()}


def spots(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a tree."""
    children = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    return [path, *(spot for key, child in children for spot in spots(child, (*path, key)))]


def mutated(seed: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = seed.copy()
    copy[path[0]] = mutated(seed[path[0]], path[1:], value)
    return copy


def full_state() -> State:
    state = State()
    for name in SEEDS:
        handle(state, KINDS[name], msgspec.json.encode(SEEDS[name]), keep=True)
    return state


def check_problem(error: PlaitError) -> str:
    """The code of a refusal that can be shown to anybody."""
    msgspec.json.encode(error.problem())
    assert len(error.detail) < 3000
    assert (error.detail + error.where + error.why).isprintable()
    return error.code


def handle(state: State, kind: type[Object], body: bytes, *, keep: bool = False) -> str:
    """What the server does with a body; the code of the refusal, or empty."""
    try:
        obj = http.decode(body, DECODERS[kind])
        namespace = (obj.metadata.namespace or "default") if kind.namespaced else ""
        revision = obj.metadata.revision
        step = Step("update", kind, obj.metadata.name, namespace, revision, obj)
        now = "2030-01-01T00:00:00Z"
        decided = plan(state, Actor("admin"), [step], now, lambda: "u" * 8)
    except PlaitError as error:
        return check_problem(error)
    for key, stored in decided.puts.items():
        assert stored is not None
        assert key.isascii()
        assert key.isprintable()
        assert len(key) <= 512
        assert len(encode(stored)) < 1 << 20
        assert DECODERS[type(stored)].decode(encode(stored)) == stored
        if keep:
            state.put(key, stored, 1)
    return ""


STATE = full_state()
SPOTS = [(name, spot) for name in SEEDS for spot in spots(SEEDS[name])]


@pytest.mark.parametrize("value", range(len(NASTY)))
def test_no_value_in_no_place_is_a_surprise(value: int) -> None:
    for name, spot in SPOTS:
        body = msgspec.json.encode(mutated(SEEDS[name], spot, NASTY[value]))
        code = handle(STATE, KINDS[name], body)
        assert code in CODES or code == ""
        assert not code or CODES[code].status < 500


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(st.sampled_from(SPOTS), JSON)
def test_no_tree_in_no_place_is_a_surprise(spot: tuple[str, tuple[Any, ...]], tree: Any) -> None:
    name, path = spot
    code = handle(STATE, KINDS[name], msgspec.json.encode(mutated(SEEDS[name], path, tree)))
    assert not code or CODES[code].status < 500


@given(st.sampled_from(sorted(SEEDS)), st.data())
def test_damaged_json_is_refused(name: str, data: st.DataObject) -> None:
    body = bytearray(msgspec.json.encode(SEEDS[name]))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    code = handle(STATE, KINDS[name], bytes(body))
    assert not code or CODES[code].status < 500


# The real server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    store, clock = MemoryStore(), Clock()
    await store.open()
    await bootstrap(store, ClusterSpec(pools=("10.0.0.0/8",)), clock)
    config = Config(listen=(), unix_socket=tmp_path / "s.sock", idle_timeout=0.2, body_timeout=0.2)
    made = Server(store, Authority.open(tmp_path / "ca", time.time), config, clock)
    await made.start()
    yield made
    await made.stop()
    await store.close()


async def exchange(server: Server, data: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(server.config.unix_socket))
    writer.write(data)
    try:
        async with asyncio.timeout(5):
            return await reader.read(65536)
    except ConnectionError:
        return b""
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


GOOD = (
    b"POST /v1/networks?dryRun=true HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: 43\r\n\r\n"
    b'{"kind":"Network","metadata":{"name":"abc"}}'
)


async def test_damaged_requests_get_an_answer_below_500(server: Server) -> None:
    rng = random.Random(11)
    before = server.service.mirror.state.revision
    requests = []
    for _ in range(400):
        data = bytearray(GOOD)
        for _ in range(rng.randrange(1, 5)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(2)] = rng.randbytes(rng.randrange(3))
        requests.append(bytes(data))
    answers = await asyncio.gather(*(exchange(server, data) for data in requests))
    statuses = {int(answer.split(b" ", 2)[1]) for answer in answers if answer}
    assert len(statuses) > 3
    assert all(status < 500 for status in statuses), statuses
    assert server.service.mirror.state.revision in (before, before + 1)
    assert server.api.pending == 0


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.text(st.characters(codec="latin-1"), max_size=60))
async def test_no_path_is_a_surprise(server: Server, path: str) -> None:
    line = f"GET /v1/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode("latin-1")
    answer = await exchange(server, line)
    if answer:
        assert int(answer.split(b" ", 2)[1]) < 500
