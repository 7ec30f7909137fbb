"""Bad input, too much of it, and too slow: a clear refusal, and everybody else is served."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import ssl
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from plait.client.api import ApiClient
from plait.client.base import BatchOp
from plait.model.errors import PlaitError
from plait.model.objects import Metadata, Namespace, Network, encode
from plait.server.server import Server
from plait.wire.api import SERVER_NAME

if TYPE_CHECKING:
    from tests.contract.conftest import Rig

pytestmark = pytest.mark.parametrize("rig", ["memory"], indirect=True)


async def talk(server: Server, *parts: bytes) -> tuple[int, dict[str, Any]]:
    """Send bytes to the socket; status and problem of the answer."""
    reader, writer = await asyncio.open_unix_connection(str(server.config.unix_socket))
    try:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                writer.write(part)
                await writer.drain()
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            )
            body = await reader.readexactly(length)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return int(head.split()[1]), msgspec.json.decode(body) if body[:1] == b"{" else {}


def post(path: str, body: bytes, *headers: bytes, length: int | None = None) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1".encode(),
        b"Host: localhost",
        b"Content-Length: %d" % (len(body) if length is None else length),
        *(headers or (b"Content-Type: application/json",)),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def posted(server: Server, body: bytes, path: str = "/v1/networks") -> tuple[int, str]:
    status, problem = await talk(server, post(path, body))
    return status, problem.get("code", "")


DEEP = 10_000
BAD: dict[str, tuple[bytes, tuple[int, str]]] = {
    "empty": (b"", (400, "PLAIT-API-001")),
    "cut": (b'{"kind":"Network"', (400, "PLAIT-API-001")),
    "not utf-8": (
        b'{"kind":"Network","metadata":{"name":"\xff"}}',
        (400, "PLAIT-API-001"),
    ),
    "a list": (b"[]", (422, "PLAIT-API-002")),
    "deep lists": (b"[" * DEEP + b"]" * DEEP, (422, "PLAIT-API-002")),
    "deep objects": (b'{"a":' * DEEP + b"1" + b"}" * DEEP, (422, "PLAIT-API-002")),
    "deep labels": (
        b'{"metadata":{"name":"a","labels":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}}",
        (422, "PLAIT-API-002"),
    ),
    "unknown kind": (b'{"kind":"Gadget","metadata":{"name":"a"}}', (404, "PLAIT-API-003")),
    "wrong kind": (b'{"kind":"Node","metadata":{"name":"a"}}', (422, "PLAIT-API-002")),
    "unknown field": (
        b'{"kind":"Network","metadata":{"name":"a"},"spec":{"pool":"x"}}',
        (422, "PLAIT-API-002"),
    ),
    "other version": (
        b'{"kind":"Network","apiVersion":"v9","metadata":{"name":"a"}}',
        (422, "PLAIT-API-002"),
    ),
    "no name": (b'{"kind":"Network","metadata":{}}', (422, "PLAIT-API-002")),
    "long name": (
        b'{"kind":"Network","metadata":{"name":"' + b"a" * 10_000 + b'"}}',
        (422, "PLAIT-NAME-001"),
    ),
    "control character": (
        b'{"kind":"Network","metadata":{"name":"a\\u0000b"}}',
        (422, "PLAIT-NAME-001"),
    ),
    "newline": (b'{"kind":"Network","metadata":{"name":"a\\n"}}', (422, "PLAIT-NAME-001")),
    "host bits": (
        b'{"kind":"Network","metadata":{"name":"a"},"spec":{"pools":["10.1.2.3/8"]}}',
        (422, "PLAIT-NET-004"),
    ),
    "overlap": (
        b'{"kind":"Network","metadata":{"name":"a"},"spec":{"pools":["10.112.4.0/24"]}}',
        (409, "PLAIT-NET-001"),
    ),
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_input_is_refused_by_code(rig: Rig, server: Server, case: str) -> None:
    body, expected = BAD[case]
    before = rig.store.revision
    assert await posted(server, body) == expected
    assert rig.store.revision == before


async def test_a_refusal_is_a_problem_document_that_names_the_field(
    rig: Rig, server: Server
) -> None:
    body = b'{"kind":"Network","metadata":{"name":"a"},"spec":{"reserved":[1]}}'
    status, problem = await talk(server, post("/v1/networks", body))
    assert status == problem["status"] == 422
    assert problem["where"] == "spec.reserved[0]"
    assert problem["type"].endswith("PLAIT-API-002")
    assert problem["title"]


async def test_an_unknown_kind_gets_the_nearest_one(rig: Rig, server: Server) -> None:
    status, problem = await talk(server, b"GET /v1/netwroks HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (status, problem["code"]) == (404, "PLAIT-API-003")
    assert problem["fix"] == ["use networks"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("GET /v1/networks?limit=x", (422, "PLAIT-API-002")),
        ("GET /v1/networks?limit=-1", (422, "PLAIT-API-002")),
        ("GET /v1/networks?nonsense=1", (422, "PLAIT-API-002")),
        ("GET /v1/networks?continue=!!!", (422, "PLAIT-API-002")),
        ("GET /v1/networks?continue=L25vZGVzL2E=", (422, "PLAIT-API-002")),
        ("GET /v1/watch?kinds=Gadget", (404, "PLAIT-API-003")),
        ("GET /v1/watch?from=99999999999999999999", (422, "PLAIT-API-002")),
        ("DELETE /v1/networks", (405, "PLAIT-API-010")),
        ("PATCH /v1/networks/a", (405, "PLAIT-API-010")),
        ("GET /v1/endpoints/a", (404, "PLAIT-API-014")),
        ("GET /v1/namespaces/default/networks", (404, "PLAIT-API-014")),
        ("GET /v1/nothing/of/that/kind/here", (404, "PLAIT-API-014")),
        ("GET /v1/networks/%00", (404, "PLAIT-API-004")),
        ("GET /v1/networks/..%2f..%2fetc", (404, "PLAIT-API-004")),
    ],
)
async def test_bad_paths_and_queries_are_refused(
    rig: Rig, server: Server, line: str, expected: tuple[int, str]
) -> None:
    status, problem = await talk(server, f"{line} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert (status, problem.get("code")) == expected


async def test_a_body_is_json_plain_and_said_to_be(rig: Rig, server: Server) -> None:
    body = encode(Network(metadata=Metadata(name="a")))
    for headers in (
        (b"Content-Type: text/plain",),
        (b"Content-Type: application/json", b"Content-Encoding: gzip"),
    ):
        status, problem = await talk(server, post("/v1/networks", body, *headers))
        assert (status, problem["code"]) == (415, "PLAIT-API-015")


def memory() -> int:
    """Largest resident size of this process so far, KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


