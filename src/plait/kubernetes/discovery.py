"""Which resource an API server serves a kind by."""

from __future__ import annotations

from typing import Any

import msgspec

from plait.kubernetes.api import KubernetesApi
from plait.kubernetes.kinds import Kind, Resource
from plait.kubernetes.refusals import KubernetesError


class _Served(msgspec.Struct, frozen=True):
    """meta/v1 APIResource, as far as it is used."""

    name: str


class _ResourceList(msgspec.Struct, frozen=True):
    """meta/v1 APIResourceList."""

    resources: tuple[_Served, ...] | None = None


async def resolve(api: KubernetesApi, kind: Kind[Any]) -> Resource | None:
    """The best of a kind's resources that is served now; None if none is.

    Asked of the server each time: a version goes with the server's next release, and a
    CustomResourceDefinition may come and go at any time.
    """
    for resource in kind.resources:
        if await _is_served(api, resource):
            return resource
    return None


async def _is_served(api: KubernetesApi, resource: Resource) -> bool:
    try:
        listed = await api.read(resource.root, _ResourceList)
    except KubernetesError as error:
        if error.http_status == 404:
            return False
        raise
    return any(each.name == resource.plural for each in listed.resources or ())
