"""Services and pods as the resolver needs them, indexed by name and address.

Who answers for a Service is known to the services engine, not here: `backends` asks it, and
`moved` is told when its answer may be another one.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, TypeVar

from plait.model.objects import Pod, Service
from plait.services.backends import Backend

V = TypeVar("V")

Key = tuple[bytes, bytes]
"""Namespace and name, in lower case: what kept answers hang on. Without a namespace: an
address, packed."""
REVERSE: Final[Key] = (b"", b"reverse")
"""What every kept answer about an address hangs on as well."""

Backends = Callable[[str, str], Iterable[Backend]]
"""All who answer for a Service, whatever their state, by namespace and name."""


def packed(text: str) -> bytes | None:
    """One odd object must not stop the others: what is no address has no name."""
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, ValueError):
        return None


class Known(NamedTuple):
    """A Service by its names and its addresses."""

    namespace: bytes
    name: bytes
    service: Service
    addresses: tuple[bytes, ...]
    """Cluster addresses, packed."""

    @property
    def foreign(self) -> bool:
        """Whether an orchestrator made it: then its names are of that one's schema first."""
        return self.service.spec.origin is not None


class ServiceNames:
    """The index. `forget` is called with what kept answers hang on, `forget_all` when the schema
    of Kubernetes begins or ends to be ours, `count` with a namespace, a network and +1 or -1."""

    def __init__(
        self,
        *,
        forget: Callable[[Iterable[Key]], None],
        forget_all: Callable[[], None],
        count: Callable[[bytes, str, int], None],
        backends: Backends = lambda _namespace, _name: (),
    ) -> None:
        self.backends = backends
        self._forget = forget
        self._forget_all = forget_all
        self._count = count
        self._services: dict[Key, Known] = {}
        self._addresses: dict[bytes, dict[Key, Known]] = {}
        self._pods: dict[Key, tuple[bytes, ...]] = {}
        """Their addresses, packed."""
        self._pod_addresses: dict[bytes, dict[Key, None]] = {}
        self._foreign = 0
        """Services and pods of an orchestrator."""
        self._headless: dict[Key, tuple[bytes, ...]] = {}
        """Addresses of those who answer for each headless Service, when last looked."""
        self._stale: set[Key] = set()
        """Headless Services that have to be looked at again."""
        self._behind: dict[bytes, dict[Key, bytes]] = {}
        """Headless Services, and the hostname below them, by address."""

    # Changes

    def put(self, service: Service) -> None:
        """Learn a Service, or what it has become."""
        key = _key(service.metadata.namespace, service.metadata.name)
        old = self._services.get(key)
        if old is not None:
            if old.service is service or old.service.spec == service.spec:
                return
            self._drop(key, old)
        spec = service.spec
        addresses = tuple(a for text in spec.addresses if (a := packed(text)))
        known = Known(*key, service, addresses)
        self._services[key] = known
        for address in addresses:
            self._addresses.setdefault(address, {})[key] = known
        self._count(key[0], spec.network, 1)
        self._foreigners(int(known.foreign) - int(old is not None and old.foreign))
        if spec.headless:
            self._stale.add(key)
        self._forget(_about(known))

    def delete(self, namespace: str, name: str) -> None:
        """Forget a Service; no error if there is none."""
        key = _key(namespace, name)
        old = self._services.get(key)
        if old is not None:
            self._drop(key, old)
            self._foreigners(-int(old.foreign))

    def _drop(self, key: Key, old: Known) -> None:
        del self._services[key]
        for address in old.addresses:
            _discard(self._addresses, address, key)
        self._count(key[0], old.service.spec.network, -1)
        self._stale.discard(key)
        self._unlist(key)
        self._forget(_about(old))

    def moved(self, namespace: str, name: str) -> None:
        """Who answers for a Service may be other than before."""
        key = _key(namespace, name)
        known = self._services.get(key)
        if known is None:
            return
        if known.service.spec.headless:
            self._stale.add(key)
        self._forget(_about(known))

    def put_pod(self, pod: Pod) -> None:
        """Learn a pod, or what it has become."""
        key = _key(pod.metadata.namespace, pod.metadata.name)
        if key not in self._pods:
            self._foreigners(1)
        self._move_pod(key, _addresses(pod))

    def delete_pod(self, namespace: str, name: str) -> None:
        """Forget a pod; no error if there is none."""
        key = _key(namespace, name)
        if key in self._pods:
            self._move_pod(key, None)
            self._foreigners(-1)

    def _move_pod(self, key: Key, new: tuple[bytes, ...] | None) -> None:
        old = self._pods.get(key)
        if old == new:
            return
        for address in old or ():
            _discard(self._pod_addresses, address, key)
        if new is None:
            del self._pods[key]
        else:
            self._pods[key] = new
        for address in new or ():
            self._pod_addresses.setdefault(address, {})[key] = None
        self._forget([(b"", address) for address in (*(old or ()), *(new or ()))])

    def _foreigners(self, more: int) -> None:
        before, self._foreign = self._foreign, self._foreign + more
        if bool(before) != bool(self._foreign):
            self._forget_all()

    def replace(self, services: Iterable[Service], pods: Iterable[Pod]) -> None:
        """There are these and no others."""
        wanted = {_key(s.metadata.namespace, s.metadata.name): s for s in services}
        for namespace, name in [key for key in self._services if key not in wanted]:
            self.delete(namespace.decode(), name.decode())
        for service in wanted.values():
            self.put(service)
        present = {_key(p.metadata.namespace, p.metadata.name): p for p in pods}
        for namespace, name in [key for key in self._pods if key not in present]:
            self.delete_pod(namespace.decode(), name.decode())
        for pod in present.values():
            self.put_pod(pod)

    # Look-ups

    @property
    def foreign(self) -> bool:
        """Whether there is an orchestrator whose schema of names is ours to answer."""
        return self._foreign > 0

    def get(self, namespace: bytes, name: bytes) -> Known | None:
        """A Service by its name."""
        return self._services.get((namespace, name))

    def at(self, address: bytes) -> list[Known]:
        """Services with a cluster address."""
        return list(self._addresses.get(address, {}).values())

    def who(self, known: Known) -> list[tuple[bytes, Backend]]:
        """Who answers for a Service by name: the ready ones, or all where it publishes them, with
        their packed addresses."""
        every = known.service.spec.publish_not_ready
        metadata = known.service.metadata
        found = self.backends(metadata.namespace, metadata.name)
        ready = (one for one in found if one.ready or every)
        return [(a, one) for one in ready if (a := packed(one.address)) is not None]

    def headless_at(self, address: bytes) -> list[tuple[Known, bytes]]:
        """Headless Services that an address answers for, each with the hostname that it has below
        it."""
        self._settle()
        found = self._behind.get(address, {})
        return [(self._services[key], hostname) for key, hostname in found.items()]

    def pod_at(self, namespace: bytes, address: bytes) -> bool:
        """Whether a pod of the namespace has the address."""
        return any(key[0] == namespace for key in self._pod_addresses.get(address, ()))

    def _settle(self) -> None:
        stale, self._stale = self._stale, set()
        for key in stale:
            self._unlist(key)
            known = self._services.get(key)
            if known is None:
                continue
            who = [(a, one) for a, one in self.who(known) if one.name]
            self._headless[key] = tuple(address for address, _ in who)
            for address, one in who:
                self._behind.setdefault(address, {})[key] = one.name.lower().encode()

    def _unlist(self, key: Key) -> None:
        for address in self._headless.pop(key, ()):
            if key in self._behind.get(address, ()):
                _discard(self._behind, address, key)


def _about(known: Known) -> tuple[Key, ...]:
    """What answers hang on that name a Service, or the addresses of a headless one."""
    reverse = (REVERSE,) if known.service.spec.headless else ()
    addresses = ((b"", address) for address in known.addresses)
    return ((known.namespace, known.name), *addresses, *reverse)


def _key(namespace: str, name: str) -> Key:
    return namespace.lower().encode(), name.lower().encode()


def _addresses(pod: Pod) -> tuple[bytes, ...]:
    """Of a pod that runs: the address of one that has ended may be another's already."""
    if pod.spec.finished:
        return ()
    return tuple(a for text in pod.spec.addresses if (a := packed(text)))


def _discard(index: dict[bytes, dict[Key, V]], at: bytes, key: Key) -> None:
    slot = index[at]
    slot.pop(key, None)
    if not slot:
        del index[at]
