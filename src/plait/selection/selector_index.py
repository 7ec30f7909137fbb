"""Which selectors select whom, kept up to date: the work of a change depends on what it concerns,
not on how many selectors and parties there are.

Both sides are filed by labels. A selector that requires a label lies in that label's bucket, so a
party is held only against the selectors in the buckets of its own labels; of the labels that a
selector requires the one with the emptiest bucket is taken. A new selector in turn is held only
against the parties that carry the rarest of the labels that it requires.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Final, Generic, NamedTuple, TypeVar

from plait.model.selectors import ENDPOINT_NAME, ENDPOINT_NETWORK, ENDPOINT_NODE, NAMESPACE_NAME
from plait.selection.parties import Party, namespace_labels
from plait.selection.terms import Condition, Conditions, Term, holds

U = TypeVar("U", bound=Hashable)
K = TypeVar("K", bound=Hashable)
T = TypeVar("T", bound=Hashable)

Bucket = str | tuple[str, str]
"""A label's key, or key and value."""
UNIVERSAL: Final = frozenset({ENDPOINT_NETWORK, ENDPOINT_NODE, NAMESPACE_NAME})
"""Labels that everybody has: that they exist tells nothing."""


class _Watch(Generic[U]):
    """A term that somebody asks for, and where it is filed."""

    __slots__ = ("buckets", "table", "term", "users")

    def __init__(
        self, term: Term, table: dict[Bucket, set[_Watch[U]]], buckets: tuple[Bucket, ...]
    ) -> None:
        self.term = term
        self.table = table
        self.buckets = buckets
        self.users: set[U] = set()


class _Space:
    """A namespace: it is there as long as it has an object or a party."""

    __slots__ = ("labels", "named", "parties")

    def __init__(self, name: str) -> None:
        self.labels = namespace_labels(name, {})
        self.named = False
        self.parties: set[Party] = set()


class Flip(NamedTuple, Generic[U]):
    """What a namespace's new labels changed: a term of these users selects a party, or does so
    no longer."""

    party: Party
    users: frozenset[U]
    selected: bool


