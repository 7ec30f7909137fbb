"""The services of one host, kept up to date: objects and local endpoints in, `ServiceTable` out.

What is told only marks the Services that it concerns; `table()` settles those since it was last
asked, so a listing of the whole network costs one settling, and one backend's change the work of
its Services.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from plait.model.entries import Entries
from plait.model.members import Tally
from plait.model.objects import (
    AnyObject,
    Condition,
    Endpoint,
    EndpointSlice,
    Network,
    Node,
    Pod,
    Service,
)
from plait.model.service_table import Choice, Entry, Frontend, ServiceTable
from plait.model.services import EndpointSliceSpec
from plait.selection.parties import (
    LocalParty,
    canonical,
)
from plait.selection.terms import service_endpoints
from plait.services.backends import (
    Backend,
    heard,
    of_fixed,
    of_parties,
    of_slice,
    slice_addresses,
)
from plait.services.choose import Here, choice, having, local
from plait.services.frontends import (
    Reach,
    families,
    family,
    openings,
    own_addresses,
    service_id,
)
from plait.services.roster import Roster
from plait.services.standing import of_condition, of_endpoint

K = TypeVar("K", bound=Hashable)

Key = tuple[str, str]
"""Namespace and name of a Service, or of a slice."""


class HealthCheck(NamedTuple):
    """What a health-check node port tells."""

    namespace: str
    name: str
    local: int
    """Ready backends on this host."""


class _Slice(NamedTuple):
    spec: EndpointSliceSpec
    addresses: tuple[tuple[str, ...], ...]


class _Shown(NamedTuple):
    """What the table has of a Service."""

    ident: str
    frontends: tuple[Frontend, ...]
    addresses: tuple[str, ...]


class Engine:
    """See the module's docstring.

    For endpoints of this node the local view replaces the server's copy; a copy of one that is
    not local, or not any more, is ignored.
    """

    def __init__(
        self, node: str, *, moved: Callable[[str, str], None] = lambda _namespace, _name: None
    ) -> None:
        self._node = node
        self.moved = moved
        """Told namespace and name of a Service each time that it, or who answers for it, may be
        other than before."""
        self._services: dict[Key, Service] = {}
        self._slices: dict[Key, _Slice] = {}
        self._sliced: dict[Key, set[Key]] = {}
        """Slices by their Service."""
        self._roster: Roster[Key] = Roster(node, self._changed)
        self._sites: dict[str, str] = {}
        self._silent: set[str] = set()
        """Other nodes of which nothing is heard."""
        self._internal: set[str] = set()
        """Networks without a way in."""
        self._stale: set[Key] = set()
        self._frontends: Entries[Frontend, Entry] = Entries()
        self._rivals: dict[Frontend, dict[str, Entry]] = {}
        """Frontends that more than one Service claims, by the Services' opaque ids."""
        self._addresses: Tally[str] = Tally()
        self._shown: dict[Key, _Shown] = {}
        self._health: dict[Key, tuple[int, HealthCheck]] = {}
        self._foreign = 0
        """Services that were made of objects of somebody else's."""
        self._stamp = (0, 0)
        self._table = ServiceTable(frontends=self._frontends, addresses=self._addresses.members)

    # What is told

    def put(self, obj: AnyObject) -> None:
        """An object is so. Kinds that mean nothing to services are passed over."""
        key = (obj.metadata.namespace, obj.metadata.name)
        match obj:
            case Service():
                self._put_service(key, obj)
            case EndpointSlice():
                self._put_slice(key, obj.spec)
            case Endpoint():
                here = obj.spec.node == self._node
                self._roster.put(("endpoint", key), None if here else obj, of_endpoint(obj.status))
            case Pod():
                self._roster.put_pod(key, obj.spec)
            case Node():
                self._put_node(obj.metadata.name, obj)
            case Network():
                self._put_network(obj.metadata.name, internal=obj.spec.internal)
            case _:
                pass

    def delete(self, obj: AnyObject) -> None:
        """An object is no more."""
        key = (obj.metadata.namespace, obj.metadata.name)
        match obj:
            case Service():
                self._put_service(key, None)
            case EndpointSlice():
                self._put_slice(key, None)
            case Endpoint():
                self._roster.put(("endpoint", key), None)
            case Pod():
                self._roster.put_pod(key, None)
            case Node():
                self._put_node(obj.metadata.name, None)
            case Network():
                self._put_network(obj.metadata.name, internal=False)
            case _:
                pass

    def set_local(self, ident: str, party: LocalParty | None, condition: Condition = "") -> None:
        """An endpoint of this host is so; None: it is no more, or nobody knows yet who it is."""
        self._roster.put(("local", ident), party, of_condition(condition))

    def _put_service(self, key: Key, new: Service | None) -> None:
        old = self._services.pop(key, None)
        if new is not None:
            self._services[key] = new
            if old is not None and old.spec == new.spec and old.metadata.uid == new.metadata.uid:
                return
        for service, there in ((old, False), (new, True)):
            if service is None:
                continue
            if service.spec.origin is not None:
                self._foreign += 1 if there else -1
            selects = service_endpoints(key[0], service.spec)
            if selects is not None:
                (self._roster.watch if there else self._roster.unwatch)(selects, key)
            for address in canonical(fixed.address for fixed in service.spec.backends):
                (self._roster.seek if there else self._roster.unseek)(address, key)
        self._changed((key,))

    def _put_slice(self, key: Key, new: EndpointSliceSpec | None) -> None:
        old = self._slices.get(key)
        if old is not None:
            if old.spec == new:
                return
            del self._slices[key]
        if new is not None:
            self._slices[key] = _Slice(new, slice_addresses(new))
        for spec, there in ((old.spec if old is not None else None, False), (new, True)):
            if spec is not None:
                _file(self._sliced, (key[0], spec.service), key, there)
                self._changed(((key[0], spec.service),))

    def _put_node(self, name: str, node: Node | None) -> None:
        former = self._sites.get(name, "")
        site = node.site if node is not None else ""
        self._roster.put(("node", name), node)
        self._hear(name, silent=node is not None and node.status.silent)
        if site == former:
            return
        self._sites.pop(name, None)
        if site:
            self._sites[name] = site
        # A site changes hardly ever; ours matters to hints as well.
        self._changed(
            key
            for key, service in self._services.items()
            if name == self._node or service.spec.prefer
        )

    def _hear(self, name: str, *, silent: bool) -> None:
        if name == self._node or silent == (name in self._silent):
            return
        (self._silent.add if silent else self._silent.discard)(name)
        self._changed(
            key
            for key, service in self._services.items()
            if service.spec.selector is not None or service.spec.backends
        )

    def _put_network(self, name: str, *, internal: bool) -> None:
        if internal == (name in self._internal):
            return
        (self._internal.add if internal else self._internal.discard)(name)
        self._changed(key for key, one in self._services.items() if one.spec.network == name)

    def _changed(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._stale.add(key)
            self.moved(*key)

    # What is asked

    def table(self) -> ServiceTable:
        """All that the kernel of this host must know; the same object while nothing changed.
        Its mappings and sets go on changing."""
        self._settle()
        stamp = (self._frontends.serial, self._addresses.members.serial)
        if stamp != self._stamp:
            self._stamp = stamp
            self._table = ServiceTable(
                serial=self._table.serial + 1,
                frontends=self._frontends,
                addresses=self._addresses.members,
            )
        return self._table

    def backends(self, namespace: str, name: str) -> tuple[Backend, ...]:
        """All who answer for a Service, whatever their state, each address once."""
        key = (namespace, name)
        service = self._services.get(key)
        if service is None:
            return ()
        found: dict[str, Backend] = {}
        for backend in self._backends(key, service):
            known = found.get(backend.address)
            if known is None or (backend.ready, backend.serving) > (known.ready, known.serving):
                found[backend.address] = backend
        return tuple(found.values())

    def service(self, namespace: str, name: str) -> Service | None:
        """A Service."""
        return self._services.get((namespace, name))

    def health(self) -> Mapping[int, HealthCheck]:
        """By health-check node port: the Service and how many backends it has here."""
        self._settle()
        # Of two that have a port it is always the same one's.
        ports = sorted(self._health.values(), reverse=True)
        return MappingProxyType(dict(ports))

    @property
    def orchestrated(self) -> bool:
        """Some Services are an orchestrator's."""
        return self._foreign > 0

    # Settling

    def _settle(self) -> None:
        stale, self._stale = self._stale, set()
        for key in stale:
            service = self._services.get(key)
            self._health.pop(key, None)
            ident = service_id(service) if service is not None else ""
            entries = self._entries(key, service, ident) if service is not None else {}
            addresses = own_addresses(service.spec) if service is not None else ()
            former = self._shown.pop(key, _Shown("", (), ()))
            if entries or addresses:
                self._shown[key] = _Shown(ident, tuple(entries), addresses)
            for frontend, entry in entries.items():
                self._show(frontend, entry)
            for frontend in former.frontends:
                if frontend not in entries or former.ident != ident:
                    self._hide(frontend, former.ident)
            for address in addresses:
                self._addresses.take(address)
            for address in former.addresses:
                self._addresses.drop(address)

    def _entries(self, key: Key, service: Service, ident: str) -> dict[Frontend, Entry]:
        spec = service.spec
        here = Here(self._node, self._sites.get(self._node, ""))
        backends = list(self._backends(key, service))
        choices: dict[tuple[int, int, Reach, bool], Choice] = {}

        def chosen(port: int, number: int, reach: Reach, outside: bool) -> Choice:
            memo = (port, number, reach, outside and reach == "Local")
            found = choices.get(memo)
            if found is None:
                fit = having(backends, port, number)
                found = choices[memo] = choice(fit, port, spec, here, reach, outside=outside)
            return found

        entries: dict[Frontend, Entry] = {}
        for opening in openings(spec):
            number = family(opening.frontend.address)
            inside = chosen(opening.port, number, opening.inside, False)
            outside = inside
            if spec.network in self._internal:
                outside = Choice((), spec.affinity_seconds)
            elif opening.outside != opening.inside:
                outside = chosen(opening.port, number, opening.outside, True)
            entries[opening.frontend] = Entry(
                ident, inside, None if outside == inside else outside, opening.sources
            )
        self._check(key, service, here, backends)
        return entries

    def _check(self, key: Key, service: Service, here: Here, backends: list[Backend]) -> None:
        port = service.spec.health_check_node_port
        if port:
            number = families(service.spec)[0]
            ready = {
                backend.address
                for backend in local(backends, here)
                if backend.ready and family(backend.address) == number
            }
            self._health[key] = (port, HealthCheck(*key, len(ready)))

    def _backends(self, key: Key, service: Service) -> Iterator[Backend]:
        spec = service.spec
        selects = service_endpoints(key[0], spec)
        if selects is not None:
            found = of_parties(spec.ports, self._roster.select(selects), self._site_of)
            yield from heard(found, self._silent)
        elif spec.backends:
            of_node = self._roster.node_of
            found = of_fixed(spec.ports, spec.backends, of_node, self._site_of)
            yield from heard(found, self._silent)
        else:
            for name in self._sliced.get(key, ()):
                one = self._slices[name]
                yield from of_slice(spec.ports, one.spec, one.addresses, self._site_of)

    def _site_of(self, node: str) -> str:
        return self._sites.get(node, "")

    def _show(self, frontend: Frontend, entry: Entry) -> None:
        """A Service claims a frontend; of several the one with the lowest id has it."""
        rivals = self._rivals.get(frontend)
        if rivals is None:
            current = self._frontends.get(frontend)
            if current is None or current.service == entry.service:
                self._frontends.set(frontend, entry)
                return
            rivals = self._rivals[frontend] = {current.service: current}
        rivals[entry.service] = entry
        self._frontends.set(frontend, rivals[min(rivals)])

    def _hide(self, frontend: Frontend, ident: str) -> None:
        """A Service does not claim a frontend any more."""
        rivals = self._rivals.get(frontend)
        if rivals is None:
            self._frontends.discard(frontend)
            return
        del rivals[ident]
        self._frontends.set(frontend, rivals[min(rivals)])
        if len(rivals) == 1:
            del self._rivals[frontend]


def _file(table: dict[K, set[Key]], at: K, key: Key, there: bool) -> None:
    """File a key, or take it out; no empty set is left behind."""
    found = table.setdefault(at, set())
    if there:
        found.add(key)
    else:
        found.discard(key)
        if not found:
            del table[at]
