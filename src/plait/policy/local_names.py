"""Names with dots that are ours: what containers write is what people ask about.

`web.shop`, `web.shop.plait.local`, `web.shop.svc` and `web.shop.svc.cluster.local` are `shop/web`;
`db-0.db.shop.svc.cluster.local` is the endpoint `shop/db-0` of a Service without an address.
"""

from __future__ import annotations

from typing import NamedTuple

from plait.policy.world import World


class LocalName(NamedTuple):
    """What such a name says."""

    namespace: str
    """Empty, as the name is, where nobody can be called so."""
    name: str
    certain: bool
    """It stands below a domain of ours: nobody outside has it."""
    is_endpoint: bool
    """It is of an endpoint, and of no Service."""


def local_name(world: World, text: str) -> LocalName | None:
    """What a text says if it can be such a name; None if not."""
    labels = text.lower().removesuffix(".").split(".")
    if not all(label and label.replace("-", "").isalnum() for label in labels):
        return None
    services = ["svc", *world.kubernetes_domain.split(".")]
    for below in (services, services[:1], world.domain.split("."), []):
        if below and labels[-len(below) :] != below:
            continue
        own = labels[: len(labels) - len(below)]
        if len(own) == 2:
            return LocalName(own[1], own[0], bool(below), False)
        if len(own) == 3 and below[:1] == services[:1]:
            return LocalName(own[2], own[0], True, True)
        if len(below) > 1:
            return LocalName("", "", True, True)
    return None
