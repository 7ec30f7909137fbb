"""The ruleset of one host, kept up to date: objects and local endpoints in, `Ruleset` out. Pure.

What is not needed here is not there: only policies that select an endpoint of this host are
compiled, and only the sets that their rules name are kept. `ruleset()` settles what changed since
it was last asked, so a listing of the whole network costs one settling.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Generic, TypeVar

from plait.model.objects import (
    AnyObject,
    Endpoint,
    EndpointSlice,
    Group,
    Namespace,
    Network,
    Node,
    Policy,
    Service,
)
from plait.model.ruleset import Classes, PolicyChain, PolicyClass, Ruleset
from plait.model.services import ServiceSpec
from plait.policy.classes import classify
from plait.policy.compile import Compiled, Meaning, compile_policy
from plait.policy.named_sets import NamedSets
from plait.selection.parties import LocalParty as LocalParty
from plait.selection.parties import Party, endpoint_party, local_party, node_party
from plait.selection.selector_index import SelectorIndex
from plait.selection.terms import Term, endpoints

V = TypeVar("V")

REMEMBERED: Final = 4096
"""Ids out of use whose meaning is still known: records of packets arrive later than changes."""


class Engine:
    """See the module's docstring.

    For endpoints of this node the local view replaces the server's copy; a copy of one that is
    not local, or not any more, is ignored.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._sets = NamedSets()
        self._policies: dict[str, Policy] = {}
        self._groups: dict[str, Group] = {}
        self._services: dict[tuple[str, str], ServiceSpec] = {}
        self._naming: dict[tuple[str, str], set[str]] = {}
        """Compiled policies by the services that they name."""
        self._locals: dict[str, Party] = {}
        self._holders: dict[str, dict[str, Party]] = {}
        """By local address, the endpoints that have it; more than one only for a moment."""
        self._subjects: SelectorIndex[str] = SelectorIndex()
        """Local endpoints, and the policies whose subject selects them."""
        self._applied: dict[Party, frozenset[str]] = {}
        """Policies by the local endpoint that they select."""
        self._selected: dict[str, set[Party]] = {}
        """And the other way round."""
        self._compiled: dict[str, Compiled] = {}
        self._problems: dict[str, str] = {}
        self._meanings = _Meanings()
        # What is to be settled.
        self._stale_parties: set[Party] = set()
        self._gone_addresses: set[str] = set()
        self._stale_policies: set[str] = set()
        # What the ruleset is made of.
        self._chains: _Table[PolicyChain] = _Table()
        self._classes: _Table[PolicyClass] = _Table()
        self._dispatch: _Table[Classes] = _Table()
        self._domains: _Table[tuple[str, ...]] = _Table()
        self._domain_uses: Counter[str] = Counter()
        self._class_uses: Counter[str] = Counter()
        self._class_meanings: dict[str, Mapping[str, Meaning]] = {}
        self._resets = False
        """The sets are other ones than in the last ruleset."""
        self._stamp: tuple[int, int] = (0, -1)
        self._ruleset = Ruleset()

    # What is told

    def put(self, obj: AnyObject) -> None:
        """An object is so. Kinds that mean nothing to policies are passed over."""
        match obj:
            case Policy():
                self._put_policy(obj)
            case Group():
                former = self._groups.get(obj.metadata.name)
                self._groups[obj.metadata.name] = obj
                if former is None or former.spec != obj.spec:
                    self._stale_group(obj.metadata.name)
            case Namespace():
                self._relabel(obj.metadata.name, obj.metadata.labels)
            case Endpoint():
                key = (obj.metadata.namespace, obj.metadata.name)
                here = obj.spec.node == self._node
                self._sets.put_endpoint(key, None if here else endpoint_party(obj))
            case Node():
                self._sets.put_node(obj.metadata.name, node_party(obj))
            case Network():
                self._sets.put_gateways(obj.metadata.name, obj.spec.gateways)
            case Service():
                self._put_service((obj.metadata.namespace, obj.metadata.name), obj.spec)
            case EndpointSlice():
                key = (obj.metadata.namespace, obj.metadata.name)
                self._sets.put_slice(key, obj)
            case _:
                pass

    def delete(self, obj: AnyObject) -> None:
        """An object is no more."""
        name = obj.metadata.name
        match obj:
            case Policy():
                self._drop_policy(name)
            case Group():
                if self._groups.pop(name, None) is not None:
                    self._stale_group(name)
            case Namespace():
                self._relabel(name, None)
            case Endpoint():
                self._sets.put_endpoint((obj.metadata.namespace, name), None)
            case Node():
                self._sets.put_node(name, None)
            case Network():
                self._sets.put_gateways(name, ())
            case Service():
                self._put_service((obj.metadata.namespace, name), None)
            case EndpointSlice():
                self._sets.put_slice((obj.metadata.namespace, name), None)
            case _:
                pass

    def set_local(self, ident: str, party: LocalParty | None) -> None:
        """An endpoint of this host is so; None: it is no more."""
        former = self._locals.get(ident)
        new = None if party is None else local_party(party, self._node)
        if former is new or (former is not None and former.says(new)):
            return
        if former is not None:
            del self._locals[ident]
            self._subjects.remove(former)
            self._stale_parties.add(former)
            for address in former.addresses:
                self._holders[address].pop(ident)
                self._gone_addresses.add(address)
        if new is not None:
            self._locals[ident] = new
            self._subjects.add(new)
            self._stale_parties.add(new)
            for address in new.addresses:
                self._holders.setdefault(address, {})[ident] = new
        self._sets.put_endpoint(("", ident), new)

    def _put_policy(self, policy: Policy) -> None:
        name = policy.metadata.name
        former = self._policies.get(name)
        self._policies[name] = policy
        if former is not None and former.spec == policy.spec:
            return
        self._stale_policies.add(name)
        new, old = _subject(policy), None if former is None else _subject(former)
        if new == old:
            return
        if old is not None:
            self._subjects.unwatch(old, name)
            self._stale_parties |= self._selected.get(name, set())
        self._subjects.watch(new, name)
        self._stale_parties.update(self._subjects.select(new))

    def _drop_policy(self, name: str) -> None:
        former = self._policies.pop(name, None)
        if former is not None:
            self._subjects.unwatch(_subject(former), name)
            self._stale_parties |= self._selected.get(name, set())
            self._stale_policies.add(name)

    def _put_service(self, key: tuple[str, str], new: ServiceSpec | None) -> None:
        former = self._services.pop(key, None)
        if new is not None:
            self._services[key] = new
        if _answers(former) != _answers(new):
            self._stale_policies.update(self._naming.get(key, ()))

    def _relabel(self, namespace: str, labels: Mapping[str, str] | None) -> None:
        self._sets.relabel(namespace, labels)
        for flip in self._subjects.relabel(namespace, labels):
            self._stale_parties.add(flip.party)

    def _stale_group(self, name: str) -> None:
        self._stale_policies.update(c.name for c in self._compiled.values() if name in c.groups)

    # What is asked

    @property
    def problems(self) -> Mapping[str, str]:
        """What is wrong with policies that rule endpoints of this host, by the policy's name; as
        of the last ruleset."""
        return MappingProxyType(self._problems)

    @property
    def evaluated(self) -> int:
        """How often conditions were held against labels so far: the work that was done."""
        return self._sets.evaluated + self._subjects.evaluated

    def meaning(self, ident: str) -> Meaning | None:
        """What an id of a rule or of an isolation stands for in the last ruleset, or stood for in
        one before it."""
        return self._meanings.get(ident)

    def ruleset(self) -> Ruleset:
        """All that the kernel of this host must know; the same object while nothing changed.

        The tables in it are not changed any more; its sets are.
        """
        self._settle()
        guards = any(definition.guard for definition in self._classes.values())
        known = self._sets.known if guards else None
        stamp = (self._sets.changes, known.serial if known is not None else -1)
        tables = (self._chains, self._classes, self._dispatch, self._domains)
        if stamp == self._stamp and not self._resets and not any(t.changed for t in tables):
            return self._ruleset
        last = self._ruleset
        self._ruleset = Ruleset(
            serial=last.serial + 1,
            chains=self._chains.taken(),
            classes=self._classes.taken(),
            dispatch=self._dispatch.taken(),
            domains=self._domains.taken(),
            sets=self._sets.sets if self._resets else last.sets,
            sockets=self._sets.sockets if self._resets else last.sockets,
            known=known,
        )
        self._stamp, self._resets = stamp, False
        return self._ruleset

    # Settling

    def _settle(self) -> None:
        if not (self._stale_parties or self._stale_policies or self._gone_addresses):
            return
        stale = self._stale_parties
        self._stale_parties = set()
        for party in stale:
            self._apply(party)
        for name in self._stale_policies:
            stale |= self._recompile(name)
        self._stale_policies = set()
        self._reclassify(stale)

    def _apply(self, party: Party) -> None:
        """Find which policies select a local endpoint now."""
        before = self._applied.pop(party, frozenset())
        here = party in self._subjects
        after = frozenset(self._subjects.users(party)) if here else frozenset()
        if here:
            self._applied[party] = after
        for name in before - after:
            parties = self._selected[name]
            parties.discard(party)
            if not parties:
                del self._selected[name]
                self._stale_policies.add(name)
        for name in after - before:
            parties = self._selected.setdefault(name, set())
            if not parties:
                self._stale_policies.add(name)
            parties.add(party)

    def _recompile(self, name: str) -> set[Party]:
        """Compile a policy anew, if it is needed; returns the endpoints whose class changed."""
        former = self._compiled.pop(name, None)
        self._problems.pop(name, None)
        new: Compiled | None = None
        if name in self._selected:
            new = self._compiled[name] = compile_policy(
                self._policies[name], self._groups, self._services
            )
            if new.problem:
                self._problems[name] = new.problem
            self._use(new)
        for one, there in ((former, False), (new, True)):
            for key in one.services if one is not None else ():
                names = self._naming.setdefault(key, set())
                (names.add if there else names.discard)(name)
                if not names:
                    del self._naming[key]
        if former is not None:
            self._leave(former, new)
        if new is None or (former is not None and former.shape == new.shape):
            return set()
        return self._selected[name]

    def _use(self, new: Compiled) -> None:
        for name, chain in new.chains.items():
            self._chains.put(name, chain)
        for name, terms in new.sets.items():
            self._resets |= self._sets.use_set(name, terms)
        for name, (port, protocol) in new.sockets.items():
            self._resets |= self._sets.use_sockets(name, port, protocol)
        for name, patterns in new.domains.items():
            self._domain_uses[name] += 1
            self._domains.put(name, patterns)
        self._meanings.use(new.meanings)

    def _leave(self, former: Compiled, new: Compiled | None) -> None:
        for name in former.chains:
            if new is None or name not in new.chains:
                self._chains.drop(name)
        for name in former.sets:
            self._resets |= self._sets.leave_set(name)
        for name in former.sockets:
            self._resets |= self._sets.leave_sockets(name)
        for name in former.domains:
            self._domain_uses[name] -= 1
            if not self._domain_uses[name]:
                del self._domain_uses[name]
                self._domains.drop(name)
        self._meanings.leave(former.meanings)

    def _reclassify(self, stale: Iterable[Party]) -> None:
        """Find the classes of endpoints, and lead their addresses there."""
        addresses = self._gone_addresses
        self._gone_addresses = set()
        for party in stale:
            if party in self._applied:
                addresses.update(party.addresses)
        memo: dict[frozenset[str], Classes] = {}
        for address in addresses:
            self._lead(address, memo)

    def _lead(self, address: str, memo: dict[frozenset[str], Classes]) -> None:
        new = Classes("", "")
        holders = self._holders.get(address)
        if holders:
            # Of two that have an address for a moment it is always the same one.
            policies = self._applied[holders[min(holders)]]
            if policies not in memo:
                memo[policies] = self._classify(policies)
            new = memo[policies]
        else:
            self._holders.pop(address, None)
        former = self._dispatch.get(address) or ("", "")
        for name in filter(None, new):
            self._class_uses[name] += 1
        if any(new):
            self._dispatch.put(address, new)
        else:
            self._dispatch.drop(address)
        for name in filter(None, former):
            self._class_uses[name] -= 1
            if not self._class_uses[name]:
                del self._class_uses[name]
                self._classes.drop(name)
                self._meanings.leave(self._class_meanings.pop(name))

    def _classify(self, policies: frozenset[str]) -> Classes:
        """The classes of those to whom these policies apply, defined as they are now."""
        compiled = [self._compiled[name] for name in policies]
        found = [classify(direction, compiled) for direction in ("egress", "ingress")]
        for name, definition, meanings in found:
            if definition is not None:
                self._classes.put(name, definition)
                self._meanings.use(meanings)
                self._meanings.leave(self._class_meanings.get(name, {}))
                self._class_meanings[name] = meanings
        return Classes(*(one.name for one in found))


