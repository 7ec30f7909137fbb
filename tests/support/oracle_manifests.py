"""The oracle's pods and namespaces as an API server of Kubernetes has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.support.oracle import Manifest, Pod


def namespace(name: str, labels: Mapping[str, str]) -> Manifest:
    """A Namespace with these labels."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": dict(labels)},
    }


def pod(found: Pod, node: str, **container: Any) -> Manifest:
    """A Pod that serves what the oracle says, placed on a node; `container` has more fields of its
    only container."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": found.name,
            "namespace": found.namespace,
            "labels": dict(found.labels),
        },
        "spec": {
            "nodeName": node,
            "containers": [{"name": "serve", "ports": list(_ports(found)), **container}],
        },
    }


def _ports(found: Pod) -> Iterator[dict[str, Any]]:
    """The named ones first; the others have none."""
    named = {(port.protocol, port.port): port.name for port in found.ports}
    for protocol, port in found.listens:
        entry = {"containerPort": port, "protocol": protocol.upper()}
        name = named.get((protocol, port))
        yield {"name": name, **entry} if name else entry
