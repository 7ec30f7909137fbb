"""State, not path: what policies are in the kernel depends on the ruleset, not on how it came."""

from __future__ import annotations

import errno
import os
import random
import subprocess
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from tests.support.nft_hosts import A1, A2, A6, FILTER, Doors, Host, names, recorded, walks

from plait.agent.desired import filter_sets, policy_rules, policy_sets
from plait.kernel import netns
from plait.kernel.fake_nft import FakeNetfilter, FakeNft
from plait.kernel.nft import Nft
from plait.model.hoststate import HostState
from plait.model.members import Members
from plait.model.ruleset import (
    ChainRule,
    Classes,
    PolicyChain,
    PolicyClass,
    PortMatch,
    Ruleset,
    Socket,
    Tier,
)
from plait.wire import nft
from plait.wire import nft_expr as e
from plait.wire import nft_keys as k

TCP80 = PortMatch(protocol="tcp", first=80, last=80)
PORTS = (
    TCP80,
    PortMatch(protocol="udp", first=53, last=53),
    PortMatch(protocol="tcp", first=8000, last=9000),
    PortMatch(protocol="tcp", first=8500, last=9500),
    PortMatch(protocol="sctp"),
    PortMatch(protocol="icmp", icmp_type=8, icmp_code=0),
    PortMatch(protocol="icmpv6", icmp_type=128),
    PortMatch(named="web"),
)
RANGES = ("10.0.0.0-10.255.255.255", "192.0.2.3-192.0.2.9", "fd02::-fd02::ffff", "fd03::1-fd03::1")


def chain(*rules: ChainRule, direction: Any = "ingress") -> PolicyChain:
    return PolicyChain(direction=direction, rules=rules)


def klass(*tiers: Tier, direction: Any = "ingress", guard: bool = False) -> PolicyClass:
    return PolicyClass(direction=direction, tiers=tiers, guard=guard)


def front() -> dict[str, Members[str]]:
    return {"front": Members({A1, A6, "10.1.7.7"})}


ACCEPT_FRONT = ChainRule(id="r1", decision="accept", peers="front", ports=(TCP80,))
DENY_ALL = ChainRule(id="r2", decision="deny", anyone=True, reject=True)
PASS_SOME = ChainRule(id="r3", decision="pass", ranges=RANGES)
MUCH = ChainRule(
    id="r4", decision="accept", peers="front", ranges=RANGES, domains="dom", ports=PORTS
)
STAGED = ChainRule(id="r5", decision="deny", anyone=True, staged=True)

STATES: dict[str, Callable[[], Ruleset]] = {
    "nothing": Ruleset,
    "one policy": lambda: Ruleset(
        chains={"web": chain(ACCEPT_FRONT)},
        classes={"k1": klass(Tier(chains=("web",), deny="i1"))},
        dispatch={A2: Classes("", "k1")},
        sets=front(),
    ),
    "more members": lambda: Ruleset(
        chains={"web": chain(ACCEPT_FRONT)},
        classes={"k1": klass(Tier(chains=("web",), deny="i1"))},
        dispatch={A2: Classes("", "k1")},
        sets={"front": Members({A1, "10.1.9.9", "fd01::9"})},
    ),
    "both directions and families": lambda: Ruleset(
        chains={"web": chain(ACCEPT_FRONT), "out": chain(DENY_ALL, direction="egress")},
        classes={
            "k1": klass(Tier(chains=("web",), deny="i1")),
            "k2": klass(Tier(chains=("out",)), direction="egress", guard=True),
        },
        dispatch={
            A2: Classes("k2", "k1"),
            A1: Classes("k2", ""),
            A6: Classes("k2", ""),
        },
        sets=front(),
        known=Members({A1, A2, A6}),
    ),
    "all that a rule can say": lambda: Ruleset(
        chains={"much": chain(MUCH, direction="egress")},
        classes={"k3": klass(Tier(chains=("much",), deny="i2"), direction="egress")},
        dispatch={A2: Classes("k3", "")},
        sets=front(),
        sockets={"web": Members({Socket(A1, "tcp", 8080), Socket(A6, "udp", 53)})},
        domains={"dom": ("*.example.com",)},
    ),
    "a tier that is passed": lambda: Ruleset(
        chains={"pass": chain(PASS_SOME, DENY_ALL), "web": chain(ACCEPT_FRONT)},
        classes={"k4": klass(Tier(chains=("web", "pass")), Tier(chains=("web",), deny="i1"))},
        dispatch={A1: Classes("", "k4"), A2: Classes("", "k4")},
        sets=front(),
    ),
    "staged": lambda: Ruleset(
        chains={"stage": chain(STAGED)},
        classes={"k5": klass(Tier(chains=("stage",), staged_deny="i5"))},
        dispatch={A1: Classes("", "k5")},
    ),
    "another class": lambda: Ruleset(
        chains={"web": chain(DENY_ALL)},
        classes={"k6": klass(Tier(chains=("web",)))},
        dispatch={A2: Classes("", "k6")},
    ),
}


