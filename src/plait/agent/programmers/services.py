"""HostState.services in the kernel: elements of frontends, and chains of their shapes.

All elements of an `apply` are one transaction: a new flow meets the frontends before a change or
after it. Chains of shapes that are new are there one transaction before, and those that nobody uses
any more go one after: a packet on its way through the rules may meet either set of elements, and
must find what they tell it.

A plan looks only at what changed since the last one (`Entries.since`), and writes only elements of
that; chains come and go with shapes, of which there are few.

What the kernel refuses of a frontend is left out, reported and planned again; other frontends are
not affected.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from errno import ENOENT
from typing import Any, Final

from plait.agent.desired.filter_sets import ENTRY_SETS, SETS, SHAPE_PREFIX, VIPS
from plait.agent.desired.ruleset import ChainRules
from plait.agent.desired.service_chains import dispatch_chains, shape_chain, shape_of
from plait.agent.desired.service_fill import frontend_elements, uses, vip_elements
from plait.agent.desired.service_shapes import Use
from plait.agent.programmers.aside import Aside, AtOnce
from plait.agent.programmers.base import Failure, Op, all_failed, verb_of
from plait.agent.programmers.filter_table import EMPTY, FilterTable
from plait.agent.programmers.policy_steps import text
from plait.agent.programmers.service_ends import ServiceEnds
from plait.agent.programmers.transactions import make
from plait.kernel.conntrack import FlowDoor
from plait.model.entries import Entries
from plait.model.errors import PlaitError
from plait.model.hoststate import HostState
from plait.model.members import Members
from plait.model.service_table import Choice, Entry, Frontend, ServiceTable
from plait.wire import nft, nft_read

Key = tuple[Any, ...]
Step = tuple[int, nft.Change]
"""A change with its phase: the order in a transaction."""

_DECLARE, _FLUSH, _RULES, _DELETE, _ADD, _GONE = range(6)


class FilterServices:
    """See the module's docstring."""

    name = "filter.services"

    def __init__(self, table: FilterTable, flows: FlowDoor, aside: Aside | None = None) -> None:
        """`aside` looks for clients that stay; None: at once, which may take long."""
        self.table = table
        self._ends = ServiceEnds(table, flows, aside or AtOnce(table.door))
        self._source: Entries[Frontend, Entry] | None = None
        self._serial = -1
        self._entries: dict[Frontend, Entry] = {}
        """What the last plan wanted."""
        self._uses: Counter[Use] = Counter()
        """Shapes of that, and how many frontends are of each."""
        self._dirty: dict[Frontend, Entry | None] = {}
        """Frontends that the kernel does not have so, and what it has in their place, as far as
        is known."""
        self._surplus: dict[str, tuple[bytes, ...]] = {}
        """By set, elements of no frontend."""
        self._wide: Mapping[str, ChainRules] = {}
        """Chains that lead to the shapes that there are and to those that are wanted."""
        self._vips: tuple[Members[str], int] | None = None
        """Addresses that stand, and up to which change."""
        self._reading = -1

    def observe(self) -> None:
        """Read our table, if it can have changed. Raises PlaitError if another owns it."""
        self.table.observe()
        self._ends.look_again()

    # Planning

    def plan(self, desired: HostState) -> tuple[Op, ...]:
        """See Programmer."""
        wanted = desired.services
        if self._reading != self.table.readings:
            self._compare(wanted)
        else:
            self._follow(wanted)
        return (
            *self._plan_chains(),
            *[self._frontend_op(frontend, have) for frontend, have in self._dirty.items()],
            *[self._op(("surplus", name), keys, True) for name, keys in self._surplus.items()],
            *self._plan_vips(wanted.addresses),
        )

    @property
    def _actual(self) -> nft_read.TableState:
        return self.table.actual or EMPTY

    def _follow(self, wanted: ServiceTable) -> None:
        """Learn what is wanted otherwise than by the last plan."""
        frontends = wanted.frontends
        if self._source is frontends and self._serial == frontends.serial:
            return
        since = frontends.since(self._serial) if self._source is frontends else None
        changed: Iterable[Frontend] = {*frontends, *self._entries} if since is None else since
        for frontend in changed:
            self._want(frontend, frontends.get(frontend))
        self._source, self._serial = frontends, frontends.serial

    def _want(self, frontend: Frontend, entry: Entry | None) -> None:
        before = self._entries.get(frontend)
        if before == entry:
            return
        have = self._dirty.setdefault(frontend, before)
        if have == entry and have is not None:
            del self._dirty[frontend]
        if before is not None:
            self._uses.subtract(uses(frontend, before))
            del self._entries[frontend]
        if entry is not None:
            self._uses.update(uses(frontend, entry))
            self._entries[frontend] = entry

    def _compare(self, wanted: ServiceTable) -> None:
        """Learn all that is wanted, and what the kernel has of it."""
        self._reading = self.table.readings
        self._vips = None
        self._entries, self._uses = dict(wanted.frontends.items()), Counter()
        self._dirty, surplus = {}, {s.name: set(self._elements(s.name)) for s in ENTRY_SETS}
        for frontend, entry in self._entries.items():
            self._uses.update(uses(frontend, entry))
            for name, key, data in frontend_elements(frontend, entry):
                surplus[name].discard(key)
                if self._elements(name).get(key, _ABSENT) != data:
                    self._dirty[frontend] = None
        self._surplus = {name: tuple(sorted(keys)) for name, keys in surplus.items() if keys}
        self._source, self._serial = wanted.frontends, wanted.frontends.serial
        self._ends.expect(self._entries)

    def _elements(self, name: str) -> Mapping[bytes, nft.Data]:
        return self._actual.elements.get(name, {})

    def _plan_chains(self) -> Iterator[Op]:
        used = frozenset(use for use, count in self._uses.items() if count > 0)
        chains, names = self._actual.chains, set()
        standing = {use for name in chains if (use := shape_of(name))}
        self._wide = dispatch_chains(used | standing, some=True)
        for use in sorted(used):
            rules = shape_chain(use)
            names.add(rules.chain.name)
            held = chains.get(rules.chain.name)
            if held != rules.state:
                yield self._op(("chain", rules.chain.name), rules, held)
        for name, rules in dispatch_chains(used, some=bool(self._entries)).items():
            held = chains.get(name)
            if held != rules.state:
                yield self._op(("chain", name), rules, held)
        for name, held in chains.items():
            if name.startswith(SHAPE_PREFIX) and name not in names:
                yield self._op(("chain", name), None, held)

    def _plan_vips(self, members: Members[str]) -> Iterator[Op]:
        if self._vips is not None and self._vips[0] is members:
            if self._vips[1] == members.serial:
                return
            change = members.since(self._vips[1])
        else:
            change = None
        if change is None:
            targets = [(x.set, x.key) for x in vip_elements(members)]
            wanted = set(targets)
            added = [x for x in targets if x[1] not in self._elements(x[0])]
            removed = [
                (s.name, key)
                for s in VIPS.values()
                for key in self._elements(s.name)
                if (s.name, key) not in wanted
            ]
        else:
            added = [
                (x.set, x.key)
                for x in vip_elements(change.added)
                if x.key not in self._elements(x.set)
            ]
            removed = [
                (x.set, x.key)
                for x in vip_elements(change.removed)
                if x.key in self._elements(x.set)
            ]
        if added or removed:
            want = (tuple(added), tuple(removed), members, members.serial)
            yield self._op(("addresses",), want, True)
        else:
            self._vips = (members, members.serial)

    def _frontend_op(self, frontend: Frontend, have: Entry | None) -> Op:
        want = self._entries.get(frontend)
        return Op(
            part=self.name,
            verb=verb_of(want, have),
            key=("frontend", *frontend),
            want=want,
            have=have,
            text=show(frontend, want),
        )

    def _op(self, key: Key, want: Any, have: Any) -> Op:
        verb = verb_of(None if key[0] == "surplus" else want, have)
        shown = text(change for _, change in _in_order({key: self._steps(key, want, have)}))
        return Op(part=self.name, verb=verb, key=key, want=want, have=have, text=shown)

    # Applying

    def apply(self, ops: Sequence[Op]) -> tuple[Failure, ...]:
        """Make the ops of the last plan true, in one transaction; see the module's docstring."""
        try:
            return self._apply(ops)
        except (PlaitError, OSError) as error:
            return all_failed(ops, error)

    def _apply(self, ops: Sequence[Op]) -> tuple[Failure, ...]:
        if ops and self.table.actual is None:
            return tuple([Failure(op=op, error="there is no table", errno=ENOENT) for op in ops])
        chains = [op for op in ops if op.key[0] == "chain"]
        others = [op for op in ops if op.key[0] != "chain"]
        failed = [
            *self._make(chains, self._widening),
            *self._make(others, self._steps_of),
            *self._make(chains, self._steps_of),
        ]
        return tuple({failure.op.key: failure for failure in failed}.values())

    def _make(self, ops: Sequence[Op], steps_of: Callable[[Op], list[Step]]) -> list[Failure]:
        """Make these steps of ops in one transaction, but for ops that the kernel refuses."""
        outcome = make(self.table, ops, steps_of, _merged, _in_order)
        self._done([op for op, _ in outcome.done])
        return outcome.failures

    def _steps_of(self, op: Op) -> list[Step]:
        return list(self._steps(op.key, op.want, op.have))

    def _widening(self, op: Op) -> list[Step]:
        name = op.key[1]
        return list(self._chain_steps(name, self._wide.get(name, op.want))) if op.want else []

    def _steps(self, key: Key, want: Any, have: Any) -> Iterator[Step]:
        """Changes, each with its phase, from what is there now."""
        match key[0]:
            case "chain":
                yield from self._chain_steps(key[1], want)
            case "frontend":
                yield from self._frontend_steps(Frontend(*key[1:]), want, have)
            case "surplus":
                held = self._elements(key[1])
                gone = tuple((k, None) for k in want if k in held)
                if gone:
                    yield _DELETE, nft.DeleteElements(SETS[key[1]], gone)
            case "addresses":
                added, removed, _, _ = want
                yield from _of_sets(_DELETE, [x for x in removed if x[1] in self._elements(x[0])])
                yield from _of_sets(_ADD, [x for x in added if x[1] not in self._elements(x[0])])

    def _chain_steps(self, name: str, want: ChainRules | None) -> Iterator[Step]:
        held = self._actual.chains.get(name)
        if want is None:
            if held is not None:
                yield _GONE, nft.DeleteChain(name)
            return
        if held == want.state:
            return
        if held is None:
            yield _DECLARE, nft.AddChain(want.chain)
        elif held.rules:
            yield _FLUSH, nft.FlushChain(name)
        if want.chain.rules:
            yield _RULES, nft.AddRules(want.chain)

    def _frontend_steps(
        self, frontend: Frontend, want: Entry | None, have: Entry | None
    ) -> Iterator[Step]:
        target = _by_key(frontend, want)
        for name, key in {**_by_key(frontend, have), **target}:
            held = self._elements(name).get(key, _ABSENT)
            data = target.get((name, key), _ABSENT)
            if held == data:
                continue
            if held is not _ABSENT:
                yield _DELETE, nft.DeleteElements(SETS[name], ((key, None),))
            if data is not _ABSENT:
                yield _ADD, nft.AddElements(SETS[name], ((key, data),))

    def _done(self, ops: Iterable[Op]) -> None:
        """After a transaction was committed."""
        for op in ops:
            kind = op.key[0]
            if kind == "frontend":
                frontend = Frontend(*op.key[1:])
                self._dirty.pop(frontend, None)
                self._ends.changed(frontend, op.have, op.want)
            elif kind == "surplus":
                self._surplus.pop(op.key[1], None)
            elif kind == "addresses":
                self._vips = op.want[2:]
        self._ends.end()


