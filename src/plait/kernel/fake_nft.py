"""A fake nf_tables: the same interface and the same refusals as `kernel.nft.Nft`, in memory.

`FakeNetfilter` is the kernel of one namespace; `FakeNft` is a process's socket to it. It passes
`tests/contract/test_nft.py` and fails on request.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from plait.kernel.nft import Features, Refusal, owned_by_another
from plait.model import marks
from plait.wire import nft, nft_read
from plait.wire import nft_expr as e
from plait.wire.nft_choice import MapIs, UpdateMap
from plait.wire.nft_effects import CountIn
from plait.wire.nft_rewrite import DnatByMap

ALL_FEATURES = Features(owner=True, tproxy=True, nflog=True)
_PORTS = itertools.count(1000)
_HANDLES = itertools.count(1)


class _Refused(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.errno = number


@dataclass
class _Table:
    handle: int
    flags: int
    owner: int
    chains: dict[str, nft.Chain] = field(default_factory=dict)
    """Chains with the rules that they hold."""
    sets: dict[str, nft.Set] = field(default_factory=dict)
    elements: dict[str, dict[bytes, nft.Data]] = field(default_factory=dict)
    ends: dict[tuple[str, bytes], int] = field(default_factory=dict)
    """(set, key) of elements that have an end, to the kernel's time of it in milliseconds."""
    counters: dict[str, nft_read.Count] = field(default_factory=dict)
    uses: dict[str, frozenset[tuple[str, str]]] = field(default_factory=dict)
    """By chain, ("chain", "set" or "counter", name) of what its rules use."""
    updating: bool = False
    """The transaction changed the table's flags: base chains have to wait for the next one."""

    def copy(self) -> _Table:
        """Another that changes by itself; what chains and sets are made of never changes."""
        return replace(
            self,
            chains=dict(self.chains),
            sets=dict(self.sets),
            elements={name: dict(held) for name, held in self.elements.items()},
            ends=dict(self.ends),
            counters=dict(self.counters),
            uses=dict(self.uses),
        )


@dataclass
class FakeNetfilter:
    """The rulesets of one namespace."""

    tables: dict[str, _Table] = field(default_factory=dict)
    generation: int = 1
    now: int = 0
    """The kernel's time in milliseconds; whoever tests moves it."""

    def expire(self) -> None:
        """Remove the elements whose end has come."""
        for table in self.tables.values():
            for (name, key), end in list(table.ends.items()):
                if end <= self.now:
                    del table.ends[name, key], table.elements[name][key]

    def flush(self) -> None:
        """`nft flush ruleset` by another process: what somebody owns stays."""
        self.tables = {name: t for name, t in self.tables.items() if t.owner}
        self.generation += 1