def _subject(policy: Policy) -> Term:
    subject = policy.spec.subject
    return endpoints(subject.namespaces, subject.endpoints)


def _answers(spec: ServiceSpec | None) -> object:
    """What of a Service says who answers for it."""
    return None if spec is None else (spec.network, spec.selector, spec.backends)


class _Table(Generic[V]):
    """A dict that is given away as copies, one for each time that it changed."""

    def __init__(self) -> None:
        self.changed = False
        self._items: dict[str, V] = {}
        self._taken: dict[str, V] = {}

    def get(self, key: str) -> V | None:
        return self._items.get(key)

    def values(self) -> Iterable[V]:
        return self._items.values()

    def put(self, key: str, value: V) -> None:
        if self._items.get(key) != value:
            self._items[key] = value
            self.changed = True

    def drop(self, key: str) -> None:
        if self._items.pop(key, None) is not None:
            self.changed = True

    def taken(self) -> dict[str, V]:
        """The content; not to be changed."""
        if self.changed:
            self._taken, self.changed = dict(self._items), False
        return self._taken


class _Meanings:
    """What ids stand for: those in use, and the last ones that were."""

    def __init__(self) -> None:
        self._known: dict[str, Meaning] = {}
        self._uses: Counter[str] = Counter()
        self._retired: dict[str, None] = {}
        """Oldest first."""

    def get(self, ident: str) -> Meaning | None:
        return self._known.get(ident)

    def use(self, meanings: Mapping[str, Meaning]) -> None:
        for ident, meaning in meanings.items():
            self._known[ident] = meaning
            self._uses[ident] += 1
            self._retired.pop(ident, None)

    def leave(self, meanings: Mapping[str, Meaning]) -> None:
        for ident in meanings:
            self._uses[ident] -= 1
            if not self._uses[ident]:
                del self._uses[ident]
                self._retired[ident] = None
        while len(self._retired) > REMEMBERED:
            oldest = next(iter(self._retired))
            del self._retired[oldest], self._known[oldest]
