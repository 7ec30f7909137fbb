"""How a backend stands: whether it gets new flows."""

from __future__ import annotations

from typing import Final, NamedTuple

from plait.model.objects import Condition, EndpointStatus
from plait.model.pods import PodSpec


class Standing(NamedTuple):
    """The conditions of a backend, as `model.services.SliceEndpoint` has them."""

    ready: bool
    serving: bool
    terminating: bool
    condition: Condition = ""
    """What its runtime says, where that is why it is not ready."""


READY: Final = Standing(ready=True, serving=True, terminating=False)
PENDING: Final = Standing(ready=False, serving=False, terminating=False)
GONE: Final = Standing(ready=False, serving=False, terminating=True)
"""Of a pod that its orchestrator does not have any more, or that has ended: what is left of it
waits for its runtime to detach it."""


def of_condition(condition: Condition) -> Standing:
    """What the words of a container's runtime mean: one that was told to end is on its way out and
    still serves; any other word says that nobody answers there."""
    stopping = condition == "stopping"
    return Standing(not condition, not condition or stopping, stopping, condition)


def of_endpoint(status: EndpointStatus) -> Standing:
    """What an endpoint's status means, as far as its agent knows."""
    return PENDING if status.phase == "pending" else of_condition(status.condition)


def of_pod(pod: PodSpec) -> Standing:
    """What a pod's conditions mean (discovery/v1, EndpointConditions): on its way out it is not
    ready, and serves as long as it says that it answers."""
    if pod.finished:
        return GONE
    return Standing(pod.ready and not pod.terminating, pod.ready, pod.terminating)