async def test_a_huge_body_is_refused_before_it_is_read(rig: Rig, server: Server) -> None:
    before = memory()
    head = post("/v1/networks", b"", length=1 << 30)
    status, problem = await talk(server, head)
    assert (status, problem["code"]) == (413, "PLAIT-API-007")
    expecting = post(
        "/v1/networks",
        b"",
        b"Content-Type: application/json",
        b"Expect: 100-continue",
        length=1 << 30,
    )
    status, problem = await talk(server, expecting)
    assert (status, problem["code"]) == (413, "PLAIT-API-007")
    assert memory() - before < 16 * 1024


async def test_a_body_without_a_length_is_cut_at_the_limit(rig: Rig, server: Server) -> None:
    before = memory()
    head = (
        b"POST /v1/networks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    status, problem = await talk(server, head, *(piece for _ in range(256)))
    assert (status, problem["code"]) == (413, "PLAIT-API-007")
    assert memory() - before < 32 * 1024


async def test_expect_continue_works_for_a_good_body(rig: Rig, server: Server) -> None:
    body = encode(Network(metadata=Metadata(name="a")))
    reader, writer = await asyncio.open_unix_connection(str(server.config.unix_socket))
    headers = (b"Content-Type: application/json", b"Expect: 100-continue")
    head = post("/v1/networks", b"", *headers, length=len(body))
    writer.write(head)
    async with asyncio.timeout(5):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        writer.write(body)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 201 ")
    writer.close()
    await writer.wait_closed()


async def test_a_header_has_a_limit(rig: Rig, server: Server) -> None:
    huge = b"GET /v1/networks HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"
    status, _ = await talk(server, huge)
    assert status == 400
    many = b"".join(b"X-%d: a\r\n" % i for i in range(1000))
    status, _ = await talk(server, b"GET /v1/networks HTTP/1.1\r\nHost: x\r\n" + many + b"\r\n")
    assert status == 400


async def test_a_batch_has_a_limit(rig: Rig) -> None:
    api = rig.admin(await rig.serve(max_batch=3))
    ops = [
        BatchOp(verb="update", object=Namespace(metadata=Metadata(name=f"n{i}"))) for i in range(4)
    ]
    for wrong in (ops, []):
        with pytest.raises(PlaitError, match="PLAIT-API-002"):
            await api.batch(wrong)
    await api.batch(ops[:3])


async def test_an_overloaded_server_says_so_and_stays_healthy(rig: Rig) -> None:
    server = await rig.serve(max_pending=2)
    writers = []
    for _ in range(2):
        _, writer = await asyncio.open_unix_connection(str(server.config.unix_socket))
        writer.write(post("/v1/networks", b"{", length=100))
        writers.append(writer)
    deadline = time.monotonic() + 5
    while server.api.pending < 2:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    api = rig.admin(server)
    with pytest.raises(PlaitError, match="PLAIT-API-009"):
        await api.list(Network)
    assert await api.ready()
    stream = api.watch([Network])
    async for event in stream:
        if event.type == "synced":
            break
    await stream.aclose()  # type: ignore[attr-defined]
    for writer in writers:
        writer.close()
        await writer.wait_closed()
    while server.api.pending:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    assert await api.list(Network)


async def test_slow_headers_and_slow_bodies_are_cut(rig: Rig) -> None:
    server = await rig.serve(idle_timeout=0.2, body_timeout=0.2)
    reader, writer = await asyncio.open_unix_connection(str(server.config.unix_socket))
    writer.write(b"GET /v1/networks HTTP/1.1\r\nHost: x\r\nX-Slow")
    async with asyncio.timeout(10):
        assert await reader.read() == b"", "slowloris"
    writer.close()
    await writer.wait_closed()
    status, problem = await talk(server, post("/v1/networks", b"{", length=100))
    assert (status, problem["code"]) == (408, "PLAIT-API-017")


async def test_a_silent_tls_client_blocks_nobody_and_is_cut(rig: Rig) -> None:
    """CVE-2023-41378."""
    server = await rig.serve(handshake_timeout=0.3)
    silent = [await asyncio.open_connection("127.0.0.1", server.ports[0]) for _ in range(20)]
    client = rig.keep(ApiClient(rig.url(server), ca_file=rig.authority.ca_file))
    assert await client.ready()
    async with asyncio.timeout(10):
        for reader, writer in silent:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()


async def test_a_failure_inside_shows_no_trace(
    rig: Rig, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(server.service.mirror.state, "page", broken)
    status, problem = await talk(server, b"GET /v1/networks HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (status, problem["code"]) == (500, "PLAIT-API-013")
    assert "secret detail" not in str(problem)
    assert "secret detail" in capsys.readouterr().out


async def test_readiness_follows_the_store(rig: Rig, server: Server) -> None:
    api = rig.admin(server)
    assert await api.ready()
    await server.service.mirror.stop()
    assert not await api.ready()


async def test_metrics_count_requests(rig: Rig, server: Server) -> None:
    api = rig.admin(server)
    await api.list(Network)
    text = (await api._request("GET", "/metrics")).decode()
    line = 'plait_server_requests_total{method="GET",route="/v1/{plural}",status="200"} 1.0'
    assert line in text
    assert 'plait_server_objects{kind="Network"} 1.0' in text


async def test_garbage_over_tls_is_answered_or_cut(rig: Rig, server: Server) -> None:
    context = ssl.create_default_context(cafile=rig.authority.ca_file)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", server.ports[0], ssl=context, server_hostname=SERVER_NAME
    )
    writer.write(b"\x00\x01\x02 nonsense\r\n\r\n")
    async with asyncio.timeout(5):
        assert b"400" in await reader.readline()
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()


async def test_strangers_make_way_for_each_other_and_nobody_else(rig: Rig) -> None:
    server = await rig.serve(max_strangers=8)
    node = await rig.node(server, "h1")
    watching = node.watch([Network])
    assert (await anext(watching)).type == "begin"
    context = ssl.create_default_context(cafile=rig.authority.ca_file)
    crowd = [
        await asyncio.open_connection(
            "127.0.0.1", server.ports[0], ssl=context, server_hostname=SERVER_NAME
        )
        for _ in range(24)
    ]
    async with asyncio.timeout(10):
        for reader, _ in crowd[:12]:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b"", "the oldest are cut"
    assert server.service.doorman.turned_away >= 12
    assert await node.list(Network)
    while (event := await anext(watching)).type != "synced":
        assert event.type != "disconnected"
    for _, writer in crowd:
        writer.transport.abort()
    await watching.aclose()  # type: ignore[attr-defined]
