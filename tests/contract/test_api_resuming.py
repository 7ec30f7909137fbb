"""Watchers that come back at a bad moment, over every store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from tests.support.waiting import until

from plait.client.api import ApiClient
from plait.model.objects import Metadata, Namespace
from plait.store.base import Event

if TYPE_CHECKING:
    from tests.contract.conftest import Rig


async def test_who_resumes_while_the_server_reads_its_history_misses_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = rig.admin(await rig.serve())
    names = [f"n{number}" for number in range(6)]
    made = [await first.create(Namespace(metadata=Metadata(name=name))) for name in names]
    began, read_on = asyncio.Event(), asyncio.Event()
    follow_store = rig.store.watch

    async def slowly(prefix: str, start: int) -> AsyncIterator[tuple[Event, ...]]:
        async for events in follow_store(prefix, start):
            if events[0].revision > made[2].metadata.revision:
                began.set()
                await read_on.wait()
            yield events

    monkeypatch.setattr(rig.store, "watch", slowly)
    again = await rig.serve()
    await began.wait()
    reader, writer = await asyncio.open_unix_connection(str(again.config.unix_socket))
    after, history = made[0].metadata.revision, again.service.hub.history
    path = f"/v1/watch?kinds=Namespace&from={after}&history={history}"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    try:
        async with asyncio.timeout(10):
            await reader.readuntil(b"\r\n\r\n")
            read_on.set()
            await rig.admin(again).create(Namespace(metadata=Metadata(name="last")))
            told = await reader.readuntil(b'"name":"last"')
    finally:
        writer.close()
    assert [name for name in names if f'"name":"{name}"'.encode() in told] == names[1:]


async def test_who_waits_for_the_history_of_a_server_that_stops_is_cut(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.admin(await rig.serve()).create(Namespace(metadata=Metadata(name="n")))

    async def never(_prefix: str, _start: int) -> AsyncIterator[tuple[Event, ...]]:
        await asyncio.get_running_loop().create_future()
        yield ()

    monkeypatch.setattr(rig.store, "watch", never)
    again = await rig.serve()
    reader, writer = await asyncio.open_unix_connection(str(again.config.unix_socket))
    writer.write(b"GET /v1/watch HTTP/1.1\r\nHost: localhost\r\n\r\n")
    try:
        async with asyncio.timeout(10):
            await reader.readuntil(b"\r\n\r\n")
            await again.stop()
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
    finally:
        writer.close()


async def test_each_reason_for_which_a_watch_does_not_come_about_is_told_once(rig: Rig) -> None:
    tries = 0

    async def sleep(_seconds: float) -> None:
        nonlocal tries
        tries += 1
        await asyncio.sleep(0)

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n?\n")
        await writer.drain()
        writer.close()

    reasons = []

    async def follow() -> None:
        async for event in api.watch((Namespace,)):
            assert event.type == "disconnected"
            reasons.append(event.reason)

    socket = rig.path / "odd.sock"
    api = rig.keep(ApiClient("http://localhost", unix_socket=socket, sleep=sleep))
    following = asyncio.create_task(follow())
    try:
        await until(lambda: tries > 3)
        assert len(reasons) == 1
        async with await asyncio.start_unix_server(nonsense, socket):
            before = tries
            await until(lambda: tries > before + 3)
        assert len(reasons) == 2
        assert "not a watch event" in reasons[1]
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_a_watch_that_hangs_before_it_begins_is_begun_anew(
    monkeypatch: pytest.MonkeyPatch, rig: Rig
) -> None:
    """Not only one whose socket is silent: here, no word of the resolver comes."""

    async def never(*_: object, **__: object) -> list[object]:
        return await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    api = rig.keep(ApiClient("http://server.test", silence=0.05))
    async with asyncio.timeout(10):
        event = await anext(api.watch((Namespace,)))
    assert event.type == "disconnected"
