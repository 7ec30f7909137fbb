"""The resolver of a host, assembled: `DnsServer` is what wiring builds, starts and stops."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import structlog

from plait.dns.frontend import Frontend, MayAsk, Told
from plait.dns.resolvconf import ResolvConf
from plait.dns.resolver import Resolver, Server
from plait.dns.stats import Stats
from plait.dns.tcp import IDLE, TcpListener
from plait.dns.udp import UdpListener
from plait.dns.upstream import Patience, Upstream
from plait.dns.zone import Zone
from plait.model import marks
from plait.model.errors import PlaitError

BINDS: Final[tuple[Server, ...]] = (
    (marks.GATEWAY4, marks.DNS_PORT),
    (marks.RESOLVER6, marks.DNS_PORT),
)
RESOLV_CONF: Final = Path("/etc/resolv.conf")

_CHOICES: Final = 16
"""How often a port that is to be chosen is: one that is free for UDP may be somebody's for TCP."""
_ABSENT: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.ENOPROTOOPT)
"""How a host without IPv6 says so."""

_log = structlog.get_logger(__name__)


class DnsServer:
    """Listens on UDP and TCP of every bind address; several may run, on different addresses."""

    def __init__(
        self,
        zone: Zone,
        *,
        binds: Sequence[Server] = BINDS,
        transparent: bool = True,
        host_servers: Callable[[], Sequence[Server]] | None = None,
        is_host: Callable[[str], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        patience: Patience = Patience(),  # noqa: B008 - immutable
        tcp_idle: float = IDLE,
        told: Told | None = None,
        trusted: Callable[[], Sequence[Server]] = tuple,
        may_ask: MayAsk = lambda _client, _resolver, _tcp: True,
        catch_up: Callable[[], None] = lambda: None,
    ) -> None:
        """`transparent` needs CAP_NET_ADMIN; without it only packets for a bind address arrive.

        `host_servers` gives the resolvers for clients that ask a bind address (`resolv.conf` of
        the host by default); other clients are forwarded to the resolver that they addressed.

        `told` is given every answer of those, and of `trusted` resolvers, before the client.
        `may_ask` says whether a client may be led to another resolver of its own choice.
        `catch_up` tells the zone at once what waits to be told of this host's endpoints.
        """
        self.stats = Stats()
        self.zone = zone
        self.addresses: tuple[Server, ...] = ()
        """Where it listens, after `start`."""
        self._binds = tuple(binds)
        self._transparent = transparent
        self._tcp_idle = tcp_idle
        self._upstream = Upstream(clock=clock, stats=self.stats, patience=patience)
        servers = host_servers or ResolvConf(RESOLV_CONF, clock)
        resolver = Resolver(
            zone,
            servers,
            own=frozenset(self._binds),
            rng=rng,
        )
        self._frontend = Frontend(
            resolver,
            self._upstream,
            clock=clock,
            stats=self.stats,
            is_host=is_host,
            told=told,
            trusted=lambda: (*servers(), *trusted()),
            may_ask=may_ask,
            catch_up=catch_up,
        )
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Listen on all addresses or, on an error, on none.

        PLAIT-DNS-001 when somebody else has the port. A host without IPv6 is served by IPv4.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._upstream.close)
            listening: list[Server] = []
            for bind in self._binds:
                address = await self._listen(bind, stack)
                if address is not None:
                    listening.append(address)
            self.addresses = tuple(listening)
            self._stack = stack.pop_all()

    async def stop(self) -> None:
        """Close every socket; the host's rules then let the packets pass untouched."""
        await self._stack.aclose()
        self.addresses = ()

    async def _listen(self, bind: Server, stack: AsyncExitStack) -> Server | None:
        for more in reversed(range(1 if bind[1] else _CHOICES)):
            try:
                return await self._open(bind, stack)
            except OSError as error:
                if error.errno in _ABSENT and ":" in bind[0]:
                    _log.warning("dns.no_ipv6", address=bind[0], error=str(error))
                    return None
                if error.errno != errno.EADDRINUSE:
                    raise
                if not more:
                    raise _taken(bind, error) from error
        return None

    async def _open(self, bind: Server, stack: AsyncExitStack) -> Server:
        async with AsyncExitStack() as both:
            udp = UdpListener(self._frontend, bind, transparent=self._transparent)
            both.push_async_callback(udp.stop)
            # UDP chose the port if it was open; TCP takes the same.
            tcp = TcpListener(
                self._frontend,
                udp.address,
                transparent=self._transparent,
                idle=self._tcp_idle,
            )
            both.push_async_callback(tcp.stop)
            await tcp.start()
            udp.start()
            stack.push_async_callback(both.pop_all().aclose)
        return udp.address


def _taken(bind: Server, error: OSError) -> PlaitError:
    return PlaitError(
        "PLAIT-DNS-001",
        f"another program listens on {bind[0]} port {bind[1]}",
        why=f"bind: {error.strerror}",
        fix=(f"ss -lnptu 'sport = :{bind[1]}'  # names it; bind it to its own addresses",),
    )
