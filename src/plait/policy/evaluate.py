"""What becomes of a flow, and why: the answer from the objects alone.

Written from the meaning of the objects (`plait.model.policies`), independently of the compiler,
so that the two check each other.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from plait.model.objects import Endpoint
from plait.model.policies import Direction, Policy, Rule, TierName
from plait.policy import reach
from plait.policy.evaluate_rule import InDomain, Match, decides, rule_matches
from plait.policy.flow import Flow
from plait.policy.world import World

Decided = Literal[
    "rule", "isolation", "default", "guard", "dns", "echo", "pod", "host", "not asked"
]
"""What decided on one side. `default`: no policy did. `guard`: the other side's address is in a
pool of ours and nobody's that is known, and a rule that denies or passes could mean it. `dns`,
`echo`, `pod`, `host`: an endpoint to its own host. `not asked`: this side has no policies to
ask."""

Outcome = Literal["accept", "deny", "pass", "isolated", "none"]


class RuleTrace(NamedTuple):
    """One rule that was looked at."""

    position: int
    """From 0, among the rules of the policy's direction."""
    rule: Rule
    match: Match


class PolicyTrace(NamedTuple):
    """One policy that was asked."""

    policy: Policy
    rules: tuple[RuleTrace, ...]
    """Up to the one that matched; a policy with none only isolates."""
    matched: RuleTrace | None
    isolates: bool
    depends: tuple[str, ...] = ()
    """Names that a rule would match by, if the receiver's address is one of theirs."""


class TierTrace(NamedTuple):
    """One tier that was reached."""

    tier: TierName
    policies: tuple[PolicyTrace, ...]
    outcome: Outcome


class Side(NamedTuple):
    """What one side's policies said."""

    direction: Direction
    flow: Flow
    """As this side sees it: a published port is followed."""
    endpoint: Endpoint | None
    allowed: bool
    decided: Decided
    tiers: tuple[TierTrace, ...] = ()
    by: PolicyTrace | None = None
    """The policy that decided, by a rule or by isolating."""
    staged: bool | None = None
    """Whether it would be allowed if staged policies were enforced; None: none has a say."""
    depends: tuple[str, ...] = ()
    """Names outside the network: refused, unless the receiver's address is one of theirs."""

    @property
    def rule(self) -> RuleTrace | None:
        """The rule that decided."""
        return self.by.matched if self.by is not None and self.decided == "rule" else None

    @property
    def reject(self) -> bool:
        """Whether the sender is told, instead of waiting in vain."""
        rule = self.rule
        return not self.allowed and rule is not None and rule.rule.reject


class Verdict(NamedTuple):
    """What becomes of a flow."""

    flow: Flow
    way: reach.Way
    egress: Side
    ingress: Side

    @property
    def allowed(self) -> bool:
        """Whether it passes: the networks and both sides must agree."""
        return self.way.allowed and self.egress.allowed and self.ingress.allowed

    @property
    def depends(self) -> tuple[str, ...]:
        """Names that it would pass by, if the receiver's address is one of theirs."""
        passes = self.way.allowed and self.ingress.allowed
        return self.egress.depends if passes else ()


def evaluate(world: World, flow: Flow, in_domain: InDomain | None = None) -> Verdict:
    """What becomes of a flow in this world.

    `in_domain` tells which addresses the resolver found for names; without it an address that a
    name may stand for is taken as not named, and the verdict says what it depends on.
    """
    way = reach.way(world, flow)
    if way.kind == "to host":
        assert way.egress is not None
        egress = _to_host(world, way.egress, in_domain)
    else:
        egress = judge(world, "egress", way.egress or flow, in_domain, asked=bool(way.egress))
    ingress = judge(world, "ingress", way.ingress or flow, in_domain, asked=bool(way.ingress))
    return Verdict(flow, way, egress, ingress)


def judge(
    world: World,
    direction: Direction,
    flow: Flow,
    in_domain: InDomain | None = None,
    *,
    asked: bool = True,
) -> Side:
    """What the policies of one side say, whatever the networks allow."""
    subject = flow.src.endpoint if direction == "egress" else flow.dst.endpoint
    if subject is None or not asked:
        return Side(direction, flow, subject, True, "not asked")
    side = _walk(world, direction, flow, subject, in_domain, enforce=False)
    if _has_staged(world, direction, subject):
        enforced = _walk(world, direction, flow, subject, in_domain, enforce=True)
        return side._replace(staged=enforced.allowed)
    return side


