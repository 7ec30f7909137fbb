"""Client of a Kubernetes API server: pages, watches, and the few writes that Plait makes.

JSON over TLS by aiohttp. What an API server refuses is a `KubernetesError`; what keeps us from it
is PLAIT-KUBE-002 (out of reach) or -012 (not the one that it should be). Nothing is repeated here:
who reads for ever is `plait.kubernetes.reflector`. No credential reaches a log or an error.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, Final, Literal, TypeVar

import aiohttp
import msgspec

from plait import __version__
from plait.client.patience import within
from plait.client.reasons import reason
from plait.kubernetes.credentials import Credentials
from plait.kubernetes.kinds import Resource
from plait.kubernetes.kubeconfig import Access
from plait.kubernetes.refusals import misunderstood, refusal
from plait.model.errors import PlaitError

FIELD_MANAGER: Final = "plait"
"""Who owns the fields that are written, as managedFields has it."""
CHUNK: Final = 256 * 1024
MAX_BODY: Final = 256 * 1024 * 1024
"""Bytes of the longest answer: a page of 500 objects of half a MiB."""
MAX_LINE: Final = 16 * 1024 * 1024
"""Bytes of one event of a watch. etcd takes 1.5 MiB for an object; JSON is longer than what it
keeps, and is not ten times as long."""
KEEPALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
"""A watch is silent for minutes: a server that lost power is noticed within 30 s all the same."""

PatchKind = Literal["merge", "strategic", "apply", "json"]
_PATCHES: Final[dict[PatchKind, str]] = {
    "merge": "application/merge-patch+json",  # RFC 7386
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",  # JSON is YAML
    "json": "application/json-patch+json",  # RFC 6902
}
_LOST: Final = (aiohttp.ClientError, TimeoutError, OSError)
_DISTRUSTED: Final = (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError)

R = TypeVar("R")
_encode: Final = msgspec.json.Encoder().encode


class KubernetesApi:
    """Use it within one event loop, and `close` it. Times are seconds.

    Certificates and tokens that are files are read anew when they change.
    """

    def __init__(
        self, access: Access, *, timeout: float = 30.0, connect_timeout: float = 5.0
    ) -> None:
        self.access = access
        self._connect_timeout = connect_timeout
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=connect_timeout)
        self._credentials = Credentials(access)
        self._session: aiohttp.ClientSession | None = None
        self._decoders: dict[Any, msgspec.json.Decoder[Any]] = {}

    async def close(self) -> None:
        """Release connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    # Objects. A body that is written names its apiVersion and kind.

    async def get(self, resource: Resource, kind: type[R], name: str, namespace: str = "") -> R:
        """One object; PLAIT-KUBE-005 when there is none."""
        return await self.read(resource.path(name, namespace), kind)

    async def create(self, resource: Resource, body: object, namespace: str = "") -> dict[str, Any]:
        """A new object as stored; PLAIT-KUBE-006 when there is one."""
        return await self._write("POST", resource.path("", namespace), body)

    async def replace(
        self, resource: Resource, body: object, name: str, namespace: str = ""
    ) -> dict[str, Any]:
        """Write a whole object; with a resourceVersion that is not the last, PLAIT-KUBE-006."""
        return await self._write("PUT", resource.path(name, namespace), body)

    async def patch(
        self,
        resource: Resource,
        body: object,
        name: str,
        namespace: str = "",
        *,
        patch: PatchKind = "merge",
        subresource: str = "",
        force: bool = False,
    ) -> dict[str, Any]:
        """Change some fields; the object as stored.

        `apply` is server-side apply: it creates what is not there, and takes a field from its
        owner only by `force`. A merge patch replaces lists as a whole, a strategic one merges
        those that Kubernetes says (conditions of a node, by type). A resourceVersion in the body
        that is not the last one is PLAIT-KUBE-006.
        """
        path = resource.path(name, namespace, subresource)
        query = {"force": "true"} if force and patch == "apply" else {}
        return await self._write("PATCH", path, body, query, _PATCHES[patch])

    async def delete(self, resource: Resource, name: str, namespace: str = "") -> None:
        """Remove an object; PLAIT-KUBE-005 when there is none."""
        await self._request("DELETE", resource.path(name, namespace))

    # Anything

    async def read(self, path: str, kind: type[R], query: Mapping[str, str] | None = None) -> R:
        """The answer of a path, decoded."""
        return self._decoded(path, await self.read_bytes(path, query), kind)

    async def read_bytes(self, path: str, query: Mapping[str, str] | None = None) -> bytes:
        """The answer of a path."""
        return await self._request("GET", path, query=query)

    async def watch(
        self, path: str, query: Mapping[str, str], *, silence: float
    ) -> AsyncGenerator[list[bytes], None]:
        """Lines of a watch as they come, until the server ends it; what it did not end is no line.

        The first ones are none: the server has taken the watch. `silence` is how long no byte may
        come: after that, PLAIT-KUBE-002. Close it (`aclose`) when done.
        """
        query = {**query, "watch": "true"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout)
        what = f"GET {path}?watch"
        with self._refusals(what):
            response = await within(silence, self._open("GET", path, query=query, timeout=timeout))
            with closing(response):
                if response.status != 200:
                    raise refusal(
                        response.status,
                        what,
                        await within(silence, _body(response)),
                        response.headers.get("Retry-After", ""),
                    )
                _keep_alive(response)
                yield []
                lines = Lines()
                while chunk := await within(silence, response.content.readany()):
                    found = lines.feed(chunk)
                    if found:
                        yield found

    # HTTP

    async def _write(
        self,
        method: str,
        path: str,
        body: object,
        query: Mapping[str, str] | None = None,
        content: str = "application/json",
    ) -> dict[str, Any]:
        query = {"fieldManager": FIELD_MANAGER, **(query or {})}
        answer = await self._request(method, path, query=query, body=_encode(body), content=content)
        return self._decoded(path, answer, dict[str, Any])

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content: str = "",
    ) -> bytes:
        what = f"{method} {path}"
        with self._refusals(what):
            async with self._open(
                method, path, query=query, body=body, content=content, timeout=self._timeout
            ) as response:
                data = await _body(response)
        if response.status >= 300:
            wait = response.headers.get("Retry-After", "")
            raise refusal(response.status, what, data, wait)
        return data

    def _open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None,
        timeout: aiohttp.ClientTimeout,
        body: bytes | None = None,
        content: str = "",
    ) -> Any:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                read_bufsize=CHUNK,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        headers = {
            "User-Agent": f"plait/{__version__}",
            "Accept": "application/json",
            # Between hosts of one network time is scarcer than bandwidth.
            "Accept-Encoding": "identity",
        }
        if content:
            headers["Content-Type"] = content
        if token := self._credentials.token():
            headers["Authorization"] = f"Bearer {token}"
        return self._session.request(
            method,
            self.access.server + path,
            params=query,
            data=body,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
            **self._credentials.tls(),
        )

    def _decoded(self, path: str, data: bytes, kind: type[R]) -> R:
        decoder = self._decoders.get(kind)
        if decoder is None:
            decoder = self._decoders[kind] = msgspec.json.Decoder(kind)
        try:
            found: R = decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise misunderstood(path, error) from None
        return found

    @contextmanager
    def _refusals(self, what: str) -> Iterator[None]:
        """What becomes of a request, in our words."""
        try:
            yield
        except _DISTRUSTED as error:
            raise self._distrusted(error) from None
        except _LOST as error:
            raise self._unreachable(error) from None
        except ValueError as error:
            raise misunderstood(what, error) from None

    def _unreachable(self, error: BaseException) -> PlaitError:
        return PlaitError(
            "PLAIT-KUBE-002",
            f"the API server at {self.access.server} cannot be reached",
            where=self.access.server,
            why="the connection ended within an answer"
            if isinstance(error, aiohttp.ClientPayloadError)
            else reason(error),
            fix=("kubectl get --raw /readyz   # with the same kubeconfig",),
        )

    def _distrusted(self, error: BaseException) -> PlaitError:
        return PlaitError(
            "PLAIT-KUBE-012",
            f"the API server at {self.access.server} is not one of the expected authority",
            where=self.access.server,
            why=reason(error),
            fix=(f"kubectl config view --kubeconfig {self.access.source}",),
        )


class Lines:
    """Cuts bytes, as they come, into lines; ValueError for one longer than `MAX_LINE`."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Lines that are complete now, without empty ones."""
        rest = self._rest
        end = data.rfind(b"\n")
        if end < 0:
            if len(rest) + len(data) > MAX_LINE:
                raise ValueError(f"a line is longer than {MAX_LINE} bytes")
            rest += data
            return []
        whole = bytes(rest) + data[:end] if rest else data[:end]
        rest[:] = data[end + 1 :]
        return [line for line in whole.split(b"\n") if line.strip()]


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """All of an answer; ValueError if it is longer than `MAX_BODY`."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > MAX_BODY:
            raise ValueError(f"the answer is longer than {MAX_BODY} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    """Have the kernel ask a silent connection whether its other end is there."""
    connection = response.connection
    transport = None if connection is None else connection.transport
    found = None if transport is None else transport.get_extra_info("socket")
    if found is not None and found.family in (socket.AF_INET, socket.AF_INET6):
        for level, option, value in KEEPALIVE:
            found.setsockopt(level, option, value)
