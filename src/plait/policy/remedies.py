"""What would have to change for a flow to be allowed, or to be denied: found by trying.

Each step is the narrowest there is: an ordinary policy for just this flow, or, where a rule
decides before any such policy could, that rule. What is told was evaluated: with all steps made,
the answer is the other one.
"""

from __future__ import annotations

import shlex
from itertools import chain, count
from typing import Final, NamedTuple

import msgspec

from plait.model.errors import PlaitError
from plait.model.flows import rule_text
from plait.model.policies import DIRECTIONS, Direction, Policy, Port
from plait.policy.evaluate import Side, Verdict, evaluate
from plait.policy.flow import Flow, port_text
from plait.policy.portspec import parse_port
from plait.policy.reference import Reference
from plait.policy.verbs import Verb, rule_policy
from plait.policy.world import Party, World

MAX_STEPS: Final = 8
"""Rules in the way of one flow that are looked for."""

SENDER: Final = "--egress"
"""Option of `plait allow` that opens the sender's egress alone and closes nobody."""

_WAYS: Final = {
    "another network": "publish the port on the receiver's host, or attach both to one network",
    "internal": "attach the endpoint to a network that is not internal as well",
    "from outside": "publish the port on the receiver's host",
    "no common family": "give both an address of one family",
}
"""What mends a refusal of the networks, which no policy can."""


class Step(NamedTuple):
    """One thing to change."""

    text: str
    command: str = ""
    """That does it, or that shows the policy to edit."""
    policy: Policy | None = None
    """That does it, where no command makes just that."""


def steps(world: World, verdict: Verdict) -> tuple[Step, ...]:
    """What to change for the other answer; nothing where none is known."""
    if not verdict.way.allowed:
        return (Step(_WAYS[verdict.way.kind]), *_beside(verdict))
    if verdict.depends:
        return ()
    return _deny(world, verdict) if verdict.allowed else _allow(world, verdict)


def _beside(verdict: Verdict) -> tuple[Step, ...]:
    """What policies would refuse still, were the networks to let the flow through."""
    closed = [side for side in (verdict.egress, verdict.ingress) if not side.allowed]
    names = dict.fromkeys(side.by.policy.metadata.name for side in closed if side.by is not None)
    return tuple(
        Step(
            f"change policy {name}, which denies it as well",
            f"plait policy show {shlex.quote(name)}",
        )
        for name in names
    )


# To allow


def _allow(world: World, verdict: Verdict) -> tuple[Step, ...]:
    found: list[Step] = []
    flow = verdict.flow
    opened: list[Direction] = []
    for _ in range(MAX_STEPS):
        if verdict.allowed:
            return _told(found, verdict.flow, opened)
        side = verdict.egress if not verdict.egress.allowed else verdict.ingress
        if side.decided == "guard":
            other = side.flow.src if side.direction == "ingress" else side.flow.dst
            return (Step(f"{other.address} is nobody's that is known: attach its endpoint"),)
        opening = _for(world, "allow", side, isolate=False)
        if opening is not None:
            tried = _with(world, opening)
            after = evaluate(tried, flow)
            if _of(after, side.direction).allowed:
                closed = side.decided == "isolation"
                found.append(_opened(side, opening, by_verb=closed))
                opened.append(side.direction)
                world, verdict = tried, after
                continue
        step, world = _edited(world, side)
        if step is None:
            return ()
        found.append(step)
        verdict = evaluate(world, flow)
    return ()


def _opened(side: Side, policy: Policy, *, by_verb: bool) -> Step:
    src, dst = _reference(side.flow.src), _reference(side.flow.dst)
    assert src is not None
    assert dst is not None
    text = f"let {src} talk to {dst} on {port_text(side.flow)} ({side.direction} of {_own(side)})"
    # The verb writes the receiver's rules, and the sender's where the receiver has none. It also
    # closes whom it opens, which changes nothing only where that is closed.
    if by_verb and (side.direction == "ingress" or not dst.is_subject):
        return Step(text, _command("allow", side.flow), policy)
    if side.direction == "egress":
        return Step(text, f"{_command('allow', side.flow)} {SENDER}", policy)
    return Step(text, policy=policy)


def _told(found: list[Step], flow: Flow, opened: list[Direction]) -> tuple[Step, ...]:
    """The steps; one command where the verb opens both sides at once."""
    other = next((step for step in found if step.command.endswith(SENDER)), None)
    opening = (step for step in found if step.command.startswith("plait allow"))
    verb = next((step for step in opening if step is not other), None)
    if verb is None or other is None or set(opened) != {"ingress", "egress"}:
        return tuple(found)
    if flow.src.endpoint is None or flow.dst.endpoint is None:
        return tuple(found)
    joint = Step(f"{other.text}, and {verb.text}", f"{verb.command} --both-sides")
    return (*(step for step in found if step not in (verb, other)), joint)


# To deny


