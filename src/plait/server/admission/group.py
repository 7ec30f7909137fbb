"""Groups. Pure."""

from __future__ import annotations

import msgspec

from plait.model.objects import AnyObject, Group, Object
from plait.policy import validate
from plait.server.admission import references
from plait.server.admission.base import Admitted, Context, Removal, closing_key, in_use
from plait.server.state import Entry, State


def admit(state: State, context: Context, old: Object | None, new: AnyObject) -> Admitted:
    """The policies that name it are told that it is there."""
    del context
    assert isinstance(new, Group)
    name = new.metadata.name
    return Admitted(
        msgspec.structs.replace(new, spec=validate.group(new.spec)),
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
