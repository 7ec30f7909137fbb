"""Policies. Pure."""

from __future__ import annotations

import msgspec

from plait.model.objects import AnyObject, Cluster, Object, Policy
from plait.model.policies import PolicyStatus
from plait.policy import validate
from plait.server.admission import references
from plait.server.admission.base import CLUSTER_NAME, Admitted, Context, Removal, closing_key
from plait.server.state import Entry, State


def admit(state: State, context: Context, old: Object | None, new: AnyObject) -> Admitted:
    """What it names may be missing; then its status says so."""
    del context, old
    assert isinstance(new, Policy)
    cluster = state.get(Cluster, CLUSTER_NAME)
    spec = validate.policy(new.spec, domain=cluster.spec.domain if cluster else "")
    names = references.named(spec)
    status = PolicyStatus(message=references.message(spec, lambda ref: bool(state.entry(*ref))))
    # Whoever creates what is missing, or removes what is there, at this moment makes the status
    # wrong or the removal forbidden: then one of the two is planned anew.
    there = [ref for ref in names if state.entry(*ref)]
    missing = [ref for ref in names if not state.entry(*ref)]
    return Admitted(
        msgspec.structs.replace(new, spec=spec, status=status),
        needs=tuple(f"/{kind.plural}/{name}" for kind, name in missing),
        absent=tuple(closing_key(kind, name) for kind, name in there),
    )


def remove(state: State, entry: Entry) -> Removal:
    """Always."""
    del state, entry
    return Removal()
