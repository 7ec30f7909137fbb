"""What there is to be named: endpoints, networks and Services, indexed by name and address.

A client sees only endpoints that share a network with it, so names are looked up in a `Scope`:
the set of networks that a client is in, and its namespace. Clients of one scope share its
ready-made answers.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple, TypeVar

from plait.dns.services import Backends, Key, ServiceNames, packed
from plait.model.objects import Endpoint, Network, Pod, Service
from plait.wire import dns

_K = TypeVar("_K")

MAX_ANSWERS_KEPT: Final = 16384
"""Ready answers in a scope; at most so many, whatever types clients ask for."""
MAX_SCOPES: Final = 4096
MAX_CLIENTS: Final = 65536


class Scope:
    """What one kind of client may see."""

    __slots__ = ("_hanging", "_hung", "answers", "external", "namespace", "networks")

    def __init__(
        self, networks: frozenset[str] | None, namespace: str, external: bool = False
    ) -> None:
        self.networks = networks
        """None: the host itself, which sees all by full name."""
        self.namespace = namespace
        self.external = external
        """At least one of the networks has a way out, so other names may be forwarded."""
        self.answers: dict[bytes, dns.Answer] = {}
        """Ready answers by question in lower case; read directly on the fast path."""
        self._hanging: dict[Key, set[bytes]] = {}
        """Questions whose answers hang on something, or did."""
        self._hung = 0
        """How many stand there, at most."""

    def keep(self, question: bytes, answer: dns.Answer, about: Collection[Key]) -> None:
        """Keep an answer until one of the things that it is about changes."""
        # A question stays with what it hung on beside that which changed: both are bounded.
        if len(self.answers) >= MAX_ANSWERS_KEPT or self._hung >= 4 * MAX_ANSWERS_KEPT:
            self.forget_all()
        self.answers[question] = answer
        self._hung += len(about)
        for key in about:
            self._hanging.setdefault(key, set()).add(question)

    def forget(self, about: Iterable[Key]) -> None:
        """Something changed, or may have."""
        for key in about:
            for question in self._hanging.pop(key, ()):
                self.answers.pop(question, None)

    def forget_all(self) -> None:
        """Everything may have changed."""
        self.answers.clear()
        self._hanging.clear()
        self._hung = 0

    def sees(self, network: str) -> bool:
        """Whether endpoints of the network are visible."""
        return self.networks is None or network in self.networks


class Record(NamedTuple):
    """An endpoint as the resolver needs it."""

    namespace: bytes
    names: tuple[bytes, ...]
    """In lower case, dots allowed; the first is the canonical one."""
    network: str
    v4: tuple[bytes, ...]
    v6: tuple[bytes, ...]
    addresses: tuple[str, ...]
    """Canonical text of all addresses."""
    workload: tuple[str, str, str]
    """Endpoints of one workload are one client; empty where the workload is not known."""


Ident = tuple[bool, str, str]
"""(comes from this host's agent, namespace, endpoint id)."""


class Zone:
    """The index. Not thread-safe; every change is visible to the next look-up.

    With `node` given, endpoints of that node count only when they come through `put_local`:
    the agent knows its own endpoints before the server does and longer than the server may.
    """

    def __init__(
        self,
        domain: str = "plait.local",
        *,
        kubernetes_domain: str = "cluster.local",
        node: str = "",
        ttl: int = 1,
        backends: Backends = lambda _namespace, _name: (),
    ) -> None:
        self.node = node
        self.ttl = ttl
        """Seconds, of every answer, negative ones too: a name follows its container within 1 s."""
        self.serial = 0
        """Grows with every change."""
        self.domain: tuple[bytes, ...] = ()
        self.kubernetes_domain: tuple[bytes, ...] = ()
        self._sources: dict[Ident, Endpoint] = {}
        """What came last, to know at once that nothing changed."""
        self._records: dict[Ident, Record] = {}
        self._names: dict[tuple[bytes, bytes], dict[Ident, Record]] = {}
        self._addresses: dict[str, dict[Ident, Record]] = {}
        self._workloads: dict[tuple[str, str, str], dict[Ident, Record]] = {}
        self._namespaces: dict[bytes, dict[str, int]] = {}
        self._networks: dict[str, Network] = {}
        self._pools: dict[tuple[int, int], dict[int, str]] = {}
        self._gateways: set[str] = set()
        self._scopes: dict[tuple[frozenset[str] | None, str], Scope] = {}
        self.host = Scope(None, "", external=True)
        self.clients: dict[str, Scope] = {}
        """Scopes by source address, as found by `scope`; read directly on the fast path."""
        self.services = ServiceNames(
            forget=self._forget_about,
            forget_all=self._forget_scopes,
            count=self._count,
            backends=backends,
        )
        """Services and pods; tell it of them."""
        self.set_domain(domain, kubernetes_domain)

    # Changes

    def set_domain(self, domain: str, kubernetes_domain: str = "cluster.local") -> None:
        """Use other domains, ours and that of Kubernetes' schema."""
        ours, theirs = _labels(domain), _labels(kubernetes_domain)
        if (ours, theirs) != (self.domain, self.kubernetes_domain):
            self.domain, self.kubernetes_domain = ours, theirs
            self._forget_scopes()

    def put(self, endpoint: Endpoint) -> None:
        """Learn an endpoint from the server, or what it has become."""
        if self.node and endpoint.spec.node == self.node:
            self.delete(endpoint.metadata.namespace, endpoint.metadata.name)
            return
        self._put(False, endpoint)

    def delete(self, namespace: str, ident: str) -> None:
        """Forget an endpoint of the server; no error if there is none."""
        self._forget((False, namespace, ident))

    def put_local(self, endpoint: Endpoint) -> None:
        """Learn an endpoint of this host from its agent, or what it has become."""
        self._put(True, endpoint)

    def replace_local(self, endpoints: Iterable[Endpoint]) -> None:
        """The endpoints of this host are these and no others."""
        self._replace(True, endpoints)

    def put_network(self, network: Network) -> None:
        """Learn a network or what it has become."""
        known = self._networks.get(network.metadata.name)
        if known is not None and known.spec == network.spec:
            return
        self._networks[network.metadata.name] = network
        self._index_pools()

    def delete_network(self, name: str) -> None:
        """Forget a network; no error if there is none."""
        if self._networks.pop(name, None) is not None:
            self._index_pools()

    def replace(
        self,
        endpoints: Iterable[Endpoint],
        networks: Iterable[Network],
        services: Iterable[Service] = (),
        pods: Iterable[Pod] = (),
    ) -> None:
        """The server's objects are these and no others; local endpoints stay."""
        wanted = {network.metadata.name: network for network in networks}
        if {n: o.spec for n, o in wanted.items()} != {n: o.spec for n, o in self._networks.items()}:
            self._networks = wanted
            self._index_pools()
        if self.node:
            endpoints = (e for e in endpoints if e.spec.node != self.node)
        self._replace(False, endpoints)
        self.services.replace(services, pods)

    def _replace(self, local: bool, endpoints: Iterable[Endpoint]) -> None:
        wanted = {(local, e.metadata.namespace, e.metadata.name): e for e in endpoints}
        for key in [key for key in self._sources if key[0] == local and key not in wanted]:
            self._forget(key)
        for endpoint in wanted.values():
            self._put(local, endpoint)

    def _put(self, local: bool, endpoint: Endpoint) -> None:
        key = (local, endpoint.metadata.namespace, endpoint.metadata.name)
        if self._sources.get(key) is endpoint:
            return
        record = _record(endpoint)
        self._sources[key] = endpoint
        if self._records.get(key) == record:
            return
        self._drop(key)
        if record is None:
            return
        self._records[key] = record
        for name in record.names:
            self._names.setdefault((record.namespace, name), {})[key] = record
        for address in record.addresses:
            self._addresses.setdefault(address, {})[key] = record
        if record.workload[2]:
            self._workloads.setdefault(record.workload, {})[key] = record
        self._count(record.namespace, record.network, 1)
        self._changed(record)

    def _forget(self, key: Ident) -> None:
        self._sources.pop(key, None)
        self._drop(key)

    def _drop(self, key: Ident) -> None:
        record = self._records.pop(key, None)
        if record is None:
            return
        for name in record.names:
            _discard(self._names, (record.namespace, name), key)
        for address in record.addresses:
            _discard(self._addresses, address, key)
        if record.workload[2]:
            _discard(self._workloads, record.workload, key)
        self._count(record.namespace, record.network, -1)
        self._changed(record)

    def _count(self, namespace: bytes, network: str, more: int) -> None:
        """So many endpoints and Services of a network are in a namespace."""
        counts = self._namespaces.setdefault(namespace, {})
        counts[network] = counts.get(network, 0) + more
        if not counts[network]:
            del counts[network]
            if not counts:
                del self._namespaces[namespace]

    def _changed(self, record: Record) -> None:
        """Only answers about its names and addresses, and only clients of its workload, are
        affected."""
        self._forget_about(
            [
                *((record.namespace, name) for name in record.names),
                *((b"", address) for address in (*record.v4, *record.v6)),
            ]
        )
        same = self._workloads.get(record.workload, {})
        for sibling in (record, *same.values()):
            for address in sibling.addresses:
                self.clients.pop(address, None)

    def _forget_about(self, about: Iterable[Key]) -> None:
        keys = tuple(about)
        self.serial += 1
        self.host.forget(keys)
        for scope in self._scopes.values():
            scope.forget(keys)

    def _index_pools(self) -> None:
        self._pools = {}
        self._gateways = set()
        for name, network in self._networks.items():
            self._gateways.update(network.spec.gateways)
            for net in (n for pool in network.spec.pools if (n := _pool(pool))):
                slot = self._pools.setdefault((net.version, net.prefixlen), {})
                slot[int(net.network_address)] = name
                if not network.spec.gateways and net.num_addresses > 1:
                    self._gateways.add(str(net.network_address + 1))
        self._forget_scopes()

    def _forget_scopes(self) -> None:
        self.serial += 1
        self._scopes.clear()
        self.clients.clear()
        self.host.forget_all()

    # Look-ups

    def scope(self, address: str) -> Scope | None:
        """Scope of the client with this source address; None if it is no endpoint's."""
        known = self.clients.get(address)
        if known is not None:
            return known
        holders = self._addresses.get(address)
        if not holders:
            return None
        record = next(reversed(holders.values()))
        siblings = self._workloads.get(record.workload, {})
        networks = frozenset([record.network, *(s.network for s in siblings.values())])
        namespace = record.namespace.decode()
        scope = self._scopes.get((networks, namespace))
        if scope is None:
            if len(self._scopes) >= MAX_SCOPES or len(self.clients) >= MAX_CLIENTS:
                self._forget_scopes()
            scope = Scope(networks, namespace, any(self._external(n) for n in networks))
            self._scopes[networks, namespace] = scope
        self.clients[address] = scope
        return scope

    def _external(self, network: str) -> bool:
        known = self._networks.get(network)
        return known is not None and not known.spec.internal

    def named(self, scope: Scope, namespace: bytes, name: bytes) -> tuple[Record, ...]:
        """Endpoints of a name that the scope sees."""
        found = self._names.get((namespace, name))
        return tuple(r for r in found.values() if scope.sees(r.network)) if found else ()

    def holders(self, scope: Scope, address: str) -> tuple[Record, ...]:
        """Endpoints with an address that the scope sees."""
        found = self._addresses.get(address)
        return tuple(r for r in found.values() if scope.sees(r.network)) if found else ()

    def has_namespace(self, scope: Scope, namespace: bytes) -> bool:
        """Whether the scope sees any endpoint or Service of the namespace."""
        return any(scope.sees(network) for network in self._namespaces.get(namespace, ()))

    def is_gateway(self, address: str) -> bool:
        """Whether the address is a network's gateway, which is every host's own."""
        return address in self._gateways

    def network_of(self, prefix: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
        """Name of the network whose pool holds the whole prefix, or empty."""
        first = int(prefix.network_address)
        for (version, length), pools in self._pools.items():
            if version == prefix.version and length <= prefix.prefixlen:
                shift = prefix.max_prefixlen - length
                name = pools.get(first >> shift << shift)
                if name is not None:
                    return name
        return ""


def _discard(index: dict[_K, dict[Ident, Record]], at: _K, key: Ident) -> None:
    slot = index[at]
    del slot[key]
    if not slot:
        del index[at]


def _labels(domain: str) -> tuple[bytes, ...]:
    labels = tuple(part.encode() for part in domain.lower().strip(".").split("."))
    dns.encode_name(labels)
    return labels


def _label_path(name: str) -> bytes:
    """A name as the index holds it; empty if no DNS query can ask for it."""
    try:
        path = name.lower().strip(".").encode("ascii")
        dns.encode_name(path.split(b"."))
    except (UnicodeEncodeError, dns.WireError):
        return b""
    return path


def _pool(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _record(endpoint: Endpoint) -> Record | None:
    """What the resolver needs of an endpoint; None while nobody may know it."""
    if endpoint.status.phase == "pending":
        return None
    spec = endpoint.spec
    addresses = dict.fromkeys(a for text in spec.addresses if (a := packed(text)))
    names = dict.fromkeys(filter(None, map(_label_path, (spec.name, *spec.aliases))))
    work = spec.workload
    return Record(
        namespace=endpoint.metadata.namespace.lower().encode(),
        names=tuple(names),
        network=spec.network,
        v4=tuple(a for a in addresses if len(a) == 4),
        v6=tuple(a for a in addresses if len(a) == 16),
        addresses=tuple(
            socket.inet_ntop(socket.AF_INET if len(a) == 4 else socket.AF_INET6, a)
            for a in addresses
        ),
        workload=(spec.node, work.runtime, work.id),
    )
