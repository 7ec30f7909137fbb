"""Which kinds of Kubernetes Plait follows, and where an API server serves them. Pure."""

from __future__ import annotations

from typing import Final, Generic, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from plait.kubernetes import objects


class HasKey(Protocol):
    """What every `metadata` has."""

    @property
    def uid(self) -> str:
        """Tells an object from its successor of the same name."""

    @property
    def resource_version(self) -> str:
        """Of the last write."""

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""


class KubernetesObject(Protocol):
    """What every object has."""

    @property
    def metadata(self) -> HasKey:
        """Its identity."""


T = TypeVar("T", bound=KubernetesObject)


class Resource(msgspec.Struct, frozen=True, order=True):
    """Where a kind is served: a group, a version and a plural name."""

    group: str
    """Empty for the core group."""
    version: str
    plural: str
    namespaced: bool = True

    @property
    def group_version(self) -> str:
        """As in `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def root(self) -> str:
        """Path of the group and version, where discovery tells what it has."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def path(self, name: str = "", namespace: str = "", subresource: str = "") -> str:
        """Path of an object; without a name, of all of a namespace or, without that, of all."""
        parts = ["namespaces", namespace] if self.namespaced and namespace else []
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/".join((self.root, *(quote(part, safe="") for part in parts)))

    def __str__(self) -> str:
        return f"{self.plural}.{self.version}.{self.group}" if self.group else self.plural


class Kind(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A kind and the resources that may serve it, best first."""

    type: type[T]
    resources: tuple[Resource, ...]
    optional: bool = False
    """Not every cluster has it: one that does not serve it has no objects of it."""

    @property
    def name(self) -> str:
        """As in `kind`."""
        return self.type.__name__


NODES: Final = Kind(type=objects.Node, resources=(Resource("", "v1", "nodes", namespaced=False),))
NAMESPACES: Final = Kind(
    type=objects.Namespace, resources=(Resource("", "v1", "namespaces", namespaced=False),)
)
PODS: Final = Kind(type=objects.Pod, resources=(Resource("", "v1", "pods"),))
SERVICES: Final = Kind(type=objects.Service, resources=(Resource("", "v1", "services"),))
ENDPOINT_SLICES: Final = Kind(
    type=objects.EndpointSlice,
    resources=(
        Resource("discovery.k8s.io", "v1", "endpointslices"),
        Resource("discovery.k8s.io", "v1beta1", "endpointslices"),
    ),
)
NETWORK_POLICIES: Final = Kind(
    type=objects.NetworkPolicy,
    resources=(Resource("networking.k8s.io", "v1", "networkpolicies"),),
)
CLUSTER_NETWORK_POLICIES: Final = Kind(
    type=objects.ClusterNetworkPolicy,
    resources=(
        Resource(
            "policy.networking.k8s.io", "v1alpha2", "clusternetworkpolicies", namespaced=False
        ),
    ),
    optional=True,
)
