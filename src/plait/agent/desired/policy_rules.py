"""The chains, constants and counters that a `Ruleset` asks for: pure, and in nft's terms.

    pe4, pi4 …  address -> jump pk-<class>
    pk-<class>  pick-up check, guard, then tier by tier: jump pc-<policy> …, deny
    pc-<policy> the rules of a policy in one direction, shared by all classes
    pt-<class>-<n>  a tier that a policy may pass: its policies that pass stand in it themselves,
                for a `return` must leave the tier and not only the policy

    ps-<class>-<n>  the end of a tier with a staged isolation: it would deny what no staged rule
                matched, so these are asked once more, without counting

A rule that accepts ends the base chain that the packet is in, one that denies ends the packet.
What a staged rule matches goes on after its policy. All of a policy is staged or none of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from plait.agent.desired import filter_logs as logs
from plait.agent.desired.filter_sets import (
    CHAIN_PREFIX,
    CLASS_PREFIX,
    FAMILIES,
    PEERS,
    POLICY,
    POOLS,
    STAGED_PREFIX,
    TIER_PREFIX,
)
from plait.agent.desired.policy_base import REJECT, pickup, pickup_chain
from plait.agent.desired.policy_match import ways
from plait.agent.desired.policy_sets import Constant, family_of, opaque, packed
from plait.agent.desired.ruleset import ChainRules, Element, described
from plait.model.policies import DIRECTIONS, Direction
from plait.model.ruleset import ChainRule, Classes, PolicyChain, PolicyClass
from plait.wire import nft_expr as e
from plait.wire.nft import Chain, Rule
from plait.wire.nft_effects import CountIn
from plait.wire.nft_expr import ACCEPT, DROP, RETURN, Counter, InSet, Statement

_PEER: Final = {"ingress": e.SADDR, "egress": e.DADDR}


class Compiled(NamedTuple):
    """What a chain or a class of a ruleset is in the kernel."""

    chains: tuple[ChainRules, ...]
    """Each after those that it leads to."""
    constants: tuple[Constant, ...]
    counters: tuple[str, ...]

    @property
    def names(self) -> frozenset[str]:
        """Names in the kernel of all that it is made of."""
        chains = [rules.chain.name for rules in self.chains]
        constants = [constant.set.name for constant in self.constants]
        return frozenset((*chains, *constants, *self.counters))


def chain_name(ident: str) -> str:
    """nft chain of a chain of a ruleset."""
    return CHAIN_PREFIX + opaque(ident)


def class_name(ident: str) -> str:
    """nft chain of a class."""
    return CLASS_PREFIX + opaque(ident)


def tier_name(ident: str, number: int) -> str:
    """nft chain of a tier of a class, for one that needs its own."""
    return f"{TIER_PREFIX}{opaque(ident)}-{number}"


def passes(chain: PolicyChain) -> bool:
    """Whether a rule of it leaves the tier."""
    return any(rule.decision == "pass" and not rule.staged for rule in chain.rules)


def stands_in_class(chain: PolicyChain) -> bool:
    """Whether rules of it stand in the chains of its classes: these follow when it changes."""
    return any(rule.decision == "pass" or rule.staged for rule in chain.rules)


def sets_of(chain: PolicyChain) -> set[str]:
    """The sets of the ruleset that its rules name."""
    found: set[str] = set()
    for rule in chain.rules:
        found.update((rule.peers, rule.domains, *[port.named for port in rule.ports]))
    return found - {""}


def closed(chain: PolicyChain) -> PolicyChain:
    """A chain in whose place this one stands when the kernel refuses it: nothing is accepted or
    passed, and everything denied if anything was."""
    for rule in chain.rules:
        if rule.decision == "deny" and not rule.staged:
            everything = ChainRule(id=rule.id, decision="deny", anyone=True)
            return msgspec.structs.replace(chain, rules=(everything,))
    return msgspec.structs.replace(chain, rules=())


def policy_chain(ident: str, chain: PolicyChain, *, log: bool) -> Compiled:
    """The chain of a policy in one direction."""
    rules, constants = _rules(chain, log=log)
    made = Chain(chain_name(ident), tuple(rules))
    shared = tuple(dict.fromkeys(constants))
    return Compiled((described(made),), shared, _counters(chain.rules))


def class_chains(
    ident: str, wanted: PolicyClass, chains: Mapping[str, PolicyChain], *, log: bool
) -> Compiled:
    """The chain of a class, and those of its tiers that need one."""
    rules = [pickup(log, wanted.direction)]
    if wanted.guard:
        rules += _guard(wanted.direction, log=log)
    made: list[ChainRules] = []
    constants: list[Constant] = []
    counters: list[str] = []
    for number, tier in enumerate(wanted.tiers):
        found: list[Rule] = []
        inlined = False
        for name in tier.chains:
            if passes(chains[name]):
                inlined = True
                its, held = _rules(chains[name], log=log)
                found += its
                constants += held
                counters += _counters(chains[name].rules)
            else:
                found.append(Rule("policy", (e.jump(chain_name(name)),)))
        if tier.staged_deny:
            staged = [rule for name in tier.chains for rule in chains[name].rules if rule.staged]
            its, held = _staged_end(tier.staged_deny, staged, wanted.direction, log=log)
            constants += held
            chain = Chain(f"{STAGED_PREFIX}{opaque(ident)}-{number}", tuple(its))
            made.append(described(chain))
            found.append(Rule("staged", (e.jump(chain.name),)))
        if tier.deny:
            denied = logs.log(log, tier.deny, wanted.direction, logs.DENIED)
            found.append(Rule("isolated", (CountIn(opaque(tier.deny)), *denied, DROP)))
        counters += [name for name in (tier.deny, tier.staged_deny) if name]
        if inlined:
            chain = Chain(tier_name(ident, number), tuple(found))
            made.append(described(chain))
            rules.append(Rule("tier", (e.jump(chain.name),)))
        else:
            rules += found
    made.append(described(Chain(class_name(ident), tuple(rules))))
    shared = tuple(dict.fromkeys(constants))
    return Compiled(tuple(made), shared, tuple(dict.fromkeys(counters)))


def closed_class(ident: str, wanted: PolicyClass, *, log: bool) -> Compiled:
    """What stands in the place of a class that the kernel refuses: nothing passes."""
    denied = logs.log(log, "guard", wanted.direction, logs.DENIED)
    rule = Rule("refused", (Counter(), *denied, DROP))
    return Compiled((described(Chain(class_name(ident), (rule,))),), (), ())


def dispatch_elements(address: str, classes: Classes) -> tuple[Element, ...]:
    """The elements that lead a local address to its classes."""
    family, key = family_of(address), packed(address)
    found = []
    for direction in DIRECTIONS:
        ident: str = getattr(classes, direction)
        chain = class_name(ident) if ident else pickup_chain(direction)
        found.append(Element(POLICY[direction, family].name, key, e.jump(chain)))
    return tuple(found)


def dispatch_keys(address: str) -> tuple[tuple[str, bytes], ...]:
    """(map, key) of the elements of a local address, whatever they lead to."""
    family, key = family_of(address), packed(address)
    return tuple((POLICY[direction, family].name, key) for direction in DIRECTIONS)


def _counters(rules: Iterable[ChainRule]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(opaque(rule.id) for rule in rules))


def _rules(chain: PolicyChain, *, log: bool) -> tuple[list[Rule], list[Constant]]:
    rules: list[Rule] = []
    constants: list[Constant] = []
    for rule in chain.rules:
        effects = _effects(rule, chain.direction, log=log)
        why = "staged" if rule.staged else rule.decision
        for way in ways(rule, chain.direction):
            rules.append(Rule(why, way.statements + effects))
            constants += way.constants
    return rules, constants


def _effects(rule: ChainRule, direction: Direction, *, log: bool) -> tuple[Statement, ...]:
    count = CountIn(opaque(rule.id))
    if rule.staged:
        staged = logs.log(log and rule.decision == "deny", rule.id, direction, logs.STAGED)
        return (count, *staged, RETURN)
    if rule.decision == "accept":
        return (count, *logs.log(log, rule.id, direction, logs.ACCEPTED), ACCEPT)
    if rule.decision == "pass":
        return (count, RETURN)
    denied = logs.log(log, rule.id, direction, logs.DENIED)
    return (count, *denied, e.goto(REJECT) if rule.reject else DROP)


def _staged_end(
    ident: str, staged: Iterable[ChainRule], direction: Direction, *, log: bool
) -> tuple[list[Rule], list[Constant]]:
    """Count what a staged isolation would deny: what none of the tier's staged rules matched."""
    rules: list[Rule] = []
    constants: list[Constant] = []
    for rule in staged:
        for way in ways(rule, direction):
            rules.append(Rule("staged", (*way.statements, RETURN)))
            constants += way.constants
    counted: tuple[Statement, ...] = (
        CountIn(opaque(ident)),
        *logs.log(log, ident, direction, logs.STAGED),
    )
    rules.append(Rule("staged", counted))
    return rules, constants


def _guard(direction: Direction, *, log: bool) -> list[Rule]:
    # An address of ours that nobody is known to have could be one that a rule denies.
    field = _PEER[direction]
    denied = logs.log(log, "guard", direction, logs.DENIED)
    return [
        Rule(
            "unknown endpoint",
            (
                e.family(f),
                InSet((field[f],), POOLS[f].name),
                InSet((field[f],), PEERS[f].name, negate=True),
                Counter(),
                *denied,
                DROP,
            ),
        )
        for f in FAMILIES
    ]
