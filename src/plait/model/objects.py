"""The kinds of the API, as frozen structs.

`meta` has what they share, `policies` those that rule traffic, `services` and `pods` those that
names and balancing come from.

A spec says what is wanted and is written by its owner; a status says what is and is written by
the component that observes it.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal

import msgspec

from plait.model.meta import API_VERSION as API_VERSION
from plait.model.meta import ORIGIN as ORIGIN
from plait.model.meta import Base as Base
from plait.model.meta import Metadata as Metadata
from plait.model.meta import Object as Object
from plait.model.meta import object_key as object_key
from plait.model.pods import Pod as Pod
from plait.model.policies import Group as Group
from plait.model.policies import Policy as Policy
from plait.model.ports import NamedPort as NamedPort
from plait.model.ports import PublishedPort as PublishedPort
from plait.model.services import EndpointSlice as EndpointSlice
from plait.model.services import Service as Service

Encap = Literal["auto", "direct", "vxlan"]


class ClusterSpec(Base, frozen=True, kw_only=True):
    """Settings of the whole network. There is one Cluster object, named `plait`."""

    pools: tuple[str, ...] = ()
    """CIDRs, both families, out of which a Network without pools gets its own."""
    encap: Encap = "auto"
    vxlan_port: int = 4789
    vni: int = 0x706C
    domain: str = "plait.local"
    service_pools: tuple[str, ...] = ()
    """CIDRs, at most one a family, out of which Services get cluster addresses; no part of `pools`.
    Empty: a Service must name its own."""
    load_balancer_pools: tuple[str, ...] = ()
    """CIDRs out of which Services of type LoadBalancer get addresses; it is the user's business
    that they lead to some host."""
    node_ports: str = "30000-32767"
    """Range out of which node ports are chosen; the hosts' ephemeral ports lie elsewhere."""
    kubernetes_domain: str = "cluster.local"
    """Names of Kubernetes' schema (`<service>.<namespace>.svc.<domain>`) stand below it."""


class Cluster(Object, frozen=True, kw_only=True, tag=True):
    """The network as a whole."""

    plural: ClassVar[str] = "clusters"
    spec: ClusterSpec = ClusterSpec()


class NamespaceSpec(Base, frozen=True, kw_only=True):
    """A namespace scopes names and, later, policies. Its labels count for selectors."""


class Namespace(Object, frozen=True, kw_only=True, tag=True):
    """A scope of names."""

    plural: ClassVar[str] = "namespaces"
    spec: NamespaceSpec = NamespaceSpec()


class NodeSpec(Base, frozen=True, kw_only=True):
    """A host that runs an agent. Written by that host's agent only."""

    addresses: tuple[str, ...] = ()
    """Underlay addresses with prefix length, at most one a family: `192.0.2.11/24`. The prefix
    says which peers are on the same subnet."""
    link_local: str = ""
    """IPv6 link-local address of the underlay interface: next hop of direct IPv6 routes."""
    mtu: int = 1500
    """Bytes, of the underlay interface."""
    site: str = ""
    """Name of the place."""


class NodeStatus(Base, frozen=True, kw_only=True):
    """What the agent last said of itself."""

    version: str = ""
    ready: bool = False
    last_seen: str = ""
    """RFC 3339, UTC; set by the server when the node writes its status."""
    silent: bool = False
    """Nothing was heard of it for a while (`server.silence`); set by the server, and taken back
    when the node writes its status. Services use its backends only where there are no others."""
    docker: bool = False
    """A Docker daemon answers on this host."""
    prefixes: tuple[str, ...] = ()
    """CIDRs in use on the host that are not ours: routes, addresses, resolvers, Docker pools.
    A Network whose pool overlaps one of them is refused."""
    conditions: tuple[str, ...] = ()
    """Human-readable problems, empty when all is well."""


ZONE_LABEL: Final = "topology.kubernetes.io/zone"
"""Label of a Node: its zone, which counts before the site that its agent was given."""
LEAVING_LABEL: Final = "plait/leaving"
"""Label of a Node that is about to go: balancers outside should lead nothing new to it."""


class Node(Object, frozen=True, kw_only=True, tag=True):
    """A host."""

    plural: ClassVar[str] = "nodes"
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def site(self) -> str:
        """Where it is, as balancing sees it: what hints and zones of Kubernetes speak of."""
        return self.metadata.labels.get(ZONE_LABEL, self.spec.site)

    @property
    def is_ready(self) -> bool:
        """Whether its agent said so, and is still heard."""
        return self.status.ready and not self.status.silent