@pytest.fixture
def host(doors: Doors) -> Host:
    return Host(doors()[0])


@pytest.mark.parametrize("walk", walks(STATES).values(), ids=walks(STATES))
def test_every_walk_ends_where_a_fresh_host_would(host: Host, walk: list[str]) -> None:
    for name in walk:
        wanted = STATES[name]()
        host.go(wanted)
        host.check(wanted)


@pytest.mark.parametrize("walk", walks(STATES).values(), ids=walks(STATES))
def test_a_packet_between_rules_finds_those_to_which_elements_lead(walk: list[str]) -> None:
    """The kernel takes a packet through the rules that there were when it came, and looks up
    elements as they are in that moment: both of one transaction and of the next."""
    door = FakeNft()
    host = Host(door)
    tables = recorded(door)
    for name in walk:
        host.go(STATES[name]())
    checked = 0
    for before, after in pairwise(tables):
        assert before is not None
        assert after is not None
        for declared in filter_sets.POLICY.values():
            for verdict in after.elements.get(declared.name, {}).values():
                assert isinstance(verdict, e.Verdict)
                assert before.chains[verdict.chain].rules
                checked += 1
    assert checked


@pytest.mark.parametrize("name", STATES)
def test_squashed_from_nothing_and_back(host: Host, name: str) -> None:
    for wanted in (STATES[name](), STATES["nothing"]()):
        host.go(wanted)
        host.check(wanted)


def test_every_walk_ends_there_without_another_look(host: Host) -> None:
    # As the agent's loop does it: one plan a change, and the same objects again and again.
    states = {name: made() for name, made in STATES.items()}
    names = [*states] * 6
    random.Random(9).shuffle(names)
    for name in names:
        wanted = HostState(filter=FILTER, policy=states[name])
        for programmer in (host.base, host.policy, host.endpoints):
            programmer.observe()
            assert programmer.apply(programmer.plan(wanted)) == ()
        fresh = Host(FakeNft(features=host.door.features))
        fresh.go(states[name])
        found, expected = host.door.read(), fresh.door.read()
        assert found is not None
        assert expected is not None
        assert found._replace(info=None) == expected._replace(info=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["both directions and families", "a tier that is passed"])
def test_split_into_single_ops(host: Host, name: str) -> None:
    host.go(STATES["all that a rule can say"]())
    wanted = STATES[name]()
    state = HostState(filter=FILTER, policy=wanted)
    for op in host.policy.plan(state):
        assert host.policy.apply([op]) == ()
    host.check(wanted)


def test_what_changes_in_a_set_is_written_and_no_more(host: Host) -> None:
    wanted = STATES["one policy"]()
    host.go(wanted)
    members = wanted.sets["front"]
    for change in (lambda: members.add("10.1.200.1"), lambda: members.discard("fd01::1")):
        change()
        (op,) = host.policy.plan(HostState(filter=FILTER, policy=_again(wanted)))
        assert len(op.want.added + op.want.removed) == 1
        assert host.policy.apply([op]) == ()
        host.check(wanted)


def _again(wanted: Ruleset) -> Ruleset:
    """The same content as another object, as an engine gives it when a set has changed."""
    return msgspec.structs.replace(wanted, serial=wanted.serial + 1)


def test_a_restarted_agent_changes_nothing_that_is_right(doors: Doors) -> None:
    first = Host(doors()[0])
    wanted = STATES["all that a rule can say"]()
    first.go(wanted)
    before = first.door.read()
    first.door.close()
    second = Host(doors()[0])
    assert second.go(STATES["all that a rule can say"]()) == 0
    after = second.door.read()
    assert before is not None
    assert after is not None
    assert after._replace(info=None) == before._replace(info=None)  # type: ignore[arg-type]
    second.go(STATES["one policy"]())
    second.check(STATES["one policy"]())


