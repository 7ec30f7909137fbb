"""The server's view of the store at one revision: what validation and reads look at.

Pure. `Mirror` feeds it; `speculate` lets a plan see the effect of its own earlier steps and
takes them back afterwards. Kinds of which there are many are kept as JSON and decoded when
asked for; all other kinds are kept decoded.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar, cast

import msgspec

from plait.model.objects import (
    KINDS,
    AddressBlock,
    AnyObject,
    Endpoint,
    EndpointSlice,
    Network,
    Node,
    Object,
    Pod,
    Service,
    encode,
    object_key,
)
from plait.server.claims import claims
from plait.wire.watch import put_line

T = TypeVar("T", bound=Object)

_DECODERS: Final = {kind: msgspec.json.Decoder(kind).decode for kind in KINDS.values()}
_OBJECT: Final = b'"object":'
_MANY: Final = (Endpoint, EndpointSlice, Pod, Service)
"""Kinds that are kept as JSON."""
_BY_PLURAL: Final = {kind.plural: kind for kind in KINDS.values()}


def kind_of_key(key: str) -> type[Object] | None:
    """Kind of the object that a store key names; None for the server's own records."""
    return _BY_PLURAL.get(key.split("/", 2)[1])


class Entry:
    """One object at one revision."""

    __slots__ = ("_object", "claims", "key", "kind", "line", "network", "node", "revision")

    def __init__(self, key: str, obj: AnyObject, revision: int) -> None:
        stored = with_revision(obj, revision)
        self.key = key
        self.kind: type[Object] = type(obj)
        self.revision = revision
        self.line = put_line(revision, encode(stored))
        """The object as a line of a watch stream, shared by everybody who reads it."""
        self.network = ""
        self.node = ""
        if isinstance(obj, Endpoint | AddressBlock):
            self.network, self.node = obj.spec.network, obj.spec.node
        self.claims: tuple[str, ...] = ()
        """What it holds that no other may hold."""
        if isinstance(obj, Service):
            self.network, self.claims = obj.spec.network, claims(obj)
        self._object: AnyObject | None = None if isinstance(obj, _MANY) else stored

    @property
    def body(self) -> bytes:
        """JSON with the revision."""
        return self.line[self.line.index(_OBJECT) + len(_OBJECT) : -2]

    @property
    def object(self) -> AnyObject:
        """The object, with its revision."""
        if self._object is not None:
            return self._object
        return cast(AnyObject, _DECODERS[self.kind](self.body))


def with_revision(obj: AnyObject, revision: int) -> AnyObject:
    """The object with another revision in its metadata."""
    if obj.metadata.revision == revision:
        return obj
    metadata = msgspec.structs.replace(obj.metadata, revision=revision)
    return msgspec.structs.replace(obj, metadata=metadata)


