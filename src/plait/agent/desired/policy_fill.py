"""What fills the sets that policies bring, and all of a ruleset at once for a table made anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from plait.agent.desired.filter_sets import FAMILIES, PEERS
from plait.agent.desired.policy_rules import (
    Compiled,
    class_chains,
    dispatch_elements,
    passes,
    policy_chain,
)
from plait.agent.desired.policy_sets import (
    Family,
    address_set,
    domain_set,
    keys_by_family,
    socket_keys_by_family,
    socket_set,
)
from plait.agent.desired.ruleset import Element
from plait.model.members import Members
from plait.model.ruleset import Ruleset
from plait.wire import nft

_NOBODY: Final[Members[str]] = Members()


Keys = Callable[[Iterable[Any]], dict[Family, set[bytes]]]


class Filling(NamedTuple):
    """A set and what is to be in it."""

    set: nft.Set
    family: Family
    members: Members[Any] | None
    """None: not ours to say, for its elements have an end."""
    keys: Keys
    """Keys of members, by family."""


def fillings(wanted: Ruleset) -> Iterator[Filling]:
    """All sets of a ruleset, without the constants of its rules."""
    for family in FAMILIES:
        for name, addresses in wanted.sets.items():
            yield Filling(address_set(name, family), family, addresses, keys_by_family)
        for name, sockets in wanted.sockets.items():
            yield Filling(socket_set(name, family), family, sockets, socket_keys_by_family)
        for name in wanted.domains:
            yield Filling(domain_set(name, family), family, None, keys_by_family)
        known = _NOBODY if wanted.known is None else wanted.known
        yield Filling(PEERS[family], family, known, keys_by_family)


class Whole(NamedTuple):
    """All that a ruleset is in the kernel, for a table that has nothing of it yet."""

    before: tuple[nft.Change, ...]
    """Sets with their elements, counters, chains and rules."""
    dispatch: tuple[Element, ...]
    """What leads to them."""


NOTHING: Final = Whole((), ())


def whole(wanted: Ruleset, *, log: bool) -> Whole:
    """See Whole. The sets that are always there are taken to be there."""
    compiled: list[Compiled] = [
        policy_chain(name, chain, log=log)
        for name, chain in wanted.chains.items()
        if not passes(chain)
    ]
    compiled += [
        class_chains(name, wish, wanted.chains, log=log) for name, wish in wanted.classes.items()
    ]
    sets: list[nft.Change] = []
    elements: list[nft.Change] = []
    for filling in fillings(wanted):
        if filling.set not in PEERS.values():
            sets.append(nft.AddSet(filling.set))
        keys = filling.keys(filling.members or ())[filling.family]
        if keys:
            elements.append(nft.AddElements(filling.set, tuple((key, None) for key in keys)))
    for constant in dict.fromkeys(c for one in compiled for c in one.constants):
        sets.append(nft.AddSet(constant.set))
        elements.append(nft.AddElements(constant.set, tuple((k, None) for k in constant.keys)))
    counters = dict.fromkeys(name for one in compiled for name in one.counters)
    chains = [rules.chain for one in compiled for rules in one.chains]
    return Whole(
        (
            *sets,
            *elements,
            *[nft.AddCounter(name) for name in counters],
            *[nft.AddChain(chain) for chain in chains],
            *[nft.AddRules(chain) for chain in chains if chain.rules],
        ),
        tuple(
            element
            for address, classes in wanted.dispatch.items()
            for element in dispatch_elements(address, classes)
        ),
    )
