"""Pods. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from plait.model import portnames, syntax
from plait.model.objects import AnyObject, Namespace, Object, Pod
from plait.server.admission.base import Admitted, Context, Removal, closing_key, in_namespace
from plait.server.state import Entry, State

MAX_ADDRESSES: Final = 8


def admit(state: State, context: Context, old: Object | None, new: AnyObject) -> Admitted:
    """What its orchestrator says of it; the node need not be one of ours."""
    assert isinstance(new, Pod)
    spec, namespace = new.spec, new.metadata.namespace
    syntax.text(spec.uid, "spec.uid", 128)
    for name, value in (("hostname", spec.hostname), ("subdomain", spec.subdomain)):
        if value:
            syntax.dns_label(value, f"spec.{name}")
    if spec.node:
        syntax.dns_subdomain(spec.node, "spec.node")
    portnames.check(spec.named_ports, "spec.namedPorts")
    syntax.items(spec.addresses, "spec.addresses", MAX_ADDRESSES)
    addresses = tuple(
        str(syntax.address(text, f"spec.addresses[{i}]")) for i, text in enumerate(spec.addresses)
    )
    return Admitted(
        msgspec.structs.replace(new, spec=msgspec.structs.replace(spec, addresses=addresses)),
        also_put=() if old else in_namespace(state, context, namespace),
        absent=() if old else (closing_key(Namespace, namespace),),
    )


def remove(state: State, entry: Entry) -> Removal:
    """Always."""
    del state, entry
    return Removal()
