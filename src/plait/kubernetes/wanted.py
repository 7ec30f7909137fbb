"""What Plait's server should have, by what Kubernetes says. Pure.

Each object of Kubernetes is translated when it changes; what comes out the same changes nothing,
so that a kubelet's heartbeat writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from types import MappingProxyType
from typing import Any, Final

from plait.kubernetes.hosts import Hosts
from plait.kubernetes.kinds import NODES
from plait.kubernetes.replica import Change, Key
from plait.kubernetes.translate import ROWS, Row, Surroundings, target_key, translate
from plait.model.objects import AnyObject, ClusterSpec, Node

Source = tuple[str, str, str]
"""Kind, namespace and name in Kubernetes."""
ROW_OF: Final = {row.source.name: row for row in ROWS}


class Wanted:
    """Objects by their key. The methods that change something return the keys that it concerns."""

    def __init__(self, *, network: str, domain: str) -> None:
        self.hosts = Hosts()
        self._around = Surroundings(network, domain, self.hosts.ours)
        self._found: dict[str, dict[Key, Any]] = {row.source.name: {} for row in ROWS}
        """Objects of Kubernetes by kind and key."""
        self._keys: dict[Source, str] = {}
        """What each becomes."""
        self._sources: dict[str, Source] = {}
        self._objects: dict[str, AnyObject] = {}
        self.objects: Mapping[str, AnyObject] = MappingProxyType(self._objects)
        """Live, without what the server fills in."""
        self.problems: dict[Source, str] = {}
        """What could not be read, and why."""

    def found(self, kind: str) -> Mapping[Key, Any]:
        """Kubernetes' own objects of a kind."""
        return self._found[kind]

    def source(self, key: str) -> Source | None:
        """The object of Kubernetes behind one of ours."""
        return self._sources.get(key)

    def take(self, kind: str, changes: Iterable[Change[Any]]) -> set[str]:
        """Objects of a kind changed."""
        row, found = ROW_OF[kind], self._found[kind]
        touched: set[str] = set()
        moved: set[str] = set()
        for key, _, new in changes:
            if new is None:
                found.pop(key, None)
            else:
                found[key] = new
            if kind == NODES.name:
                moved |= self.hosts.put_theirs(key[1], new)
            touched |= self._place(row, key, new)
        return touched | self._moved(moved)

    def take_host(self, name: str, node: Node | None) -> set[str]:
        """A Node of ours came, changed or went."""
        return self._moved(self.hosts.put_ours(name, node))

    def set_cluster(self, spec: ClusterSpec) -> set[str]:
        """The settings of our network."""
        around = self._around._replace(domain=spec.domain, balancer_pools=spec.load_balancer_pools)
        if around == self._around:
            return set()
        self._around = around
        return {
            key
            for row in ROWS
            for name, found in self._found[row.source.name].items()
            for key in self._place(row, name, found)
        }

    def _moved(self, nodes: Set[str]) -> set[str]:
        """Translate what names one of these nodes of Kubernetes."""
        if not nodes:
            return set()
        return {
            key
            for row in ROWS
            if row.nodes is not None
            for name, found in self._found[row.source.name].items()
            if not nodes.isdisjoint(row.nodes(found))
            for key in self._place(row, name, found)
        }

    def _place(self, row: Row, name: Key, found: Any) -> set[str]:
        source = (row.source.name, *name)
        key: str | None = None
        new: AnyObject | None = None
        problem = ""
        if found is not None:
            key = target_key(row, *name, self._around)
            new, problem = translate(row, found, self._around)
        if problem:
            self.problems[source] = problem
        else:
            self.problems.pop(source, None)
        former = self._keys.pop(source, None)
        touched = set()
        # Nodes that swap their pairs swap keys: one may be another's already.
        if former is not None and former != key and self._sources.get(former) == source:
            del self._sources[former]
            if self._objects.pop(former, None) is not None:
                touched.add(former)
        if key is not None:
            self._keys[source], self._sources[key] = key, source
            if self._objects.get(key) != new:
                touched.add(key)
                if new is None:
                    del self._objects[key]
                else:
                    self._objects[key] = new
        return touched
