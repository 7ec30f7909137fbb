"""Asks other resolvers: random id and source port, bounded in time, number and memory.

What comes back is believed only if it comes from the address asked, to the port and with the id
and question sent (RFC 5452), and if every byte of it parses.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Final, NamedTuple

from plait.dns.asks import Question
from plait.dns.cache import Cache, Hit
from plait.dns.resolver import Server
from plait.dns.stats import Stats
from plait.wire import dns

MAX_IN_FLIGHT: Final = 1024
"""Questions under way at a time; more get SERVFAIL at once."""
MAX_WAITING_PER_CLIENT: Final = 128
"""So that one container with a dead resolver leaves room for the others."""
MAX_INVALID: Final = 64
"""Messages thrown away before an exchange is given up: somebody is guessing ids."""
RECEIVE_SIZE: Final = 65535
MAX_SERVERS_TRIED: Final = 3
SILENCE_REMEMBERED: Final = 10.0
"""Seconds for which a server that did not answer is asked after the others."""
MAX_SILENT: Final = 1024

_USABLE: Final = (dns.NOERROR, dns.NXDOMAIN)
_NO_EDNS: Final = (dns.FORMERR, dns.NOTIMP, dns.BADVERS)


class Patience(NamedTuple):
    """Seconds. All of it stays below the 5 s after which a stub resolver asks again."""

    first: float = 1.2
    """For a server's first try; twice as long for the second round."""
    total: float = 4.2
    """For a question, over all servers and tries."""


class _Unusable(Exception):
    """A server gave no usable answer."""


class Upstream:
    """The forwarder and its cache."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        stats: Stats,
        cache: Cache | None = None,
        patience: Patience = Patience(),  # noqa: B008 - immutable
    ) -> None:
        self._clock = clock
        self._stats = stats
        self._patience = patience
        self.cache = cache if cache is not None else Cache()
        self._silent: dict[Server, float] = {}
        self._flights: dict[object, asyncio.Task[dns.Response | None]] = {}
        self._by_client: Counter[str] = Counter()

    def cached(self, question: Question) -> Hit | None:
        """A kept answer."""
        hit = self.cache.get(question.key, self._clock()) if question.cacheable else None
        if hit is not None:
            self._stats.forwarded += 1
            self._stats.cache_hits += 1
        return hit

    async def ask(self, question: Question) -> dns.Response | None:
        """The answer of the first server that gives one; None when none does in time.

        The same question asked twice at a time is sent once.
        """
        self._stats.forwarded += 1
        client = question.client
        if self._by_client[client] >= MAX_WAITING_PER_CLIENT:
            self._stats.upstream_failures += 1
            return None
        self._by_client[client] += 1
        try:
            response = await self._joined(question)
        finally:
            self._by_client[client] -= 1
            if not self._by_client[client]:
                del self._by_client[client]
        if response is None:
            self._stats.upstream_failures += 1
        return response

    async def _joined(self, question: Question) -> dns.Response | None:
        key = question.key
        flight = self._flights.get(key)
        if flight is None:
            if len(self._flights) >= MAX_IN_FLIGHT:
                return None
            flight = asyncio.create_task(self._fly(key, question), name="dns.upstream")
            self._flights[key] = flight
            flight.add_done_callback(lambda _: self._flights.pop(key))
        # One who leaves does not take the answer away from the others.
        return await asyncio.shield(flight)

    async def close(self) -> None:
        """Give up what is under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    async def _fly(self, key: object, question: Question) -> dns.Response | None:
        fallback: list[dns.Response] = []
        try:
            async with asyncio.timeout(self._patience.total):
                response = await self._rounds(question, fallback)
        except TimeoutError:
            response = None
        if response is None:
            # An upstream's own refusal says more than our silence.
            return fallback[-1] if fallback else None
        if question.cacheable and not response.truncated:
            self.cache.put(key, response, self._clock())
        return response

    async def _rounds(
        self, question: Question, fallback: list[dns.Response]
    ) -> dns.Response | None:
        for factor in (1, 2):
            for server in self._by_health(question.servers):
                try:
                    async with asyncio.timeout(self._patience.first * factor):
                        response = await self._exchange(server, question)
                except (OSError, TimeoutError, _Unusable):
                    self._failed(server)
                    continue
                self._silent.pop(server, None)
                if question.verbatim or response.rcode in _USABLE:
                    return response
                fallback.append(response)
            if fallback:
                return None
        return None

    def _by_health(self, servers: Sequence[Server]) -> list[Server]:
        """Those that were silent a moment ago come last."""
        since = self._clock() - SILENCE_REMEMBERED
        never = float("-inf")
        return sorted(servers[:MAX_SERVERS_TRIED], key=lambda s: self._silent.get(s, never) > since)

    def _failed(self, server: Server) -> None:
        if len(self._silent) >= MAX_SILENT:
            self._silent.clear()
        self._silent[server] = self._clock()

    async def _exchange(self, server: Server, question: Question) -> dns.Response:
        """One server, by UDP, by TCP if the answer was cut, without EDNS if it knows none."""
        response = await self._by_udp(server, question, edns=True)
        if question.verbatim:
            return response
        edns = response.rcode not in _NO_EDNS
        if not edns:
            response = await self._by_udp(server, question, edns=False)
        if response.truncated:
            response = await self._by_tcp(server, question, edns=edns)
        return response

    async def _by_udp(self, server: Server, question: Question, *, edns: bool) -> dns.Response:
        loop = asyncio.get_running_loop()
        family, sockaddr = _sockaddr(server)
        with closing(socket.socket(family, socket.SOCK_DGRAM)) as sock:
            sock.setblocking(False)
            # Connected: the kernel draws a random port and passes on datagrams of the peer only.
            sock.connect(sockaddr)
            ident = secrets.randbelow(65536)
            await loop.sock_sendall(sock, question.pack(ident, edns=edns))
            for _ in range(MAX_INVALID):
                response = self._believed(await loop.sock_recv(sock, RECEIVE_SIZE), question, ident)
                if response is not None:
                    return response
        raise _Unusable

    async def _by_tcp(self, server: Server, question: Question, *, edns: bool) -> dns.Response:
        reader, writer = await asyncio.open_connection(*server, limit=dns.TCP_MAX + 2)
        try:
            ident = secrets.randbelow(65536)
            message = question.pack(ident, edns=edns)
            writer.write(len(message).to_bytes(2, "big") + message)
            await writer.drain()
            size = int.from_bytes(await reader.readexactly(2), "big")
            response = self._believed(await reader.readexactly(size), question, ident)
        except asyncio.IncompleteReadError as error:
            raise _Unusable from error
        finally:
            writer.close()
        if response is None or response.truncated:
            raise _Unusable
        return response

    def _believed(self, data: bytes, question: Question, ident: int) -> dns.Response | None:
        response = question.believed(data, ident)
        if response is None:
            self._stats.upstream_invalid += 1
        return response


def _sockaddr(server: Server) -> tuple[socket.AddressFamily, tuple[str | int, ...]]:
    host, port = server
    address, _, zone = host.partition("%")
    if ipaddress.ip_address(address).version == 4:
        return socket.AF_INET, (address, port)
    scope = 0
    if zone:
        scope = int(zone) if zone.isdigit() else socket.if_nametoindex(zone)
    return socket.AF_INET6, (address, port, 0, scope)
