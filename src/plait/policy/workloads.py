"""Which endpoints are replicas of one thing, and the selector that means that thing.

Addresses and generated names come and go; a policy that is proposed must hold for the next
replica too. So endpoints are taken together that have the same labels, but for those that a
runtime makes anew for each replica, and the same name, but for what it counts up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from plait.model.objects import Endpoint
from plait.model.selectors import ENDPOINT_NETWORK, ENDPOINT_NODE, Selector
from plait.policy.reference import name_selector
from plait.policy.world import World

VOLATILE: Final = frozenset(
    {
        "pod-template-hash",
        "pod-template-generation",
        "controller-revision-hash",
        "controller-uid",
        "batch.kubernetes.io/controller-uid",
        "apps.kubernetes.io/pod-index",
        "statefulset.kubernetes.io/pod-name",
        "desktop.docker.io/wsl-distro",
    }
)
"""Labels that controllers give to one replica or one version."""
VOLATILE_PREFIXES: Final = (
    "com.docker.compose.",
    "desktop.docker.io/",
    "org.opencontainers.image.",
    "plait.",
)
LASTING: Final = frozenset({"com.docker.compose.project", "com.docker.compose.service"})
"""Exceptions from the prefixes."""

_COUNTED: Final = re.compile(r"[-_.]?\d+$", re.ASCII)
_GENERATED: Final = re.compile(r"-[a-z0-9]{5}$", re.ASCII)


class Workload(NamedTuple):
    """Endpoints of one namespace that one selector means."""

    namespace: str
    name: str
    """For people."""
    selector: Selector
    exact: bool = True
    """The selector means no other endpoint that is there now."""


class _Labelled:
    """The endpoints of a namespace by their labels, the implicit ones too."""

    def __init__(self) -> None:
        self._having: dict[tuple[str, str], set[str]] = {}

    def add(self, endpoint: Endpoint, labels: Mapping[str, str]) -> None:
        for label in labels.items():
            self._having.setdefault(label, set()).add(endpoint.metadata.name)

    def selected(self, selector: Selector) -> set[str]:
        """Ids of those that a selector means that is made of labels and of names."""
        wanted = [
            *selector.match_labels.items(),
            *((named.key, "") for named in selector.match_expressions),
        ]
        having = sorted((self._having.get(label, set()) for label in wanted), key=len)
        return set.intersection(*having) if having else set()


def lasting(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels that all replicas have and the next one will have."""
    return {
        key: value
        for key, value in labels.items()
        if key in LASTING or not (key in VOLATILE or key.startswith(VOLATILE_PREFIXES))
    }


def stem(endpoint: Endpoint) -> str:
    """The part of a name that replicas share: `web` of `web-7d4b9c6f5-x2x1z` and of `web-2`."""
    name, labels = endpoint.spec.name, endpoint.metadata.labels
    generated = labels.get("pod-template-hash")
    if generated and f"-{generated}-" in name:
        return name.partition(f"-{generated}-")[0]
    if "controller-revision-hash" in labels and _GENERATED.search(name):
        return _GENERATED.sub("", name)
    return _COUNTED.sub("", name) or name


def workloads(world: World) -> dict[tuple[str, str], Workload]:
    """The workload of each endpoint, by namespace and id."""
    groups: dict[tuple[str, str, frozenset[tuple[str, str]]], list[Endpoint]] = {}
    spaces: dict[str, _Labelled] = {}
    for endpoint in world.endpoints:
        namespace = endpoint.metadata.namespace
        spaces.setdefault(namespace, _Labelled()).add(endpoint, world.labels(endpoint))
        labels = frozenset(lasting(endpoint.metadata.labels).items())
        groups.setdefault((namespace, stem(endpoint), labels), []).append(endpoint)
    found: dict[tuple[str, str], Workload] = {}
    for (namespace, shared, labels), members in groups.items():
        selector = Selector(match_labels=dict(sorted(labels)))
        if labels and spaces[namespace].selected(selector) == _ids(members):
            made = Workload(namespace, shared or _by_value(labels), selector)
            found.update(dict.fromkeys(((namespace, i) for i in _ids(members)), made))
            continue
        for name in sorted({e.spec.name for e in members}):
            same = [e for e in members if e.spec.name == name]
            made = _by_name(spaces[namespace], name, dict(labels), same)
            found.update(dict.fromkeys(((namespace, i) for i in _ids(same)), made))
    return found


def _by_name(
    neighbours: _Labelled,
    name: str,
    labels: Mapping[str, str],
    members: list[Endpoint],
) -> Workload:
    """The narrowest selector for endpoints of one name and one set of labels."""
    first = members[0]
    namespace = first.metadata.namespace
    place = {ENDPOINT_NETWORK: first.spec.network, ENDPOINT_NODE: first.spec.node}
    labelled = Selector(match_labels=dict(sorted(labels.items())))
    if name:
        named = name_selector(name)
        both = Selector(
            match_labels=labelled.match_labels, match_expressions=named.match_expressions
        )
        candidates = [named, both]
    else:
        candidates = [labelled] if labels else [Selector(match_labels=place)]
    for selector in candidates:
        if neighbours.selected(selector) == _ids(members):
            return Workload(namespace, name or first.metadata.name, selector)
    return Workload(namespace, name or first.metadata.name, candidates[-1], exact=False)


def _ids(endpoints: Iterable[Endpoint]) -> set[str]:
    return {endpoint.metadata.name for endpoint in endpoints}


def _by_value(labels: Iterable[tuple[str, str]]) -> str:
    """A name out of labels, for endpoints without one."""
    return "-".join(value for _, value in sorted(labels) if value)
