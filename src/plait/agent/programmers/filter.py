"""HostState.filter in the kernel: our nftables table, changed in whole transactions.

Two programmers share one `FilterTable`. `FilterBase` owns the table, the chains that every host
has, pools and VTEPs: it comes first, for it drops unknown endpoints. `FilterEndpoints` owns the
networks' chains, the endpoints' elements and the published ports: it comes last, for it opens
traffic. Each `apply` is one transaction, so that a packet meets the ruleset before it or after
it and none between.

When the kernel refuses a transaction, what we believed is read anew and it is tried again; what
is refused once more is left out and reported, and the rest is done.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from plait.agent.desired import filter_sets, policy_sets, ruleset, service_base, service_fill
from plait.agent.desired.policy_fill import NOTHING, whole
from plait.agent.desired.ruleset import Element
from plait.agent.programmers.base import Failure, Op, all_failed, verb_of
from plait.agent.programmers.comparing import left_over, other_objects
from plait.agent.programmers.filter_contents import (
    held_elements,
    held_network,
    is_network,
    port_of,
    suffix_of,
    used_networks,
    wanted_endpoint,
    wanted_ports,
)
from plait.agent.programmers.filter_table import EMPTY, FilterTable, endpoints_of
from plait.agent.programmers.transactions import make
from plait.kernel.conntrack import FlowDoor
from plait.model import marks
from plait.model.errors import PlaitError
from plait.model.hoststate import Filter, FilterNetwork, HostState, PortMap
from plait.wire import nft, nft_read


class Step(msgspec.Struct):
    """What an op means for the kernel. In a transaction the phases follow each other."""

    close: list[Element] = []
    """Elements to delete."""
    before: list[nft.Change] = []
    declare: list[nft.Change] = []
    rules: list[nft.Change] = []
    open: list[Element] = []
    """Elements to add."""
    after: list[nft.Change] = []


_PHASES: Final = ("before", "close", "declare", "rules", "open", "after")


def _elements(of: type[nft.AddElements | nft.DeleteElements], items: list[Element]) -> list[Any]:
    """One change a set."""
    by_set: dict[str, list[tuple[bytes, nft.Data]]] = {}
    for name, key, data in dict.fromkeys(items):
        by_set.setdefault(name, []).append((key, data if of is nft.AddElements else None))
    return [of(filter_sets.SETS[name], tuple(found)) for name, found in by_set.items()]


def _in_order(steps: Mapping[Any, Step]) -> list[tuple[Any, nft.Change]]:
    """Changes in order, each with the key of its step; elements stay with their steps."""
    found: list[tuple[Any, nft.Change]] = []
    closed: set[Element] = set()
    for phase in _PHASES:
        for key, step in steps.items():
            part = getattr(step, phase)
            if phase == "close":
                # An element may be in the way of one step and be given up by another.
                part = [element for element in part if element not in closed]
                closed.update(part)
                part = _elements(nft.DeleteElements, part)
            elif phase == "open":
                part = _elements(nft.AddElements, part)
            found += [(key, change) for change in part]
    return found


def _merged(steps: Iterable[Step]) -> list[nft.Change]:
    """The same, with all elements of one set in one change."""
    held = list(steps)
    whole = Step(
        **{phase: [item for step in held for item in getattr(step, phase)] for phase in _PHASES}
    )
    return [change for _, change in _in_order({"": whole})]


class _FilterProgrammer:
    """What the two programmers have in common: how ops become transactions."""

    name = ""

    def __init__(self, table: FilterTable) -> None:
        self.table = table
        self._steps: dict[str, Callable[[Any, Any], Step]] = {}

    def observe(self) -> None:
        """Read our table, if it can have changed. Raises PlaitError if another owns it."""
        self.table.observe()

    def apply(self, ops: Sequence[Op]) -> tuple[Failure, ...]:
        """Make the ops true in one transaction; see the module's docstring."""
        try:
            return self._apply(ops)
        except (PlaitError, OSError) as error:
            return all_failed(ops, error)

    def _apply(self, ops: Sequence[Op]) -> tuple[Failure, ...]:
        outcome = make(self.table, ops, self._step, _merged, _in_order)
        self._done(outcome.done)
        return tuple(outcome.failures)

    def _step(self, op: Op) -> Step:
        return self._steps[op.key[0]](op.key, op.want)

    def _done(self, done: Sequence[tuple[Op, Step]]) -> None:
        """After a transaction was committed."""

    def _op(self, key: tuple[Any, ...], want: Any, have: Any) -> Op:
        step = self._steps[key[0]](key, want)
        text = "\n".join(change.text(marks.NFT_TABLE) for change in _merged([step]))
        verb = verb_of(want, have)
        return Op(part=self.name, verb=verb, key=key, want=want, have=have, text=text)


