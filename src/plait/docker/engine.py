"""Client of the Docker Engine API over dockerd's socket: the few calls that Plait makes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import aiohttp
import msgspec

from plait.wire.docker import (
    Container,
    ContainerDetail,
    CreateNetworkBody,
    DockerEvent,
    DockerNetwork,
)

DRIVER: Final = "plait"
NEWEST_API: Final = (1, 47)
"""The newest API version that this client was written against; an older daemon's is used."""
QUICK: Final = 30.0
"""Seconds for calls that take no container's lock."""
PATIENT: Final = 300.0
"""Seconds for calls that wait until a container has started, or a plugin has answered."""
EVENT_LIMIT: Final = 1 << 20
"""Bytes of one event."""

T = TypeVar("T")


class EngineUnavailable(Exception):
    """dockerd is not there, or went away."""


class EngineRefused(Exception):
    """dockerd said no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class Engine(Protocol):
    """What Plait asks of dockerd. Raises EngineUnavailable and EngineRefused."""

    async def connect(self) -> None:
        """Agree on an API version; raises EngineUnavailable while dockerd is not there."""

    async def networks(self) -> tuple[DockerNetwork, ...]:
        """All networks, without their containers."""

    async def network(self, network_id: str) -> DockerNetwork | None:
        """One network with its containers, or None; takes no container's lock."""

    async def containers(self, container_id: str) -> tuple[Container, ...]:
        """Names and labels of a container; takes no container's lock."""

    async def inspect(self, container_id: str) -> ContainerDetail | None:
        """Everything of a container, or None; waits while it is starting."""

    async def create_network(self, body: CreateNetworkBody) -> str:
        """Create a network; its id."""

    async def remove_network(self, network_id: str) -> None:
        """Remove a network; no error if there is none."""

    def events(self, since_nano: int) -> AsyncIterator[DockerEvent]:
        """Events of networks and containers since a Unix time in nanoseconds, without end."""

    async def close(self) -> None:
        """Release connections."""


def api_version(offered: str) -> str:
    """Version to speak with a daemon whose newest is `offered`."""
    major, _, minor = offered.partition(".")
    try:
        newest = (int(major), int(minor))
    except ValueError:
        newest = (1, 41)
    return "{}.{}".format(*min(newest, NEWEST_API))


class DockerEngine:
    """The real one."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._session: aiohttp.ClientSession | None = None
        self._prefix = ""

    async def connect(self) -> None:
        """See `Engine`."""
        await self.close()
        connector = aiohttp.UnixConnector(path=str(self._socket), limit=16)
        self._session = aiohttp.ClientSession(connector=connector)
        try:
            timeout = aiohttp.ClientTimeout(total=QUICK)
            async with self._session.get("http://docker/_ping", timeout=timeout) as reply:
                await reply.read()
                offered = reply.headers.get("Api-Version", "")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise EngineUnavailable(str(error)) from error
        if reply.status != 200:
            raise EngineUnavailable(f"dockerd answers {reply.status} to a ping")
        self._prefix = f"http://docker/v{api_version(offered)}"

    async def networks(self) -> tuple[DockerNetwork, ...]:
        """See `Engine`."""
        return self._decode(await self._call("GET", "/networks"), tuple[DockerNetwork, ...])

    async def network(self, network_id: str) -> DockerNetwork | None:
        """See `Engine`."""
        return await self._one(f"/networks/{network_id}", DockerNetwork, QUICK)

    async def containers(self, container_id: str) -> tuple[Container, ...]:
        """See `Engine`."""
        params = {"all": "1", "filters": _json({"id": [container_id]})}
        body = await self._call("GET", "/containers/json", params=params)
        return self._decode(body, tuple[Container, ...])

    async def inspect(self, container_id: str) -> ContainerDetail | None:
        """See `Engine`."""
        return await self._one(f"/containers/{container_id}/json", ContainerDetail, PATIENT)

    async def create_network(self, body: CreateNetworkBody) -> str:
        """See `Engine`."""
        reply = await self._call("POST", "/networks/create", body=body, patience=PATIENT)
        return str(self._decode(reply, dict[str, Any])["Id"])

    async def remove_network(self, network_id: str) -> None:
        """See `Engine`."""
        try:
            await self._call("DELETE", f"/networks/{network_id}", patience=PATIENT)
        except EngineRefused as error:
            if error.status != 404:
                raise

    async def events(self, since_nano: int) -> AsyncIterator[DockerEvent]:
        """See `Engine`."""
        seconds, nanos = divmod(since_nano, 1_000_000_000)
        params = {
            "since": f"{seconds}.{nanos:09d}",
            "filters": _json({"type": ["network", "container"]}),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=QUICK)
        try:
            url = f"{self._prefix}/events"
            async with self._open().get(url, params=params, timeout=timeout) as reply:
                if reply.status != 200:
                    raise EngineRefused(reply.status, (await reply.text())[:500])
                buffer = b""
                async for chunk in reply.content.iter_any():
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    for line in lines:
                        if line.strip():
                            yield self._decode(line, DockerEvent)
                    if len(buffer) > EVENT_LIMIT:
                        raise EngineUnavailable("an event is too long")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise EngineUnavailable(str(error)) from error
        raise EngineUnavailable("dockerd ended the stream of events")

    async def close(self) -> None:
        """See `Engine`."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise EngineUnavailable("not connected to dockerd")
        return self._session

    async def _one(self, path: str, kind: type[T], patience: float) -> T | None:
        try:
            return self._decode(await self._call("GET", path, patience=patience), kind)
        except EngineRefused as error:
            if error.status == 404:
                return None
            raise

    async def _call(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str] | None = None,
        body: msgspec.Struct | None = None,
        patience: float = QUICK,
    ) -> bytes:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        data = msgspec.json.encode(body) if body is not None else None
        try:
            async with self._open().request(
                method,
                self._prefix + path,
                params=params,
                data=data,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=patience),
            ) as reply:
                content = await reply.read()
                status = reply.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise EngineUnavailable(str(error) or type(error).__name__) from error
        if status >= 400:
            raise EngineRefused(status, _message(content))
        return content

    @staticmethod
    def _decode(content: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise EngineUnavailable(f"dockerd's answer is not understood: {error}") from error


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _message(content: bytes) -> str:
    try:
        return msgspec.json.decode(content, type=dict[str, str])["message"]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
        return content.decode(errors="replace")[:500]
