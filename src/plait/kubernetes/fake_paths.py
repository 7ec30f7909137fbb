"""What a fake API server can serve, and what the paths of requests mean. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from plait.kubernetes import kinds
from plait.kubernetes.fake_store import Json
from plait.kubernetes.kinds import Resource


class Served(NamedTuple):
    """A resource that the server has."""

    resource: Resource
    kind: str
    has_status: bool = False
    """Its status is written by a subresource of its own, and only by that."""


_WITH_STATUS: Final = ("Node", "Namespace", "Pod", "Service")
SLICES_V1, SLICES_V1BETA1 = kinds.ENDPOINT_SLICES.resources
CLUSTER_POLICIES: Final = kinds.CLUSTER_NETWORK_POLICIES.resources[0]
_KINDS: Final[tuple[kinds.Kind[Any], ...]] = (
    kinds.NODES,
    kinds.NAMESPACES,
    kinds.PODS,
    kinds.SERVICES,
    kinds.ENDPOINT_SLICES,
    kinds.NETWORK_POLICIES,
    kinds.CLUSTER_NETWORK_POLICIES,
)
EVERYTHING: Final = (
    *(
        Served(resource, kind.name, kind.name in _WITH_STATUS)
        for kind in _KINDS
        for resource in kind.resources
    ),
    Served(Resource("coordination.k8s.io", "v1", "leases"), "Lease"),
)


class Target(NamedTuple):
    """What a path means."""

    served: Served
    namespace: str
    name: str
    subresource: str


def discovery(served: Iterable[Served], path: str) -> Json | None:
    """The resources of a group and version, if that is what a path means."""
    found = [each for each in served if each.resource.root == path]
    if not found:
        return None
    return {
        "kind": "APIResourceList",
        "groupVersion": found[0].resource.group_version,
        "resources": [
            {"name": e.resource.plural, "kind": e.kind, "namespaced": e.resource.namespaced}
            for e in found
        ],
    }


def target_of(everything: Iterable[Served], path: str) -> Target | None:
    """The object, or all of a kind, that a path means."""
    for served in everything:
        root, plural = served.resource.root, served.resource.plural
        if not path.startswith(root + "/"):
            continue
        parts = path[len(root) + 1 :].split("/")
        namespace = ""
        if served.resource.namespaced and parts[0] == "namespaces" and len(parts) > 2:
            namespace, parts = parts[1], parts[2:]
        name, subresource = (*parts[1:], "", "")[:2]
        if parts[0] == plural and len(parts) <= 3 and subresource in ("", "status"):
            return Target(served, namespace, name, subresource)
    return None