class FilterBase(_FilterProgrammer):
    """The table and all that does not depend on a single endpoint or network."""

    name = "filter.base"

    def __init__(self, table: FilterTable) -> None:
        super().__init__(table)
        self._bare = False
        """The kernel refused the table with its policies."""
        self._steps = {
            "table": self._table_step,
            "chain": self._chain_step,
            "set": self._set_step,
            "element": self._element_step,
        }

    def plan(self, desired: HostState) -> tuple[Op, ...]:
        """See Programmer."""
        wanted = desired.filter
        if self.table.stale is not None:
            have = self.table.stale.info
            return (self._op(("table",), self._replacement(desired, self.table.stale), have),)
        ops = []
        if not self.table.adopted():
            have_info = self.table.actual.info if self.table.actual else None
            ops.append(self._op(("table",), (nft.AddTable(self.table.flags),), have_info))
        actual = self.table.actual or EMPTY
        chains = {rules.chain.name: rules for rules in self._chains(wanted)}
        ops += [
            self._op(("chain", name), None, held)
            for name, held in actual.chains.items()
            if name not in chains and not name.startswith(_OF_OTHERS)
        ]
        ops += [
            self._op(("set", name), None, held)
            for name, held in actual.sets.items()
            if name not in filter_sets.SETS and not policy_sets.is_policy(name)
        ]
        ops += [
            self._op(("set", name), declared, None)
            for name, declared in filter_sets.SETS.items()
            if name not in actual.sets
        ]
        for name, rules in chains.items():
            held = actual.chains.get(name)
            # The rules of those that lead to shapes are the Services'.
            if held is not None and name in service_base.DISPATCH:
                continue
            if held != rules.state:
                ops.append(self._op(("chain", name), rules, held))
        for name, elements in ruleset.base_elements(wanted).items():
            present = actual.elements.get(name, {})
            surplus, missing = present.keys() - elements.keys(), elements.keys() - present.keys()
            ops += [self._op(("element", name, key), None, True) for key in sorted(surplus)]
            ops += [self._op(("element", name, key), True, None) for key in sorted(missing)]
        return tuple(ops)

    def _chains(self, wanted: Filter) -> tuple[ruleset.ChainRules, ...]:
        dns = wanted.dns and self.table.features.tproxy
        return ruleset.base_rules(
            wanted.vxlan_port, wanted.vni, dns, self.table.features.nflog, wanted.own
        )

    def _replacement(
        self, desired: HostState, stale: nft_read.TableState
    ) -> tuple[nft.Change, ...]:
        """The whole table anew, policies too; what was open and may stay open is never closed.

        When the kernel refuses that, the next is one without policies, in which all endpoints
        that have some are closed.
        """
        wanted = desired.filter
        logs = self.table.features.nflog
        used = used_networks(wanted)
        networks = [ruleset.network_rules(name, n, logs) for name, n in used.items()]
        chains = [rules.chain for rules in self._chains(wanted)]
        chains += [rules.chain for network in networks for rules in network.chains]
        open_now = endpoints_of(stale)
        elements = [
            Element(name, key, data)
            for name, held in ruleset.base_elements(wanted).items()
            for key, data in held.items()
        ]
        elements += [element for network in networks for element in network.elements]
        policies = NOTHING if self._bare else whole(desired.policy, log=logs)
        elements += policies.dispatch
        services = service_fill.EMPTY if self._bare else service_fill.whole(desired.services)
        elements += services.elements
        chains += services.chains
        for link, endpoint in wanted.endpoints.items():
            found = wanted_endpoint(wanted, link, endpoint) or frozenset()
            if self._bare and any(a in desired.policy.dispatch for a in endpoint.addresses):
                continue
            elements += sorted(found & open_now.get(link, frozenset()), key=lambda x: x[:2])
        for element in wanted_ports(wanted).values():
            if stale.elements.get(element.set, {}).get(element.key) == element.data:
                elements.append(element)
        return (
            nft.DeleteTable(),
            nft.AddTable(self.table.flags),
            *[nft.AddSet(declared) for declared in filter_sets.SETS.values()],
            *policies.before,
            *[nft.AddChain(chain) for chain in chains],
            *[nft.AddRules(chain) for chain in (*chains, *services.dispatch) if chain.rules],
            *_elements(nft.AddElements, elements),
        )

    def _table_step(self, _key: tuple[Any, ...], want: tuple[nft.Change, ...]) -> Step:
        made = {change.set.name for change in want if isinstance(change, nft.AddSet)}
        return Step(before=[*want, *self._still_open(made)])

    def _still_open(self, made: set[str]) -> Iterator[nft.AddTimed]:
        """Addresses of domains for as long as they have left, in a table made anew."""
        for name in self.table.stale.sets if self.table.stale else ():
            declared = policy_sets.declared(name) if name in made else None
            if declared is not None and declared.timeout:
                held = self.table.door.elements(name) if declared.value else {}
                for key, left in self.table.door.live(name).items():
                    yield nft.AddTimed(declared, ((key, held.get(key)),), left)

    def _chain_step(self, key: tuple[Any, ...], want: ruleset.ChainRules | None) -> Step:
        held = (self.table.actual or EMPTY).chains.get(key[1])
        if want is None:
            # Its rules may lead to other chains that go too.
            if held is None:
                return Step()
            return Step(before=[nft.FlushChain(key[1])], after=[nft.DeleteChain(key[1])])
        return _chain(want, held)

    def _set_step(self, key: tuple[Any, ...], want: nft.Set | None) -> Step:
        there = key[1] in (self.table.actual or EMPTY).sets
        if want is None:
            return Step(after=[nft.DeleteSet(key[1])] if there else [])
        return Step(declare=[] if there else [nft.AddSet(want)])

    def _element_step(self, key: tuple[Any, ...], want: bool | None) -> Step:
        there = key[2] in (self.table.actual or EMPTY).elements.get(key[1], {})
        element = Element(key[1], key[2], None)
        if want is None:
            return Step(close=[element] if there else [])
        return Step(open=[] if there else [element])

    def apply(self, ops: Sequence[Op]) -> tuple[Failure, ...]:
        """See Programmer."""
        failures = super().apply(ops)
        self._bare = any(failure.op.key == ("table",) for failure in failures)
        return failures

    def _done(self, done: Sequence[tuple[Op, Step]]) -> None:
        if any(op.key == ("table",) for op, _ in done):
            self.table.endpoints = endpoints_of(self.table.actual)


