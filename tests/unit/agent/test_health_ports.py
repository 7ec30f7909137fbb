"""Health ports: what they answer, and that they come and go with what is to be told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest

from plait.agent.health_ports import (
    BEHIND,
    LONGEST,
    MOST,
    Condition,
    Health,
    HealthPorts,
    proxy_answer,
    service_answer,
)
from plait.services.engine import HealthCheck

GOOD = Condition(behind=0.0, eligible=True)
STUCK = Condition(behind=BEHIND, eligible=True)
STARTING = Condition(behind=None, eligible=True)
LEAVING = Condition(behind=0.0, eligible=False)


def body(answer: object) -> dict[str, object]:
    raw = answer.body  # type: ignore[attr-defined]
    return json.loads(raw)  # type: ignore[no-any-return]


class TestAnswers:
    def test_of_a_service_are_kube_proxys(self) -> None:
        answer = service_answer(HealthCheck("shop", "web", 2), GOOD)
        assert answer.status == 200
        assert answer.headers["X-Load-Balancing-Endpoint-Weight"] == "2"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert body(answer) == {
            "service": {"namespace": "shop", "name": "web"},
            "localEndpoints": 2,
            "serviceProxyHealthy": True,
        }

    @pytest.mark.parametrize(
        ("local", "condition"), [(0, GOOD), (1, STUCK), (1, STARTING)], ids=["none", "stuck", "new"]
    )
    def test_of_a_service_turn_traffic_away(self, local: int, condition: Condition) -> None:
        assert service_answer(HealthCheck("shop", "web", local), condition).status == 503

    @pytest.mark.parametrize(
        ("condition", "ready", "alive"),
        [(GOOD, 200, 200), (STUCK, 503, 503), (STARTING, 503, 503), (LEAVING, 503, 200)],
        ids=["good", "stuck", "new", "leaving"],
    )
    def test_of_the_proxy_say_whether_the_kernel_follows(
        self, condition: Condition, ready: int, alive: int
    ) -> None:
        assert proxy_answer(condition, 1000.0, alive=False).status == ready
        assert proxy_answer(condition, 1000.0, alive=True).status == alive

    def test_of_the_proxy_tell_when_it_was_last_in_step(self) -> None:
        assert body(proxy_answer(STUCK, 1000.0, alive=False)) == {
            "lastUpdated": "1970-01-01T00:15:40+00:00",
            "currentTime": "1970-01-01T00:16:40+00:00",
            "nodeEligible": True,
        }
        fresh = body(proxy_answer(GOOD, 1000.0, alive=True))
        assert fresh["lastUpdated"] == fresh["currentTime"]
        assert "nodeEligible" not in fresh


def free_port() -> int:
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::", 0))
        return int(probe.getsockname()[1])


class Told:
    def __init__(self) -> None:
        self.health = Health()


@contextlib.asynccontextmanager
async def serving(
    told: Told, proxy: int = 0, longest: float = LONGEST
) -> AsyncIterator[HealthPorts]:
    ports = HealthPorts(
        lambda: told.health,
        lambda: GOOD,
        wall=lambda: 1000.0,
        retry=0.02,
        proxy=proxy,
        longest=longest,
    )
    task = asyncio.create_task(ports.run())
    try:
        yield ports
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def status(port: int, path: str = "/", host: str = "127.0.0.1") -> int:
    """0: nobody listens."""
    url = f"http://{host}:{port}{path}"
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status
    except aiohttp.ClientConnectorError:
        return 0


async def until(wanted: int, ask: Callable[[], object]) -> None:
    async def same() -> bool:
        return await ask() == wanted  # type: ignore[misc, no-any-return]

    async with asyncio.timeout(5):
        while not await same():
            await asyncio.sleep(0)


class TestPorts:
    async def test_open_and_close_with_what_is_told(self) -> None:
        told, port, proxy = Told(), free_port(), free_port()
        async with serving(told, proxy) as ports:
            assert await status(port) == 0
            told.health = Health(checks={port: HealthCheck("shop", "web", 1)}, proxy=True)
            ports.follow()
            await until(200, lambda: status(port))
            assert await status(port, "/any") == 200
            assert await status(port, host="[::1]") == 200
            assert await status(proxy, "/healthz") == 200
            assert await status(proxy, "/livez") == 200
            assert await status(proxy, "/metrics") == 404
            told.health = Health(checks={port: HealthCheck("shop", "web", 0)})
            ports.follow()
            assert await status(port) == 503
            await until(0, lambda: status(proxy, "/healthz"))
            told.health = Health()
            ports.follow()
            await until(0, lambda: status(port))
        assert ports.problems() == ()

    async def test_a_port_that_is_taken_is_a_problem_until_it_is_free(self) -> None:
        told = Told()
        with socket.socket(socket.AF_INET6) as holder:
            holder.bind(("::", 0))
            holder.listen()
            port = holder.getsockname()[1]
            told.health = Health(checks={port: HealthCheck("shop", "web", 1)})
            async with serving(told) as ports:
                async with asyncio.timeout(5):
                    while not ports.problems():
                        await asyncio.sleep(0)
                (problem,) = ports.problems()
                assert problem == (
                    f"the health of service shop/web cannot be told on TCP port {port}: "
                    "Address already in use"
                )
                holder.close()
                await until(200, lambda: status(port))
                assert ports.problems() == ()

    async def test_a_connection_that_says_nothing_is_ended(self) -> None:
        told, port = Told(), free_port()
        told.health = Health(checks={port: HealthCheck("shop", "web", 1)})
        async with serving(told, longest=0.05), asyncio.timeout(5):
            await until(200, lambda: status(port))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: ")
            assert await reader.read() == b""
            writer.close()

    async def test_of_too_many_connections_the_oldest_ends(self) -> None:
        told, port = Told(), free_port()
        told.health = Health(checks={port: HealthCheck("shop", "web", 1)})
        async with serving(told), asyncio.timeout(20):
            await until(200, lambda: status(port))
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MOST + 1)]
            assert await held[0][0].read() == b""
            assert await status(port) == 200
            for _, writer in held:
                writer.close()
