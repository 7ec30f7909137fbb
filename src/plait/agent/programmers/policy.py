"""HostState.policy in the kernel: chains, sets and counters of policies in our nftables table.

Every `apply` is one transaction, so that a packet meets the rules before a change or after it; new
chains stand one transaction before the elements that lead to them (`Steps.ahead`). A plan looks
only at what is another object than the last time, and of a set's members only at what changed since
(`Members.since`).

What the kernel refuses is closed, not opened: in the place of a chain stands one that accepts
nothing, and denies everything if the chain denied anything; in the place of a class one that
denies. Other policies are not affected. What was refused is reported, and planned again.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from errno import ENOENT
from functools import lru_cache
from operator import is_
from typing import Any, Final, NamedTuple

from plait.agent.desired import filter_sets
from plait.agent.desired.policy_fill import Filling, fillings
from plait.agent.desired.policy_rules import (
    Compiled,
    chain_name,
    class_chains,
    closed,
    closed_class,
    dispatch_elements,
    passes,
    policy_chain,
    sets_of,
    stands_in_class,
)
from plait.agent.desired.policy_sets import ident_of, is_policy, packed
from plait.agent.desired.ruleset import ChainRules, Element
from plait.agent.programmers import transactions
from plait.agent.programmers.base import Failure, Op, all_failed, verb_of
from plait.agent.programmers.filter_table import EMPTY, FilterTable
from plait.agent.programmers.policy_steps import Key, Made, SetWant, Steps, text
from plait.kernel.nft import Refusal
from plait.model.errors import PlaitError
from plait.model.hoststate import HostState
from plait.model.members import Members
from plait.model.ruleset import Classes, PolicyChain, PolicyClass, Ruleset
from plait.wire import nft, nft_read
from plait.wire.nft import Chain

_local_key = lru_cache(maxsize=8192)(packed)
"""Local addresses are the same ones at each attach."""
_RANK: Final = {"set": 0, "chain": 1, "class": 2, "dispatch": 3, "gone": 4}
"""What is refused may be so because of what it leads to, which comes first."""


class _Standing(NamedTuple):
    """A chain or a class that was made, to be found again when the kernel was read anew."""

    source: tuple[Any, ...]
    compiled: Compiled
    """Its chains without their rules: how they are described says enough."""


class FilterPolicy:
    """See the module's docstring."""

    name = "filter.policy"

    def __init__(self, table: FilterTable) -> None:
        self.table = table
        self.closed: dict[str, PolicyChain] = {}
        """Chains that the kernel refused, as they were then: a closed one stands for each."""
        self._closed_classes: dict[str, PolicyClass] = {}
        self._wanted = Ruleset()
        self._reading = -1
        self._clean: dict[str, tuple[object, ...]] = {}
        """By kind of object, the tables of the ruleset of which nothing is to be done."""
        self._standing: dict[Key, _Standing] = {}
        self._sure: dict[str, dict[str, object]] = {"chain": {}, "class": {}}
        """By kind and name, what is known to stand in the table as last read."""
        self._needs: dict[Key, frozenset[str]] = {}
        """Names in the kernel of all that each chain and class needs."""
        self._inlined: dict[str, PolicyChain] = {}
        """Chains of which rules stand in the chains of their classes."""
        self._fillings: dict[str, Filling] = {}
        self._followed: dict[str, tuple[Members[Any] | None, int]] = {}
        """Sets to whose members they hold, and up to which change."""
        self._dispatched: dict[str, Classes] = {}

    def observe(self) -> None:
        """Read our table, if it can have changed. Raises PlaitError if another owns it."""
        self.table.observe()

    # Planning

    def plan(self, desired: HostState) -> tuple[Op, ...]:
        """See Programmer."""
        wanted = desired.policy
        if self._reading != self.table.readings:
            self._reading = self.table.readings
            self._clean.clear()
            self._sure = {"chain": {}, "class": {}}
            self._followed.clear()
            self._dispatched.clear()
        if self._is_clean("all", wanted):
            return ()
        self._wanted = wanted
        for name in [n for n, c in self.closed.items() if wanted.chains.get(n) != c]:
            del self.closed[name]
        for name in [n for n, c in self._closed_classes.items() if wanted.classes.get(n) != c]:
            del self._closed_classes[name]
        ops = [*self._plan_sets(wanted), *self._plan_chains(wanted)]
        ops += self._plan_dispatch(wanted)
        ops += self._plan_gone(wanted)
        self._settle("all", ops, wanted)
        return tuple(ops)

    @property
    def _actual(self) -> nft_read.TableState:
        return self.table.actual or EMPTY

    @property
    def _log(self) -> bool:
        return self.table.features.nflog

    def _is_clean(self, kind: str, *tables: object) -> bool:
        held = self._clean.get(kind)
        return held is not None and len(held) == len(tables) and all(map(is_, held, tables))

    def _settle(self, kind: str, found: Sequence[object], *tables: object) -> None:
        """A plan went through these tables: what it found is still to be done."""
        if found:
            self._clean.pop(kind, None)
        else:
            self._clean[kind] = tables

    def _chains(self) -> Mapping[str, PolicyChain]:
        """The chains as they may stand: closed where the kernel refused."""
        if not self.closed:
            return self._wanted.chains
        instead = {name: closed(chain) for name, chain in self.closed.items()}
        return {**self._wanted.chains, **instead}

    def _plan_chains(self, wanted: Ruleset) -> list[Op]:
        if self._is_clean("chains", wanted.chains, wanted.classes):
            return []
        ops = []
        chains = self._chains()
        self._follow_inlined(chains)
        sure, inlined = self._sure["chain"], self._inlined
        for name, chain in wanted.chains.items():
            if sure.get(name) is chain:
                continue
            key: Key = ("chain", name)
            if name in self.closed:
                ops.append(self._planned(key, self._made_chain(name, chain), True))
            elif passes(chain):
                self._forget(key)
            elif not self._stands(key, (chain,)):
                ops += self._unless_there(key, self._made_chain(name, chain))
        sure = self._sure["class"]
        for name, wish in wanted.classes.items():
            if sure.get(name) is wish:
                continue
            key = ("class", name)
            if name in self._closed_classes:
                ops.append(self._planned(key, self._made_class(name, wish), True))
            elif not self._stands(key, (wish, *_inlined(wish, inlined))):
                ops += self._unless_there(key, self._made_class(name, wish))
        for kind, names in (("chain", wanted.chains), ("class", wanted.classes)):
            for name in [n for k, n in self._needs if k == kind and n not in names]:
                self._forget((kind, name))
        self._settle("chains", ops, wanted.chains, wanted.classes)
        return ops

    def _follow_inlined(self, chains: Mapping[str, PolicyChain]) -> None:
        """Know which chains stand in their classes, which must be looked at again then."""
        sure, inlined = self._sure["chain"], self._inlined
        before = dict(inlined)
        for name, chain in chains.items():
            if inlined.get(name) is chain or (sure.get(name) is chain and name not in inlined):
                continue
            if stands_in_class(chain):
                inlined[name] = chain
            else:
                inlined.pop(name, None)
        for name in inlined.keys() - chains.keys():
            del inlined[name]
        if inlined != before:
            self._sure["class"].clear()

    def _made_chain(self, name: str, chain: PolicyChain) -> Made:
        return Made((chain,), policy_chain(name, chain, log=self._log))

    def _made_class(self, name: str, wish: PolicyClass) -> Made:
        chains = self._chains()
        inlined = {c: chains[c] for t in wish.tiers for c in t.chains if stands_in_class(chains[c])}
        compiled = class_chains(name, wish, chains, log=self._log)
        return Made((wish, *_inlined(wish, inlined)), compiled)

    def _stands(self, key: Key, source: tuple[Any, ...]) -> bool:
        standing = self._standing.get(key)
        if standing is None or standing.source != source or not self._is_there(standing.compiled):
            return False
        # A plan that was not carried out may have said otherwise meanwhile.
        self._needs[key] = standing.compiled.names
        self._sure[key[0]][key[1]] = source[0]
        return True

    def _unless_there(self, key: Key, made: Made) -> list[Op]:
        if self._is_there(made.compiled):
            self._stand(key, made)
            return []
        held = made.compiled.chains[-1].chain.name in self._actual.chains
        return [self._planned(key, made, held or None)]

    def _planned(self, key: Key, made: Made, have: Any) -> Op:
        self._needs[key] = made.compiled.names
        self._sure[key[0]].pop(key[1], None)
        return self._op(key, made, have)

    def _stand(self, key: Key, made: Made) -> None:
        bare = tuple(ChainRules(Chain(c.chain.name), c.state) for c in made.compiled.chains)
        self._standing[key] = _Standing(made.source, made.compiled._replace(chains=bare))
        self._needs[key] = made.compiled.names
        if made.source:
            self._sure[key[0]][key[1]] = made.source[0]

    def _forget(self, key: Key) -> None:
        self._standing.pop(key, None)
        self._needs.pop(key, None)
        self._sure[key[0]].pop(key[1], None)

    def _is_there(self, compiled: Compiled) -> bool:
        actual = self._actual
        return (
            all(actual.chains.get(chain.name) == state for chain, state in compiled.chains)
            and actual.counters.issuperset(compiled.counters)
            and all(
                actual.elements.get(constant.set.name, {}).keys() == set(constant.keys)
                for constant in compiled.constants
            )
        )

    def _plan_sets(self, wanted: Ruleset) -> list[Op]:
        tables = (wanted.sets, wanted.sockets, wanted.domains, wanted.known)
        if not self._is_clean("fillings", *tables):
            self._fillings = {filling.set.name: filling for filling in fillings(wanted)}
            self._clean["fillings"] = tables
            for name in self._followed.keys() - self._fillings.keys():
                del self._followed[name]
        ops = []
        for name, filling in self._fillings.items():
            members = filling.members
            serial = 0 if members is None else members.serial
            followed = self._followed.get(name)
            if followed is not None and followed[0] is members and followed[1] == serial:
                continue
            want = self._difference(filling, serial, followed)
            if want is None:
                self._followed[name] = (members, serial)
            else:
                held = True if name in self._actual.sets else None
                ops.append(self._op(("set", name), want, held))
        return ops

    def _difference(
        self, filling: Filling, serial: int, followed: tuple[Members[Any] | None, int] | None
    ) -> SetWant | None:
        name, members, family = filling.set.name, filling.members, filling.family
        missing = name not in self._actual.sets
        if members is None:
            return SetWant(filling.set, (), (), serial) if missing else None
        present = self._actual.elements.get(name, {})
        since = members.since(followed[1]) if followed and followed[0] is members else None
        if since is not None and not missing:
            added = [key for key in filling.keys(since.added)[family] if key not in present]
            removed = [key for key in filling.keys(since.removed)[family] if key in present]
        else:
            keys = filling.keys(members)[family]
            added = [key for key in keys if key not in present]
            removed = [key for key in present if key not in keys]
        if not (added or removed or missing):
            return None
        return SetWant(filling.set, tuple(sorted(added)), tuple(sorted(removed)), serial)

    def _plan_dispatch(self, wanted: Ruleset) -> list[Op]:
        if self._is_clean("dispatch", wanted.dispatch):
            return []
        ops = []
        for address, classes in wanted.dispatch.items():
            if self._dispatched.get(address) == classes:
                continue
            elements = dispatch_elements(address, classes)
            held = self._held(elements)
            if held == elements:
                self._dispatched[address] = classes
            else:
                self._dispatched.pop(address, None)
                ops.append(self._op(("dispatch", address), elements, held or None))
        known = set(map(_local_key, wanted.dispatch))
        surplus = {
            str(ipaddress.ip_address(key))
            for declared in filter_sets.POLICY.values()
            for key in self._actual.elements.get(declared.name, {})
            if key not in known
        }
        ops += [self._op(("dispatch", address), None, True) for address in sorted(surplus)]
        for address in self._dispatched.keys() - wanted.dispatch.keys():
            del self._dispatched[address]
        self._settle("dispatch", ops, wanted.dispatch)
        return ops

    def _held(self, elements: Iterable[Element]) -> tuple[Element, ...]:
        actual = self._actual.elements
        return tuple(
            Element(name, key, held[key])
            for name, key, _ in elements
            if key in (held := actual.get(name, {}))
        )

    def _plan_gone(self, wanted: Ruleset) -> list[Op]:
        tables = (
            wanted.chains,
            wanted.classes,
            wanted.sets,
            wanted.sockets,
            wanted.domains,
            *self.closed,
        )
        if self._is_clean("gone", *tables):
            return []
        # The names of no two kinds of objects are alike.
        actual, used = self._actual, set(self._fillings).union(*self._needs.values())
        # What leads to others goes before them.
        surplus = [
            ("chain", name)
            for prefix in filter_sets.POLICY_CHAINS
            for name in actual.chains
            if name.startswith(prefix) and name not in used
        ]
        surplus += [("counter", name) for name in sorted(actual.counters - used)]
        surplus += [("set", name) for name in actual.sets if is_policy(name) and name not in used]
        self._settle("gone", surplus, *tables)
        return [self._op(("gone", kind, name), None, True) for kind, name in surplus]

    def _op(self, key: Key, want: Any, have: Any) -> Op:
        steps = Steps(self._actual)
        steps.add(key, want)
        shown = text([change for _, change in steps.in_order()])
        verb = verb_of(want, have)
        return Op(part=self.name, verb=verb, key=key, want=want, have=have, text=shown)

    # Applying

    def apply(self, ops: Sequence[Op]) -> tuple[Failure, ...]:
        """Make the ops of the last plan true; see the module's docstring."""
        try:
            return self._apply(ops)
        except (PlaitError, OSError) as error:
            return all_failed(ops, error)

    def _apply(self, ops: Sequence[Op]) -> tuple[Failure, ...]:
        if ops and self.table.actual is None:
            return tuple([Failure(op=op, error="there is no table", errno=ENOENT) for op in ops])
        jobs: dict[Key, Any] = {op.key: op.want for op in ops}
        self._reopen(jobs)
        refused: dict[Key, Refusal] = {}

        def close(bad: Mapping[Key, Refusal]) -> None:
            first = min(_RANK[key[0]] for key in bad)
            for key, why in bad.items():
                if _RANK[key[0]] == first:
                    self._close(key, why, jobs, refused)

        def settle(steps: Callable[[], Sequence[tuple[Key, nft.Change]]]) -> Refusal | None:
            changes = [change for _, change in steps()]
            return transactions.settle(self.table, changes, steps, close) if changes else None

        why = settle(lambda: self._steps(jobs).ahead()) or settle(
            lambda: self._steps(jobs).in_order()
        )
        if why is None:
            self._done(jobs)
        else:
            refused |= dict.fromkeys(jobs, why)
        given = {op.key: op for op in ops}
        return tuple(
            transactions.refused(given.get(key) or self._refused_op(key), why)
            for key, why in refused.items()
        )

    def _steps(self, jobs: Mapping[Key, Any]) -> Steps:
        steps = Steps(self._actual)
        made = [want.compiled.names for want in jobs.values() if isinstance(want, Made)]
        needed = frozenset().union(*made)
        for key, want in jobs.items():
            # What opens or closes here may need what the plan saw no more use for.
            if key[0] != "gone" or key[2] not in needed:
                steps.add(key, want)
        return steps

    def _done(self, jobs: Mapping[Key, Any]) -> None:
        """All stands: so that the next plan need not look again."""
        for key, want in jobs.items():
            if isinstance(want, Made):
                self._stand(key, want)
            elif isinstance(want, SetWant):
                self._followed[key[1]] = (self._fillings[key[1]].members, want.serial)

    def _reopen(self, jobs: dict[Key, Any]) -> None:
        """Try once more what was closed."""
        for key in jobs:
            if key[0] == "class":
                self._closed_classes.pop(key[1], None)
        for key in list(jobs):
            if key[0] != "chain" or self.closed.pop(key[1], None) is None:
                continue
            chain = self._wanted.chains[key[1]]
            if passes(chain):
                # It stands in its classes only; its own chain was the closed one.
                del jobs[key]
                jobs["gone", "chain", chain_name(key[1])] = None
            if stands_in_class(chain):
                self._remake_classes(key[1], jobs)

    def _remake_classes(self, chain: str, jobs: dict[Key, Any]) -> None:
        """The classes in which rules of a chain stand."""
        for name, wish in self._wanted.classes.items():
            if name not in self._closed_classes and any(
                chain in tier.chains for tier in wish.tiers
            ):
                jobs["class", name] = self._made_class(name, wish)

    def _close(
        self, key: Key, why: Refusal, jobs: dict[Key, Any], refused: dict[Key, Refusal]
    ) -> None:
        """Leave out what was refused, and put what is closed in the place of what needs it."""
        kind, name = key[0], key[1]
        jobs.pop(key, None)
        refused.setdefault(key, why)
        if kind == "set":
            ident = ident_of(name)
            chains = [c for c, wish in self._wanted.chains.items() if ident in sets_of(wish)]
            classes = [c for c, wish in self._wanted.classes.items() if not ident and wish.guard]
        elif kind == "chain":
            chains, classes = [name], []
        elif kind == "class":
            made = self._chains()
            tiers = self._wanted.classes[name].tiers
            chains = [c for tier in tiers for c in tier.chains if stands_in_class(made[c])]
            # Perhaps it is one of the policies that stand in it; else it is the class itself.
            classes = [] if chains else [name]
        else:
            return
        for chain in chains:
            self._close_chain(chain, why, jobs, refused)
        for one in classes:
            self._close_class(one, why, jobs, refused)

    def _close_chain(
        self, name: str, why: Refusal, jobs: dict[Key, Any], refused: dict[Key, Refusal]
    ) -> None:
        refused.setdefault(("chain", name), why)
        if name in self.closed:
            jobs.pop(("chain", name), None)
            return
        chain = self.closed[name] = self._wanted.chains[name]
        jobs["chain", name] = self._made_chain(name, closed(chain))
        self._clean.clear()
        if stands_in_class(chain):
            self._remake_classes(name, jobs)

    def _close_class(
        self, name: str, why: Refusal, jobs: dict[Key, Any], refused: dict[Key, Refusal]
    ) -> None:
        refused.setdefault(("class", name), why)
        if name in self._closed_classes:
            jobs.pop(("class", name), None)
            return
        wish = self._closed_classes[name] = self._wanted.classes[name]
        jobs["class", name] = Made((), closed_class(name, wish, log=self._log))
        self._clean.clear()

    def _refused_op(self, key: Key) -> Op:
        """What the next plan will say of what was refused without having been asked for."""
        kind, name = key[0], key[1]
        if kind == "chain":
            return self._op(key, self._made_chain(name, self._wanted.chains[name]), True)
        if kind == "class":
            return self._op(key, self._made_class(name, self._wanted.classes[name]), True)
        return self._op(key, None, True)


def _inlined(wish: PolicyClass, chains: Mapping[str, PolicyChain]) -> list[PolicyChain]:
    """Those of the chains that are of the class."""
    if not chains:
        return []
    return [chains[name] for tier in wish.tiers for name in tier.chains if name in chains]
