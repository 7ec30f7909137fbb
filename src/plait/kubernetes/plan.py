"""What has to be written for Plait's server to have what Kubernetes says. Pure.

For one key, by what is wanted and what the server has:

| wanted | the server has | then |
|---|---|---|
| an object | nothing | create |
| an object | the same, ours | – |
| an object | another, ours | update |
| an object | one that is not ours | clash |
| – | one of ours | delete |
| labels of a Namespace | nothing | create, ours |
| labels of a Node | nothing | – |
| labels of either | it, without them | update |
| – | a Namespace or Node with labels of ours | update: take them off |

A label that somebody else put there stays, and what Kubernetes says of it is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from plait.client.base import BatchOp
from plait.kubernetes.marks import (
    LABELS,
    is_ours,
    is_touched,
    lent_labels,
    marked,
    with_metadata,
)
from plait.model.objects import AnyObject, Namespace, Node, Service
from plait.model.services import ServicePort, ServiceSpec


class Decision(NamedTuple):
    """What is to be done for a key."""

    op: BatchOp | None
    clash: str = ""
    """Why what is wanted is not, or not wholly, done."""


def decide(want: AnyObject | None, have: AnyObject | None) -> Decision:
    """See the table above."""
    if isinstance(want if have is None else have, Namespace | Node):
        return _labels(want, have)
    if want is None:
        return Decision(_delete(have) if have is not None and is_ours(have) else None)
    if have is None:
        return Decision(BatchOp(verb="create", object=want))
    if not is_ours(have):
        return Decision(None, f"the {have.kind} {have.metadata.name} is somebody else's")
    want = _filled(want, have)
    if _same(want, have):
        return Decision(None)
    return Decision(BatchOp(verb="update", object=_at(want, have)))


def _delete(have: AnyObject) -> BatchOp:
    return BatchOp(verb="delete", object=have)


def _at(want: AnyObject, have: AnyObject) -> AnyObject:
    """What is wanted, as the next state of just this object."""
    meta = have.metadata
    return with_metadata(want, revision=meta.revision, uid=meta.uid)


def _same(want: AnyObject, have: AnyObject) -> bool:
    return (
        want.spec == have.spec
        and want.metadata.labels == have.metadata.labels
        and want.metadata.annotations == have.metadata.annotations
    )


# Labels of what others own.


def _labels(want: AnyObject | None, have: AnyObject | None) -> Decision:
    if have is None:
        if not isinstance(want, Namespace):
            return Decision(None)
        new, _ = _labelled(marked(with_metadata(want, labels={})), want)
        return Decision(BatchOp(verb="create", object=new))
    if want is None and is_ours(have):
        return Decision(_delete(have))
    if want is None and not is_touched(have):
        return Decision(None)
    new, others = _labelled(have, want)
    clash = f"others set the labels {', '.join(others)} of {have.metadata.name}" if others else ""
    return Decision(None if _same(new, have) else BatchOp(verb="update", object=new), clash)


def _labelled(have: AnyObject, want: AnyObject | None) -> tuple[AnyObject, list[str]]:
    """An object with Kubernetes' labels, and the keys that others have set otherwise."""
    meta = have.metadata
    lent = lent_labels(have)
    theirs = {key: value for key, value in meta.labels.items() if key not in lent}
    wanted = want.metadata.labels if want is not None else {}
    mine = {key: value for key, value in wanted.items() if key not in theirs}
    annotations = {key: value for key, value in meta.annotations.items() if key != LABELS}
    if want is not None:
        annotations[LABELS] = ",".join(sorted(mine))
    new = with_metadata(have, labels={**theirs, **mine}, annotations=annotations)
    return new, sorted(key for key in wanted if wanted[key] != theirs.get(key, wanted[key]))


# What the server fills in.


def _filled(want: AnyObject, have: AnyObject) -> AnyObject:
    """What is wanted, with what the server chose where Kubernetes says nothing."""
    if not (isinstance(want, Service) and isinstance(have, Service)):
        return want
    spec, had = want.spec, have.spec
    balanced = spec.type == had.type == "LoadBalancer"
    opens = spec.type in ("NodePort", "LoadBalancer") and spec.node_ports
    ports: dict[tuple[str, int], int] = {
        (port.protocol, port.port): port.node_port for port in had.ports
    }
    addressed = not spec.headless and spec.type != "ExternalName"
    return msgspec.structs.replace(
        want,
        spec=msgspec.structs.replace(
            spec,
            addresses=spec.addresses or (had.addresses if addressed else ()),
            families=spec.families or had.families,
            load_balancer_addresses=_balancer_addresses(spec, had) if balanced else (),
            health_check_node_port=spec.health_check_node_port
            or (had.health_check_node_port if balanced and _is_local(spec) else 0),
            ports=tuple(_with_node_port(port, ports) for port in spec.ports)
            if opens
            else spec.ports,
        ),
    )


def _balancer_addresses(spec: ServiceSpec, had: ServiceSpec) -> tuple[str, ...]:
    return spec.load_balancer_addresses or had.load_balancer_addresses


def _is_local(spec: ServiceSpec) -> bool:
    return spec.external_traffic == "Local"


def _with_node_port(port: ServicePort, chosen: Mapping[tuple[str, int], int]) -> ServicePort:
    if port.node_port:
        return port
    return msgspec.structs.replace(port, node_port=chosen.get((port.protocol, port.port), 0))