_ABSENT: Final[Any] = object()


def _by_key(frontend: Frontend, entry: Entry | None) -> dict[tuple[str, bytes], nft.Data]:
    if entry is None:
        return {}
    return {(name, key): data for name, key, data in frontend_elements(frontend, entry)}


def _of_sets(phase: int, items: Iterable[tuple[str, bytes]]) -> Iterator[Step]:
    by_set: dict[str, list[tuple[bytes, nft.Data]]] = {}
    for name, key in items:
        by_set.setdefault(name, []).append((key, None))
    change = nft.DeleteElements if phase == _DELETE else nft.AddElements
    for name, found in by_set.items():
        yield phase, change(SETS[name], tuple(found))


def _in_order(steps: Mapping[Key, Iterable[Step]]) -> list[tuple[Key, nft.Change]]:
    """Changes in order of their phases, each with the key of its op."""
    found = [(phase, key, change) for key, of in steps.items() for phase, change in of]
    return [(key, change) for _, key, change in sorted(found, key=lambda step: step[0])]


def _merged(steps: Iterable[Iterable[Step]]) -> list[nft.Change]:
    """The same, with all elements of one set and phase in one change."""
    found: list[Step] = []
    elements: dict[tuple[int, str], list[tuple[bytes, nft.Data]]] = {}
    for phase, change in itertools.chain.from_iterable(steps):
        if isinstance(change, nft.Elements):
            elements.setdefault((phase, change.set.name), []).extend(change.elements)
        else:
            found.append((phase, change))
    for (phase, name), items in elements.items():
        elements_of = nft.DeleteElements if phase == _DELETE else nft.AddElements
        found.append((phase, elements_of(SETS[name], tuple(items))))
    return [change for _, change in _in_order({(): found})]


_SHOWN: Final = 4


def show(frontend: Frontend, entry: Entry | None) -> str:
    """A frontend and where it leads, in a line."""
    address = f"[{frontend.address}]" if ":" in frontend.address else frontend.address
    line = f"service {address}:{frontend.port}/{frontend.protocol}"
    if entry is None:
        return line
    line += f" -> {_show_choice(entry.inside)}"
    return line if entry.outside is None else f"{line}; from outside {_show_choice(entry.outside)}"


def _show_choice(choice: Choice) -> str:
    if not choice.backends:
        return choice.unavailable
    shown = ", ".join(
        f"[{b.address}]:{b.port}" if ":" in b.address else f"{b.address}:{b.port}"
        for b in choice.backends[:_SHOWN]
    )
    more = len(choice.backends) - _SHOWN
    return f"{shown}, … {more} more" if more > 0 else shown