def _walk(
    world: World,
    direction: Direction,
    flow: Flow,
    subject: Endpoint,
    in_domain: InDomain | None,
    *,
    enforce: bool,
) -> Side:
    """Tier by tier, policy by policy, rule by rule. `enforce`: as if nothing were staged."""
    if _guarded(world, direction, flow, subject, enforce=enforce):
        return Side(direction, flow, subject, False, "guard")
    tiers: list[TierTrace] = []
    depends: list[str] = []
    for tier, policies in world.applicable(subject, direction):
        traces: list[PolicyTrace] = []
        isolating: PolicyTrace | None = None
        outcome: Outcome = "none"
        by: PolicyTrace | None = None
        for policy in policies:
            trace = _ask(world, policy, direction, flow, in_domain)
            traces.append(trace)
            if policy.spec.staged and not enforce:
                continue
            if trace.matched is not None:
                action = trace.matched.rule.action
                outcome = "accept" if action == "Accept" else "deny" if action == "Deny" else "pass"
                by = trace
                break
            if trace.isolates and isolating is None:
                isolating = trace
            depends += trace.depends
        if by is None and isolating is not None:
            outcome, by = "isolated", isolating
        tiers.append(TierTrace(tier, tuple(traces), outcome))
        if outcome in {"accept", "deny", "isolated"}:
            allowed = outcome == "accept"
            decided: Decided = "isolation" if outcome == "isolated" else "rule"
            named = () if allowed else tuple(dict.fromkeys(depends))
            return Side(direction, flow, subject, allowed, decided, tuple(tiers), by, depends=named)
    return Side(direction, flow, subject, True, "default", tuple(tiers))


def _ask(
    world: World, policy: Policy, direction: Direction, flow: Flow, in_domain: InDomain | None
) -> PolicyTrace:
    seen: list[RuleTrace] = []
    names: list[str] = []
    matched: RuleTrace | None = None
    for position, rule in enumerate(policy.spec.rules(direction)):
        match = rule_matches(world, rule, direction, flow, in_domain)
        trace = RuleTrace(position, rule, match)
        seen.append(trace)
        if decides(match, rule):
            matched = trace
            break
        if match == "depends":
            names += [name for peer in rule.peers or () for name in peer.domains]
    return PolicyTrace(policy, tuple(seen), matched, policy.spec.isolates(direction), tuple(names))


def _has_staged(world: World, direction: Direction, subject: Endpoint) -> bool:
    return any(
        policy.spec.staged
        for _, policies in world.applicable(subject, direction)
        for policy in policies
    )


# An address of ours that is nobody's


def _guarded(
    world: World, direction: Direction, flow: Flow, subject: Endpoint, *, enforce: bool
) -> bool:
    """Whether the other side may be an endpoint that is not known yet, and that matters."""
    other = flow.src if direction == "ingress" else flow.dst
    if not other.address or other.address in world.at or world.network_at(other.address) is None:
        return False
    return any(
        rule.action != "Accept" and _names_endpoints(world, rule, direction)
        for _, policies in world.applicable(subject, direction)
        for policy in policies
        if enforce or not policy.spec.staged
        for rule in policy.spec.rules(direction)
    )


def _names_endpoints(world: World, rule: Rule, direction: Direction) -> bool:
    """Whether it makes a difference to the rule which endpoint the other side is."""
    named = any(isinstance(port.port, str) for port in rule.ports or ())
    if named and direction == "egress":
        return True
    for peer in rule.peers or ():
        group = world.groups.get(peer.group) if peer.group else None
        if group is not None and not group.spec.cidrs:
            return True
        if peer.namespaces is not None or peer.endpoints is not None:
            return True
        if peer.network or peer.service is not None:
            return True
    return False


# To the own host


def _is_pod_with_a_way_out(world: World, sender: Endpoint | None) -> bool:
    if sender is None or not sender.spec.workload.pod:
        return False
    network = world.networks.get(sender.spec.network)
    return network is None or not network.spec.internal


def _to_host(world: World, flow: Flow, in_domain: InDomain | None) -> Side:
    """DNS and neighbour discovery pass; a policy may open more or close; echo, and what a pod
    sends; nothing else."""
    side = judge(world, "egress", flow, in_domain)
    if reach.is_dns(flow) or reach.is_discovery(flow):
        return side._replace(
            allowed=True, decided="dns", tiers=(), by=None, staged=None, depends=()
        )
    if side.decided != "default":
        return side
    if reach.is_echo(flow):
        return side._replace(allowed=True, decided="echo")
    if _is_pod_with_a_way_out(world, flow.src.endpoint):
        return side._replace(allowed=True, decided="pod")
    return side._replace(allowed=False, decided="host")