class State:
    """Objects by key, by kind, and by what they refer to.

    Also the revisions and values of the server's own records (guards, tokens, identities),
    whose keys do not begin with the plural of a kind.
    """

    def __init__(self) -> None:
        self.revision = 0
        self.records: dict[str, tuple[bytes, int]] = {}
        self._entries: dict[type[Object], dict[str, Entry]] = {k: {} for k in KINDS.values()}
        self._sorted: dict[type[Object], list[str] | None] = dict.fromkeys(KINDS.values())
        self._groups: dict[tuple[str, str, str], dict[str, Entry]] = {}
        self._undo: list[tuple[type[Object], str, Entry | None]] | None = None

    # Reads

    def entry(self, kind: type[Object], name: str, namespace: str = "") -> Entry | None:
        """An object with its JSON, or None."""
        return self._entries[kind].get(object_key(kind, name, namespace))

    def get(self, kind: type[T], name: str, namespace: str = "") -> T | None:
        """An object, or None."""
        entry = self.entry(kind, name, namespace)
        return None if entry is None else cast(T, entry.object)

    def at(self, key: str) -> Entry | None:
        """The object of a store key, or None."""
        kind = kind_of_key(key)
        return None if kind is None else self._entries[kind].get(key)

    def revision_of(self, key: str) -> int:
        """mod_revision of any key, 0 when there is none: what a guard compares."""
        kind = kind_of_key(key)
        if kind is not None:
            entry = self._entries[kind].get(key)
            return 0 if entry is None else entry.revision
        return self.records[key][1] if key in self.records else 0

    def page(
        self, kind: type[Object], *, namespace: str = "", after: str = "", limit: int = 0
    ) -> tuple[Sequence[Entry], bool]:
        """Objects of a kind in key order beyond the key `after`; True when more follow."""
        keys = self._keys(kind)
        prefix = f"/{kind.plural}/{namespace}/" if namespace else f"/{kind.plural}/"
        start = bisect.bisect_right(keys, after) if after else bisect.bisect_left(keys, prefix)
        end = bisect.bisect_left(keys, prefix[:-1] + "0")  # "0" is the byte after "/"
        if limit and end - start > limit:
            chosen, more = keys[start : start + limit], True
        else:
            chosen, more = keys[start:end], False
        entries = self._entries[kind]
        return [entries[key] for key in chosen], more

    def all(self, kind: type[T]) -> Iterator[T]:
        """Every object of a kind, in no order."""
        return (cast(T, entry.object) for entry in self._entries[kind].values())

    def count(self, kind: type[Object]) -> int:
        """How many objects of a kind there are."""
        return len(self._entries[kind])

    def entries(self, kind: type[Object]) -> Iterator[Entry]:
        """Every entry of a kind, in no order."""
        return iter(self._entries[kind].values())

    def in_network(self, kind: type[Object], network: str) -> Sequence[Entry]:
        """Endpoints, blocks or Services of a network."""
        return list(self._groups.get(("network", kind.plural, network), {}).values())

    def of_node(self, kind: type[Object], node: str) -> Sequence[Entry]:
        """Endpoints or blocks of a node."""
        return list(self._groups.get(("node", kind.plural, node), {}).values())

    def in_namespace(self, namespace: str) -> Sequence[Entry]:
        """Objects in a namespace."""
        return list(self._groups.get(("namespace", "", namespace), {}).values())

    def claimants(self, claim: str) -> Sequence[Entry]:
        """Services that hold something; `server.claims` says what that may be."""
        return list(self._groups.get(("claim", "", claim), {}).values())

    def claimed(self, prefix: str) -> Iterator[str]:
        """What of all claims with a prefix follows it. Looks at every claim there is."""
        for relation, _, claim in self._groups:
            if relation == "claim" and claim.startswith(prefix):
                yield claim[len(prefix) :]

    def networks(self) -> Iterator[Network]:
        """Every network."""
        return self.all(Network)

    def nodes(self) -> Iterator[Node]:
        """Every node."""
        return self.all(Node)

    # Changes

    def put(self, key: str, obj: AnyObject, revision: int) -> Entry:
        """Write an object."""
        entry = Entry(key, obj, revision)
        self._set(entry.kind, key, entry)
        return entry

    def delete(self, key: str) -> Entry | None:
        """Remove an object; returns what was there."""
        kind = kind_of_key(key)
        assert kind is not None, key
        old = self._entries[kind].get(key)
        if old is not None:
            self._set(kind, key, None)
        return old

    @contextmanager
    def speculate(self) -> Iterator[None]:
        """Take back, at the end, every change made inside. The body must not await."""
        assert self._undo is None, "speculation does not nest"
        self._undo = []
        try:
            yield
        finally:
            undo, self._undo = self._undo, None
            for kind, key, old in reversed(undo):
                self._set(kind, key, old)

    def _keys(self, kind: type[Object]) -> list[str]:
        keys = self._sorted[kind]
        if keys is None:
            keys = self._sorted[kind] = sorted(self._entries[kind])
        return keys

    def _set(self, kind: type[Object], key: str, entry: Entry | None) -> None:
        entries = self._entries[kind]
        old = entries.get(key)
        if self._undo is not None:
            self._undo.append((kind, key, old))
        if old is not None:
            self._unindex(old)
        if entry is None:
            entries.pop(key, None)
            self._sorted[kind] = None
            return
        if old is None:
            self._sorted[kind] = None
        entries[key] = entry
        self._index(entry)

    def _index(self, entry: Entry) -> None:
        for group in _groups_of(entry):
            self._groups.setdefault(group, {})[entry.key] = entry

    def _unindex(self, entry: Entry) -> None:
        for group in _groups_of(entry):
            members = self._groups[group]
            del members[entry.key]
            if not members:
                del self._groups[group]


def _groups_of(entry: Entry) -> Iterator[tuple[str, str, str]]:
    """What an object refers to: (relation, plural, name)."""
    plural = entry.kind.plural
    if entry.network:
        yield "network", plural, entry.network
    if entry.node:
        yield "node", plural, entry.node
    for claim in entry.claims:
        yield "claim", "", claim
    if entry.kind.namespaced:
        yield "namespace", "", entry.key.split("/", 3)[2]
