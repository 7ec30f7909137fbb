"""What an API server does to objects before it keeps them, and how it picks them, for the fake one.

Defaults, patches and selectors, as far as Plait and its tests meet them. Pure.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from plait.kubernetes.objects import HOSTNAME_LABEL, ZONE_LABEL
from plait.model.selectors import NAMESPACE_NAME

Json = dict[str, Any]


class Unsupported(ValueError):
    """A selector that no API server would take either."""


# Selectors

_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "pods": ("spec.nodeName", "status.phase", "status.podIP", "spec.restartPolicy"),
    "nodes": ("spec.unschedulable",),
    "namespaces": ("status.phase",),
}
"""Fields that may be selected by, beside name and namespace."""
_SET: Final = re.compile(r"(\S+)\s+(in|notin)\s+\(([^)]*)\)")

Test = Callable[[Json], bool]


def field_selector(text: str, plural: str) -> Test:
    """The test that `fieldSelector` makes."""
    tests: list[tuple[str, bool, str]] = []
    for term in filter(None, text.split(",")):
        found = re.fullmatch(r"([\w.]+)(==|=|!=)(.*)", term)
        if found is None:
            raise Unsupported(f"invalid field selector: {term}")
        path, sign, value = found.groups()
        if path not in ("metadata.name", "metadata.namespace", *_FIELDS.get(plural, ())):
            raise Unsupported(f"field label not supported: {path}")
        tests.append((path, sign != "!=", value))
    return lambda obj: all((_at(obj, path) == value) is same for path, same, value in tests)


def _at(obj: Json, path: str) -> str:
    found: Any = obj
    for part in path.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return "" if found is None else str(found)


def label_selector(text: str) -> Test:
    """The test that `labelSelector` makes."""
    tests = [_label_test(term.strip()) for term in re.split(r",(?![^(]*\))", text) if term.strip()]
    return lambda obj: all(test(obj["metadata"].get("labels") or {}) for test in tests)


def _label_test(term: str) -> Callable[[Mapping[str, str]], bool]:
    if found := _SET.fullmatch(term):
        key, operator, listed = found.groups()
        values = {value.strip() for value in listed.split(",")}
        return lambda labels: (labels.get(key) in values) is (operator == "in")
    if found := re.fullmatch(r"([^=!]+?)\s*(==|=|!=)\s*(.*)", term):
        key, sign, value = found.groups()
        return lambda labels: (labels.get(key) == value) is (sign != "!=")
    if re.fullmatch(r"!?[\w./-]+", term):
        return lambda labels: (term.lstrip("!") in labels) is not term.startswith("!")
    raise Unsupported(f"unable to parse requirement: {term}")


# Patches


def merge_patch(old: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


MERGE_KEYS: Final = {"conditions": "type", "addresses": "type"}
"""Lists that a strategic merge patch merges, and the key of their items."""


def strategic_patch(old: Any, patch: Any) -> Any:
    """Strategic merge patch, with the lists of `MERGE_KEYS`."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(old) if isinstance(old, dict) else {}
    for field, value in patch.items():
        key = MERGE_KEYS.get(field)
        if value is None:
            merged.pop(field, None)
        elif key is not None and isinstance(value, list):
            items = {item[key]: item for item in merged.get(field) or ()}
            for item in value:
                if item.get("$patch") == "delete":
                    items.pop(item[key], None)
                else:
                    items[item[key]] = strategic_patch(items.get(item[key]), item)
            merged[field] = list(items.values())
        else:
            merged[field] = strategic_patch(merged.get(field), value)
    return merged


# Defaults


class Defaults:
    """Fills in what an object leaves open when it is created."""

    def __init__(self) -> None:
        self._addresses = (f"10.96.{n >> 8}.{n & 255}" for n in itertools.count(10))
        self._node_ports = itertools.count(30000)
        self._table: Final[dict[str, Callable[[Json], None]]] = {
            "namespaces": self._namespace,
            "networkpolicies": self._network_policy,
            "services": self._service,
        }

    def fill(self, plural: str, obj: Json) -> None:
        """Change the object in place."""
        fill = self._table.get(plural)
        if fill is not None:
            fill(obj)

    def _namespace(self, obj: Json) -> None:
        meta = obj["metadata"]
        meta["labels"] = {**(meta.get("labels") or {}), NAMESPACE_NAME: meta["name"]}

    def _network_policy(self, obj: Json) -> None:
        spec = obj.setdefault("spec", {})
        if not spec.get("policyTypes"):
            spec["policyTypes"] = ["Ingress", *(["Egress"] if spec.get("egress") else [])]
        for port in _ports(spec):
            port.setdefault("protocol", "TCP")

    def _service(self, obj: Json) -> None:
        spec = obj.setdefault("spec", {})
        kind = spec.setdefault("type", "ClusterIP")
        spec.setdefault("sessionAffinity", "None")
        if kind != "ExternalName":
            address = spec.setdefault("clusterIP", "") or next(self._addresses)
            spec["clusterIP"] = address
            spec.setdefault("clusterIPs", [address])
        for port in spec.get("ports") or ():
            port.setdefault("protocol", "TCP")
            port.setdefault("targetPort", port["port"])
            if kind in ("NodePort", "LoadBalancer") and not port.get("nodePort"):
                port["nodePort"] = next(self._node_ports)


def _ports(spec: Json) -> Iterator[Json]:
    for direction in ("ingress", "egress"):
        for rule in spec.get(direction) or ():
            yield from rule.get("ports") or ()


# Versions


def as_v1beta1(endpoint_slice: Json) -> Json:
    """An EndpointSlice of v1 in the form of v1beta1."""
    return {
        **endpoint_slice,
        "endpoints": [_older(each) for each in endpoint_slice.get("endpoints") or ()],
    }


def _older(endpoint: Json) -> Json:
    left = {k: v for k, v in endpoint.items() if k not in ("zone", "nodeName", "hints")}
    topology = {
        label: endpoint[field]
        for field, label in (("nodeName", HOSTNAME_LABEL), ("zone", ZONE_LABEL))
        if endpoint.get(field)
    }
    return {**left, "topology": topology} if topology else left


def as_v1(endpoint_slice: Json) -> Json:
    """An EndpointSlice of v1beta1 in the form of v1."""
    newer = []
    for endpoint in endpoint_slice.get("endpoints") or ():
        topology = endpoint.get("topology") or {}
        left = {k: v for k, v in endpoint.items() if k != "topology"}
        for field, label in (("nodeName", HOSTNAME_LABEL), ("zone", ZONE_LABEL)):
            if label in topology:
                left.setdefault(field, topology[label])
        newer.append(left)
    return {**endpoint_slice, "endpoints": newer}
