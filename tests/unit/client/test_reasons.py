"""Words for what aiohttp and the operating system say, on real sockets of loopback."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from pathlib import Path

import aiohttp
import pytest

from plait.client.api import ApiClient
from plait.client.reasons import reason
from plait.model.errors import PlaitError


async def why(client: ApiClient) -> PlaitError:
    async with client:
        with pytest.raises(PlaitError) as caught:
            await client.version()
    assert caught.value.code == "PLAIT-API-012"
    assert "ssl" not in caught.value.render().lower()
    return caught.value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_a_port_where_nobody_listens() -> None:
    port = free_port()
    error = await why(ApiClient(f"https://127.0.0.1:{port}"))
    assert error.detail == f"the server at https://127.0.0.1:{port} cannot be reached"
    assert error.why == "connection refused: nothing listens there"


async def test_a_name_with_several_addresses() -> None:
    error = await why(ApiClient(f"https://localhost:{free_port()}"))
    assert error.why == "connection refused: nothing listens there"


async def test_a_name_that_is_not_there() -> None:
    error = await why(ApiClient("https://nowhere.invalid:6440"))
    assert error.why == "the name nowhere.invalid was not found"


async def test_a_socket_that_is_not_there(tmp_path: Path) -> None:
    error = await why(ApiClient("http://localhost", unix_socket=tmp_path / "server.sock"))
    assert error.why == "nothing listens there: there is no such socket"
    assert error.fix == ("plait up", "plait status")


async def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        error = await why(ApiClient(url, timeout=0.2))
    assert error.why == "timed out: no answer from that address"


async def test_a_server_that_hangs_up() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        error = await why(ApiClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    assert error.why in (
        "the connection was closed without an answer",
        "the connection was reset by the other side",
    )


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EHOSTUNREACH, "x"), "no route to that address, or the host is down"),
        (OSError(errno.EMFILE, "x"), "Too many open files"),
        (OSError("Multiple exceptions: [Errno 111] a, [Errno 111] b"), "connection refused"),
        (ssl.SSLError(1, "[SSL] sslv3_alert (_ssl.c:1)"), "TLS failed"),
        (aiohttp.ClientPayloadError("cut short"), "cut short"),
        (ValueError(), "ValueError"),
    ],
)
def test_words(error: Exception, words: str) -> None:
    assert reason(error).startswith(words)