class SelectorIndex(Generic[U]):
    """Terms, each with its users, against parties."""

    def __init__(self) -> None:
        self.evaluated = 0
        """How often conditions were held against labels so far."""
        self._spaces: dict[str, _Space] = {}
        self._carriers: dict[Bucket, set[Party]] = {}
        self._watches: dict[Term, _Watch[U]] = {}
        self._by_label: dict[Bucket, set[_Watch[U]]] = {}
        self._by_scope: dict[Bucket, set[_Watch[U]]] = {}
        self._loose: dict[Bucket, set[_Watch[U]]] = {}
        """Terms that require no label, in one bucket."""
        self._scopes: dict[Conditions, set[_Watch[U]]] = {}

    # Parties

    def add(self, party: Party) -> None:
        """A party comes."""
        self._space(party.space).parties.add(party)
        for bucket in _carried(party.labels):
            _file(self._carriers, bucket, party)

    def remove(self, party: Party) -> None:
        """A party goes."""
        space = self._spaces[party.space]
        space.parties.discard(party)
        self._prune(party.space)
        for bucket in _carried(party.labels):
            _unfile(self._carriers, bucket, party)

    def relabel(self, name: str, labels: Mapping[str, str] | None) -> list[Flip[U]]:
        """A namespace has these labels; None: it has no object any more."""
        space = self._space(name)
        old, new = space.labels, namespace_labels(name, labels or {})
        space.labels, space.named = new, labels is not None
        flips: list[Flip[U]] = []
        if old != new and space.parties:
            for scope, watches in self._scopes.items():
                self.evaluated += 2
                selected = holds(scope, new)
                if holds(scope, old) != selected:
                    flips += self._flipped(watches, space.parties, selected)
        self._prune(name)
        return flips

    def _flipped(
        self, watches: Iterable[_Watch[U]], parties: Iterable[Party], selected: bool
    ) -> Iterator[Flip[U]]:
        for watch in watches:
            users = frozenset(watch.users)
            for party in parties:
                self.evaluated += 1
                if holds(watch.term.labels, party.labels):
                    yield Flip(party, users, selected)

    def __contains__(self, party: Party) -> bool:
        space = self._spaces.get(party.space)
        return space is not None and party in space.parties

    def users(self, party: Party) -> list[U]:
        """The users of all terms that select a party; one of two such terms stands there twice."""
        found: list[U] = []
        scope = self._spaces[party.space].labels
        for watch in self._candidates(party, scope):
            self.evaluated += 1
            if holds(watch.term.labels, party.labels) and holds(watch.term.scope, scope):
                found.extend(watch.users)
        return found

    def _candidates(self, party: Party, scope: Mapping[str, str]) -> Iterator[_Watch[U]]:
        for table, labels in ((self._by_label, party.labels), (self._by_scope, scope)):
            if table:
                for bucket in _carried(labels):
                    yield from table.get(bucket, ())
        yield from self._loose.get("", ())

    # Terms

    def watch(self, term: Term, user: U) -> None:
        """A user wants to know whom the term selects."""
        watch = self._watches.get(term)
        if watch is None:
            watch = self._watches[term] = _Watch(term, *self._place(term))
            for bucket in watch.buckets:
                _file(watch.table, bucket, watch)
            if term.scope:
                _file(self._scopes, term.scope, watch)
        watch.users.add(user)

    def unwatch(self, term: Term, user: U) -> None:
        """A user is done with a term."""
        watch = self._watches[term]
        watch.users.discard(user)
        if watch.users:
            return
        del self._watches[term]
        for bucket in watch.buckets:
            _unfile(watch.table, bucket, watch)
        if term.scope:
            _unfile(self._scopes, term.scope, watch)

    def select(self, term: Term) -> list[Party]:
        """The parties that a term selects."""
        found: list[Party] = []
        for party in self._selectable(term):
            self.evaluated += 1
            if holds(term.labels, party.labels) and holds(
                term.scope, self._spaces[party.space].labels
            ):
                found.append(party)
        return found

    def _selectable(self, term: Term) -> Iterator[Party]:
        """Those that carry the rarest required label, or those in the namespaces selected."""
        rarest: list[set[Party]] | None = None
        for condition in term.labels:
            buckets = _required(condition)
            if buckets is not None:
                groups = [self._carriers[b] for b in buckets if b in self._carriers]
                if rarest is None or _size(groups) < _size(rarest):
                    rarest = groups
        if term.scope and (rarest is None or _size(rarest) > len(self._spaces)):
            spaces = [space.parties for space in self._spaces_of(term.scope)]
            if rarest is None or _size(spaces) < _size(rarest):
                rarest = spaces
        if rarest is None:
            rarest = [space.parties for space in self._spaces.values()]
        for group in rarest:
            yield from group

    def _spaces_of(self, scope: Conditions) -> Iterator[_Space]:
        named = [c.values for c in scope if c.key == NAMESPACE_NAME and c.wanted and c.values]
        names: Iterable[str] = named[0] if named else self._spaces
        for name in names:
            space = self._spaces.get(name)
            if space is not None:
                self.evaluated += 1
                if holds(scope, space.labels):
                    yield space

    def _place(self, term: Term) -> tuple[dict[Bucket, set[_Watch[U]]], tuple[Bucket, ...]]:
        """Where a new term is filed: in the emptiest buckets of those that it may be in."""
        best: tuple[dict[Bucket, set[_Watch[U]]], tuple[Bucket, ...]] = (self._loose, ("",))
        least: int | None = None
        for table, conditions in ((self._by_label, term.labels), (self._by_scope, term.scope)):
            for condition in conditions:
                buckets = _required(condition)
                if buckets is None:
                    continue
                load = sum(len(table.get(bucket, ())) + 1 for bucket in buckets)
                if least is None or load < least:
                    best, least = (table, buckets), load
        return best

    def _space(self, name: str) -> _Space:
        space = self._spaces.get(name)
        if space is None:
            space = self._spaces[name] = _Space(name)
        return space

    def _prune(self, name: str) -> None:
        space = self._spaces[name]
        if not space.named and not space.parties:
            del self._spaces[name]


def _file(table: dict[K, set[T]], key: K, item: T) -> None:
    found = table.get(key)
    if found is None:
        table[key] = {item}
    else:
        found.add(item)


def _unfile(table: dict[K, set[T]], key: K, item: T) -> None:
    """Leave no empty set behind."""
    found = table[key]
    found.discard(item)
    if not found:
        del table[key]


def _size(groups: Iterable[set[Party]]) -> int:
    return sum(map(len, groups))


def _required(condition: Condition) -> tuple[Bucket, ...] | None:
    """The buckets in one of which whatever meets the condition lies; None: anywhere."""
    key, wanted, values = condition
    if not wanted:
        return None
    if key.startswith(ENDPOINT_NAME):
        return (key,)
    if values is None:
        return None if key in UNIVERSAL else (key,)
    return tuple((key, value) for value in values)


def _carried(labels: Mapping[str, str]) -> list[Bucket]:
    """The buckets of somebody's labels. Names have one bucket each, for most are unique and their
    value says nothing."""
    found: list[Bucket] = []
    for key, value in labels.items():
        if key.startswith(ENDPOINT_NAME):
            found.append(key)
        elif key in UNIVERSAL:
            found.append((key, value))
        else:
            found += (key, (key, value))
    return found
