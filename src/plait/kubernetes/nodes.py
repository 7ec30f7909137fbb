"""What Kubernetes is told of a node: whether new pods may come, and that its network works. Pure.

While the agent of a node is not ready, or none has joined, the taint `plait/agent-not-ready` keeps
new pods away (NoSchedule: those that run have their network, which lives in the kernel). A node
whose agent is ready gets the condition NetworkUnavailable=False, which also overrules whoever said
that it has no network (core/v1, NodeNetworkUnavailable).
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, Final

from plait.kubernetes import objects
from plait.model.objects import Node

TAINT: Final = "plait/agent-not-ready"
EFFECT: Final = "NoSchedule"
CONDITION: Final = "NetworkUnavailable"
REASON: Final = "PlaitIsUp"
MESSAGE: Final = "the agent of Plait is ready on this node"


def is_ready(node: Node | None) -> bool:
    """Whether the agent of a node can take new pods. That it is silent is Plait's server to say,
    which hears it: the clocks of two hosts differ, and a server that is away makes no agent so."""
    return node is not None and node.is_ready


def is_tainted(found: objects.Node) -> bool:
    """Whether the taint is there."""
    return any(taint.key == TAINT for taint in found.spec.taints)


def is_told(found: objects.Node) -> bool:
    """Whether the condition is there and says that the network works."""
    return any(c.type == CONDITION and c.status == "False" for c in found.status.conditions)


def needs(found: objects.Node, ready: bool) -> tuple[bool, bool]:
    """Whether the taint, and whether the condition has to be written."""
    return is_tainted(found) == ready, ready and not is_told(found)


def taints(present: Sequence[Mapping[str, Any]], ready: bool) -> list[dict[str, Any]]:
    """All taints as they should be, out of those that are there."""
    others = [dict(taint) for taint in present if taint.get("key") != TAINT]
    return others if ready else [*others, {"key": TAINT, "effect": EFFECT}]


def condition(now: float) -> dict[str, Any]:
    """A patch of the node's status (strategic merge: conditions merge by type)."""
    stamp = datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return _conditions(
        {
            "status": "False",
            "reason": REASON,
            "message": MESSAGE,
            "lastTransitionTime": stamp,
            "lastHeartbeatTime": stamp,
        }
    )


def no_condition() -> dict[str, Any]:
    """A patch of the node's status that takes the condition away."""
    return _conditions({"$patch": "delete"})


def _conditions(fields: Mapping[str, str]) -> dict[str, Any]:
    return {"status": {"conditions": [{"type": CONDITION, **fields}]}}


def is_our_condition(found: Mapping[str, Any]) -> bool:
    """Whether a node, as JSON, has the condition from us."""
    listed = (found.get("status") or {}).get("conditions") or ()
    return any(c.get("type") == CONDITION and c.get("reason") == REASON for c in listed)
