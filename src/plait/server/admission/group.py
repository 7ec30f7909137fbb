"""Groups. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from plait.model import syntax
from plait.model.objects import AnyObject, Group, Object
from plait.model.syntax import invalid
from plait.server.admission import references, selector
from plait.server.admission.base import Admitted, Context, Removal, closing_key, in_use
from plait.server.state import Entry, State

MAX_CIDRS: Final = 10_000


def admit(state: State, context: Context, old: Object | None, new: AnyObject) -> Admitted:
    """A group is said by selectors or by CIDRs."""
    del context
    assert isinstance(new, Group)
    spec, name = new.spec, new.metadata.name
    selects = spec.namespaces is not None or spec.endpoints is not None
    if selects and spec.cidrs:
        raise invalid(
            "spec.cidrs",
            "a group has selectors or cidrs, not both",
            fix="make two groups, and name both in the rule's peers",
        )
    if not selects and not spec.cidrs:
        raise invalid(
            "spec",
            "the group has neither selectors nor cidrs",
            fix="write `endpoints: {}` for every endpoint",
        )
    if spec.namespaces is not None:
        selector.check(spec.namespaces, "spec.namespaces")
    if spec.endpoints is not None:
        selector.check(spec.endpoints, "spec.endpoints")
    syntax.items(spec.cidrs, "spec.cidrs", MAX_CIDRS)
    cidrs = tuple(
        str(syntax.cidr(text, f"spec.cidrs[{i}]", code="PLAIT-API-002"))
        for i, text in enumerate(spec.cidrs)
    )
    return Admitted(
        msgspec.structs.replace(new, spec=msgspec.structs.replace(spec, cidrs=cidrs)),
        also_put=() if old else references.retold(state, Group, name, there=True),
        absent=() if old else (closing_key(Group, name),),
    )


def remove(state: State, entry: Entry) -> Removal:
    """Not while policies name it: a rule would silently lose, or gain, its peers."""
    name = entry.object.metadata.name
    policies = [policy.metadata.name for policy in references.namers(state, Group, name)]
    if policies:
        raise in_use("group", name, policies, f"plait policy show {policies[0]}", who="policies")
    return Removal(closing=closing_key(Group, name))
