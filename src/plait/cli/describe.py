"""An object as a sheet of facts, and the objects that belong to it."""

from __future__ import annotations

from typing import Any

import msgspec

from plait.cli.columns import joined, labels_text, short_age
from plait.client.base import Api
from plait.model.objects import (
    AddressBlock,
    Endpoint,
    EndpointSlice,
    Group,
    Namespace,
    Network,
    Node,
    Object,
    Policy,
    Service,
)
from plait.model.policies import DIRECTIONS
from plait.policy import words
from plait.policy.compile import groups_of, services_of
from plait.policy.world import World


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return joined([_value(item) for item in value])
    if isinstance(value, dict):
        return joined([f"{k}={_value(v)}" for k, v in value.items() if v not in ("", [], {})])
    return str(value)


def sheet(obj: Object) -> list[tuple[str, str]]:
    """Labelled values: identity first, then every field of spec and status that is set."""
    meta = obj.metadata
    pairs = [("kind", obj.kind), ("name", meta.name)]
    if meta.namespace:
        pairs.append(("namespace", meta.namespace))
    if meta.labels:
        pairs.append(("labels", labels_text(meta.labels)))
    if meta.annotations:
        pairs.append(("annotations", labels_text(meta.annotations)))
    pairs.append(("revision", str(meta.revision)))
    if meta.created_at:
        pairs.append(("age", short_age(meta.created_at)))
    if isinstance(obj, Policy):
        return [*pairs, *_policy_facts(obj)]
    wire = msgspec.to_builtins(obj)
    for part in ("spec", "status"):
        struct = getattr(obj, part, None)
        names = [f.encode_name for f in msgspec.structs.fields(struct)] if struct else []
        pairs += [
            (f"{part}.{name}", _value(wire[part][name]))
            for name in names
            if name in wire.get(part, {})
        ]
    return pairs


def _policy_facts(policy: Policy) -> list[tuple[str, str]]:
    """A policy in words: as data, its rules are beyond a line."""
    spec = policy.spec
    pairs = [
        ("tier", f"{spec.tier}, priority {spec.priority}"),
        ("subject", words.subject_words(spec.subject)),
    ]
    for direction in DIRECTIONS:
        for i, rule in enumerate(spec.rules(direction), 1):
            called = f"{rule.name}: " if rule.name else ""
            pairs.append((f"{direction} {i}", called + words.rule_words(rule, direction)))
    pairs.append(("isolates", words.isolation_words(policy)))
    pairs.append(("staged", _value(spec.staged)))
    if spec.origin is not None:
        pairs.append(("made of", words.origin_words(spec.origin)))
    if spec.description:
        pairs.append(("description", spec.description))
    return [*pairs, *([("message", policy.status.message)] if policy.status.message else [])]


async def related(client: Api, obj: Object) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    """What belongs to a network, a node or a namespace, who answers for a service, what a policy
    rules, and which policies name a group or a service; by title."""
    name = obj.metadata.name
    if isinstance(obj, Network | Node):
        field = "network" if isinstance(obj, Network) else "node"
        blocks = await client.list(AddressBlock)
        endpoints = await client.list(Endpoint)
        return (
            ("Blocks", tuple(b for b in blocks if getattr(b.spec, field) == name)),
            ("Endpoints", tuple(e for e in endpoints if getattr(e.spec, field) == name)),
        )
    if isinstance(obj, Service):
        scope = obj.metadata.namespace
        endpoints = await client.list(Endpoint, scope)
        slices = await client.list(EndpointSlice, scope)
        world = World.of((*endpoints, *slices))
        led = [e for e in endpoints if any(world.answers_for(obj, p) for p in world.parties(e))]
        unsaid = obj.spec.selector is None and not obj.spec.backends
        mine = tuple(s for s in slices if s.spec.service == name) if unsaid else ()
        key = (scope, name)
        policies = await client.list(Policy)
        return (
            ("Endpoints", tuple(led)),
            ("EndpointSlices", mine),
            ("Policies", tuple(p for p in policies if key in services_of(p))),
        )
    if isinstance(obj, Namespace):
        return (("Endpoints", await client.list(Endpoint, name)),)
    if isinstance(obj, Policy):
        world = World.of(await client.list(Namespace))
        endpoints = await client.list(Endpoint)
        return (
            ("Endpoints", tuple(e for e in endpoints if world.rules_over(obj.spec.subject, e))),
        )
    if isinstance(obj, Group):
        policies = await client.list(Policy)
        return (("Policies", tuple(p for p in policies if name in groups_of(p))),)
    return ()
