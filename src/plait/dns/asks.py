"""The ways to ask an upstream: in our own name, or in the client's very words.

A client that asked our address gets an answer that we obtained (`Ask`), and so does one that
asked for an alias of ours (`AskAlias`). One that chose a
resolver itself means that one: its message goes there as it is and the answer comes back as it
is (`Verbatim`), so that cookies, signatures, transfers and iterative resolvers inside containers
work as if nobody stood between. Only the id changes, for the sake of forgery (RFC 5452).
"""

from __future__ import annotations

import ipaddress
from typing import Final, Protocol

from plait.dns.names import Alias
from plait.dns.resolver import Server
from plait.wire import dns
from plait.wire.dns_answers import Answered, answered


class Question(Protocol):
    """What the forwarder needs to know."""

    servers: tuple[Server, ...]
    client: str
    """Whom to charge."""

    @property
    def verbatim(self) -> bool:
        """Passed on as it is, both ways."""

    @property
    def cacheable(self) -> bool:
        """Whether the answer may serve others."""

    @property
    def key(self) -> object:
        """Equal for questions that have the same answer: that of the same servers."""

    def pack(self, ident: int, *, edns: bool = True) -> bytes:
        """The message to send."""

    def believed(self, data: bytes, ident: int) -> dns.Response | None:
        """The answer, if that is what the bytes are."""

    def render(self, response: dns.Response, age: int) -> bytes:
        """What the client gets."""

    def failure(self) -> bytes:
        """What the client gets when nobody answers."""


class Ask:
    """A question that we ask in our own name."""

    verbatim: Final = False
    cacheable: Final = True

    def __init__(
        self, servers: tuple[Server, ...], query: dns.Query, client: str, limit: int
    ) -> None:
        """`limit` is how many bytes the client takes."""
        self.servers = servers
        self.client = client
        self._query = query
        self._limit = limit

    @property
    def key(self) -> object:
        """See `Question`."""
        return self.servers, self._query.key, dns.cache_flags(self._query)

    def pack(self, ident: int, *, edns: bool = True) -> bytes:
        """See `Question`."""
        return dns.upstream_query(self._query, ident, edns=edns)

    def believed(self, data: bytes, ident: int) -> dns.Response | None:
        """See `Question`."""
        try:
            response = dns.parse_response(data)
        except dns.WireError:
            return None
        true = response.id == ident and response.key == self._query.key
        return response if true else None

    def render(self, response: dns.Response, age: int) -> bytes:
        """See `Question`."""
        return dns.relay(response, self._query, age=age, limit=self._limit)

    def failure(self) -> bytes:
        """See `Question`."""
        answer = dns.Answer(dns.SERVFAIL, authoritative=False)
        return answer.reply_to(self._query, self._limit)


class AskAlias(Ask):
    """A question for the name that an alias of ours stands for."""

    def __init__(
        self,
        servers: tuple[Server, ...],
        query: dns.Query,
        client: str,
        limit: int,
        alias: Alias,
    ) -> None:
        """`query` is the client's, for the alias itself."""
        super().__init__(servers, alias.query, client, limit)
        self._asked = query
        self._alias = alias

    def render(self, response: dns.Response, age: int) -> bytes:
        """See `Question`: the alias, and what the answer says of the addresses behind it."""
        records = list(self._alias.records)
        found = answered(response.message)
        if found is not None:
            self._append(records, found, age)
        answer = dns.Answer(response.rcode & 0xF, [records], authoritative=False)
        return answer.reply_to(self._asked, self._limit)

    def _append(self, records: list[bytes], found: Answered, age: int) -> None:
        question = len(self._asked.question)
        at = dns.HEADER_SIZE + question + sum(map(len, records))
        owner = at - len(dns.encode_name(self._alias.query.labels))
        ttl = max(min(seconds for _, seconds in found.addresses) - age, 0)
        for name in found.names[1:]:
            record = dns.record(dns.Data(dns.CNAME, dns.encode_name(name)), ttl, owner=owner)
            records.append(record)
            owner, at = at + dns.ALIAS_HEAD, at + len(record)
        for text, _ in found.addresses:
            data = dns.address_data(ipaddress.ip_address(text).packed)
            if self._asked.qtype in (data.type, dns.ANY):
                records.append(dns.record(data, ttl, owner=owner))

    def failure(self) -> bytes:
        """See `Question`."""
        answer = dns.Answer(dns.SERVFAIL, authoritative=False)
        return answer.reply_to(self._asked, self._limit)


class Verbatim:
    """A message that is passed on as it is; it need not even be a query."""

    verbatim: Final = True

    def __init__(
        self, servers: tuple[Server, ...], data: bytes, query: dns.Query | None, client: str
    ) -> None:
        """`query` is what the message says, None if it is no ordinary query."""
        self.servers = servers
        self.client = client
        self.data = data
        self._query = query

    @property
    def cacheable(self) -> bool:
        """See `Question`: the answers to stub resolvers are."""
        return self._query is not None and self._query.recursion_desired

    @property
    def key(self) -> object:
        """See `Question`: all of the message but its id."""
        return self.servers, self.data[2:]

    def pack(self, ident: int, *, edns: bool = True) -> bytes:  # noqa: ARG002 - as it is
        """See `Question`."""
        return ident.to_bytes(2, "big") + self.data[2:]

    def believed(self, data: bytes, ident: int) -> dns.Response | None:
        """See `Question`."""
        if self._query is None:
            # Other operations have forms of their own; id, address and port have to do.
            return dns.opaque_response(data) if data[:2] == ident.to_bytes(2, "big") else None
        try:
            response = dns.parse_response(data, whole=True)
        except dns.WireError:
            return None
        true = response.id == ident and response.key == self._query.key
        return response if true else None

    def render(self, response: dns.Response, age: int) -> bytes:
        """See `Question`."""
        return dns.readdress(response, self.data[:2], age=age)

    def failure(self) -> bytes:
        """See `Question`."""
        return dns.error_reply(self.data, dns.SERVFAIL)