class NetworkSpec(Base, frozen=True, kw_only=True):
    """A set of endpoints that reach each other on all hosts, and nobody else's."""

    pools: tuple[str, ...] = ()
    """CIDRs, at most one a family. Empty: the server cuts them from the cluster's pools. Pools
    of different networks never overlap. Immutable once set."""
    gateways: tuple[str, ...] = ()
    """Gateway address a family, inside the pool; never given to an endpoint. Defaults to the
    first address of each pool. Docker containers use it as next hop."""
    internal: bool = False
    """No way out of the network and no published ports."""
    reserved: tuple[str, ...] = ()
    """CIDRs or addresses inside the pools that are never given out unless requested."""
    external_ipam: bool = False
    """Addresses of at least one host are chosen by someone else (Docker's default IPAM), from
    the bottom of the pool; so others claim blocks from the top."""
    docker: bool = True
    """Appear as a Docker network of the same name on every host that runs Docker."""


class NetworkStatus(Base, frozen=True, kw_only=True):
    """Kept by the server."""

    message: str = ""


class Network(Object, frozen=True, kw_only=True, tag=True):
    """A network."""

    plural: ClassVar[str] = "networks"
    spec: NetworkSpec = NetworkSpec()
    status: NetworkStatus = NetworkStatus()


class Loan(Base, frozen=True, kw_only=True):
    """One address of a block that another node than the block's owner uses.

    A node that needs a particular address asks by adding a loan in state `requested`; the
    owner alone answers, for it allocates from the block without asking anyone. In a block that
    nobody owns the asker writes `granted` itself.
    """

    address: str
    node: str
    state: Literal["requested", "granted", "refused"] = "requested"
    reason: str = ""


class AddressBlockSpec(Base, frozen=True, kw_only=True):
    """A block of a network's pool: the unit of allocation and of routing."""

    network: str
    cidr: str
    node: str = ""
    """Owner; empty when only single addresses of the block are lent out."""
    loans: tuple[Loan, ...] = ()


class AddressBlock(Object, frozen=True, kw_only=True, tag=True):
    """A claimed block. Named by `block_name`, so that a claim is a create of one key."""

    plural: ClassVar[str] = "addressblocks"
    spec: AddressBlockSpec


class Workload(Base, frozen=True, kw_only=True):
    """What the endpoint belongs to."""

    runtime: Literal["docker", "process", "lab", "cni", ""] = ""
    id: str = ""
    """Container id, or pid, or path of the network namespace."""
    pod: str = ""
    """Uid of the Pod that it is. A pod may call its own host, unless its network is internal, as
    Kubernetes expects; any other endpoint only where a policy lets it."""


class EndpointSpec(Base, frozen=True, kw_only=True):
    """One interface of one workload in one network. Written by its node's agent only."""

    node: str
    network: str
    name: str = ""
    """DNS label, unique to nobody: several endpoints of one name are several addresses of it."""
    aliases: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    """Without prefix length; at most one a family."""
    mac: str = ""
    ports: tuple[PublishedPort, ...] = ()
    named_ports: tuple[NamedPort, ...] = ()
    workload: Workload = Workload()


Condition = Literal["", "starting", "unhealthy", "paused", "stopping"]
"""What keeps new flows of Services from a workload, by its runtime; empty: nothing, or the runtime
does not say. `starting`: it does not run yet, or its health check has not succeeded yet."""


class EndpointStatus(Base, frozen=True, kw_only=True):
    """What the agent observed."""

    phase: Literal["pending", "ready", "degraded"] = "pending"
    """`pending`: identity unknown or rules not in the kernel, so no traffic passes."""
    condition: Condition = ""
    """Matters to Services only."""
    interface: str = ""
    message: str = ""


class Endpoint(Object, frozen=True, kw_only=True, tag=True):
    """An attachment. `metadata.name` is the endpoint id; people use `spec.name`."""

    namespaced: ClassVar[bool] = True
    plural: ClassVar[str] = "endpoints"
    spec: EndpointSpec
    status: EndpointStatus = EndpointStatus()


AnyObject = (
    Cluster
    | Namespace
    | Node
    | Network
    | AddressBlock
    | Pod
    | Endpoint
    | Service
    | EndpointSlice
    | Group
    | Policy
)

KINDS: Final[dict[str, type[Object]]] = {
    k.__name__: k
    for k in (
        Cluster,
        Namespace,
        Node,
        Network,
        AddressBlock,
        Pod,
        Endpoint,
        Service,
        EndpointSlice,
        Group,
        Policy,
    )
}
PLURALS: Final[dict[str, type[Object]]] = {k.plural: k for k in KINDS.values()}

encode: Final = msgspec.json.Encoder().encode
decode: Final = msgspec.json.Decoder(AnyObject).decode


def block_name(network: str, cidr: str) -> str:
    """Name of the AddressBlock of a CIDR: `<network>.10-9-0-0-26`."""
    return f"{network}.{cidr.replace('.', '-').replace(':', '-').replace('/', '-')}"


def to_builtins(obj: Object) -> dict[str, Any]:
    """Plain dict as on the wire."""
    result: dict[str, Any] = msgspec.to_builtins(obj)
    return result
