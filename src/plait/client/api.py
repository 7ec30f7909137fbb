"""The API client: JSON over TLS with a node's certificate or a token, or over a unix socket.

A server is known by the authority that signed it and by `wire.api.SERVER_NAME`, however its
address is written. Reads are repeated when a connection breaks; writes are not, for nobody
knows whether they were done.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final, TypeVar, cast
from urllib.parse import quote

import aiohttp
import msgspec

from plait import __version__
from plait.client.base import BatchOp, T, WatchEvent
from plait.client.credentials import Tls, Token
from plait.client.patience import within
from plait.client.reasons import reason
from plait.model.errors import PlaitError, Problem
from plait.model.flows import CountList, FlowBatch, FlowPage, FlowQuery, FlowReceipt, RuleCount
from plait.model.objects import KINDS, AnyObject, Object
from plait.wire import api as wire
from plait.wire.watch import Cursor, StreamError, WatchDecoder

R = TypeVar("R")

PAGE: Final = 1000
READ_ATTEMPTS: Final = 3
BACKOFF_FIRST: Final = 0.1
BACKOFF_MOST: Final = 3.0
"""Seconds between two attempts of a watch: at most this much, with full jitter."""
LONGEST_NAME: Final = 253
"""Longest name of any kind of object, in characters; aiohttp reads request lines up to 8,190."""
CHUNK: Final = 256 * 1024

_ITEM: Final[dict[type[Object], msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(kind) for kind in KINDS.values()
}
_LIST: Final[dict[type[Object], msgspec.json.Decoder[Any]]] = {}
_ANSWERS: Final[dict[type, msgspec.json.Decoder[Any]]] = {}
_problem = msgspec.json.Decoder(Problem).decode
_encode = msgspec.json.Encoder().encode

FORGOTTEN: Final = "PLAIT-AUTH-007"
"""Refusal that no other try will change."""
_LOST: Final = (aiohttp.ClientError, TimeoutError, OSError)


class ApiClient:
    """Implements `client.base.Api`. Use it within one event loop, and `close` it.

    `url` is `https://host:port`, or several: the next one is tried when one cannot be reached.
    With `ca_file` the server must be one of that authority; without, the system's roots and the
    URL's host name count. `cert_file` and `key_file`, and `token_file` if it is there, are read
    anew when they change, so what was renewed needs no new client. Times are seconds.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        ca_file: str | Path | None = None,
        cert_file: str | Path | None = None,
        key_file: str | Path | None = None,
        token: str = "",
        token_file: str | Path | None = None,
        scheme: str = "Bearer",
        unix_socket: str | Path | None = None,
        timeout: float = 15.0,
        connect_timeout: float = 5.0,
        silence: float = 20.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._urls = (url,) if isinstance(url, str) else tuple(url)
        self._at = 0
        self._tls = Tls(ca_file, cert_file, key_file)
        self._unix = None if unix_socket is None else str(unix_socket)
        self._headers = {
            "User-Agent": f"plait/{__version__}",
            wire.VERSION_HEADER: __version__,
        }
        if ca_file and not unix_socket:
            self._headers["Host"] = wire.SERVER_NAME
        self._token = Token(token, token_file, scheme)
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=connect_timeout)
        self._stream_timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout)
        self._silence = silence
        self._sleep = sleep
        self._rng = rng
        self._session: aiohttp.ClientSession | None = None
        self.revision = 0
        """Store revision of the last event that a watch gave."""
        self.expires = 0.0
        """Unix time at which what this client is known by ends, as a watch was told; 0: never."""

    @property
    def url(self) -> str:
        """The server that is asked now."""
        return self._urls[self._at % len(self._urls)].rstrip("/")

    # Objects

    async def get(self, kind: type[T], name: str, namespace: str = "") -> T:
        """See `Api.get`."""
        body = await self._request("GET", _path(kind, name, namespace))
        return cast(T, _decode(_ITEM[kind], body))

    async def list(self, kind: type[T], namespace: str = "") -> tuple[T, ...]:
        """See `Api.list`; reads a page at a time."""
        path = _path(kind, "", namespace)
        decoder = _LIST.get(kind)
        if decoder is None:
            decoder = _LIST[kind] = msgspec.json.Decoder(wire.Listing[kind])  # type: ignore[valid-type]
        items: list[T] = []
        token = ""
        while True:
            query = {"limit": str(PAGE), **({"continue": token} if token else {})}
            page = _decode(decoder, await self._request("GET", path, query=query))
            items += page.items
            token = page.metadata.continue_
            if not token:
                return tuple(items)

    async def create(self, obj: T, *, dry_run: bool = False) -> T:
        """See `Api.create`."""
        return await self._write("POST", "", obj, dry_run=dry_run)

    async def update(self, obj: T, *, dry_run: bool = False) -> T:
        """See `Api.update`."""
        return await self._write("PUT", obj.metadata.name, obj, dry_run=dry_run)

    async def _write(self, method: str, name: str, obj: T, *, dry_run: bool) -> T:
        kind = type(obj)
        path = _path(kind, name, obj.metadata.namespace, scoped=True)
        body = await self._request(method, path, query=_dry(dry_run), body=_encode(obj))
        return cast(T, _decode(_ITEM[kind], body))

    async def delete(
        self,
        kind: type[Object],
        name: str,
        namespace: str = "",
        *,
        revision: int = 0,
        dry_run: bool = False,
    ) -> None:
        """See `Api.delete`."""
        query = {**_dry(dry_run), **({"revision": str(revision)} if revision else {})}
        await self._request("DELETE", _path(kind, name, namespace), query=query)

    async def batch(
        self, ops: Sequence[BatchOp], *, dry_run: bool = False
    ) -> tuple[AnyObject, ...]:
        """See `Api.batch`."""
        body = _encode({"ops": tuple(ops)})
        answer = await self._request("POST", "/v1/batch", query=_dry(dry_run), body=body)
        return _typed(wire.BatchResult, answer).items

    # The server

    async def version(self) -> wire.VersionInfo:
        """Version of the server and revision of its store."""
        return _typed(wire.VersionInfo, await self._request("GET", "/v1/version"))

    async def ready(self) -> bool:
        """Whether the server answers and follows its store."""
        try:
            await self._request("GET", "/readyz")
        except PlaitError:
            return False
        return True

    async def forget_node(
        self, name: str, *, force: bool = False, dry_run: bool = False
    ) -> wire.Forgotten:
        """Take a lost node out; PLAIT-API-011 while it lives, unless `force`."""
        query = {**_dry(dry_run), **({"force": "true"} if force else {})}
        path = f"/v1/nodes/{quote(name, safe='')}/forget"
        return _typed(wire.Forgotten, await self._request("POST", path, query=query))

    async def pools(self) -> tuple[wire.PoolUse, ...]:
        """Pools of the cluster and its networks; for a join token."""
        return _typed(wire.PoolList, await self._request("GET", "/v1/pools")).items

    async def create_token(self, request: wire.TokenRequest) -> wire.TokenCreated:
        """Make a token."""
        answer = await self._request("POST", "/v1/tokens", body=_encode(request))
        return _typed(wire.TokenCreated, answer)

    async def tokens(self) -> tuple[wire.TokenInfo, ...]:
        """All tokens, without their secrets."""
        return _typed(wire.TokenList, await self._request("GET", "/v1/tokens")).items

    async def revoke_token(self, ident: str) -> None:
        """End a token; PLAIT-API-004 when there is none."""
        await self._request("DELETE", f"/v1/tokens/{quote(ident, safe='')}")

    async def enrol(self, request: wire.EnrolRequest) -> wire.Enrolled:
        """Ask for a node's certificate with a join token; see `client.enrol`."""
        answer = await self._request("POST", "/v1/enrol", body=_encode(request))
        return _typed(wire.Enrolled, answer)

    async def renew(self, csr: str) -> wire.Enrolled:
        """Ask for the node's next certificate with the present one; see `client.enrol`."""
        body = _encode(wire.RenewRequest(csr=csr))
        return _typed(wire.Enrolled, await self._request("POST", "/v1/renew", body=body))

    # Flows

    async def flows(self, query: FlowQuery) -> FlowPage:
        """Records of the flow logs of all hosts; waits for a first one as long as `query` says."""
        asked = {
            key: str(value).lower() if isinstance(value, bool) else str(value)
            for key, value in msgspec.to_builtins(query).items()
        }
        return _typed(FlowPage, await self._request("GET", "/v1/flows", query=asked))

    async def counters(self) -> tuple[RuleCount, ...]:
        """How often each rule matched, on all hosts together."""
        return _typed(CountList, await self._request("GET", "/v1/counters")).items

    async def report_flows(self, node: str, batch: FlowBatch) -> FlowReceipt:
        """Tell the server what this node saw."""
        path = f"/v1/nodes/{quote(node, safe='')}/flows"
        return _typed(FlowReceipt, await self._request("POST", path, body=_encode(batch)))

    # Watch

    async def watch(self, kinds: Sequence[type[Object]]) -> AsyncIterator[WatchEvent]:
        """See `Api.watch`. One connection; the caller closes the iterator (`aclose`) when done."""
        names = ",".join(sorted(kind.__name__ for kind in kinds))
        cursor = Cursor()
        history = ""
        failures = 0
        told: set[str] = set()  # Why it failed since there was an event last.
        while True:
            after = cursor.reconnect()
            query = {"kinds": names}
            if after:
                query |= {"from": str(after), "history": history}
            try:
                async with self._open(query) as response:
                    history = response.headers.get(wire.HISTORY_HEADER, "")
                    self.expires = float(response.headers.get(wire.EXPIRES_HEADER, "0"))
                    decoder = WatchDecoder()
                    while data := await within(self._silence, response.content.readany()):
                        for event in decoder.feed(data):
                            if not cursor.accept(event):
                                continue
                            failures = 0
                            told.clear()
                            self.revision = max(self.revision, event.revision)
                            yield event
                lost = "the server ended the stream"
            except (*_LOST, StreamError, PlaitError) as error:
                if isinstance(error, PlaitError) and error.code == FORGOTTEN:
                    raise
                lost = reason(error)
            self._at += 1
            if lost not in told:
                told.add(lost)
                yield WatchEvent(type="disconnected", revision=cursor.after, reason=lost)
            await self._sleep(self._rng() * min(BACKOFF_MOST, BACKOFF_FIRST * 2**failures))
            failures = min(failures + 1, 16)

    @asynccontextmanager
    async def _open(self, query: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a watch, if it is a good one."""
        pending = self._connected().get(
            self.url + "/v1/watch",
            params=query,
            headers=self._token.headers(),
            timeout=self._stream_timeout,
            **self._tls.arguments(self._unix),
        )
        response = await within(self._silence, pending)
        with closing(response):
            if response.status != 200:
                raise _refused(response.status, await within(self._silence, response.read()))
            yield response

    # Transport

    async def close(self) -> None:
        """See `Api.close`."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def __aenter__(self) -> ApiClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector: aiohttp.BaseConnector
            if self._unix is not None:
                connector = aiohttp.UnixConnector(self._unix)
            else:
                connector = aiohttp.TCPConnector(limit=32, ttl_dns_cache=30)
            self._session = aiohttp.ClientSession(
                connector=connector,
                headers=self._headers,
                timeout=self._timeout,
                auto_decompress=False,
                read_bufsize=CHUNK,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> bytes:
        attempts = max(READ_ATTEMPTS if method == "GET" else 1, len(self._urls))
        for left in reversed(range(attempts)):
            try:
                return await self._once(method, path, query, body)
            except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError) as error:
                raise _distrusted(self.url, error) from None
            except _LOST as error:
                # Nothing was sent where no connection came about, so a write may be repeated.
                again = method == "GET" or isinstance(error, aiohttp.ClientConnectorError)
                self._at += 1
                if not left or not again:
                    raise self._unreachable(error) from None
        raise AssertionError("unreachable")

    async def _once(
        self, method: str, path: str, query: Mapping[str, str] | None, body: bytes | None
    ) -> bytes:
        headers = self._token.headers()
        if body is not None:
            headers["Content-Type"] = "application/json"
        async with self._connected().request(
            method,
            self.url + path,
            params=query,
            data=body,
            headers=headers,
            allow_redirects=False,
            **self._tls.arguments(self._unix),
        ) as response:
            data = await response.read()
            if response.status < 300:
                return data
            raise _refused(response.status, data)

    def _unreachable(self, error: BaseException) -> PlaitError:
        where = self._unix or self.url
        return PlaitError(
            "PLAIT-API-012",
            f"the server at {where} cannot be reached",
            where=where,
            why=reason(error),
            fix=("plait up", "plait status")
            if self._unix
            else ("plait status   # on the server's host",),
        )


def _path(kind: type[Object], name: str, namespace: str, *, scoped: bool = False) -> str:
    """Path of an object; PLAIT-NAME-001 for a name so long that a request line has no room."""
    for word in (name, namespace):
        if len(word) > LONGEST_NAME:
            raise PlaitError(
                "PLAIT-NAME-001",
                f"{word[:80]!r}… ({len(word)} characters) is no name of an object",
                why=f"names have at most {LONGEST_NAME} characters",
            )
    parts = ["v1"]
    if kind.namespaced and (namespace or name or scoped):
        parts += ["namespaces", namespace or "default"]
    parts.append(kind.plural)
    if name:
        parts.append(name)
    return "/" + "/".join(quote(part, safe="") for part in parts)


def _dry(dry_run: bool) -> dict[str, str]:
    return {"dryRun": "true"} if dry_run else {}


def _typed(kind: type[R], body: bytes) -> R:
    decoder = _ANSWERS.get(kind)
    if decoder is None:
        decoder = _ANSWERS[kind] = msgspec.json.Decoder(kind)
    return cast(R, _decode(decoder, body))


def _decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise PlaitError(
            "PLAIT-AGENT-002",
            "the server's answer is not understood",
            why=str(error),
            fix=("plait version",),
        ) from None


def _refused(status: int, body: bytes) -> PlaitError:
    try:
        return PlaitError.from_problem(_problem(body))
    except msgspec.MsgspecError:
        text = body[:200].decode("utf-8", "replace")
        return PlaitError("PLAIT-API-013", f"the server answered {status}", why=text)


def _distrusted(url: str, error: Exception) -> PlaitError:
    return PlaitError(
        "PLAIT-AUTH-005",
        f"the server at {url} is not one of the expected authority",
        where=url,
        why=reason(error),
        fix=("plait token create   # on the server", "plait join SERVER --token TOKEN"),
    )