class FakeNft:
    """See the module's docstring."""

    def __init__(
        self,
        kernel: FakeNetfilter | None = None,
        *,
        table: str = marks.NFT_TABLE,
        features: Features = ALL_FEATURES,
    ) -> None:
        self.kernel = kernel or FakeNetfilter()
        self.commits: list[tuple[nft.Change, ...]] = []
        """Every transaction that was made, oldest first."""
        self._name = table
        self._features = features
        self._port = next(_PORTS)
        self._failures: list[tuple[int, Callable[[nft.Change], bool]]] = []

    @property
    def features(self) -> Features:
        """See NftDoor."""
        return self._features

    @property
    def port(self) -> int:
        """See NftDoor."""
        return self._port

    def fail(self, number: int, when: Callable[[nft.Change], bool], times: int = 1) -> None:
        """Refuse, so many times, a change for which `when` is true, with this errno."""
        self._failures += [(number, when)] * times

    def forgive(self) -> None:
        """Refuse no more than the kernel would."""
        self._failures.clear()

    def close(self) -> None:
        """See NftDoor."""
        for name, table in list(self.kernel.tables.items()):
            if table.owner == self._port:
                if table.flags & nft.TABLE_PERSIST:
                    table.flags &= ~nft.TABLE_OWNER
                    table.owner = 0
                else:
                    del self.kernel.tables[name]

    def generation(self) -> int:
        """See NftDoor."""
        return self.kernel.generation

    def table(self) -> nft_read.TableInfo | None:
        """See NftDoor."""
        held = self.kernel.tables.get(self._name)
        if held is None:
            return None
        return nft_read.TableInfo(e.NFPROTO_INET, self._name, held.flags, held.handle, held.owner)

    def read(self) -> nft_read.TableState | None:
        """See NftDoor."""
        self.kernel.expire()
        info, held = self.table(), self.kernel.tables.get(self._name)
        if info is None or held is None:
            return None
        return nft_read.TableState(
            info,
            {name: nft_read.describe_chain(chain) for name, chain in held.chains.items()},
            {name: nft_read.describe(s) for name, s in held.sets.items()},
            {name: dict(elements) for name, elements in held.elements.items()},
            set(held.counters),
        )

    def rules(self) -> tuple[nft_read.RuleInfo, ...]:
        """See NftDoor."""
        held = self.kernel.tables.get(self._name)
        chains = held.chains.values() if held else ()
        return tuple(
            nft_read.RuleInfo(chain.name, rule.comment, 0, 0)
            for chain in chains
            for rule in chain.rules
        )

    def counters(self) -> dict[str, nft_read.Count]:
        """See NftDoor."""
        held = self.kernel.tables.get(self._name)
        return dict(held.counters) if held else {}

    def live(self, name: str) -> dict[bytes, int]:
        """See NftDoor."""
        self.kernel.expire()
        held = self.kernel.tables.get(self._name)
        if held is None:
            return {}
        now = self.kernel.now
        return {key: end - now for (owner, key), end in held.ends.items() if owner == name}

    def elements(self, name: str) -> dict[bytes, nft.Data]:
        """See NftDoor."""
        self.kernel.expire()
        held = self.kernel.tables.get(self._name)
        return dict(held.elements.get(name, {})) if held else {}

    def commit(self, changes: Sequence[nft.Change]) -> dict[int, Refusal]:
        """See NftDoor."""
        self.kernel.expire()
        before = {name: held.copy() for name, held in self.kernel.tables.items()}
        refused: dict[int, Refusal] = {}
        for i, change in enumerate(changes):
            try:
                self._asked_to_fail(change)
                self._do(change)
            except _Refused as why:
                refused[i] = Refusal(why.errno, str(why))
        if refused:
            self.kernel.tables = before
            if any(r.errno == errno.EPERM for r in refused.values()):
                raise owned_by_another(self._name, before[self._name].owner)
            return refused
        if self._name in self.kernel.tables:
            self.kernel.tables[self._name].updating = False
        if changes:
            self.kernel.generation += 1
            self.commits.append(tuple(changes))
        return {}

    def _asked_to_fail(self, change: nft.Change) -> None:
        for i, (number, when) in enumerate(self._failures):
            if when(change):
                del self._failures[i]
                raise _Refused(number)

    def _do(self, change: nft.Change) -> None:
        held = self.kernel.tables.get(self._name)
        if held is not None and held.owner not in (0, self._port):
            raise _Refused(errno.EPERM)
        if isinstance(change, nft.AddTable):
            self._add_table(held, change)
            return
        if held is None:
            raise _Refused(errno.ENOENT)
        if isinstance(change, nft.DeleteTable):
            del self.kernel.tables[self._name]
        elif isinstance(change, nft.AddTimed):
            _add_timed(held, change, self.kernel.now)
        else:
            _DO[type(change)](held, change)

    def _add_table(self, held: _Table | None, change: nft.AddTable) -> None:
        owner = self._port if change.flags & nft.TABLE_OWNER else 0
        if held is None:
            self.kernel.tables[self._name] = _Table(next(_HANDLES), change.flags, owner)
            return
        if change.flags == held.flags:
            return
        orphan = held.flags == nft.TABLE_PERSIST
        if not (orphan and change.flags == nft.TABLE_PERSIST | nft.TABLE_OWNER):
            raise _Refused(errno.EOPNOTSUPP)
        held.flags, held.owner, held.updating = change.flags, owner, True


def _is_used(table: _Table, kind: str, name: str) -> bool:
    """Whether a rule or an element uses it."""
    if any((kind, name) in used for used in table.uses.values()):
        return True
    return kind == "chain" and any(
        isinstance(data, e.Verdict) and data.chain == name
        for declared, elements in table.elements.items()
        if table.sets[declared].verdicts
        for data in elements.values()
    )


