"""What whoever has just allowed or denied something should know.

A policy is one of many: what it opens may stay closed at the other side or by a policy that
decides before it, and what it names may not be there yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from plait.model.objects import Endpoint
from plait.model.policies import DIRECTIONS, Direction, Peer, Policy, Rule
from plait.policy.evaluate import Side, Verdict, evaluate
from plait.policy.evaluate_rule import peer_matches
from plait.policy.questions import UNNAMED_PORTS, PortAsked, asked_of, pairs
from plait.policy.words import peer_words, subject_words
from plait.policy.world import World

MAX_PAIRS: Final = 500
"""Pairs of endpoints that are asked about; the rest would say the same."""
MAX_TOLD: Final = 6
"""Pairs that are named each."""


class Effect(NamedTuple):
    """One sentence, whether it warns, and what mends it."""

    text: str
    warns: bool = False
    fix: tuple[str, ...] = ()
    other_side: bool = False
    """Mended by opening the other side too."""


def selected(world: World, policy: Policy) -> list[Endpoint]:
    """The endpoints that a policy rules."""
    return [e for e in world.endpoints if world.rules_over(policy.spec.subject, e)]


def isolated(world: World, endpoint: Endpoint, direction: Direction) -> bool:
    """Whether an enforced policy closes an endpoint but for what is accepted."""
    return any(
        policy.spec.isolates(direction) and not policy.spec.staged
        for _, policies in world.applicable(endpoint, direction)
        for policy in policies
    )


def still_staged(world: World, enforced: Sequence[Policy]) -> tuple[Policy, ...]:
    """Staged policies that accept something in a direction that these close, of an endpoint of
    both: what they accept is denied while they decide nothing."""
    closed = {
        (direction, endpoint.key)
        for policy in enforced
        for direction in DIRECTIONS
        if policy.spec.isolates(direction)
        for endpoint in selected(world, policy)
    }
    return tuple(
        policy
        for policy in world.policies
        if policy.spec.staged
        and any(
            (direction, endpoint.key) in closed
            for direction in DIRECTIONS
            if any(rule.action == "Accept" for rule in policy.spec.rules(direction))
            for endpoint in selected(world, policy)
        )
    )


def effects(before: World, after: World, policy: Policy) -> list[Effect]:
    """What to know of a policy that was written, of whom both worlds are otherwise the same."""
    found = []
    ruled = selected(after, policy)
    missing = [] if ruled else [subject_words(policy.spec.subject)]
    missing += (
        peer_words(peer)
        for direction in DIRECTIONS
        for rule in policy.spec.rules(direction)
        for peer in rule.peers or ()
        if (peer.endpoints is not None or peer.namespaces is not None)
        and not any(_is_peer(after, (peer,), endpoint) for endpoint in after.endpoints)
    )
    for text in dict.fromkeys(missing):
        text = f"no endpoint is meant yet by {text}: the policy waits for it"
        found.append(Effect(text, warns=True, fix=("plait ps",)))
    if policy.spec.staged:
        text = "it is staged: it counts what it would do and does nothing"
        fix = (f"plait policy enforce {policy.metadata.name}",)
        return [*found, Effect(text, fix=fix)]
    against: dict[Effect, None] = {}
    for direction in DIRECTIONS:
        found += _closing(before, after, policy, direction, ruled)
        for rule in policy.spec.rules(direction):
            against.update(dict.fromkeys(_contradictions(after, policy, rule, direction, ruled)))
    found += islice(against, MAX_TOLD)
    if len(against) > MAX_TOLD:
        text = f"so it is with {len(against) - MAX_TOLD} more pairs"
        found.append(Effect(text, warns=True, fix=("plait why SRC DST PORT",)))
    return found


def _closing(
    before: World, after: World, policy: Policy, direction: Direction, ruled: list[Endpoint]
) -> Iterator[Effect]:
    closed = [
        e for e in ruled if isolated(after, e, direction) and not isolated(before, e, direction)
    ]
    if not closed:
        return
    what = "accept" if direction == "ingress" else "send"
    count = f"{len(closed)} endpoint{'s' if len(closed) > 1 else ''}"
    yield Effect(
        f"{subject_words(policy.spec.subject)} ({count}) could {what} anything before; "
        f"from now on nothing but what policies allow"
    )


def _contradictions(
    world: World, policy: Policy, rule: Rule, direction: Direction, ruled: list[Endpoint]
) -> Iterator[Effect]:
    """What a rule says and does not come true, and by what."""
    wanted = rule.action == "Accept"
    for verdict in islice(_verdicts(world, rule, direction, ruled), MAX_PAIRS):
        if verdict.allowed == wanted or verdict.depends:
            continue
        flow = f"{verdict.flow.src} to {verdict.flow.dst}"
        if not verdict.way.allowed:
            yield Effect(f"{flow} stays closed: {verdict.way.text}", warns=True)
            continue
        for side in (verdict.egress, verdict.ingress):
            yield from _contradiction(side, policy, direction, flow, wanted=wanted)


def _contradiction(
    side: Side, policy: Policy, direction: Direction, flow: str, *, wanted: bool
) -> Iterator[Effect]:
    if side.allowed == wanted or (side.by is not None and side.by.policy == policy):
        return
    if side.by is None:
        if wanted:
            yield Effect(f"{flow} stays closed: the receiver is not known yet", warns=True)
        return
    name = side.by.policy.metadata.name
    if not wanted:
        if side.direction == direction:
            text = f"{flow} stays open: policy {name} accepts it first"
            yield Effect(text, warns=True, fix=(f"plait policy show {name}",))
    elif side.decided == "isolation" and side.direction != direction:
        what = "sender" if side.direction == "egress" else "receiver"
        text = f"{flow} stays closed: policy {name} closes the {what}'s {side.direction}"
        yield Effect(text, warns=True, other_side=True)
    else:
        text = f"{flow} stays closed: policy {name} denies it"
        fix = (f"plait policy show {name}", f"plait policy rm {name}")
        yield Effect(text, warns=True, fix=fix)


def _verdicts(
    world: World, rule: Rule, direction: Direction, ruled: list[Endpoint]
) -> Iterator[Verdict]:
    if rule.peers is None:
        return
    others = [e for e in world.endpoints if _is_peer(world, rule.peers, e)]
    ports = [asked for port in rule.ports or () for asked in asked_of(port)]
    if rule.ports is None:
        ports = [PortAsked("any", "TCP", UNNAMED_PORTS[0])]
    for one in ruled:
        for other in others:
            if one is other:
                continue
            src, dst = (other, one) if direction == "ingress" else (one, other)
            for here, there in pairs(world, src, dst):
                for port in ports:
                    for flow in port.flows(world, here, there):
                        yield evaluate(world, flow)


def _is_peer(world: World, peers: tuple[Peer, ...], endpoint: Endpoint) -> bool:
    return any(
        peer_matches(world, peer, party)
        for peer in peers
        if not peer.domains
        for party in world.parties(endpoint)
    )
