"""Kinds as people type them: `network`, `Networks`, `net`, and those of Kubernetes'."""

from __future__ import annotations

from typing import Final, NamedTuple

from plait.cli.frame import nearest
from plait.model.errors import PlaitError
from plait.model.objects import KINDS, Object, Policy

SHORT = {
    "net": "Network",
    "ns": "Namespace",
    "ep": "Endpoint",
    "eps": "Endpoint",
    "no": "Node",
    "block": "AddressBlock",
    "blocks": "AddressBlock",
    "pol": "Policy",
    "svc": "Service",
    "slices": "EndpointSlice",
    "po": "Pod",
}
FOREIGN: Final = {
    "networkpolicy": "NetworkPolicy",
    "networkpolicies": "NetworkPolicy",
    "netpol": "NetworkPolicy",
    "clusternetworkpolicy": "ClusterNetworkPolicy",
    "clusternetworkpolicies": "ClusterNetworkPolicy",
    "cnp": "ClusterNetworkPolicy",
}
"""Kinds of Kubernetes' that are stored as policies."""


class Wanted(NamedTuple):
    """What a word asks for: objects of a kind, or those of them that are another kind elsewhere."""

    kind: type[Object]
    origin: str = ""
    """Kind of Kubernetes' that policies were made of."""

    @property
    def namespaced(self) -> bool:
        """Whether a name stands in a namespace."""
        return self.kind.namespaced or self.origin == "NetworkPolicy"

    @property
    def plural(self) -> str:
        """For people."""
        return f"{self.origin.lower()[:-1]}ies" if self.origin else self.kind.plural

    def stored_name(self, name: str, namespace: str) -> str:
        """Name under which the object is stored; that name itself is taken too."""
        if not self.origin:
            return name
        from plait.policy.kubernetes import PREFIX, policy_name

        if name.startswith(f"{PREFIX[self.origin]}."):
            return name
        return policy_name(self.origin, name, namespace if self.namespaced else "")

    def covers(self, obj: Object, namespace: str) -> bool:
        """Whether the object is asked for; an empty namespace is any."""
        if not self.origin:
            return True
        origin = obj.spec.origin if isinstance(obj, Policy) else None
        return (
            origin is not None
            and origin.kind == self.origin
            and namespace in ("", origin.namespace)
        )


def find_wanted(word: str) -> Wanted:
    """What a word asks for, whatever its case and number; PLAIT-API-003 names the nearest."""
    lowered = word.lower()
    names: dict[str, Wanted] = {}
    for name, kind in KINDS.items():
        names[name.lower()] = names[kind.plural] = Wanted(kind)
    for short, name in SHORT.items():
        names[short] = Wanted(KINDS[name])
    for name, origin in FOREIGN.items():
        names[name] = Wanted(Policy, origin)
    if lowered in names:
        return names[lowered]
    hints = nearest(lowered, list(names))
    raise PlaitError(
        "PLAIT-API-003",
        f"no kind `{word}`",
        why="kinds are " + ", ".join(kind.plural for kind in KINDS.values()),
        fix=(f"write `{names[hints[0]].plural}`",) if hints else (),
    )


def find_kind(word: str) -> type[Object]:
    """The kind of the objects that a word asks for."""
    return find_wanted(word).kind
