"""The oracle's pods and namespaces as an API server of Kubernetes has them."""

from __future__ import annotations

import ipaddress
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


def pod(found: Pod, node: str, container: Mapping[str, Any] | None = None, **spec: Any) -> Manifest:
    """A Pod that serves what the oracle says, placed on a node; `container` has more fields of its
    only container, `spec` of its own."""
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
            "containers": [{"name": "serve", "ports": list(_ports(found)), **(container or {})}],
            **spec,
        },
    }


def _ports(found: Pod) -> Iterator[dict[str, Any]]:
    """The named ones first; the others have none."""
    named = {(port.protocol, port.port): port.name for port in found.ports}
    for protocol, port in found.listens:
        entry = {"containerPort": port, "protocol": protocol.upper()}
        name = named.get((protocol, port))
        yield {"name": name, **entry} if name else entry


def relocated(value: Any, places: Mapping[str, str]) -> Any:
    """A manifest between pods that have other addresses: `places` has theirs by those of the
    oracle. Ranges mean the same pods as before.

    A range that has none of the pods, or all, is left as it is. Another becomes the addresses of
    its pods; where it had an `except`, everything without the addresses of all others.
    """
    if isinstance(value, list):
        return [each for item in value for each in _relocated_item(item, places)]
    if isinstance(value, dict):
        return {
            key: _networks(item, places) if key == "networks" else relocated(item, places)
            for key, item in value.items()
        }
    return value


def _networks(ranges: list[str], places: Mapping[str, str]) -> list[str]:
    """The ranges of a peer of a ClusterNetworkPolicy, which has no `except`."""
    return [block["cidr"] for each in ranges for block in _blocks({"cidr": each}, places)]


def _relocated_item(item: Any, places: Mapping[str, str]) -> list[Any]:
    """An item of a list: a peer of a NetworkPolicy may become several."""
    if isinstance(item, dict) and "ipBlock" in item:
        block = item["ipBlock"]
        return [{"ipBlock": each} for each in _blocks(block, places)]
    return [relocated(item, places)]


def _blocks(block: Mapping[str, Any], places: Mapping[str, str]) -> list[dict[str, Any]]:
    cidr = ipaddress.ip_network(block["cidr"])
    excepts = [ipaddress.ip_network(each) for each in block.get("except") or ()]
    others = {
        address: place
        for address, place in places.items()
        if ipaddress.ip_address(address).version == cidr.version
    }
    meant = {
        address: place
        for address, place in others.items()
        for ip in (ipaddress.ip_address(address),)
        if ip in cidr and not any(ip in each for each in excepts)
    }
    if not meant or len(meant) == len(others):
        return [dict(block)]
    if not excepts:
        return [{"cidr": _whole(place)} for place in meant.values()]
    rest = [_whole(place) for address, place in others.items() if address not in meant]
    return [{"cidr": "::/0" if cidr.version == 6 else "0.0.0.0/0", "except": rest}]


def _whole(address: str) -> str:
    return f"{address}/{ipaddress.ip_address(address).max_prefixlen}"