class FilterEndpoints(_FilterProgrammer):
    """Networks' chains, endpoints' elements and published ports."""

    name = "filter.endpoints"

    def __init__(self, table: FilterTable, flows: FlowDoor) -> None:
        super().__init__(table)
        self._flows = flows
        self._networks: dict[str, FilterNetwork] = {}
        """Of the last plan."""
        self._ports: tuple[frozenset[PortMap], dict[tuple[str, bytes], Element]] = (frozenset(), {})
        self._steps = {
            "network": self._network_step,
            "dispatch": self._dispatch_step,
            "endpoint": self._endpoint_step,
            "port": self._port_step,
        }

    def plan(self, desired: HostState) -> tuple[Op, ...]:
        """See Programmer."""
        wanted = desired.filter
        actual = self.table.actual or EMPTY
        ops = []
        networks = {}
        for name, network in used_networks(wanted).items():
            rules = ruleset.network_rules(name, network, self.table.features.nflog)
            suffix = ruleset.chain_suffix(name)
            networks[suffix] = rules
            held = held_network(actual, rules)
            if held != rules:
                ops.append(self._op(("network", suffix), rules, held))
        if self._networks is not wanted.networks:
            # An endpoint of a network that is not there stays unknown.
            self._networks = wanted.networks
            self.table.settled.clear()
        new = 0
        for link in other_objects(self.table.settled, wanted.endpoints):
            endpoint = wanted.endpoints[link]
            elements = wanted_endpoint(wanted, link, endpoint)
            present = self.table.endpoints.get(link)
            new += present is None
            if present != elements:
                ops.append(self._op(("endpoint", link), elements, present))
            elif elements is not None:
                self.table.settled[link] = endpoint
        ops += [
            self._op(("endpoint", link), None, self.table.endpoints[link])
            for link in sorted(left_over(self.table.endpoints.keys(), wanted.endpoints.keys(), new))
        ]
        ports = self._wanted_ports(wanted)
        for (name, key), element in ports.items():
            data = actual.elements.get(name, {}).get(key)
            if data != element.data:
                ops.append(self._op(("port", name, key), element, data))
        for declared in filter_sets.PORT_SETS:
            for key, data in actual.elements.get(declared.name, {}).items():
                if (declared.name, key) not in ports:
                    ops.append(self._op(("port", declared.name, key), None, data))
        gone = {n.split("-", 1)[1] for n in actual.chains if is_network(n)} - networks.keys()
        ops += [self._op(("network", suffix), None, True) for suffix in sorted(gone)]
        dispatch = {(x.set, x.key) for rules in networks.values() for x in rules.elements}
        ops += [
            self._op(("dispatch", s.name, key), None, verdict)
            for s in filter_sets.NETWORK_SETS
            for key, verdict in actual.elements.get(s.name, {}).items()
            if (s.name, key) not in dispatch and suffix_of(verdict) not in gone
        ]
        return tuple(ops)

    def _wanted_ports(self, wanted: Filter) -> dict[tuple[str, bytes], Element]:
        if self._ports[0] is not wanted.ports:
            self._ports = (wanted.ports, wanted_ports(wanted))
        return self._ports[1]

    def _network_step(self, key: tuple[Any, ...], want: ruleset.NetworkRules | None) -> Step:
        actual = self.table.actual or EMPTY
        if want is None:
            names = [p + key[1] for p in (filter_sets.EGRESS_PREFIX, filter_sets.INGRESS_PREFIX)]
            held = [
                Element(s.name, range_, verdict)
                for s in filter_sets.NETWORK_SETS
                for range_, verdict in actual.elements.get(s.name, {}).items()
                if suffix_of(verdict) == key[1]
            ]
            return Step(close=held, after=[nft.DeleteChain(n) for n in names if n in actual.chains])
        present = held_elements(actual, want)
        step = Step(
            close=[element for element in present if element not in want.elements],
            open=[element for element in want.elements if element not in present],
        )
        for rules in want.chains:
            made = _chain(rules, actual.chains.get(rules.chain.name))
            step.declare += made.declare
            step.rules += made.rules
        return step

    def _dispatch_step(self, key: tuple[Any, ...], _want: None) -> Step:
        held = (self.table.actual or EMPTY).elements.get(key[1], {})
        return Step(close=[Element(key[1], key[2], held[key[2]])] if key[2] in held else [])

    def _endpoint_step(self, key: tuple[Any, ...], want: frozenset[Element] | None) -> Step:
        held = self.table.endpoints.get(key[1], frozenset())
        target = want or frozenset()
        return Step(
            close=sorted(held - target, key=lambda x: x[:2]),
            open=sorted(target - held, key=lambda x: x[:2]),
        )

    def _port_step(self, key: tuple[Any, ...], want: Element | None) -> Step:
        data = (self.table.actual or EMPTY).elements.get(key[1], {}).get(key[2])
        if want is not None and want.data == data:
            return Step()
        step = Step()
        if data is not None:
            step.close = [Element(key[1], key[2], data)]
        if want is not None:
            step.open = [want]
        return step

    def _done(self, done: Sequence[tuple[Op, Step]]) -> None:
        addresses: set[str] = set()
        ports: set[tuple[str, int]] = set()
        for op, step in done:
            if op.key[0] == "endpoint":
                self.table.settled.pop(op.key[1], None)
                if op.want is None:
                    self.table.endpoints.pop(op.key[1], None)
                else:
                    self.table.endpoints[op.key[1]] = op.want
                addresses |= {
                    str(ipaddress.ip_address(key[16:]))
                    for name, key, _ in step.close
                    if name in _SOURCE_SETS
                }
            elif op.key[0] == "port":
                ports |= {port_of(op.key[2])} if step.close or step.open else set()
        # An address or a port must not inherit flows; closed first, then forgotten. A client that
        # kept sending before the port was published would else never reach it.
        if addresses:
            self._flows.forget_addresses(addresses)
        if ports:
            self._flows.forget_ports(ports)


_SOURCE_SETS: Final = frozenset(s.name for s in filter_sets.SRC.values())


def _chain(want: ruleset.ChainRules, held: nft_read.ChainState | None) -> Step:
    chain, described = want
    if held == described:
        return Step()
    step = Step(rules=[nft.AddRules(chain)] if chain.rules else [])
    if held is None:
        step.declare = [nft.AddChain(chain)]
    elif held.hook != described.hook:
        step.before = [nft.DeleteChain(chain.name)]
        step.declare = [nft.AddChain(chain)]
    else:
        step.rules.insert(0, nft.FlushChain(chain.name))
    return step


_OF_OTHERS: Final = (
    filter_sets.EGRESS_PREFIX,
    filter_sets.INGRESS_PREFIX,
    filter_sets.SHAPE_PREFIX,
    *filter_sets.POLICY_CHAINS,
)
"""Of chains that other programmers make."""
