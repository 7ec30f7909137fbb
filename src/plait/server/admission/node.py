"""Nodes. Pure."""

from __future__ import annotations

from typing import cast

import msgspec

from plait.model import syntax
from plait.model.errors import PlaitError
from plait.model.objects import AddressBlock, AnyObject, Endpoint, Node, Object
from plait.model.syntax import invalid
from plait.server import pools
from plait.server.admission.base import Admitted, Context, Removal
from plait.server.state import Entry, State


def admit(state: State, context: Context, old: Object | None, new: AnyObject) -> Admitted:
    """A node says what its host is like; the server notes when it did."""
    assert isinstance(new, Node)
    previous = cast("Node | None", old)
    spec, status = new.spec, new.status
    addresses = [
        syntax.interface(addr, f"spec.addresses[{i}]") for i, addr in enumerate(spec.addresses)
    ]
    if len({addr.version for addr in addresses}) != len(addresses):
        raise invalid("spec.addresses", "a node has at most one underlay address a family")
    if spec.link_local:
        link_local = syntax.address(spec.link_local, "spec.linkLocal")
        if not (link_local.version == 6 and link_local.is_link_local):
            raise invalid("spec.linkLocal", f"{link_local} is not an IPv6 link-local address")
    syntax.number(spec.mtu, "spec.mtu", 1280, 65536)
    syntax.text(spec.site, "spec.site", 63)
    syntax.text(status.version, "status.version", 63)
    syntax.items(status.prefixes, "status.prefixes")
    syntax.items(status.conditions, "status.conditions", 64)
    for i, condition in enumerate(status.conditions):
        syntax.text(condition, f"status.conditions[{i}]")
    prefixes = tuple(
        str(syntax.cidr(prefix, f"status.prefixes[{i}]", code="PLAIT-API-002"))
        for i, prefix in enumerate(status.prefixes)
    )
    if context.node and context.node_uid != new.metadata.uid:
        raise PlaitError(
            "PLAIT-AUTH-002",
            f"the node {context.node} was enrolled anew, and another of its name is known",
            where=f"nodes/{context.node}",
            fix=(f"plait node forget {context.node}",),
        )
    labels = previous.metadata.labels if previous else {}
    if context.node and new.metadata.labels != labels:
        # Policies admit hosts by their labels: a host must not admit itself.
        raise PlaitError(
            "PLAIT-AUTH-006",
            "a node does not label itself",
            where=f"nodes/{new.metadata.name}",
            fix=(f"plait node label {new.metadata.name} KEY=VALUE",),
        )
    status = msgspec.structs.replace(
        status,
        prefixes=prefixes,
        last_seen=_last_seen(context, previous, new),
        silent=status.silent and not context.node,
    )
    spec = msgspec.structs.replace(spec, addresses=tuple(str(addr) for addr in addresses))
    admitted = msgspec.structs.replace(new, spec=spec, status=status)
    return Admitted(admitted, also_put=pools.overlapped(state, previous, admitted))


def _last_seen(context: Context, old: Node | None, new: Node) -> str:
    """Now when the node itself writes, or when its status changes; else as it was."""
    seen = old.status.last_seen if old else ""
    if context.node or old is None:
        return context.now
    told = msgspec.structs.replace(new.status, last_seen=seen, silent=old.status.silent)
    return context.now if told != old.status else seen


def remove(state: State, entry: Entry) -> Removal:
    """Not while it holds endpoints or blocks: that is `forget`'s matter."""
    name = entry.object.metadata.name
    held = [*state.of_node(Endpoint, name), *state.of_node(AddressBlock, name)]
    if held:
        raise PlaitError(
            "PLAIT-API-011",
            f"the node {name} holds endpoints or address blocks",
            where=f"nodes/{name}",
            why=f"{len(held)} objects are its own",
            fix=(f"plait node forget {name}",),
        )
    return Removal()
