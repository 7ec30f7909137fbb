"""Payloads of Docker's plugin calls and of the parts of the Docker API that Plait uses.

Sources: moby `libnetwork/drivers/remote/api/api.go` and `libnetwork/ipams/remote/api/api.go`
(version 20.10 and later), the Docker Engine API 1.41 reference. dockerd adds fields between
versions, so unknown fields are tolerated here, and Go's nil maps and slices arrive as `null`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeVar

import msgspec

from plait.model.errors import PlaitError

Id = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,128}\Z")]
"""An id that dockerd chose: 64 hex digits today."""

GENERIC: Final = "com.docker.network.generic"
"""Key of the `-o` options in CreateNetwork's Options."""
ENABLE_IPV6: Final = "com.docker.network.enable_ipv6"
INTERNAL: Final = "com.docker.network.internal"
PORT_MAP: Final = "com.docker.network.portmap"
"""Key of the published ports in the options of an endpoint."""
REQUEST_ADDRESS_TYPE: Final = "RequestAddressType"
GATEWAY_ADDRESS: Final = "com.docker.network.gateway"
"""Value of `RequestAddressType` when dockerd asks for a network's gateway."""

ROUTE_NEXT_HOP: Final = 0
"""RouteType of a route through a next hop."""
ROUTE_ON_LINK: Final = 1
"""RouteType of a route to addresses on the link itself."""

Options = dict[str, Any] | None


