"""An answer in words, and as data: what decided about a flow, step by step, and what to change."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from plait.model.flows import REASONS, rule_text
from plait.model.objects import Endpoint
from plait.model.policies import Policy, Port
from plait.policy.evaluate import PolicyTrace, RuleTrace, Side, TierTrace, Verdict
from plait.policy.evaluate_rule import broken
from plait.policy.flow import Flow, port_text
from plait.policy.remedies import Step, steps
from plait.policy.words import joined, origin_words, peers_words, ports_words, rule_words
from plait.policy.world import Party, World

_DECIDED: Final = {
    "default": REASONS["none"],
    "guard": REASONS["guard"],
    "dns": "DNS and neighbour discovery always reach the host",
    "echo": "an endpoint may ping its host",
    "pod": "a pod may talk to its host, unless a policy denies it",
    "host": "endpoints may not talk to hosts, unless a policy accepts it",
}
SHOWN: Final = 6
"""Rules of a policy, and policies of a tier, that are told though they did not match."""
_OUTCOMES: Final = {
    "accept": "accepted",
    "deny": "denied",
    "pass": "passed on to the next tier",
    "isolated": "denied: no rule accepts it, and the endpoint is closed by",
    "none": "no rule matches",
}


def headline(verdict: Verdict) -> str:
    """`shop/front -> shop/api 80/tcp: denied by policy api (ingress)`."""
    return f"{flow_words(verdict.flow)}: {answer(verdict)}"


def answer(verdict: Verdict) -> str:
    """`allowed`, or `denied by …` in a few words."""
    if verdict.depends:
        return f"denied, unless {verdict.flow.dst} is an address of {joined(verdict.depends, 'or')}"
    if verdict.allowed:
        return "allowed"
    if not verdict.way.allowed:
        return f"denied by the network: {verdict.way.text}"
    side = verdict.egress if not verdict.egress.allowed else verdict.ingress
    return f"denied by {cause(side)}" if side.by else f"denied: {cause(side)}"


def cause(side: Side) -> str:
    """What decided on a side: `policy api (ingress rule 2 "no front")`, or why no policy did."""
    if side.by is None:
        return _DECIDED.get(side.decided, "nothing")
    name = side.by.policy.metadata.name
    rule = side.rule
    if rule is None:
        return f"policy {name}, which closes {side.direction} ({_own(side)})"
    return f"policy {name} ({rule_text(side.direction, rule.position, rule.rule.name)})"


def flow_words(flow: Flow) -> str:
    """`shop/front (10.9.0.2) -> shop/api (10.9.0.3) 80/tcp`."""
    return f"{party_words(flow.src)} -> {party_words(flow.dst)} {port_text(flow)}"


def party_words(party: Party) -> str:
    """`shop/front (10.9.0.2)`."""
    text = str(party)
    return text if not party.address or text == party.address else f"{text} ({party.address})"


# In words


def text(world: World, verdict: Verdict, *, whole: bool = False) -> str:
    """The answer for people: one line a policy and a rule.

    `whole` tells of every policy and rule that was asked; else of no more than `SHOWN` that did
    not match in one place.
    """
    lines = [headline(verdict), "", f"network: {_network(verdict)}"]
    for side in (verdict.egress, verdict.ingress):
        lines += ["", *_side(world, side, whole)]
    lines += _staged(verdict)
    changes = steps(world, verdict)
    if changes:
        other = "deny" if verdict.allowed else "allow"
        together = ", all of these" if len(changes) > 1 else ""
        lines += ["", f"to {other} it{together}:", *(f"  {line}" for line in _changes(changes))]
    return "\n".join(lines)


def _network(verdict: Verdict) -> str:
    return f"{'allowed' if verdict.way.allowed else 'DENIED'}: {verdict.way.text}"


def _side(world: World, side: Side, whole: bool) -> Iterator[str]:
    who = f"{side.direction} of {_own(side)}"
    if side.decided == "not asked":
        yield f"{who}: no policy is asked"
        return
    yield f"{who}: {'allowed' if side.allowed else 'DENIED'}, {cause(side)}"
    for name in side.depends:
        yield f"  allowed if the address is one of {name}: ask with the name instead"
    for tier in side.tiers:
        yield f"  tier {tier.tier}: {_outcome(tier)}"
        idle = [p for p in tier.policies if p.matched is None and not p.isolates]
        left = set(map(id, [] if whole else idle[SHOWN:]))
        for policy in tier.policies:
            if id(policy) not in left:
                yield from _policy(world, side, policy, whole)
        if left:
            yield f"    {len(left)} more policies do not match; --all shows them"


def _outcome(tier: TierTrace) -> str:
    words = _OUTCOMES[tier.outcome]
    if tier.outcome != "isolated":
        return words
    closing = (
        p.policy.metadata.name for p in tier.policies if p.isolates and not p.policy.spec.staged
    )
    return f"{words} {joined(closing)}"


def _policy(world: World, side: Side, trace: PolicyTrace, whole: bool) -> Iterator[str]:
    policy = trace.policy
    notes = [f"priority {policy.spec.priority}"]
    if policy.spec.origin is not None:
        notes.append(origin_words(policy.spec.origin))
    if policy.spec.staged:
        notes.append("staged: counts, decides nothing")
    if trace.isolates:
        notes.append(f"closes {side.direction}")
    yield f"    policy {policy.metadata.name} ({', '.join(notes)})"
    others = len(trace.rules) - (trace.matched is not None)
    brief = not whole and others > SHOWN
    if brief:
        yield f"      - {others} rules do not match; --all shows them"
    for rule in trace.rules:
        if brief and rule is not trace.matched:
            continue
        mark = "*" if rule is trace.matched else "-"
        name = f' "{rule.rule.name}"' if rule.rule.name else ""
        words = rule_words(rule.rule, side.direction)
        yield f"      {mark} {rule.position + 1}{name} {words}: {reason(world, side, rule)}"
    if not trace.rules:
        yield f"      it has no {side.direction} rule"


def reason(world: World, side: Side, trace: RuleTrace) -> str:
    """Why a rule matched or did not."""
    rule, flow = trace.rule, side.flow
    other = flow.src if side.direction == "ingress" else flow.dst
    match trace.match:
        case "matches":
            return "matches"
        case "peer":
            return f"{party_words(other)} is not {peers_words(rule.peers)}"
        case "port":
            return _no_port(world, flow, rule.ports or ())
        case "depends":
            names = [name for peer in rule.peers or () for name in peer.domains]
            return f"matches if {other} is an address of {joined(names, 'or')}"
        case "broken":
            effect = "so it denies everything" if rule.action == "Deny" else "so it matches nothing"
            return f"{broken(world, rule, side.direction)}, {effect}"


def _no_port(world: World, flow: Flow, ports: tuple[Port, ...]) -> str:
    found = f"{port_text(flow)} is not {ports_words(ports)}"
    named = [port.port for port in ports if isinstance(port.port, str)]
    if not named:
        return found
    having = {
        f"{p.name} is {p.port}/{p.protocol}"
        for endpoint in world.at.get(flow.dst.address, ())
        for p in endpoint.spec.named_ports
        if p.name in named
    }
    return f"{found}; of {flow.dst} {joined(sorted(having)) if having else 'no port is named so'}"


def _staged(verdict: Verdict) -> Iterator[str]:
    for side in (verdict.egress, verdict.ingress):
        if side.staged is None or side.staged == side.allowed:
            continue
        names = [
            trace.policy.metadata.name
            for tier in side.tiers
            for trace in tier.policies
            if trace.policy.spec.staged
        ]
        would = "allowed" if side.staged else "denied"
        yield ""
        yield f"{side.direction} would be {would} if what is staged were enforced:"
        yield from (f"  plait policy enforce {name}" for name in names)


def _changes(changes: tuple[Step, ...]) -> Iterator[str]:
    for step in changes:
        yield step.text
        if step.command:
            yield f"  {step.command}"
        elif step.policy is not None:
            yield f"  echo {shlex.quote(manifest(step.policy))} | plait apply -f -"


def manifest(policy: Policy) -> str:
    """The policy on one line, ready for `plait apply -f`."""
    return msgspec.json.encode(policy).decode()


def _own(side: Side) -> str:
    return str(side.flow.dst if side.direction == "ingress" else side.flow.src)


# As data


def as_data(world: World, verdict: Verdict) -> dict[str, Any]:
    """All of it, for programs. Rules are counted from 0, as everywhere in the API."""
    flow = verdict.flow
    return {
        "src": _party(flow.src),
        "dst": _party(flow.dst),
        "port": port_text(flow),
        "allowed": verdict.allowed,
        "answer": answer(verdict),
        "depends": list(verdict.depends),
        "network": {
            "allowed": verdict.way.allowed,
            "kind": verdict.way.kind,
            "text": verdict.way.text,
        },
        "egress": _side_data(world, verdict.egress),
        "ingress": _side_data(world, verdict.ingress),
        "change": [
            {"text": s.text, "command": s.command, "policy": s.policy}
            for s in steps(world, verdict)
        ],
    }


def _party(party: Party) -> dict[str, str]:
    found = {"text": str(party), "address": party.address}
    if isinstance(party.endpoint, Endpoint):
        meta = party.endpoint.metadata
        found |= {"namespace": meta.namespace, "endpoint": meta.name}
    if party.node is not None:
        found["node"] = party.node.metadata.name
    if party.domain:
        found["domain"] = party.domain
    return found


def _side_data(world: World, side: Side) -> dict[str, Any]:
    rule = side.rule
    return {
        "allowed": side.allowed,
        "decided": side.decided,
        "policy": side.by.policy.metadata.name if side.by else "",
        "tier": side.by.policy.spec.tier if side.by else "",
        "rule": rule.rule.name if rule else "",
        "index": rule.position if rule else -1,
        "reject": side.reject,
        "staged": side.staged,
        "port": port_text(side.flow),
        "tiers": [
            {
                "tier": tier.tier,
                "outcome": tier.outcome,
                "policies": [_policy_data(world, side, trace) for trace in tier.policies],
            }
            for tier in side.tiers
        ],
    }


def _policy_data(world: World, side: Side, trace: PolicyTrace) -> dict[str, Any]:
    spec = trace.policy.spec
    return {
        "policy": trace.policy.metadata.name,
        "priority": spec.priority,
        "staged": spec.staged,
        "isolates": trace.isolates,
        "origin": spec.origin,
        "rules": [
            {
                "index": rule.position,
                "name": rule.rule.name,
                "action": rule.rule.action,
                "matches": rule is trace.matched,
                "why": reason(world, side, rule),
            }
            for rule in trace.rules
        ],
    }
