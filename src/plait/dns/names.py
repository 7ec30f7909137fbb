"""Answers about names of ours: endpoints, Services and pods, in our domain and in Kubernetes'.

| Name | Means |
|---|---|
| `<name>.<ns>` below our domain, or a short name | the Service of that name, else endpoints |
| `<hostname>.<service>.<ns>` | a backend of the Service |
| `_<port>._<protocol>.<service>.<ns>` | SRV of a named port |
| Kubernetes' schema | see `schema`; ours as long as an orchestrator's objects are known |
| the reverse of an address | the name of the Service, or of the endpoint |

A Service answers with its cluster addresses, a headless one with those of its ready backends, an
ExternalName with an alias, which is followed. Everything else that is ours and is not there is
NXDOMAIN, at once: stub resolvers go through five suffixes before they ask for a name as it is.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

from plait.dns import schema
from plait.dns.services import REVERSE, Key, Known
from plait.dns.zone import Record, Scope, Zone
from plait.services.backends import Backend
from plait.wire import dns

MAX_ADDRESSES: Final = 2000
"""Addresses, and SRV records, in one answer; a name with more shows a random choice. So many fit
into a message by TCP."""
MAX_ROTATIONS: Final = 16
MAX_TURNED: Final = 4096
"""Records in all rotations of an answer together."""
MAX_ALIASES: Final = 8
"""Aliases in a row that are followed inside of our own names."""
WEIGHT: Final = 100
"""Of the SRV records of a name, together."""

Labels = tuple[bytes, ...]
_REVERSE: Final[dict[Labels, int]] = {(b"in-addr", b"arpa"): 4, (b"ip6", b"arpa"): 6}
_NIBBLES: Final = frozenset(bytes((c,)) for c in b"0123456789abcdef")
_PROTOCOLS: Final = {b"_tcp": "TCP", b"_udp": "UDP", b"_sctp": "SCTP"}
_TRANSFERS: Final = (dns.AXFR, dns.IXFR)


class Alias(NamedTuple):
    """A name of ours that stands for a name of others: ask for that one."""

    query: dns.Query
    """For the other name."""
    records: tuple[bytes, ...]
    """CNAME records, the question's first; the last one's target is what is asked for."""


class _Found(NamedTuple):
    """What there is of a name."""

    about: tuple[Key, ...]
    """What it hangs on."""
    data: tuple[dns.Data, ...] | None = ()
    """Records of all types; none: there is the name and nothing else. None: no such name."""
    alias: Labels = ()
    """The name that it stands for."""


class OwnNames:
    """The answers, over a zone."""

    def __init__(self, zone: Zone, rng: random.Random) -> None:
        self._zone = zone
        self._rng = rng
        self._refused = dns.Answer(dns.REFUSED)

    def answer(self, scope: Scope, query: dns.Query) -> dns.Answer | Alias | None:
        """The answer, or what to ask for instead; None: the name is not ours."""
        apex = self._apex(query.labels)
        if apex is not None and query.qtype in _TRANSFERS:
            return self._refused
        if query.labels[-2:] in _REVERSE:
            return self._reverse(scope, query)
        if apex is None and not query.recursion_desired:
            # An iterative resolver that asks a root server about `app` means the top level.
            return None
        found = self._find(scope, query.labels, apex)
        return None if found is None else self._follow(scope, query, found, apex)

    def _apex(self, labels: Labels) -> Labels | None:
        """The domain of ours that a name is in; None: it is a short name, or not ours."""
        zone = self._zone
        for domain in (zone.domain, zone.kubernetes_domain):
            theirs = domain is zone.kubernetes_domain
            if labels[-len(domain) :] == domain and (not theirs or zone.services.foreign):
                return domain
        return None

    def _find(self, scope: Scope, labels: Labels, apex: Labels | None) -> _Found | None:
        zone = self._zone
        if apex is None:
            return self._short(scope, labels)
        inner = labels[: -len(apex)]
        if apex is zone.domain:
            return self._in_domain(scope, inner)
        return self._in_schema(scope, inner)

    # Which name is it?

    def _short(self, scope: Scope, labels: Labels) -> _Found | None:
        """A name in the asker's namespace, or with the namespace as its last label."""
        if scope.networks is None or not labels:
            return None
        namespace = scope.namespace.encode()
        tried = [(namespace, labels)]
        if len(labels) > 1:
            tried.append((labels[-1], labels[:-1]))
        about: tuple[Key, ...] = ()
        for space, rest in tried:
            found = self._named(scope, space, rest, endpoints=True)
            about += found.about
            if found.data is not None:
                return found._replace(about=about)
        return None

    def _in_domain(self, scope: Scope, labels: Labels) -> _Found:
        if not labels:
            return _Found(())
        if len(labels) == 1:
            known = self._zone.has_namespace(scope, labels[0])
            return _Found((), () if known else None)
        return self._named(scope, labels[-1], labels[:-1], endpoints=True)

    def _in_schema(self, scope: Scope, labels: Labels) -> _Found:
        zone = self._zone
        meaning = schema.meaning(labels)
        match meaning.what:
            case "apex" | "branch":
                return _Found(())
            case "version":
                return _Found((), (dns.text_data(schema.VERSION),))
            case "namespace":
                known = zone.has_namespace(scope, meaning.namespace)
                return _Found((), () if known else None)
            case "named":
                return self._named(scope, meaning.namespace, meaning.labels, endpoints=False)
            case "pod":
                about = ((b"", meaning.address),)
                there = self._is_pod(scope, meaning.namespace, meaning.address)
                return _Found(about, (dns.address_data(meaning.address),) if there else None)
            case _:
                return _Found((), None)

    def _is_pod(self, scope: Scope, namespace: bytes, address: bytes) -> bool:
        """Whether the address is an endpoint's or a pod's of the namespace, and visible."""
        zone = self._zone
        ip = ipaddress.ip_address(address)
        if any(r.namespace == namespace for r in zone.holders(scope, str(ip))):
            return True
        network = zone.network_of(ipaddress.ip_network(ip))
        seen = not network or scope.sees(network)
        return seen and zone.services.pod_at(namespace, address)

    def _named(self, scope: Scope, namespace: bytes, labels: Labels, *, endpoints: bool) -> _Found:
        """What stands below a namespace: Services go before endpoints of the same name."""
        # A dot inside a label is a letter, not a border.
        if any(b"." in label for label in labels):
            return _Found((), None)
        about: list[Key] = [(namespace, labels[-1])]
        service = self._service(scope, namespace, labels[-1])
        if service is not None and len(labels) == 1:
            return self._of_service(service)
        if endpoints:
            name = b".".join(labels)
            about.append((namespace, name))
            if records := self._zone.named(scope, namespace, name):
                return _Found(tuple(about), _addresses(records))
        below = None if service is None else self._below(service, labels[:-1], endpoints)
        return _Found(tuple(about), below)

    def _service(self, scope: Scope, namespace: bytes, name: bytes) -> Known | None:
        known = self._zone.services.get(namespace, name)
        return known if known is not None and scope.sees(known.service.spec.network) else None

    def _of_service(self, known: Known) -> _Found:
        about = ((known.namespace, known.name),)
        spec = known.service.spec
        if spec.type == "ExternalName":
            target = spec.external_name.lower().strip(".").encode("ascii", "replace")
            return _Found(about, alias=tuple(target.split(b".")))
        if known.addresses:
            return _Found(about, tuple(map(dns.address_data, known.addresses)))
        # Without a ready backend there is no such name, says the specification.
        who = dict.fromkeys(address for address, _ in self._zone.services.who(known))
        return _Found(about, tuple(map(dns.address_data, who)) or None)

    def _below(self, known: Known, labels: Labels, ours: bool) -> tuple[dns.Data, ...] | None:
        """What stands below a Service: its backends, and its named ports."""
        protocol = _PROTOCOLS.get(labels[-1])
        if protocol is not None and len(labels) <= 2:
            return self._ports(known, labels[:-1], protocol, ours)
        if len(labels) != 1:
            return None
        who = self._zone.services.who(known)
        wanted = schema.undashed(labels[0])
        found = [
            address
            for address, one in who
            if (one.name.lower().encode() == labels[0] if one.name else address == wanted)
        ]
        return tuple(map(dns.address_data, dict.fromkeys(found))) or None

    def _ports(
        self, known: Known, labels: Labels, protocol: str, ours: bool
    ) -> tuple[dns.Data, ...] | None:
        """SRV records of a named port; nothing but the name where only its protocol is said."""
        spec = known.service.spec
        named = [
            (i, port)
            for i, port in enumerate(spec.ports)
            if port.protocol == protocol and port.name
        ]
        if not labels:
            return () if named else None
        wanted = labels[0][1:] if labels[0].startswith(b"_") else b""
        index, port = next(
            ((i, port) for i, port in named if port.name.encode() == wanted), (0, None)
        )
        if port is None:
            return None
        base = self._base(known, ours)
        targets: list[tuple[Labels, int]] = [(base, port.port)]
        if not known.addresses:
            targets = [
                ((hostname(address, one), *base), one.ports[index])
                for address, one in self._zone.services.who(known)
                if one.ports[index]
            ]
        # Of a backend with an address of each family there is one record.
        targets = list(dict.fromkeys(targets))
        weight = max(WEIGHT // max(len(targets), 1), 1)
        found = []
        for target, number in targets:
            try:
                found.append(dns.srv_data(0, weight, number, dns.encode_name(target)))
            except dns.WireError:
                continue
        return tuple(found) or None

    def _base(self, known: Known, ours: bool) -> Labels:
        zone = self._zone
        if ours:
            return (known.name, known.namespace, *zone.domain)
        return (known.name, known.namespace, schema.SERVICES, *zone.kubernetes_domain)

    # What is said of it?

    def _follow(
        self, scope: Scope, query: dns.Query, found: _Found, apex: Labels | None
    ) -> dns.Answer | Alias:
        """The answer, through aliases inside of our own names; or the name outside that the last
        one stands for."""
        about = list(found.about)
        chain: list[bytes] = []
        # Where in the message the name stands whose records come next.
        owner, at = dns.HEADER_SIZE, dns.HEADER_SIZE + len(query.question)
        while found.alias:
            try:
                target = dns.encode_name(found.alias)
            except dns.WireError:
                return self._nothing(dns.SERVFAIL, apex)
            record = dns.record(dns.Data(dns.CNAME, target), self._zone.ttl, owner=owner)
            chain.append(record)
            owner, at = at + dns.ALIAS_HEAD, at + len(record)
            if query.qtype == dns.CNAME:
                return self._keep(scope, query, dns.Answer(dns.NOERROR, [chain]), about)
            labels = found.alias
            apex = self._apex(labels)
            if len(chain) > MAX_ALIASES:
                return self._nothing(dns.SERVFAIL, apex)
            if apex is None:
                return Alias(_asking(query, target, labels), tuple(chain))
            following = self._find(scope, labels, apex)
            assert following is not None  # A name in a domain of ours is there, or it is not.
            found = following
            about += found.about
        if found.data is None:
            return self._nothing(dns.NXDOMAIN, apex, chain)
        data = [one for one in found.data if query.qtype in (one.type, dns.ANY)]
        if not about:
            return self._unkept(query, data, apex)
        if not data:
            return self._keep(scope, query, self._nothing(dns.NOERROR, apex, chain), about)
        answer = dns.Answer(dns.NOERROR, self._rotations(data, chain, owner))
        return self._keep(scope, query, answer, about)

    def _unkept(
        self, query: dns.Query, data: Sequence[dns.Data], apex: Labels | None
    ) -> dns.Answer:
        """Names that there are anyway: the domains themselves, namespaces, the version."""
        if data:
            records = [dns.record(one, self._zone.ttl) for one in data]
            return dns.Answer(dns.NOERROR, [records])
        if query.labels == apex:
            if query.qtype in (dns.SOA, dns.ANY):
                return dns.Answer(dns.NOERROR, [[self._soa(apex, b"")]])
            return dns.Answer(dns.NOERROR, authority=self._soa(apex, b""))
        return self._nothing(dns.NOERROR, apex)

    def _rotations(self, data: list[dns.Data], chain: list[bytes], owner: int) -> list[list[bytes]]:
        """Records in random order, begun at different places: each gets its turn at the front."""
        self._rng.shuffle(data)
        # Records of different sizes are never mixed: rotations must cut at the same ones.
        kept = sorted(data[:MAX_ADDRESSES], key=lambda one: (one.type, len(one.packed)))
        groups: dict[tuple[int, int], list[bytes]] = {}
        for one in kept:
            record = dns.record(one, self._zone.ttl, owner=owner)
            groups.setdefault((one.type, len(one.packed)), []).append(record)
        longest = max(map(len, groups.values()))
        turns = max(min(longest, MAX_ROTATIONS, MAX_TURNED // len(kept)), min(longest, 2))
        starts = range(0, longest, -(-longest // turns))
        return [
            [*chain, *(record for group in groups.values() for record in _turned(group, start))]
            for start in starts
        ]

    def _reverse(self, scope: Scope, query: dns.Query) -> dns.Answer | None:
        prefix = _reverse_prefix(query.labels)
        if prefix is None:
            return None
        owner = query.labels[-2:]
        inside = bool(self._zone.network_of(prefix))
        if prefix.prefixlen < prefix.max_prefixlen:
            return self._nothing(dns.NOERROR, owner) if inside else None
        names = self._names_of(scope, prefix.network_address.packed)
        if not names:
            return self._nothing(dns.NXDOMAIN, owner) if inside else None
        about = ((b"", prefix.network_address.packed), REVERSE)
        data = []
        for name in names if query.qtype in (dns.PTR, dns.ANY) else ():
            try:
                data.append(dns.record(dns.Data(dns.PTR, dns.encode_name(name)), self._zone.ttl))
            except dns.WireError:
                continue
        if not data:
            return self._keep(scope, query, self._nothing(dns.NOERROR, owner), about)
        return self._keep(scope, query, dns.Answer(dns.NOERROR, [data]), about)

    def _names_of(self, scope: Scope, address: bytes) -> list[Labels]:
        """Names of an address: that of its Service; else those that it has below headless
        Services of an orchestrator; else that of its endpoint."""
        zone = self._zone
        services = [k for k in zone.services.at(address) if scope.sees(k.service.spec.network)]
        if services:
            return [self._base(known, not known.foreign) for known in services]
        behind = [
            (name, *self._base(known, ours=False))
            for known, name in zone.services.headless_at(address)
            if known.foreign and scope.sees(known.service.spec.network)
        ]
        if behind:
            return sorted(behind)
        holders = zone.holders(scope, str(ipaddress.ip_address(address)))
        named = [record for record in holders if record.names]
        if not named:
            return []
        record = named[-1]
        return [(*record.names[0].split(b"."), record.namespace, *zone.domain)]

    def _keep(
        self, scope: Scope, query: dns.Query, answer: dns.Answer, about: Collection[Key]
    ) -> dns.Answer:
        """Only answers about names that exist are kept: nobody can fill memory with others."""
        scope.keep(query.key, answer, about)
        return answer

    def _nothing(self, rcode: int, apex: Labels | None, chain: Sequence[bytes] = ()) -> dns.Answer:
        """There is no such name, or nothing of that type; None: the name is a short one."""
        soa = self._soa(apex or self._zone.domain, dns.encode_name(apex) if apex else b"")
        return dns.Answer(rcode, [chain] if chain else (), authority=soa)

    def _soa(self, apex: Labels, owner: bytes) -> bytes:
        """SOA that tells how long "no" is good for; an empty owner is the question's name."""
        zone = self._zone
        own = apex if apex in (zone.domain, zone.kubernetes_domain) else zone.domain
        name = dns.encode_name(own)
        return dns.soa_record(
            owner,
            b"\x02ns" + name,
            b"\x0ahostmaster" + name,
            zone.serial,
            zone.ttl,
            minimum=zone.ttl,
        )


def hostname(address: bytes, backend: Backend) -> bytes:
    """A backend's own label below a headless Service's name: as it is said, else its address."""
    return backend.name.lower().encode() if backend.name else schema.dashed(address)


def _addresses(records: Iterable[Record]) -> tuple[dns.Data, ...]:
    packed = dict.fromkeys(a for record in records for a in (*record.v4, *record.v6))
    return tuple(map(dns.address_data, packed))


def _asking(query: dns.Query, name: bytes, labels: Labels) -> dns.Query:
    """The same question about another name."""
    question = name + query.question[-4:]
    return query._replace(question=question, key=question.lower(), labels=labels)


def _turned(records: list[bytes], start: int) -> list[bytes]:
    start %= len(records)
    return records[start:] + records[:start]


def _reverse_prefix(
    labels: Labels,
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
