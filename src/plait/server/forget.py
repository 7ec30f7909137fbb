"""Taking a lost node out of the network, with all that was its own.

The node's identity goes first, so that nothing of it can be written any more; then Node,
endpoints, blocks and loans go in one transaction. A block of which other nodes use lent
addresses stays, without an owner, for an address is never taken from a live holder (P2).
"""

from __future__ import annotations

from typing import Final, NamedTuple, cast

import msgspec

from plait.model.errors import PlaitError
from plait.model.objects import AddressBlock, Endpoint, Node, encode, object_key
from plait.server.authorize import Actor, refuse
from plait.server.clock import Clock, parse_rfc3339
from plait.server.mirror import Mirror
from plait.server.state import State, with_revision
from plait.server.tokens import Trust
from plait.store.base import Compare, Delete, Put, Store
from plait.wire.api import Forgotten

SILENCE: Final = 60.0
"""Seconds of silence after which a node may be forgotten without force."""


class ForgetPlan(NamedTuple):
    """What goes."""

    compares: list[Compare]
    ops: list[Put | Delete]
    summary: Forgotten


def plan_forget(state: State, name: str) -> ForgetPlan:
    """Everything that the state says is the node's. Pure."""
    compares: dict[str, int] = {}
    ops: list[Put | Delete] = []
    blocks = loans = 0
    endpoints = state.of_node(Endpoint, name)
    for entry in endpoints:
        compares[entry.key] = entry.revision
        ops.append(Delete(entry.key))
    for entry in state.entries(AddressBlock):
        block = cast(AddressBlock, with_revision(entry.object, 0))
        owned = block.spec.node == name
        kept = tuple(
            loan
            for loan in block.spec.loans
            if loan.node != name and (loan.state == "granted" or not owned)
        )
        if not owned and len(kept) == len(block.spec.loans):
            continue
        compares[entry.key] = entry.revision
        blocks += owned
        loans += sum(loan.node == name for loan in block.spec.loans)
        owner = "" if owned else block.spec.node
        if owner or kept:
            spec = msgspec.structs.replace(block.spec, node=owner, loans=kept)
            ops.append(Put(entry.key, encode(msgspec.structs.replace(block, spec=spec))))
        else:
            ops.append(Delete(entry.key))
    key = object_key(Node, name)
    compares[key] = state.revision_of(key)
    if compares[key]:
        ops.append(Delete(key))
    return ForgetPlan(
        [Compare(key, revision) for key, revision in compares.items()],
        ops,
        Forgotten(node=name, endpoints=len(endpoints), blocks=blocks, loans=loans),
    )


class Forgetter:
    """Acts on `plan_forget`."""

    def __init__(self, store: Store, mirror: Mirror, trust: Trust, clock: Clock) -> None:
        self._store = store
        self._mirror = mirror
        self._trust = trust
        self._clock = clock

    async def forget(
        self, actor: Actor, name: str, *, heard: float, force: bool, dry_run: bool
    ) -> Forgotten:
        """Forget a node; `heard` is the Unix time of its last request, 0 if none is known.

        PLAIT-API-011 while it was heard within `SILENCE` and `force` is not set. A node may
        forget itself at any time: that is how it leaves.
        """
        if actor.role != "admin" and not (actor.role == "node" and actor.name == name):
            raise refuse(actor, "forget another node")
        state = self._mirror.state
        node = state.get(Node, name)
        plan = plan_forget(state, name)
        if not plan.ops and self._trust.node(name) is None:
            raise PlaitError(
                "PLAIT-API-004",
                f"there is no node {name}",
                where=f"nodes/{name}",
                fix=("plait node ls",),
            )
        seen = max(heard, parse_rfc3339(node.status.last_seen) if node else 0.0)
        silent = self._clock.now() - seen
        if actor.role == "admin" and not force and silent < SILENCE:
            raise PlaitError(
                "PLAIT-API-011",
                f"the node {name} is alive",
                where=f"nodes/{name}",
                why=f"it was heard {max(silent, 0):.0f} s ago",
                fix=(f"plait down   # on {name}", f"plait node forget {name} --force"),
            )
        if dry_run:
            return plan.summary
        await self._trust.expel_node(name)
        while True:
            plan = plan_forget(self._mirror.state, name)
            done = await self._store.txn(plan.compares, plan.ops)
            await self._mirror.wait(done.revision)
            if done.succeeded:
                return plan.summary