def _deny(world: World, verdict: Verdict) -> tuple[Step, ...]:
    found: list[Step] = []
    flow = verdict.flow
    for _ in range(MAX_STEPS):
        sides = [s for s in (verdict.ingress, verdict.egress) if s.decided != "not asked"]
        if not sides:
            return ()
        side = sides[0]
        closing = _for(world, "deny", side, isolate=True)
        if closing is not None:
            after = evaluate(_with(world, closing), flow)
            if not after.allowed:
                text = f"keep {side.flow.src} from {side.flow.dst} on {port_text(side.flow)}"
                return (*found, Step(text, _command("deny", side.flow), closing))
        step, world = _edited(world, side)
        if step is None:
            return ()
        found.append(step)
        verdict = evaluate(world, flow)
        if not verdict.allowed:
            return tuple(found)
    return ()


# Steps


def _edited(world: World, side: Side) -> tuple[Step | None, World]:
    """The rule that decided to be changed, and the world without it."""
    rule = side.rule
    if rule is None or side.by is None:
        return None, world
    policy = side.by.policy
    name = policy.metadata.name
    text = rule_text(side.direction, rule.position, rule.rule.name)
    verb = "denies" if rule.rule.action == "Deny" else "accepts"
    rules = tuple(
        other
        for position, other in enumerate(policy.spec.rules(side.direction))
        if position != rule.position
    )
    # What a policy isolates follows from its rules unless it is said: it stays what it was.
    isolate = policy.spec.isolate
    if policy.spec.tier == "application":
        isolate = tuple(d for d in DIRECTIONS if policy.spec.isolates(d))
    spec = msgspec.structs.replace(policy.spec, isolate=isolate, **{side.direction: rules})
    edited = msgspec.structs.replace(policy, spec=spec)
    origin = policy.spec.origin
    of = f", made of {origin.kind} {_place(origin.namespace, origin.name)}" if origin else ""
    return (
        Step(
            f"change {text} of policy {name}{of}, which {verb} it in tier {policy.spec.tier}",
            f"plait policy show {shlex.quote(name)}",
        ),
        _with(world, edited),
    )


def _place(namespace: str, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name


def _with(world: World, policy: Policy) -> World:
    """The world with this policy, in the place of the one that has its name."""
    name = policy.metadata.name
    rest = (p for p in world.policies if p.metadata.name != name)
    return World.of(
        chain(
            world.endpoints,
            world.namespaces.values(),
            world.nodes.values(),
            world.networks.values(),
            world.groups.values(),
            rest,
            (policy,),
        )
    )


def _for(world: World, verb: Verb, side: Side, *, isolate: bool) -> Policy | None:
    """What the verb writes for just this flow on this side, under a name that is free."""
    src, dst = _reference(side.flow.src), _reference(side.flow.dst)
    ports = _ports(side.flow)
    if src is None or dst is None or ports is None or side.endpoint is None:
        return None
    # An endpoint without a name can be a peer, by its address, and not a subject.
    if not (dst if side.direction == "ingress" else src).is_subject:
        return None
    try:
        made = rule_policy(verb, dst, src, ports, direction=side.direction, isolate=isolate)
    except PlaitError:
        return None
    taken = {policy.metadata.name for policy in world.policies}
    wanted = made.metadata.name
    tries = chain((wanted,), (f"{wanted}.{i}" for i in count(2)))
    name = next(name for name in tries if name not in taken)
    return msgspec.structs.replace(made, metadata=msgspec.structs.replace(made.metadata, name=name))


def _reference(party: Party) -> Reference | None:
    """How a verb names a party: as narrow as it can."""
    if party.endpoint is not None:
        if party.endpoint.spec.name:
            return Reference(
                "endpoints", party.endpoint.spec.name, party.endpoint.metadata.namespace
            )
    elif party.node is not None:
        return Reference("node", party.node.metadata.name)
    elif party.domain:
        return Reference("domain", party.domain)
    if not party.address:
        return None
    return Reference("cidr", f"{party.address}/{128 if ':' in party.address else 32}")


def _ports(flow: Flow) -> tuple[Port, ...] | None:
    """The flow's port as a policy says it; none where policies cannot name the protocol."""
    text = _port_word(flow)
    if not text:
        return ()
    try:
        return (parse_port(text),)
    except PlaitError:
        return None


def _port_word(flow: Flow) -> str:
    if flow.protocol in {"ICMP", "ICMPv6"}:
        code = f"/{flow.icmp_code}" if flow.icmp_code > 0 else ""
        return f"{flow.protocol.lower()}/{flow.icmp_type}{code}" if flow.icmp_type >= 0 else ""
    return f"{flow.port}/{flow.protocol.lower()}" if flow.port else ""


def _command(verb: Verb, flow: Flow) -> str:
    src, dst, port = _reference(flow.src), _reference(flow.dst), _port_word(flow)
    words = ["plait", verb, str(dst), "--from", str(src)]
    return shlex.join(words + (["--port", port] if port else []))


def _of(verdict: Verdict, direction: Direction) -> Side:
    return verdict.ingress if direction == "ingress" else verdict.egress


def _own(side: Side) -> Party:
    return side.flow.dst if side.direction == "ingress" else side.flow.src
