"""From a message and its sender to a reply: what UDP and TCP have in common."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Final

from plait.dns.asks import Ask, AskAlias, Question, Verbatim
from plait.dns.resolver import Aliased, Forward, Resolver, Server
from plait.dns.stats import Stats
from plait.dns.upstream import Upstream
from plait.dns.zone import Scope
from plait.wire import dns

HOST_CHECK_LIFETIME: Final = 5.0
"""Seconds for which an address counts as the host's own, or not, after a look."""
MAX_HOST_CHECKS: Final = 1024

Told = Callable[[bytes, int], None]
"""Is given the message of an answer of others, and for how many seconds it was kept, before a
client gets it."""
MayAsk = Callable[[str, str, bool], bool]
"""Whether a client may talk to the resolver at an address, by TCP or by UDP."""

_CLOSED: Final = dns.Answer(
    dns.REFUSED,
    authoritative=False,
    options=dns.extended_error(dns.EDE_PROHIBITED, "a policy denies that resolver"),
)


class Frontend:
    """Answers what it can at once and says what has to be waited for."""

    def __init__(
        self,
        resolver: Resolver,
        upstream: Upstream,
        *,
        clock: Callable[[], float],
        stats: Stats,
        is_host: Callable[[str], bool] | None = None,
        told: Told | None = None,
        trusted: Callable[[], Sequence[Server]] = tuple,
        may_ask: MayAsk = lambda _client, _resolver, _tcp: True,
        catch_up: Callable[[], None] = lambda: None,
    ) -> None:
        """`is_host` says whether an address belongs to this host; the kernel's word by default.

        `told` hears only of answers that we asked for in our own name, and of those to a client's
        own question from a resolver that `trusted` gives: a client that may choose who is
        believed could say that any address has any name.

        `catch_up` tells the zone at once what waits to be told of this host's endpoints: one that
        was attached a moment ago is no stranger, and others find it.

        `may_ask` is asked before a message goes to a resolver of the client's choice, but for
        those that `trusted` gives: the host sends it, so that no rule of the kernel sees from
        whom it is.
        """
        self._resolver = resolver
        self._upstream = upstream
        self._clock = clock
        self.stats = stats
        self._is_host = is_host or is_local_address
        self._told = told
        self._trusted = trusted
        self._may_ask = may_ask
        self._catch_up = catch_up
        self._checked: dict[str, tuple[bool, float]] = {}

    def quick(self, data: bytes, client: str) -> bytes | None:
        """Reply to a datagram whose question was answered before; None if it was not."""
        zone = self._resolver.zone
        scope = zone.clients.get(client)
        if scope is None or len(data) < dns.HEADER_SIZE:
            return None
        reply = self._resolver.quick(scope, data)
        if reply is not None:
            self.stats.answers[reply[3] & 0xF] += 1
        return reply

    def handle(
        self, data: bytes, client: str, destination: Server, *, tcp: bool
    ) -> bytes | Question | None:
        """The reply, or what to wait for; None for what is best not answered at all."""
        self._catch_up()
        scope = self._scope(client)
        try:
            query = dns.parse_query(data)
        except dns.WireError as error:
            return self._other(data, error, client, destination, tcp=tcp)
        decision = self._resolver.decide(scope, query, destination)
        if isinstance(decision, Forward) and self._closed(decision, client, tcp=tcp):
            decision = _CLOSED
        limit = dns.TCP_MAX if tcp else query.udp_limit
        if isinstance(decision, dns.Answer):
            self.stats.answers[decision.rcode] += 1
            return decision.reply_to(query, limit)
        if isinstance(decision, Aliased):
            alias, servers = decision.alias, decision.forward.servers
            return self._kept(AskAlias(servers, query, client, limit, alias))
        if not decision.verbatim:
            return self._kept(Ask(decision.servers, query, client, limit))
        question = Verbatim(decision.servers, data, query, client)
        # What was kept came by UDP and may be shorter than what TCP brings.
        return question if tcp else self._kept(question)

    def _other(
        self, data: bytes, error: dns.WireError, client: str, destination: Server, *, tcp: bool
    ) -> bytes | Question | None:
        """What is no query: an UPDATE, a transfer's NOTIFY and the like are for the resolver that
        was chosen."""
        if error.rcode is None:
            self.stats.dropped += 1
            return None
        decision = self._resolver.elsewhere(self._scope(client), destination)
        if isinstance(decision, Forward) and decision.verbatim:
            if self._closed(decision, client, tcp=tcp):
                self.stats.answers[dns.REFUSED] += 1
                return dns.error_reply(data, dns.REFUSED)
            return Verbatim(decision.servers, data, None, client)
        self.stats.answers[error.rcode] += 1
        return dns.error_reply(data, error.rcode)

    def _closed(self, decision: Forward, client: str, *, tcp: bool) -> bool:
        if not decision.verbatim or not {*decision.servers}.isdisjoint(self._trusted()):
            return False
        return not all(self._may_ask(client, address, tcp) for address, _ in decision.servers)

    def _kept(self, question: Question) -> bytes | Question:
        hit = self._upstream.cached(question)
        if hit is None:
            return question
        self.stats.answers[hit.response.rcode] += 1
        self._tell(question, hit.response, hit.age)
        return question.render(hit.response, hit.age)

    async def wait(self, question: Question) -> bytes:
        """The reply to a question that had to be forwarded; SERVFAIL if nobody knew."""
        response = await self._upstream.ask(question)
        if response is None:
            return self.failure(question)
        self.stats.answers[response.rcode] += 1
        self._tell(question, response, 0)
        return question.render(response, 0)

    def _tell(self, question: Question, response: dns.Response, age: int) -> None:
        if self._told is None or response.rcode != dns.NOERROR:
            return
        if not question.verbatim or not {*question.servers}.isdisjoint(self._trusted()):
            self._told(response.message, age)

    def overheard(self, question: Question, message: bytes) -> None:
        """A client is about to get this from the resolver of its choice, as it is."""
        if self._told is not None and not {*question.servers}.isdisjoint(self._trusted()):
            self._told(message, 0)

    def failure(self, question: Question) -> bytes:
        """SERVFAIL."""
        self.stats.answers[dns.SERVFAIL] += 1
        return question.failure()

    def _scope(self, client: str) -> Scope | None:
        zone = self._resolver.zone
        scope = zone.scope(client)
        if scope is not None:
            return scope
        now = self._clock()
        known, until = self._checked.get(client, (False, now))
        if now >= until:
            if len(self._checked) >= MAX_HOST_CHECKS:
                self._checked.clear()
            known = self._is_host(client)
            self._checked[client] = known, now + HOST_CHECK_LIFETIME
        return zone.host if known else None


def is_local_address(address: str) -> bool:
    """Whether the kernel holds the address: a route to it then starts at itself.

    Connecting a datagram socket sends nothing. Binding would be misled by `ip_nonlocal_bind`.
    """
    bare, _, _ = address.partition("%")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    if bare == "::1" or (family == socket.AF_INET and bare.startswith("127.")):
        return True
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
            return str(probe.getsockname()[0]) == address
        except OSError:
            return False