def _used(statements: Iterable[e.Statement]) -> Iterator[tuple[str, str]]:
    for statement in statements:
        match statement:
            case e.Verdict(chain=chain) if chain:
                yield "chain", chain
            case e.InSet(set=name):
                yield "set", name
            case e.Vmap(map=name) | DnatByMap(map=name) | MapIs(map=name) | UpdateMap(map=name):
                yield "set", name
            case CountIn(counter=name):
                yield "counter", name


def _get(where: dict[Any, Any], name: str | bytes) -> Any:
    if name not in where:
        raise _Refused(errno.ENOENT)
    return where[name]


def _require(table: _Table, kind: str, name: str) -> None:
    holders: dict[str, dict[str, Any]] = {
        "chain": table.chains,
        "set": table.sets,
        "counter": table.counters,
    }
    _get(holders[kind], name)


def _add_chain(table: _Table, change: nft.AddChain) -> None:
    if table.updating and change.chain.hook and change.chain.name not in table.chains:
        raise _Refused(errno.EINVAL)
    table.chains.setdefault(change.chain.name, nft.Chain(change.chain.name, (), change.chain.hook))


def _delete_chain(table: _Table, change: nft.DeleteChain) -> None:
    held = _get(table.chains, change.name)
    table.chains[change.name] = nft.Chain(held.name, (), held.hook)
    table.uses.pop(change.name, None)
    if _is_used(table, "chain", change.name):
        raise _Refused(errno.EBUSY)
    del table.chains[change.name]


def _flush_chain(table: _Table, change: nft.FlushChain) -> None:
    held = _get(table.chains, change.name)
    table.uses.pop(change.name, None)
    table.chains[change.name] = nft.Chain(held.name, (), held.hook)


def _add_rules(table: _Table, change: nft.AddRules) -> None:
    held = _get(table.chains, change.chain.name)
    used = {found for rule in change.chain.rules for found in _used(rule.statements)}
    for kind, name in used:
        _require(table, kind, name)
    table.uses[held.name] = table.uses.get(held.name, frozenset()) | used
    table.chains[held.name] = nft.Chain(held.name, held.rules + change.chain.rules, held.hook)


def _add_set(table: _Table, change: nft.AddSet) -> None:
    held = table.sets.setdefault(change.set.name, change.set)
    if held.declaration() != change.set.declaration():
        raise _Refused(errno.EEXIST)
    table.elements.setdefault(change.set.name, {})


def _delete_set(table: _Table, change: nft.DeleteSet) -> None:
    _get(table.sets, change.name)
    if _is_used(table, "set", change.name):
        raise _Refused(errno.EBUSY)
    del table.sets[change.name], table.elements[change.name]
    table.ends = {key: end for key, end in table.ends.items() if key[0] != change.name}


def _add_elements(table: _Table, change: nft.AddElements) -> None:
    held = _get(table.elements, change.set.name)
    for key, data in change.elements:
        if key in held:
            raise _Refused(errno.EEXIST)
        if isinstance(data, e.Verdict) and data.chain:
            _require(table, "chain", data.chain)
        held[key] = data


def _delete_elements(table: _Table, change: nft.DeleteElements) -> None:
    held = _get(table.elements, change.set.name)
    for key, _ in change.elements:
        _get(held, key)
        del held[key]
        table.ends.pop((change.set.name, key), None)


def _add_timed(table: _Table, change: nft.AddTimed, now: int) -> None:
    held = _get(table.elements, change.set.name)
    if not table.sets[change.set.name].timeout:
        raise _Refused(errno.EINVAL)
    for key, data in change.elements:
        held[key] = data
        table.ends[change.set.name, key] = now + change.milliseconds


def _add_counter(table: _Table, change: nft.AddCounter) -> None:
    table.counters.setdefault(change.name, nft_read.Count(0, 0))


def _delete_counter(table: _Table, change: nft.DeleteCounter) -> None:
    _get(table.counters, change.name)
    if _is_used(table, "counter", change.name):
        raise _Refused(errno.EBUSY)
    del table.counters[change.name]


_DO: dict[type, Callable[[_Table, Any], None]] = {
    nft.AddChain: _add_chain,
    nft.DeleteChain: _delete_chain,
    nft.FlushChain: _flush_chain,
    nft.AddRules: _add_rules,
    nft.AddSet: _add_set,
    nft.DeleteSet: _delete_set,
    nft.AddElements: _add_elements,
    nft.DeleteElements: _delete_elements,
    nft.AddCounter: _add_counter,
    nft.DeleteCounter: _delete_counter,
}
