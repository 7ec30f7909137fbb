"""What `plait why` says of pods that are no endpoints, which kubectl lists like all others."""

from __future__ import annotations

from collections.abc import Iterable

from plait.cli import connect
from plait.model.errors import PlaitError
from plait.model.objects import Pod


def instead(error: PlaitError, texts: Iterable[str], namespace: str) -> PlaitError:
    """The error, or what is to be said in its place where one of the texts means such a pod."""
    if error.code != "PLAIT-API-004":
        return error
    for text in texts:
        space, _, name = text.rpartition("/")
        pod = _pod(name, space or namespace) if space or namespace else None
        if pod is not None and pod.spec.host_network:
            return PlaitError(
                error.code,
                f"the pod {pod.metadata.namespace}/{name} is on the network of its host",
                why="policies and Services see the host",
                fix=(f"write node:{pod.spec.node}",),
            )
        if pod is not None and pod.spec.finished:
            return PlaitError(
                error.code,
                f"the pod {pod.metadata.namespace}/{name} has ended",
                why="it has no network any more: its address may be another's",
            )
    return error


def _pod(name: str, namespace: str) -> Pod | None:
    async def ask() -> Pod:
        async with connect.api() as client:
            return await client.get(Pod, name, namespace)

    try:
        return connect.wait_for(ask())
    except PlaitError:
        return None
