"""Decides what a client gets: our own answer, a refusal, or the word to ask somebody else.

| Question | Endpoint as client | The host |
|---|---|---|
| a name of ours that it sees, A or AAAA | addresses, shuffled | addresses, shuffled |
| a name of ours, other type | no data | no data |
| under our domain, unknown or in a network that it is not in | NXDOMAIN | NXDOMAIN |
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

from plait.dns.zone import Record, Scope, Zone
from plait.model import marks
from plait.wire import dns

Server = tuple[str, int]
"""(address, port) of a resolver."""

MAX_ANSWERS_KEPT: Final = 16384
"""Ready answers in a scope; at most so many, whatever types clients ask for."""
MAX_ADDRESSES: Final = 256
"""Addresses in one answer; a name with more shows a random choice."""
MAX_ROTATIONS: Final = 16

OWN: Final[frozenset[Server]] = frozenset(
    {(marks.GATEWAY4, marks.DNS_PORT), (marks.RESOLVER6, marks.DNS_PORT)}
)

_REVERSE: Final[dict[tuple[bytes, ...], int]] = {(b"in-addr", b"arpa"): 4, (b"ip6", b"arpa"): 6}
_NIBBLES: Final = frozenset(bytes((c,)) for c in b"0123456789abcdef")


class Forward(NamedTuple):
    """Ask these resolvers, in this order."""

    servers: tuple[Server, ...]
    verbatim: bool = False
    """The client chose the resolver itself: its messages pass as they are, both ways."""


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
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, protects nothing
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
    ) -> dns.Answer | Forward:
        """The answer, or whom to ask. `destination` is the resolver that the client addressed."""
        if scope is None:
            return self._stranger
        if query.qclass not in (dns.IN, dns.ANY):
            return self._class
        known = scope.answers.get(query.key)
        if known is not None and query.recursion_desired:
            return known
        return self._own_answer(scope, query) or self.elsewhere(scope, destination)

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
            return Forward(tuple(s for s in self._host_servers() if s not in self._own))
        if network:
            return Forward((destination,), True)
        if not scope.external:
            return self._internal
        if address.is_multicast or address.is_unspecified or address.is_loopback:
            return self._foreign
        return Forward((destination,), True)

    # Names of ours

    def _own_answer(self, scope: Scope, query: dns.Query) -> dns.Answer | None:
        labels = query.labels
        domain = self.zone.domain
        if labels[-len(domain) :] == domain:
            return self._in_domain(scope, query, labels[: -len(domain)])
        if labels[-2:] in _REVERSE:
            return self._reverse(scope, query)
        if scope.networks is None or not labels or not query.recursion_desired:
            return None
        records = self._find(scope, scope.namespace.encode(), labels)
        if not records and len(labels) > 1:
            records = self._find(scope, labels[-1], labels[:-1])
        return self._addresses(scope, query, records, b"") if records else None

    def _find(
        self, scope: Scope, namespace: bytes, labels: tuple[bytes, ...]
    ) -> tuple[Record, ...]:
        # A dot inside a label is a letter, not a border.
        if any(b"." in label for label in labels):
            return ()
        return self.zone.named(scope, namespace, b".".join(labels))

    def _in_domain(self, scope: Scope, query: dns.Query, labels: tuple[bytes, ...]) -> dns.Answer:
        apex = dns.encode_name(self.zone.domain)
        if not labels:
            if query.qtype in (dns.SOA, dns.ANY):
                return dns.Answer(dns.NOERROR, [[self._soa(b"")]])
            return self._nothing(dns.NOERROR, b"")
        records = self._find(scope, labels[-1], labels[:-1])
        if records:
            return self._addresses(scope, query, records, apex)
        if len(labels) == 1 and self.zone.has_namespace(scope, labels[0]):
            return self._nothing(dns.NOERROR, apex)
        return self._nothing(dns.NXDOMAIN, apex)

    def _addresses(
        self, scope: Scope, query: dns.Query, records: Sequence[Record], owner: bytes
    ) -> dns.Answer:
        packed: dict[bytes, None] = {}
        if query.qtype in (dns.A, dns.ANY):
            packed.update(dict.fromkeys(a for record in records for a in record.v4))
        if query.qtype in (dns.AAAA, dns.ANY):
            packed.update(dict.fromkeys(a for record in records for a in record.v6))
        if packed:
            answer = dns.Answer(dns.NOERROR, self._rotations(list(packed)))
        else:
            answer = self._nothing(dns.NOERROR, owner)
        return self._keep(scope, query, answer)

    def _rotations(self, addresses: list[bytes]) -> list[list[bytes]]:
        """Records in random order, begun at different places: each gets its turn at the front."""
        self._rng.shuffle(addresses)
        # Both families in one answer are never mixed: rotations must cut at the same sizes.
        addresses = sorted(addresses[:MAX_ADDRESSES], key=len)
        fours = [dns.address_record(a, self.zone.ttl) for a in addresses if len(a) == 4]
        sixes = [dns.address_record(a, self.zone.ttl) for a in addresses if len(a) == 16]
        count = max(len(fours), len(sixes))
        starts = range(0, count, -(-count // MAX_ROTATIONS))
        return [_turned(fours, start) + _turned(sixes, start) for start in starts]

    def _reverse(self, scope: Scope, query: dns.Query) -> dns.Answer | None:
        prefix = _reverse_prefix(query.labels)
        if prefix is None or not self.zone.network_of(prefix):
            return None
        owner = dns.encode_name(query.labels[-2:])
        if prefix.prefixlen < prefix.max_prefixlen:
            return self._nothing(dns.NOERROR, owner)
        records = [r for r in self.zone.holders(scope, str(prefix.network_address)) if r.names]
        if not records:
            return self._nothing(dns.NXDOMAIN, owner)
        if query.qtype not in (dns.PTR, dns.ANY):
            return self._keep(scope, query, self._nothing(dns.NOERROR, owner))
        record = records[-1]
        target = (*record.names[0].split(b"."), record.namespace, *self.zone.domain)
        try:
            name = dns.encode_name(target)
        except dns.WireError:
            return self._nothing(dns.NOERROR, owner)
        return self._keep(
            scope, query, dns.Answer(dns.NOERROR, [[dns.ptr_record(name, self.zone.ttl)]])
        )

    def _keep(self, scope: Scope, query: dns.Query, answer: dns.Answer) -> dns.Answer:
        """Only answers about names that exist are kept: nobody can fill memory with others."""
        if len(scope.answers) >= MAX_ANSWERS_KEPT:
            scope.answers.clear()
        scope.answers[query.key] = answer
        return answer

    def _nothing(self, rcode: int, owner: bytes) -> dns.Answer:
        return dns.Answer(rcode, authority=self._soa(owner))

    def _soa(self, owner: bytes) -> bytes:
        """SOA that tells how long "no" is good for; an empty owner is the question's name."""
        zone = self.zone
        apex = dns.encode_name(zone.domain)
        return dns.soa_record(
            owner,
            b"\x02ns" + apex,
            b"\x0ahostmaster" + apex,
            zone.serial,
            zone.ttl,
            minimum=zone.ttl,
        )


def _turned(records: list[bytes], start: int) -> list[bytes]:
    if not records:
        return records
    start %= len(records)
    return records[start:] + records[:start]


def _reverse_prefix(
    labels: tuple[bytes, ...],
) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The prefix that a reverse name stands for (RFC 1035 section 3.5, RFC 3596)."""
    digits = labels[-3::-1]
    try:
        if _REVERSE[labels[-2:]] == 4:
            octets = [int(d) for d in digits if d.isdigit() and str(int(d)).encode() == d]
            if len(octets) != len(digits) or not 0 < len(octets) <= 4:
                return None
            packed = bytes(octets).ljust(4, b"\0")
            return ipaddress.IPv4Network((packed, 8 * len(octets)))
        if not 0 < len(digits) <= 32 or any(d not in _NIBBLES for d in digits):
            return None
        nibbles = int(b"".join(digits).ljust(32, b"0"), 16)
        return ipaddress.IPv6Network((nibbles, 4 * len(digits)))
    except ValueError:
        return None
