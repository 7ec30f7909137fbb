"""The whole network as this agent last saw it. Pure: it is told, it does not ask.

Facts arrive from the watch and, sooner, as answers to our own writes; each carries its revision,
so an older one never replaces a newer. `synced` ends a full listing: what was not named in it
and is not newer than it does not exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from plait.model.objects import (
    AddressBlock,
    AnyObject,
    Cluster,
    Endpoint,
    EndpointSlice,
    Group,
    Metadata,
    Namespace,
    Network,
    Node,
    Object,
    Pod,
    Policy,
    Service,
)
from plait.model.pods import PodSpec

DEFAULT_CLUSTER: Final = Cluster(metadata=Metadata(name="plait"))
"""The cluster's settings until they are known."""
_NOTHING: Final[dict[str, str]] = {}
"""One for all; nobody changes it."""


class Follower(Protocol):
    """Hears of every change of the snapshot, wherever it came from, when it is made."""

    def put(self, obj: AnyObject) -> None:
        """The object is new, or other than it was."""

    def delete(self, obj: AnyObject) -> None:
        """The object is no more."""


class Snapshot:
    """Objects by name; endpoints by (namespace, name). Read-only to everyone but its feeder."""

    def __init__(self, *followers: Follower, node: str = "") -> None:
        """Of Pods that are placed on other nodes only what Services need to know is kept; no node
        named: all of all."""
        self._followers = followers
        self._node = node
        self.revision = 0
        self.ready = False
        """A whole listing was seen, of the server or from the disk."""
        self.live = False
        """The last listing came from the server, not from the disk."""
        self.cluster = DEFAULT_CLUSTER
        self._by_key: dict[str, AnyObject] = {}
        self._named: set[str] | None = None
        self._rewound = False
        self.nodes: dict[str, Node] = {}
        self.networks: dict[str, Network] = {}
        self.blocks: dict[str, AddressBlock] = {}
        self.endpoints: dict[tuple[str, str], Endpoint] = {}
        self.own: dict[str, Endpoint] = {}
        """Endpoints of this node, by key."""
        self.namespaces: dict[str, Namespace] = {}
        self.policies: dict[str, Policy] = {}
        self.groups: dict[str, Group] = {}
        self.services: dict[tuple[str, str], Service] = {}
        self.slices: dict[tuple[str, str], EndpointSlice] = {}
        self.pods: dict[tuple[str, str], Pod] = {}
        """Of this node, or not yet placed."""

    def __iter__(self) -> Iterator[AnyObject]:
        return iter(self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)

    def begin(self, revision: int = 0) -> None:
        """A full listing begins. A revision before ours means that the server was restored from
        a backup: then what it lists is the truth, whatever its revisions."""
        self._named = set()
        self._rewound = 0 < revision < self.revision

    def put(self, obj: AnyObject, *, answer: bool = False) -> AnyObject | None:
        """Learn of an object. Returns the former one, or `obj` itself if nothing was learnt.

        `answer` says that it came as the answer to a write of ours, not from the watch. Where the
        watch has come that far and knows no such object, it has gone again since.
        """
        told = obj
        if isinstance(obj, Pod) and self._is_elsewhere(obj):
            obj = _bare(obj)
        if self._named is not None and not answer:
            self._named.add(obj.key)
        former = self._by_key.get(obj.key)
        if answer and former is None and obj.metadata.revision < self._told:
            return told
        newer = former is None or former.metadata.revision < obj.metadata.revision
        if not newer and (former == obj or not self._rewound):
            return told
        self._by_key[obj.key] = obj
        self._index(obj)
        if not answer:
            self.revision = max(self.revision, obj.metadata.revision)
        return former

    def delete(self, obj: Object, revision: int, *, answer: bool = False) -> AnyObject | None:
        """Learn that an object went at `revision`; returns it, or None if nothing was learnt.
        `answer` as for `put`: it does not say how far the watch has come."""
        former = self._by_key.get(obj.key)
        if former is None or former.metadata.revision > revision:
            return None
        del self._by_key[obj.key]
        self._unindex(former)
        if not answer:
            self.revision = max(self.revision, revision)
        return former

    def reached(self, revision: int) -> None:
        """The watch has come so far, also with what was known before by an answer."""
        self.revision = max(self.revision, revision)

    def synced(self, revision: int) -> tuple[AnyObject, ...]:
        """The listing is complete at `revision`; returns the objects that are no more."""
        named = self._named if self._named is not None else set(self._by_key)
        stale = tuple(
            obj
            for key, obj in self._by_key.items()
            if key not in named and (self._rewound or obj.metadata.revision <= revision)
        )
        for obj in stale:
            del self._by_key[obj.key]
            self._unindex(obj)
        self.ready = self.live = True
        self.revision = revision if self._rewound else max(self.revision, revision)
        self._named = None
        self._rewound = False
        return stale

    def restore(self, objects: Iterable[AnyObject], revision: int) -> None:
        """Begin with what was kept on disk."""
        for obj in objects:
            self.put(obj)
        self.revision = max(self.revision, revision)
        self.ready = True

    def blocks_of(self, network: str) -> list[AddressBlock]:
        """Blocks of a network."""
        return [block for block in self.blocks.values() if block.spec.network == network]

    @property
    def _told(self) -> int:
        """Revision up to which the watch has told all that there is."""
        return self.revision if self.live and not self._rewound else -1

    def _is_elsewhere(self, pod: Pod) -> bool:
        return bool(self._node) and pod.spec.node not in ("", self._node)

    def _index(self, obj: AnyObject) -> None:
        name = obj.metadata.name
        match obj:
            case Cluster():
                self.cluster = obj
            case Node():
                self.nodes[name] = obj
            case Network():
                self.networks[name] = obj
            case AddressBlock():
                self.blocks[name] = obj
            case Endpoint():
                self.endpoints[obj.metadata.namespace, name] = obj
                if obj.spec.node == self._node:
                    self.own[obj.key] = obj
                else:
                    self.own.pop(obj.key, None)
            case Namespace():
                self.namespaces[name] = obj
            case Policy():
                self.policies[name] = obj
            case Group():
                self.groups[name] = obj
            case Service():
                self.services[obj.metadata.namespace, name] = obj
            case EndpointSlice():
                self.slices[obj.metadata.namespace, name] = obj
            case Pod() if self._is_elsewhere(obj):
                self.pods.pop((obj.metadata.namespace, name), None)
            case Pod():
                self.pods[obj.metadata.namespace, name] = obj
        for follower in self._followers:
            follower.put(obj)

    def _unindex(self, obj: AnyObject) -> None:
        name = obj.metadata.name
        match obj:
            case Cluster():
                self.cluster = DEFAULT_CLUSTER
            case Node():
                self.nodes.pop(name, None)
            case Network():
                self.networks.pop(name, None)
            case AddressBlock():
                self.blocks.pop(name, None)
            case Endpoint():
                self.endpoints.pop((obj.metadata.namespace, name), None)
                self.own.pop(obj.key, None)
            case Namespace():
                self.namespaces.pop(name, None)
            case Policy():
                self.policies.pop(name, None)
            case Group():
                self.groups.pop(name, None)
            case Service():
                self.services.pop((obj.metadata.namespace, name), None)
            case EndpointSlice():
                self.slices.pop((obj.metadata.namespace, name), None)
            case Pod():
                self.pods.pop((obj.metadata.namespace, name), None)
        for follower in self._followers:
            follower.delete(obj)


def _bare(pod: Pod) -> Pod:
    """A Pod of another node: there may be very many, and of the rest its own agent makes use."""
    meta, spec = pod.metadata, pod.spec
    return Pod(
        metadata=Metadata(
            name=meta.name,
            namespace=meta.namespace,
            labels=_NOTHING,
            annotations=_NOTHING,
            revision=meta.revision,
        ),
        spec=PodSpec(
            uid=spec.uid,
            node=spec.node,
            ready=spec.ready,
            terminating=spec.terminating,
            finished=spec.finished,
        ),
    )
