"""What Kubernetes is told of a load balancer: the addresses that Plait's server gave it. Pure.

An address that stands in the status already stays, whoever wrote it (`services.service` takes it
over). What Plait gave goes when the Service asks for a load balancer no more.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from plait.kubernetes import objects
from plait.kubernetes.marks import is_ours
from plait.kubernetes.services import ingress, is_balanced_here, within
from plait.model.objects import Service

Patch = dict[str, Any]


def status(found: objects.Service, held: Service | None, pools: Collection[str]) -> Patch | None:
    """A merge patch of the Service's status; None: it is as it should be. `pools` are those of
    which Plait gives load-balancer addresses."""
    listed = found.status.load_balancer.ingress
    given = ingress(found)
    if is_balanced_here(found):
        wanted = held.spec.load_balancer_addresses if held is not None and is_ours(held) else ()
        mine = not listed or (len(given) == len(listed) and _all_given(given, pools))
        if not wanted or not mine or set(wanted) == set(given):
            return None
        return _patch(wanted)
    if found.spec.type != "LoadBalancer" and given and _all_given(given, pools):
        return _patch(())
    return None


def withdrawn(found: objects.Service, pools: Collection[str]) -> Patch | None:
    """A merge patch that takes away what Plait gave; None: it gave nothing."""
    given = ingress(found)
    return _patch(()) if given and _all_given(given, pools) else None


def _all_given(given: Collection[str], pools: Collection[str]) -> bool:
    """Whether addresses are such as Plait gives."""
    return all(within(each, pools) for each in given)


def _patch(addresses: Collection[str]) -> Patch:
    found = [{"ip": address} for address in addresses]
    return {"status": {"loadBalancer": {"ingress": found or None}}}
