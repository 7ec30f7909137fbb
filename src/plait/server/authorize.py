"""Who may write what: the node authorizer (compare Kubernetes' NodeRestriction). Pure.

Administrators write everything, nodes read everything and write their own objects. A connector
reads everything and writes what an orchestrator says: objects that carry its mark, and labels of
Namespaces and Nodes. Everybody else writes nothing. A refusal of a node is PLAIT-AUTH-006 whatever
it tried, so that it learns nothing from the error about what there is: but that an object of a kind
that it writes has changed since it looked, for others write some of them, too (`writes.plan`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import msgspec

from plait.model.errors import PlaitError
from plait.model.objects import (
    ORIGIN,
    AddressBlock,
    AnyObject,
    Endpoint,
    EndpointSlice,
    Group,
    Loan,
    Namespace,
    Network,
    Node,
    Object,
    Pod,
    Policy,
    Service,
)
from plait.model.syntax import printable

Verb = Literal["create", "update", "delete"]


class Actor(msgspec.Struct, frozen=True):
    """Who asks."""

    role: Literal["admin", "node", "connector", "join"]
    name: str = ""
    """The node's name; for a token its id."""
    uid: str = ""
    """The node's uid."""
    expires: float = 0.0
    """Unix time at which the credential ends; 0: never."""


_ADMIN: Final = "plait token create --role admin   # on the server"


def refuse(actor: Actor, what: str) -> PlaitError:
    """Refusal of something that a node, a connector or a joiner may not do."""
    if actor.role == "node":
        return PlaitError(
            "PLAIT-AUTH-006",
            f"node {actor.name} may not {what}",
            where=f"nodes/{actor.name}",
            fix=("run the command on the server's host", _ADMIN),
        )
    return PlaitError("PLAIT-AUTH-002", f"a {actor.role} token may not {what}", fix=(_ADMIN,))


def authorize(actor: Actor, verb: Verb, old: Object | None, new: AnyObject | None) -> None:
    """Refuse what the actor may not write. `old` is what is there, `new` what shall be."""
    if actor.role == "admin":
        return
    subject = new if new is not None else old
    assert subject is not None
    rule = _MAY.get(actor.role, {}).get(type(subject))
    if rule is None or not rule(actor.name, old, new):
        raise refuse(actor, printable(f"{verb} {subject.kind} {subject.metadata.name[:64]}"))


def may_write(actor: Actor, kind: type[Object]) -> bool:
    """Whether the actor may write some object of this kind."""
    return actor.role == "admin" or kind in _MAY.get(actor.role, {})


def _own_node(me: str, old: Object | None, new: Object | None) -> bool:
    del old
    return isinstance(new, Node) and new.metadata.name == me


def _own_endpoint(me: str, old: Object | None, new: Object | None) -> bool:
    sides = [side for side in (old, new) if side is not None]
    return all(isinstance(side, Endpoint) and side.spec.node == me for side in sides)


def _network(me: str, old: Object | None, new: Object | None) -> bool:
    """Docker creates and removes networks; nobody changes one but an administrator."""
    del me
    assert isinstance(old if new is None else new, Network)
    return old is None or new is None


def _block(me: str, old: Object | None, new: Object | None) -> bool:
    before = old.spec if isinstance(old, AddressBlock) else None
    after = new.spec if isinstance(new, AddressBlock) else None
    if before is None:
        return after is not None and _may_create_block(me, after.node, after.loans)
    if after is None:
        if before.node == me:
            return all(loan.node == me or loan.state != "granted" for loan in before.loans)
        return not before.node and all(loan.node == me for loan in before.loans)
    if (before.network, before.cidr) != (after.network, after.cidr):
        return False
    was = {(loan.address, loan.node): loan for loan in before.loans}
    now = {(loan.address, loan.node): loan for loan in after.loans}
    changed = [
        (key[1], was.get(key), now.get(key))
        for key in was.keys() | now.keys()
        if was.get(key) != now.get(key)
    ]
    if before.node == me:
        return after.node in (me, "") and all(_answer(me, *change) for change in changed)
    if before.node:
        if after.node != before.node or not _same_metadata(old, new):
            return False
        mine = any(borrower == me for borrower, _, _ in changed) or any(
            loan.node == me for loan in after.loans
        )
        return mine and all(_ask(me, *change) for change in changed)
    return after.node in ("", me) and all(borrower == me for borrower, _, _ in changed)


def _same_metadata(old: Object | None, new: Object | None) -> bool:
    """Labels and annotations are the owner's to change."""
    assert old is not None
    assert new is not None
    before, after = old.metadata, new.metadata
    return (before.labels, before.annotations) == (after.labels, after.annotations)


def _may_create_block(me: str, node: str, loans: tuple[Loan, ...]) -> bool:
    if node == me:
        return not loans
    return not node and all(loan.node == me for loan in loans)


def _answer(me: str, borrower: str, old: Loan | None, new: Loan | None) -> bool:
    """The owner answers a request, and clears away what it refused."""
    if borrower == me:
        return True
    if old is None:
        return False
    if new is None:
        return old.state == "refused"
    return old.state == "requested"


def _ask(me: str, borrower: str, old: Loan | None, new: Loan | None) -> bool:
    """A borrower asks, asks again, and gives back; the answer is the owner's."""
    del old
    return borrower == me and (new is None or new.state == "requested")


def _marked(me: str, old: Object | None, new: Object | None) -> bool:
    """What a connector made is its own; what it makes says so."""
    del me
    sides = [side for side in (old, new) if side is not None]
    return all(side.metadata.annotations.get(ORIGIN) for side in sides)


def _namespace(me: str, old: Object | None, new: Object | None) -> bool:
    """A namespace of the orchestrator's is one of ours: its labels are, too."""
    return _marked(me, old, None) if new is None else True


def _labels_of_node(me: str, old: Object | None, new: Object | None) -> bool:
    """What a node says of itself is not a connector's to say."""
    del me
    if not (isinstance(old, Node) and isinstance(new, Node)):
        return False
    return (old.spec, old.status) == (new.spec, new.status)


Rule = Callable[[str, Object | None, Object | None], bool]
_MAY: Final[dict[str, dict[type[Object], Rule]]] = {
    "node": {
        Node: _own_node,
        Endpoint: _own_endpoint,
        Network: _network,
        AddressBlock: _block,
    },
    "connector": {
        Namespace: _namespace,
        Node: _labels_of_node,
        Pod: _marked,
        Service: _marked,
        EndpointSlice: _marked,
        Policy: _marked,
        Group: _marked,
    },
}
"""By role and kind; what is not here nobody but an administrator writes."""
