"""Whether all that Kubernetes says has come over: a connector that began now would have nothing to
write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from plait.kubernetes.controller import DEFAULT_NETWORK
from plait.kubernetes.marks import is_touched
from plait.kubernetes.plan import decide
from plait.kubernetes.replica import Change
from plait.kubernetes.wanted import Wanted
from plait.model.objects import AnyObject, ClusterSpec, Node


def unwritten(kubernetes: Mapping[str, Iterable[Any]], plait: Iterable[AnyObject]) -> list[str]:
    """Keys of what a connector would write: `kubernetes` has all objects there of some kinds,
    `plait` all of the kinds that they become."""
    wanted = Wanted(network=DEFAULT_NETWORK, domain=ClusterSpec().domain)
    held = {obj.key: obj for obj in plait}
    for obj in held.values():
        if isinstance(obj, Node):
            wanted.take_host(obj.metadata.name, obj)
    for kind, objects in kubernetes.items():
        wanted.take(kind, [Change(obj.metadata.key, None, obj) for obj in objects])
    assert not wanted.problems, wanted.problems
    ours = {key for key, obj in held.items() if is_touched(obj)}
    return sorted(
        key
        for key in wanted.objects.keys() | ours
        if decide(wanted.objects.get(key), held.get(key)).op is not None
    )
