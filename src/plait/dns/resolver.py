"""Decides what a client gets: our own answer, a refusal, or the word to ask somebody else.

| Question | Endpoint as client | The host |
|---|---|---|
| a name of ours that it sees (`names`) | addresses, shuffled | addresses, shuffled |
| an alias of ours for a name outside | it, with the addresses of what it stands for | the same |
| a name of ours, other type | no data | no data |
| under our domain, unknown or in a network that it is not in | NXDOMAIN | NXDOMAIN |
| a transfer of a domain of ours | REFUSED | REFUSED |
| short name (`web`, `web.default`) that it sees | as above | forwarded |
| reverse name inside a pool | PTR, or NXDOMAIN | PTR, or NXDOMAIN |
| anything else | forwarded, NXDOMAIN if all its networks are internal | forwarded |

Names outside are NXDOMAIN rather than REFUSED inside an internal network: to its endpoints the
world has no names, and stub resolvers go on with their search list instead of giving up. Who is
neither an endpoint nor the host is REFUSED. An extended error (RFC 8914) says why.

Short names are for stub resolvers: an iterative resolver in a container (its questions do not
desire recursion) that asks a root server about `app` means the top-level domain.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from plait.dns.names import Alias, OwnNames
from plait.dns.zone import Scope, Zone
from plait.model import marks
from plait.wire import dns

Server = tuple[str, int]
"""(address, port) of a resolver."""

OWN: Final[frozenset[Server]] = frozenset(
    {(marks.GATEWAY4, marks.DNS_PORT), (marks.RESOLVER6, marks.DNS_PORT)}
)


class Forward(NamedTuple):
    """Ask these resolvers, in this order."""

    servers: tuple[Server, ...]
    verbatim: bool = False
    """The client chose the resolver itself: its messages pass as they are, both ways."""


class Aliased(NamedTuple):
    """Ask for what an alias of ours stands for, and answer with both."""

    alias: Alias
    forward: Forward


def _refusal(rcode: int, why: str) -> dns.Answer:
    option = dns.extended_error(dns.EDE_PROHIBITED, why)
    return dns.Answer(rcode, authoritative=False, options=option)


class Resolver:
    """The decisions, over a zone. Reaches no network."""

    def __init__(
        self,
        zone: Zone,
        host_servers: Callable[[], Sequence[Server]],
        *,
        own: frozenset[Server] = OWN,
        rng: random.Random | None = None,
    ) -> None:
        """`host_servers` gives the host's own resolvers; `own` is where we answer ourselves."""
        self.zone = zone
        self._host_servers = host_servers
        self._own = own
        self._own_addresses = frozenset(address for address, _ in own)
        self._names = OwnNames(zone, rng or random.Random())  # noqa: S311 - spreads load only
        self._stranger = _refusal(dns.REFUSED, "not an endpoint of this host")
        self._class = _refusal(dns.REFUSED, "class is not IN")
        self._foreign = _refusal(dns.REFUSED, "that resolver is in a network of others")
        self._internal = _refusal(dns.NXDOMAIN, "internal network: nothing is forwarded")

    def quick(self, scope: Scope, data: bytes) -> bytes | None:
        """Reply to a datagram whose question was answered before; None if it was not."""
        end = dns.question_end(data)
        answer = scope.answers.get(data[dns.HEADER_SIZE : end].lower())
        return dns.quick_reply(data, end, answer) if answer is not None else None

    def decide(
        self, scope: Scope | None, query: dns.Query, destination: Server
    ) -> dns.Answer | Forward | Aliased:
        """The answer, or whom to ask. `destination` is the resolver that the client addressed."""
        if scope is None:
            return self._stranger
        if query.qclass not in (dns.IN, dns.ANY):
            return self._class
        known = scope.answers.get(query.key)
        if known is not None and query.recursion_desired:
            return known
        answer = self._names.answer(scope, query)
        if isinstance(answer, Alias):
            return self._aliased(scope, answer)
        return answer or self.elsewhere(scope, destination)

    def _aliased(self, scope: Scope, alias: Alias) -> dns.Answer | Aliased:
        """The host's own resolvers know what an alias of ours stands for, whomever was asked."""
        if not scope.external:
            return self._internal
        return Aliased(alias, Forward(self._host_resolvers()))

    def _host_resolvers(self) -> tuple[Server, ...]:
        return tuple(s for s in self._host_servers() if s not in self._own)

    def elsewhere(self, scope: Scope | None, destination: Server) -> dns.Answer | Forward:
        """Who is asked for what is not ours, or why nobody is."""
        if scope is None:
            return self._stranger
        address = ipaddress.ip_address(destination[0].partition("%")[0])
        network = self.zone.network_of(ipaddress.ip_network(address))
        if network and not scope.sees(network):
            # The packet is sent by the host: it must not reach where its client may not.
            return self._foreign
        if str(address) in self._own_addresses or self.zone.is_gateway(str(address)):
            if not scope.external:
                return self._internal
            return Forward(self._host_resolvers())
        if network:
            return Forward((destination,), True)
        if not scope.external:
            return self._internal
        if address.is_multicast or address.is_unspecified or address.is_loopback:
            return self._foreign
        return Forward((destination,), True)
