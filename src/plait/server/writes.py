"""From a request to write to one store transaction.

`plan` is pure: state and steps in, guards, puts and deletes out. `Writer` acts: it commits the
plan, and when somebody else was faster it waits until the state shows what they did and plans
anew, so that a refusal always names the present state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from plait.client.base import BatchOp
from plait.model.errors import PlaitError
from plait.model.objects import PLURALS, AnyObject, Object, encode
from plait.model.syntax import printable
from plait.server.admission.base import Context
from plait.server.admission.table import admit, remove
from plait.server.authorize import Actor, Verb, authorize, may_write
from plait.server.clock import Clock, rfc3339
from plait.server.mirror import Mirror
from plait.server.state import Entry, State, with_revision
from plait.store.base import Compare, Delete, Put, Store

CLOSING_TTL = 30.0
"""Seconds after which an unfinished removal no longer blocks new references."""
GIVE_UP = 10.0
"""Seconds of losing races after which a write is refused."""


class Step(msgspec.Struct, frozen=True):
    """One change that was asked for."""

    verb: Verb
    kind: type[Object]
    name: str
    namespace: str
    revision: int = 0
    """Must be current; 0: any."""
    object: AnyObject | None = None

    @property
    def where(self) -> str:
        """The object, as its path names it; safe to print."""
        scope = f"namespaces/{self.namespace[:80]}/" if self.kind.namespaced else ""
        return printable(f"{scope}{self.kind.plural}/{self.name[:80]}")

    @property
    def shown(self) -> str:
        """The object, as a person names it; safe to print."""
        return printable(f"{self.kind.__name__} {self.name[:80]}")


def step_of(op: BatchOp) -> Step:
    """A step of a batch."""
    meta, kind = op.object.metadata, type(op.object)
    namespace = (meta.namespace or "default") if kind.namespaced else ""
    revision = 0 if op.verb == "create" else meta.revision
    return Step(op.verb, kind, meta.name, namespace, revision, op.object)


class Plan:
    """A transaction to be: printable by its attributes, without effect."""

    def __init__(self) -> None:
        self.compares: dict[str, int] = {}
        self.puts: dict[str, AnyObject | None] = {}
        """Object to store by key; None removes the key."""
        self.guards: set[str] = set()
        self.closing: set[str] = set()
        self.results: list[AnyObject] = []

    def touch(self, state: State, key: str) -> None:
        """Require that a key is as the state has it."""
        self.compares.setdefault(key, state.revision_of(key))


def plan(
    state: State,
    actor: Actor,
    steps: Sequence[Step],
    now: str,
    new_uid: Callable[[], str],
    own_ports: frozenset[int] = frozenset(),
) -> Plan:
    """Check the steps one after the other, each on top of the former ones."""
    node = actor.role == "node"
    name, uid = (actor.name, actor.uid) if node else ("", "")
    context = Context(now, new_uid, name, uid, own_ports)
    result = Plan()
    with state.speculate():
        for i, step in enumerate(steps):
            try:
                _plan_step(state, actor, context, step, result)
            except PlaitError as error:
                if error.where.partition("/")[0] not in PLURALS:
                    error.where = f"{step.where} {error.where}".strip()
                if len(steps) > 1:
                    error.where = f"ops[{i}] {error.where}"
                raise
    return result


def _plan_step(state: State, actor: Actor, context: Context, step: Step, out: Plan) -> None:
    entry = state.entry(step.kind, step.name, step.namespace)
    old = None if entry is None else entry.object
    missed = _missed(step, entry)
    if actor.role != "admin" and (old is not None or step.verb != "delete"):
        if missed is not None and may_write(actor, step.kind):
            # Whether it may change what it saw into what it wants, nobody can tell any more.
            raise missed
        authorize(
            actor,
            step.verb,
            None if step.verb == "create" else old,
            None if step.verb == "delete" else step.object,
        )
    if step.verb == "create" and old is not None:
        raise PlaitError(
            "PLAIT-API-005",
            f"the {step.shown} exists already",
            fix=(f"plait get {step.kind.plural}",),
        )
    if missed is not None:
        raise missed
    if step.verb == "delete":
        assert entry is not None
        removal = remove(state, entry)
        for key in (entry.key, *removal.also_delete):
            out.touch(state, key)
            out.puts[key] = None
            state.delete(key)
        for key in removal.guards:
            out.touch(state, key)
        out.guards.update(removal.guards)
        _put_also(state, removal.also_put, out)
        if removal.closing:
            out.closing.add(removal.closing)
        out.results.append(entry.object)
        return
    assert step.object is not None
    admitted = admit(state, context, old, step.object)
    stored = admitted.object
    for key in (*admitted.needs, *admitted.absent, *admitted.guards, stored.key):
        out.touch(state, key)
    for key in admitted.absent:
        if out.compares[key]:
            raise PlaitError(
                "PLAIT-API-011", f"{key.removeprefix('/closing/')} is being deleted just now"
            )
    out.guards.update(admitted.guards)
    _put_also(state, admitted.also_put, out)
    out.results.append(stored)
    if entry is not None and with_revision(entry.object, 0) == stored:
        out.results[-1] = entry.object
        return  # Nothing changes: no revision, no event.
    out.puts[stored.key] = stored
    state.put(stored.key, stored, entry.revision if entry else 0)


def _missed(step: Step, entry: Entry | None) -> PlaitError | None:
    """The refusal of a step that was meant for another state of its object than there is."""
    if entry is None:
        if step.verb != "delete" and not step.revision:
            return None
        return PlaitError(
            "PLAIT-API-004", f"there is no {step.shown}", fix=(f"plait get {step.kind.plural}",)
        )
    if step.revision in (0, entry.revision):
        return None
    return PlaitError(
        "PLAIT-API-006",
        f"the {step.shown} was changed by somebody else",
        why=f"it is at revision {entry.revision}, the request is for {step.revision}",
    )


def _put_also(state: State, objects: Sequence[AnyObject], out: Plan) -> None:
    """Objects that change with another one; to a later step they are as they were stored."""
    for obj in objects:
        out.touch(state, obj.key)
        out.puts[obj.key] = obj
        state.put(obj.key, obj, state.revision_of(obj.key))


class Fence(Protocol):
    """Requirements on the server's own records that come with a credential."""

    def __call__(self, actor: Actor) -> tuple[str, ...]:
        """Keys that must not change until the actor's write is done."""


