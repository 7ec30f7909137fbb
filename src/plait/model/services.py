"""Kinds Service and EndpointSlice: one address for many backends.

A Service has frontends: its cluster addresses, its external and load-balancer addresses, each with
all of its ports, and its node ports on every host. What is sent to one goes to one of the
backends, at random, and conntrack keeps it there. Backends are

- endpoints of the Service's network that `selector` selects (each agent finds them itself): they
  are ready once their agent says so, and those that are Pods as their orchestrator says, or
- those that are listed in `backends`, or
- those of the EndpointSlices that name the Service (an orchestrator says them).

Of these each host uses for a port and a family:

- by `internalTraffic` or `externalTraffic` `Local`, those of this host alone: the ready ones; if
  there are none, those that still serve while they terminate;
- else the ready ones of all; if there are none, those that still serve while they terminate. Of
  them, by the hints that every one of them carries or else by `prefer`, those of the same node,
  else of the same site, else all.

`externalTraffic` rules what senders outside send to external and load-balancer addresses and to
node ports; senders of our own get all backends there. `internalTraffic` rules cluster addresses.

A Service of an internal network refuses everybody outside.

A frontend without backends refuses at once (TCP reset, ICMP port unreachable); to senders outside
one of `externalTraffic: Local` without a backend on this host drops while other hosts have some, so
that whoever balances outside looks there. A backend that goes takes its UDP flows with it;
established TCP flows to a terminating backend go on until it ends them.

Policies see the backend, not the Service: they decide after the address was translated. In-cluster
senders keep their own address; a sender outside keeps it as well where the backend is on the host
that it came to, and is otherwise seen as that host, so that answers find their way back.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from plait.model.meta import Base, Object
from plait.model.policies import Origin
from plait.model.selectors import Selector

ServiceProtocol = Literal["TCP", "UDP", "SCTP"]


class ServicePort(Base, frozen=True, kw_only=True):
    """A port on which the Service is called."""

    port: int
    """1 to 65535."""
    name: str = ""
    """DNS label; needed where there are several. EndpointSlices match ports by it."""
    protocol: ServiceProtocol = "TCP"
    target_port: int | str | None = None
    """Port of the backends: a number, or the name of a named port of each; None: `port`. Means
    nothing for EndpointSlices, which say the port themselves."""
    node_port: int = 0
    """On every host, of types NodePort and LoadBalancer; 0: the server chooses one."""


class FixedBackend(Base, frozen=True, kw_only=True):
    """A backend that somebody wrote down: inside our network or not."""

    address: str
    port: int = 0
    """0: the service port's `targetPort`."""


class ServiceSpec(Base, frozen=True, kw_only=True):
    """See the module's docstring."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] = "ClusterIP"
    """Each has what the one before it has; ExternalName is an alias in DNS and nothing else."""
    network: str = "plait"
    """Whose endpoints are selected, and who finds its name in DNS. Everybody may call it whom the
    networks and policies let through to the backends."""
    ports: tuple[ServicePort, ...] = ()
    selector: Selector | None = None
    """Of endpoints in the Service's namespace."""
    backends: tuple[FixedBackend, ...] = ()
    headless: bool = False
    """No cluster address: its name resolves to the backends."""
    addresses: tuple[str, ...] = ()
    """Cluster addresses, at most one a family. Where none is said the server gives one of each of
    `families` out of the cluster's service pools. Immutable once set."""
    families: tuple[Literal[4, 6], ...] = ()
    """Empty: those of the service pools in which the network, or its `backends`, have addresses."""
    external_addresses: tuple[str, ...] = ()
    """Addresses that lead to some host from outside; it is the user's business that they do."""
    load_balancer_addresses: tuple[str, ...] = ()
    """Of type LoadBalancer; where none is said the server gives one of each family out of the
    cluster's load-balancer pools."""
    node_ports: bool = True
    """A LoadBalancer opens node ports too."""
    affinity_seconds: int = 0
    """A client (by its address) stays with its backend until it was silent for so long; 0: no
    affinity; at most 86400."""
    internal_traffic: Literal["Cluster", "Local"] = "Cluster"
    external_traffic: Literal["Cluster", "Local"] = "Cluster"
    source_ranges: tuple[str, ...] = ()
    """CIDRs that may call the load-balancer addresses; empty: everybody."""
    health_check_node_port: int = 0
    """TCP port on which each host says over HTTP whether it has backends of its own; the server
    chooses one for LoadBalancer with `externalTraffic: Local`. A NodePort has one only where the
    object that it was made of (`origin`) has."""
    prefer: Literal["", "node", "site"] = ""
    """`node`: backends of the same node first, then of the same site; `site`: the same site
    first."""
    publish_not_ready: bool = False
    """Names of a headless Service also mean backends that are not ready."""
    external_name: str = ""
    """DNS name that an ExternalName stands for."""
    origin: Origin | None = None
    """The object of somebody else's that it was made of."""


class ServiceStatus(Base, frozen=True, kw_only=True):
    """Kept by the server."""

    message: str = ""
    """Why it lacks what it asked for; empty when all is well."""


class Service(Object, frozen=True, kw_only=True, tag=True):
    """One address for many."""

    namespaced: ClassVar[bool] = True
    plural: ClassVar[str] = "services"
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


class SlicePort(Base, frozen=True, kw_only=True):
    """A port of all backends of a slice."""

    port: int
    name: str = ""
    """Of the ServicePort."""
    protocol: ServiceProtocol = "TCP"


class SliceEndpoint(Base, frozen=True, kw_only=True):
    """One backend."""

    addresses: tuple[str, ...]
    hostname: str = ""
    """DNS label of its own below a headless Service's name."""
    pod: str = ""
    """Name of its Pod, in the slice's namespace; empty: none."""
    node: str = ""
    site: str = ""
    """Kubernetes' zone."""
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    for_nodes: tuple[str, ...] = ()
    """Hint: nodes that should use it."""
    for_sites: tuple[str, ...] = ()
    """Hint: sites that should use it."""


class EndpointSliceSpec(Base, frozen=True, kw_only=True):
    """Backends of one Service of the same namespace, or some of them."""

    service: str
    ports: tuple[SlicePort, ...] = ()
    endpoints: tuple[SliceEndpoint, ...] = ()


class EndpointSlice(Object, frozen=True, kw_only=True, tag=True):
    """Backends, as an orchestrator says them."""

    namespaced: ClassVar[bool] = True
    plural: ClassVar[str] = "endpointslices"
    spec: EndpointSliceSpec