DAMAGE: dict[str, Callable[[], list[nft.Change]]] = {
    "rules": lambda: [nft.FlushChain("pc-much")],
    "class": lambda: [nft.FlushChain("pk-k3")],
    "members": lambda: [
        nft.DeleteElements(policy_sets.address_set("front", 4), ((policy_sets.packed(A1), None),)),
        nft.AddElements(
            policy_sets.address_set("front", 4), ((policy_sets.packed("10.9.9.9"), None),)
        ),
    ],
    "dispatch": lambda: [
        nft.DeleteElements(filter_sets.POLICY["egress", 4], ((policy_sets.packed(A2), None),)),
        nft.AddElements(
            filter_sets.POLICY["egress", 4],
            ((policy_sets.packed("10.1.0.9"), e.jump("pk-k3")),),
        ),
    ],
    "foreign": lambda: [
        nft.AddCounter("r99"),
        nft.AddChain(nft.Chain("pc-theirs")),
        nft.AddSet(nft.Set("p-s-theirs-4", (k.IPV4,))),
    ],
    "table": lambda: [nft.DeleteTable()],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_repaired(host: Host, damage: str) -> None:
    wanted = STATES["all that a rule can say"]()
    host.go(wanted)
    assert not host.door.commit(DAMAGE[damage]())
    # As if it had been somebody else, on a kernel where that is possible.
    host.table.observe(force=True)
    assert host.go(wanted) > 0
    host.check(wanted)


def test_constants_are_repaired_too(host: Host) -> None:
    wanted = STATES["all that a rule can say"]()
    host.go(wanted)
    found = host.door.read()
    assert found is not None
    for constant in policy_rules.policy_chain("much", wanted.chains["much"], log=True).constants:
        keys = found.elements[constant.set.name]
        lost = nft.DeleteElements(constant.set, tuple((key, None) for key in list(keys)[:1]))
        assert not host.door.commit([lost])
    host.table.observe(force=True)
    assert host.go(wanted) == 1
    host.check(wanted)


# What the kernel refuses


class Refusing:
    """A host whose kernel refuses what it is told to."""

    def __init__(self, *refused: str) -> None:
        self.door = FakeNft()
        self.host = Host(self.door)
        self.host.go(Ruleset())
        self.refuse(*refused)

    def refuse(self, *refused: str) -> None:
        self.door.fail(errno.ENOMEM, names(*refused), times=1000)

    def forgive(self) -> None:
        self.door.forgive()

    def go(self, wanted: Ruleset) -> set[tuple[Any, ...]]:
        """Keys of what failed."""
        policy = self.host.policy
        failures = policy.apply(policy.plan(HostState(filter=FILTER, policy=wanted)))
        assert {failure.errno for failure in failures} <= {errno.ENOMEM}
        return {failure.op.key for failure in failures}

    def texts(self, chain: str) -> list[str]:
        held = self.door.kernel.tables["plait"].chains[chain]
        return [rule.text() for rule in held.rules]


def two() -> Ruleset:
    """A policy that accepts, one that denies, and their class."""
    return Ruleset(
        chains={"web": chain(ACCEPT_FRONT), "no": chain(MUCH_DENY)},
        classes={"k1": klass(Tier(chains=("web", "no"), deny="i1"))},
        dispatch={A2: Classes("", "k1")},
        sets={**front(), "bad": Members({A1})},
    )


MUCH_DENY = ChainRule(id="r7", decision="deny", peers="bad")


def real_rules(host: Refusing, name: str) -> bool:
    """Whether the chain is not a closed one, which is refused by the same name."""
    return any("@p-s" in text for text in host.texts(name))


def test_a_refused_set_closes_only_the_policies_that_need_it() -> None:
    bad = Refusing("p-s-bad-4")
    assert bad.go(two()) == {("set", "p-s-bad-4"), ("chain", "no")}
    # The other policy stands; the one that denied some denies all.
    assert real_rules(bad, "pc-web")
    assert bad.texts("pc-no") == [
        'counter name "r7" log prefix "r7.id" group 28780 snaplen 96 drop comment "deny"'
    ]
    assert bad.texts("pk-k1")[-3:-1] == [
        'jump pc-web comment "policy"',
        'jump pc-no comment "policy"',
    ]
    assert set(bad.host.policy.closed) == {"no"}
    bad.forgive()
    assert bad.go(two()) == set()
    bad.host.check(two())


def test_a_closed_chain_that_only_accepted_accepts_nothing() -> None:
    bad = Refusing("p-s-front-4")
    assert bad.go(two()) == {("set", "p-s-front-4"), ("chain", "web")}
    assert bad.texts("pc-web") == []
    assert real_rules(bad, "pc-no")


def test_a_member_that_is_refused_closes_its_policies() -> None:
    bad = Refusing()
    wanted = two()
    assert bad.go(wanted) == set()
    wanted.sets["bad"].add("10.1.9.9")
    bad.refuse("p-s-bad-4")
    assert bad.go(_again(wanted)) == {("set", "p-s-bad-4"), ("chain", "no")}
    assert not real_rules(bad, "pc-no")
    # A change of another policy goes through meanwhile.
    wanted.sets["front"].add("10.1.9.8")
    assert bad.go(_again(wanted)) == {("set", "p-s-bad-4"), ("chain", "no")}
    held = bad.door.read()
    assert held is not None
    assert policy_sets.packed("10.1.9.8") in held.elements["p-s-front-4"]
    bad.forgive()
    assert bad.go(_again(wanted)) == set()
    bad.host.check(wanted)


def test_a_refused_class_denies_all() -> None:
    bad = Refusing()
    real = bad.door.commit

    def commit(changes: Any) -> Any:
        # Only the real class: the closed one is small.
        bad.door.forgive()
        for change in changes:
            made = change.chain if isinstance(change, nft.AddRules) else None
            if made is not None and made.name == "pk-k1" and len(made.rules) > 1:
                bad.refuse("pk-k1")
        return real(changes)

    bad.door.commit = commit  # type: ignore[method-assign]
    assert bad.go(two()) == {("class", "k1")}
    (only,) = bad.texts("pk-k1")
    assert " drop" in only
    bad.door.commit = real  # type: ignore[method-assign]
    bad.forgive()
    assert bad.go(two()) == set()
    bad.host.check(two())


def test_a_policy_that_passes_is_closed_in_its_classes() -> None:
    wanted = STATES["a tier that is passed"]()
    constants = policy_rules.class_chains(
        "k4", wanted.classes["k4"], wanted.chains, log=True
    ).constants
    bad = Refusing(constants[0].set.name)
    failed = bad.go(wanted)
    assert failed == {("class", "k4"), ("chain", "pass")}
    assert bad.texts("pc-pass") == [
        'counter name "r2" log prefix "r2.id" group 28780 snaplen 96 drop comment "deny"'
    ]
    assert 'jump pc-pass comment "policy"' in bad.texts("pk-k4")
    assert real_rules(bad, "pc-web")
    bad.forgive()
    assert bad.go(wanted) == set()
    assert bad.go(_again(wanted)) == set()
    bad.host.check(wanted)


def test_a_refused_address_is_told_and_nothing_else_is_touched() -> None:
    bad = Refusing("pi4")
    assert bad.go(two()) == {("dispatch", A2)}
    assert real_rules(bad, "pc-web")


def test_a_table_made_anew_has_its_policies_and_its_open_domains() -> None:
    kernel = FakeNetfilter()
    host = Host(FakeNft(kernel))
    wanted = STATES["all that a rule can say"]()
    host.go(wanted)
    declared = policy_sets.domain_set("dom", 4)
    left = nft.AddTimed(declared, ((policy_sets.packed("192.0.2.1"), None),), 60_000)
    assert not host.door.commit([left])
    # A set of another type, as another version of Plait could have made it.
    kernel.tables["plait"].sets["vteps4"] = nft.Set("vteps4", (k.IPV6,))
    host.table.observe(force=True)
    state = HostState(filter=FILTER, policy=wanted)
    (op,) = host.base.plan(state)
    kernel.now += 1000
    assert host.base.apply([op]) == ()
    assert len(host.door.commits[-1]) > 20  # type: ignore[attr-defined]
    # One transaction later all of it is there.
    assert host.policy.plan(state) == ()
    assert host.door.live(declared.name) == {policy_sets.packed("192.0.2.1"): 59_000}
    assert set(host.table.endpoints) == set(FILTER.endpoints)


def test_a_table_that_is_refused_with_its_policies_opens_nobody_who_has_some() -> None:
    kernel = FakeNetfilter()
    door = FakeNft(kernel)
    host = Host(door)
    wanted = STATES["one policy"]()
    host.go(wanted)
    kernel.tables["plait"].sets["vteps4"] = nft.Set("vteps4", (k.IPV6,))
    host.table.observe(force=True)
    door.fail(errno.ENOMEM, names("p-s-front-4"), times=1000)
    state = HostState(filter=FILTER, policy=wanted)
    assert len(host.base.apply(host.base.plan(state))) == 1
    assert host.base.apply(host.base.plan(state)) == ()
    # A2 has policies; A1 has none.
    assert set(host.table.endpoints) == {"pl1"}
    door.forgive()
    assert host.policy.apply(host.policy.plan(state)) == ()
    host.go(wanted)
    host.check(wanted)


@pytest.mark.root
def test_nft_lists_it_and_takes_it_back(doors: Doors) -> None:
    fd = netns.create()
    with netns.inside(fd):
        door = Nft()
        host = Host(door)
        for name in STATES:
            host.go(STATES[name]())
            listed = subprocess.run(
                ["nft", "list", "table", "inet", "plait"],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            assert "p-s" in listed or not STATES[name]().sets
        door.close()
    os.close(fd)
    # Elsewhere, where nobody owns the table.
    fd = netns.create()
    with netns.inside(fd):
        text = listed.replace("flags owner,persist", "").replace("# progname", "#")
        subprocess.run(["nft", "-f", "-"], input=text, check=True, text=True)
    os.close(fd)
