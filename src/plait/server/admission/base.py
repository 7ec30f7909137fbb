"""What admission takes and gives, and what the kinds share. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, cast

from plait.model import syntax
from plait.model.errors import PlaitError
from plait.model.objects import AnyObject, Endpoint, Metadata, Namespace, Network, Object
from plait.server.state import Entry, State

CLUSTER_NAME: Final = "plait"
DEFAULT_NAMESPACE: Final = "default"
POOLS_GUARD: Final = "/guards/pools"
"""Guard of the rule that pools of different networks overlap neither each other nor addresses of
Services."""


class Context(NamedTuple):
    """What a write depends on beside the state."""

    now: str
    """RFC 3339, UTC."""
    new_uid: Callable[[], str]
    node: str = ""
    """Name of the node that writes; empty for anybody else."""
    node_uid: str = ""
    own_ports: frozenset[int] = frozenset()
    """TCP ports on which servers listen for agents."""


class Admitted(NamedTuple):
    """An object to store, and what goes with it."""

    object: AnyObject
    also_put: tuple[AnyObject, ...] = ()
    needs: tuple[str, ...] = ()
    """Keys that must not change until the write is done."""
    absent: tuple[str, ...] = ()
    """Keys that must not exist when the write is done."""
    guards: tuple[str, ...] = ()
    """Records that every write of the same invariant touches, so that two servers cannot both
    pass a check that spans objects."""


class Removal(NamedTuple):
    """What goes with an object that is removed."""

    also_put: tuple[AnyObject, ...] = ()
    also_delete: tuple[str, ...] = ()
    guards: tuple[str, ...] = ()
    """As those of `Admitted`, for what is put."""
    closing: str = ""
    """Mark to set before the check that nothing refers to the object; see `closing_key`."""


def closing_key(kind: type[Object], name: str) -> str:
    """Record that says: this object is about to go, refer to it no more.

    Removal sets it, looks again for references, then removes. Whoever refers to the object
    requires its absence, so neither order of the two leaves a reference to nothing.
    """
    return f"/closing/{kind.plural}/{name}"


def blocks_guard(network: str) -> str:
    """Guard of the rule that blocks of one network do not overlap."""
    return f"/guards/blocks/{network}"


def known_network(state: State, name: str, where: str) -> Network:
    """The network of that name, or PLAIT-NET-006."""
    network = state.get(Network, name)
    if network is None:
        raise PlaitError(
            "PLAIT-NET-006",
            f"there is no network {syntax.shown(name)}",
            where=where,
            fix=("plait network ls",),
        )
    return network


def in_namespace(state: State, context: Context, name: str) -> tuple[AnyObject, ...]:
    """The namespace, made where there is none: what is to be put with its first object."""
    if state.get(Namespace, name) is not None:
        return ()
    made = Metadata(name=name, uid=context.new_uid(), created_at=context.now)
    return (Namespace(metadata=made),)


def same(where: str, before: str, after: str) -> None:
    """Refuse another value than the one that stays."""
    if before != after:
        raise syntax.invalid(where, f"the field is {syntax.shown(before)} and cannot be another")


def in_use(
    kind: str, name: str, holders: list[str], fix: str, *, who: str = "endpoints"
) -> PlaitError:
    """PLAIT-API-011, naming some of those who use the object."""
    named = ", ".join(holders[:5])
    if len(holders) > 5:
        named += f" and {len(holders) - 5} more"
    return PlaitError(
        "PLAIT-API-011",
        f"the {kind} {name} is in use",
        where=f"{kind}s/{name}",
        why=f"{who} use it: {named}",
        fix=(fix,),
    )


def named(entries: Sequence[Entry]) -> list[str]:
    """Objects in namespaces as a person names them."""
    return sorted("/".join(entry.key.split("/")[2:]) for entry in entries)


def users(entries: Sequence[Entry]) -> list[str]:
    """Endpoints as a person names them."""
    found = []
    for entry in entries:
        endpoint = cast(Endpoint, entry.object)
        shown = endpoint.spec.name or endpoint.metadata.name
        found.append(f"{endpoint.metadata.namespace}/{shown} on {endpoint.spec.node}")
    return sorted(found)
