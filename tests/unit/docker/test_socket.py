from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.docker.socket import MAX_BODY, Call, PluginSocket, answer, calls
from plait.model.errors import PlaitError
from plait.wire.docker import (
    CreateEndpointCall,
    CreateNetworkCall,
    EndpointCall,
    JoinCall,
    Nothing,
    ReleaseAddressCall,
    RequestAddressCall,
    RequestPoolCall,
    decode,
)

EMPTY_IS_RIGHT = {
    "Plugin.Activate",
    "NetworkDriver.GetCapabilities",
    "NetworkDriver.GwAllocCheck",
    "NetworkDriver.DiscoverNew",
    "NetworkDriver.DiscoverDelete",
    "IpamDriver.GetCapabilities",
    "IpamDriver.GetDefaultAddressSpaces",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "plugins" / "plait.sock"


@pytest.fixture
async def served(world, path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    plugin = PluginSocket(path, calls(world.driver, world.ipam))
    await plugin.start()
    connector = aiohttp.UnixConnector(path=str(path))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session
    await plugin.stop()
    assert not path.exists()


async def post(session: aiohttp.ClientSession, call: str, body: bytes) -> dict[str, object]:
    async with session.post(f"http://plugin/{call}", data=body) as reply:
        assert reply.status == 200
        return msgspec.json.decode(await reply.read())


async def test_handshake(served: aiohttp.ClientSession, path: Path) -> None:
    assert await post(served, "Plugin.Activate", b"") == {
        "Implements": ["NetworkDriver", "IpamDriver"]
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (await post(served, "NetworkDriver.GetCapabilities", b""))["Scope"] == "local"


async def test_every_call_is_right_on_an_empty_body(served: aiohttp.ClientSession, world) -> None:
    for name in calls(world.driver, world.ipam):
        reply = await post(served, name, b"")
        assert ("Err" in reply) == (name not in EMPTY_IS_RIGHT), name
        assert reply.get("Err") == reply.get("Error")


async def test_an_empty_host_header_as_dockerd_sends_it(
    served: aiohttp.ClientSession, path: Path
) -> None:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"POST /Plugin.Activate HTTP/1.1\r\nHost: \r\nContent-Length: 0\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    await writer.wait_closed()


async def test_bodies_that_are_too_large_or_too_deep(
    served: aiohttp.ClientSession,
) -> None:
    deep = b'{"NetworkID":"a","Options":{"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}}"
    reply = await post(served, "NetworkDriver.CreateNetwork", deep)
    assert str(reply["Err"]).startswith("PLAIT-DOCKER-001")
    large = io.BytesIO(b" " * (MAX_BODY + 1))
    async with served.post("http://plugin/NetworkDriver.CreateNetwork", data=large) as response:
        assert response.status == 413


@pytest.mark.parametrize(
    "body",
    [
        b"null",
        b"[]",
        b"{}",
        b'{"NetworkID": ""}',
        b'{"NetworkID": "a b"}',
        b'{"NetworkID": 7}',
        b'{"NetworkID": "' + b"a" * 10_000 + b'"}',
        b'{"NetworkID": "a\\n"}',
        b"\xff",
    ],
)
async def test_not_valid(served: aiohttp.ClientSession, body: bytes) -> None:
    reply = await post(served, "NetworkDriver.DeleteNetwork", body)
    assert str(reply["Err"]).startswith("PLAIT-DOCKER-001")


async def test_unknown_fields_and_nulls_are_tolerated(served: aiohttp.ClientSession) -> None:
    body = b'{"NetworkID":"a","EndpointID":"b","Options":null,"Future":{"x":[1]},"Interface":null}'
    reply = await post(served, "NetworkDriver.Leave", body)
    assert reply == {}


async def test_a_socket_that_was_left_behind_is_replaced(world, path: Path) -> None:
    path.parent.mkdir(parents=True)
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    plugin = PluginSocket(path, calls(world.driver, world.ipam))
    await plugin.start()
    await plugin.stop()


async def test_a_handler_that_hangs_is_cut() -> None:
    async def hang(_: Nothing) -> dict[str, object]:
        await asyncio.Event().wait()
        return {}

    content = await answer({"X": Call(Nothing, hang)}, "X", b"", 0.01)
    assert b"PLAIT-AGENT-006" in content


async def test_a_defect_is_told_without_its_trace() -> None:
    async def fail(_: EndpointCall) -> dict[str, object]:
        raise RuntimeError("secret detail")

    body = b'{"NetworkID":"a","EndpointID":"b"}'
    content = await answer({"X": Call(EndpointCall, fail)}, "X", body, 1)
    assert b"PLAIT-API-013" in content
    assert b"secret" not in content
    assert b"PLAIT-DOCKER-001" in await answer({}, "No.Such", b"", 1)


PAYLOADS = (
    CreateEndpointCall,
    CreateNetworkCall,
    EndpointCall,
    JoinCall,
    RequestAddressCall,
    RequestPoolCall,
    ReleaseAddressCall,
)
FIELDS = ("NetworkID", "EndpointID", "Options", "Interface", "PoolID", "Pool", "Address")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner),
)


@settings(max_examples=300)
@given(
    body=st.binary(max_size=64) | VALUES.map(msgspec.json.encode), kind=st.sampled_from(PAYLOADS)
)
def test_any_body_is_taken_or_refused_with_a_code(body: bytes, kind: type) -> None:
    with contextlib.suppress(PlaitError):
        assert isinstance(decode(body, kind), kind)