class Writer:
    """Commits what `plan` decides."""

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        clock: Clock,
        new_uid: Callable[[], str],
        fence: Fence,
        *,
        own_ports: frozenset[int] = frozenset(),
    ) -> None:
        """`own_ports` are those on which servers listen for agents."""
        self._store = store
        self._mirror = mirror
        self._clock = clock
        self._new_uid = new_uid
        self._fence = fence
        self._own_ports = own_ports

    async def write(
        self, actor: Actor, steps: Sequence[Step], *, dry_run: bool = False
    ) -> tuple[int, list[AnyObject]]:
        """All steps or none; the revision, and the objects as stored."""
        closing: dict[str, int] = {}
        lease = 0
        try:
            deadline = self._clock.monotonic() + GIVE_UP
            while True:
                decided = self._plan(actor, steps)
                if dry_run or not decided.puts:
                    return self._mirror.state.revision, decided.results
                if decided.closing - closing.keys():
                    lease = lease or await self._store.lease_grant(CLOSING_TTL)
                    closing |= await self._close(decided.closing - closing.keys(), lease)
                    continue
                outcome = await self._store.txn(*_operations(decided, closing))
                await self._mirror.wait(outcome.revision)
                if outcome.succeeded:
                    return outcome.revision, [
                        with_revision(obj, outcome.revision)
                        if decided.puts.get(obj.key) is not None
                        else obj
                        for obj in decided.results
                    ]
                if self._clock.monotonic() > deadline:
                    raise PlaitError(
                        "PLAIT-API-009",
                        "the write lost every race with other writes",
                        why="changed meanwhile: " + ", ".join(outcome.failed[:5]),
                    )
        finally:
            if lease:
                await self._store.lease_revoke(lease)

    def _plan(self, actor: Actor, steps: Sequence[Step]) -> Plan:
        state = self._mirror.state
        now = rfc3339(self._clock.now())
        decided = plan(state, actor, steps, now, self._new_uid, self._own_ports)
        for key in self._fence(actor):
            decided.touch(state, key)
        return decided

    async def _close(self, keys: set[str], lease: int) -> dict[str, int]:
        """Announce removals, and wait until the state shows every reference made before."""
        outcome = await self._store.txn(
            [Compare(key, 0) for key in sorted(keys)],
            [Put(key, b"", lease) for key in sorted(keys)],
        )
        await self._mirror.wait(outcome.revision)
        if not outcome.succeeded:
            raise PlaitError("PLAIT-API-006", "somebody else is deleting the same object just now")
        return dict.fromkeys(keys, outcome.revision)


def _operations(decided: Plan, closing: dict[str, int]) -> tuple[list[Compare], list[Put | Delete]]:
    compares = decided.compares | closing
    ops: list[Put | Delete] = [
        Delete(key) if obj is None else Put(key, encode(obj)) for key, obj in decided.puts.items()
    ]
    ops += [Put(key, b"") for key in sorted(decided.guards)]
    ops += [Delete(key) for key in closing]
    return [Compare(key, revision) for key, revision in compares.items()], ops