class Payload(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Common options: Go's names, unknown fields tolerated, zero values left out."""


# -- network driver ------------------------------------------------------------------------


class PoolData(Payload, frozen=True, kw_only=True):
    """A pool of a network, as the IPAM driver gave it to dockerd."""

    address_space: str = ""
    pool: str = ""
    gateway: str = ""
    """With prefix length."""
    aux_addresses: dict[str, str] | None = None


class NetworkCall(Payload, frozen=True, kw_only=True):
    """DeleteNetwork, FreeNetwork."""

    network_id: Id = msgspec.field(name="NetworkID")


class CreateNetworkCall(NetworkCall, frozen=True, kw_only=True):
    """CreateNetwork and AllocateNetwork; the network's name is not among it."""

    options: Options = None
    ipv4_data: tuple[PoolData, ...] | None = msgspec.field(name="IPv4Data", default=None)
    ipv6_data: tuple[PoolData, ...] | None = msgspec.field(name="IPv6Data", default=None)


class EndpointCall(NetworkCall, frozen=True, kw_only=True):
    """Leave, DeleteEndpoint, EndpointOperInfo, RevokeExternalConnectivity."""

    endpoint_id: Id = msgspec.field(name="EndpointID")


class EndpointInterface(Payload, frozen=True, kw_only=True):
    """Addresses of an endpoint, with prefix length; empty where dockerd chose none."""

    address: str = ""
    address_ipv6: str = msgspec.field(name="AddressIPv6", default="")
    mac_address: str = ""


class CreateEndpointCall(EndpointCall, frozen=True, kw_only=True):
    """CreateEndpoint."""

    interface: EndpointInterface | None = None
    options: Options = None


class JoinCall(EndpointCall, frozen=True, kw_only=True):
    """Join."""

    sandbox_key: str = ""
    """Path of the container's network namespace; not to be entered yet."""
    options: Options = None


class ConnectivityCall(EndpointCall, frozen=True, kw_only=True):
    """ProgramExternalConnectivity."""

    options: Options = None


class PortBinding(Payload, frozen=True, kw_only=True):
    """An entry of `PORT_MAP`."""

    proto: int = 6
    """IP protocol number."""
    port: int = 0
    host_ip: str = msgspec.field(name="HostIP", default="")
    host_port: int = 0
    host_port_end: int = 0
    """Last port of the range that the host port may be chosen from; 0: no range."""


class Nothing(Payload, frozen=True, kw_only=True):
    """A call whose body does not matter."""


class InterfaceName(Payload, frozen=True, kw_only=True):
    """Which interface dockerd moves into the container, and what it is called there."""

    src_name: str
    dst_prefix: str


class StaticRoute(Payload, frozen=True, kw_only=True, omit_defaults=False):
    """A route that dockerd adds inside the container."""

    destination: str
    route_type: int
    next_hop: str = ""


class JoinReply(Payload, frozen=True, kw_only=True):
    """Answer to Join."""

    interface_name: InterfaceName
    gateway: str = ""
    gateway_ipv6: str = msgspec.field(name="GatewayIPv6", default="")
    static_routes: tuple[StaticRoute, ...] = ()
    disable_gateway_service: bool = False


class CreateEndpointReply(Payload, frozen=True, kw_only=True, omit_defaults=False):
    """Answer to CreateEndpoint: only what dockerd had left empty."""

    interface: EndpointInterface


# -- IPAM driver ---------------------------------------------------------------------------


class RequestPoolCall(Payload, frozen=True, kw_only=True):
    """RequestPool; an empty pool leaves the choice to us."""

    address_space: str = ""
    pool: str = ""
    sub_pool: str = ""
    options: Options = None
    v6: bool = False


class ReleasePoolCall(Payload, frozen=True, kw_only=True):
    """ReleasePool."""

    pool_id: str = msgspec.field(name="PoolID", default="")


class RequestAddressCall(Payload, frozen=True, kw_only=True):
    """RequestAddress; an empty address leaves the choice to us."""

    pool_id: str = msgspec.field(name="PoolID")
    address: str = ""
    options: Options = None


class ReleaseAddressCall(Payload, frozen=True, kw_only=True):
    """ReleaseAddress."""

    pool_id: str = msgspec.field(name="PoolID", default="")
    address: str = ""


# -- Docker API ----------------------------------------------------------------------------


class IpamConfig(Payload, frozen=True, kw_only=True):
    """A pool in a network's IPAM section."""

    subnet: str = ""
    gateway: str = ""
    auxiliary_addresses: dict[str, str] | None = None


class Ipam(Payload, frozen=True, kw_only=True):
    """A network's IPAM section."""

    driver: str = "default"
    config: tuple[IpamConfig, ...] | None = None


class NetworkContainer(Payload, frozen=True, kw_only=True):
    """A container in a network; the key of its entry is the container's id, or `ep-<endpoint>`
    for an endpoint that has not joined yet."""

    name: str = ""
    endpoint_id: str = msgspec.field(name="EndpointID", default="")


class DockerNetwork(Payload, frozen=True, kw_only=True):
    """`GET /networks/{id}`; a listing leaves `containers` out."""

    id: str = msgspec.field(name="Id")
    name: str = ""
    driver: str = ""
    scope: str = "local"
    internal: bool = False
    enable_ipv6: bool = msgspec.field(name="EnableIPv6", default=False)
    ipam: Ipam = msgspec.field(name="IPAM", default_factory=Ipam)
    containers: dict[str, NetworkContainer] | None = None
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class Container(Payload, frozen=True, kw_only=True):
    """An entry of `GET /containers/json`."""

    id: str = msgspec.field(name="Id")
    names: tuple[str, ...] | None = None
    """With a leading slash; a name with a second one is a link of another container."""
    labels: dict[str, str] | None = None
    state: str = ""
    """created, running, paused, restarting, removing, exited or dead."""
    status: str = ""
    """For people: `Up 3 minutes (unhealthy)`. Before API 1.52 nothing else tells its health."""


class EndpointSettings(Payload, frozen=True, kw_only=True):
    """A container's part in one network."""

    network_id: str = msgspec.field(name="NetworkID", default="")
    endpoint_id: str = msgspec.field(name="EndpointID", default="")
    aliases: tuple[str, ...] | None = None


class NetworkSettings(Payload, frozen=True, kw_only=True):
    """A container's part in its networks."""

    networks: dict[str, EndpointSettings] | None = None


class ContainerConfig(Payload, frozen=True, kw_only=True):
    """What a container was made with."""

    stop_signal: str = ""
    """`SIGQUIT`, `QUIT` or `3`; empty: SIGTERM."""
    stop_timeout: int | None = None
    """Seconds from that signal to SIGKILL; -1: without end; None: dockerd's default."""


class ContainerDetail(Payload, frozen=True, kw_only=True):
    """`GET /containers/{id}/json`."""

    id: str = msgspec.field(name="Id")
    config: ContainerConfig = msgspec.field(default_factory=ContainerConfig)
    network_settings: NetworkSettings = msgspec.field(default_factory=NetworkSettings)


class CreateNetworkBody(Payload, frozen=True, kw_only=True, omit_defaults=False):
    """Body of `POST /networks/create`."""

    name: str
    check_duplicate: bool = True
    driver: str
    internal: bool = False
    enable_ipv6: bool = msgspec.field(name="EnableIPv6", default=False)
    ipam: Ipam = msgspec.field(name="IPAM", default_factory=Ipam)
    options: dict[str, str] = {}
    labels: dict[str, str] = {}


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """What an event is about."""

    id: str = msgspec.field(name="ID", default="")
    attributes: dict[str, str] | None = msgspec.field(name="Attributes", default=None)


class DockerEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `GET /events`."""

    type: str = msgspec.field(name="Type", default="")
    action: str = msgspec.field(name="Action", default="")
    actor: Actor = msgspec.field(name="Actor", default_factory=Actor)
    time_nano: int = msgspec.field(name="timeNano", default=0)

    def attribute(self, key: str) -> str:
        """An attribute of the actor; empty when there is none."""
        return (self.actor.attributes or {}).get(key, "")


T = TypeVar("T")


def decode(body: bytes, kind: type[T]) -> T:
    """The body of a plugin call as a value; PLAIT-DOCKER-001 when it is none.

    dockerd sends an empty body when it repeats a call whose connection broke: its buffer was
    drained by the first try (moby pkg/plugins/client.go).
    """
    if not body:
        raise PlaitError(
            "PLAIT-DOCKER-001",
            "the body of the call is empty",
            why="dockerd repeats a broken call without its body",
            fix=("repeat the docker command",),
        )
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PlaitError(
            "PLAIT-DOCKER-001", f"the body of the call is not valid: {error}"
        ) from error


def error_body(error: PlaitError) -> bytes:
    """`{"Err": …}`: the code, what is wrong, why, and what mends it, in one line.

    dockerd reads `Err` from a network driver and `Error` from an IPAM driver.
    """
    parts = [f"{error.code}: {error.detail}"]
    if error.why:
        parts.append(f"why: {error.why}")
    if error.fix:
        parts.append("fix: " + " or: ".join(error.fix))
    text = "; ".join(parts)
    return msgspec.json.encode({"Err": text, "Error": text})
