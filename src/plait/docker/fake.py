# ruff: noqa: ARG002 - a fake has the signature of the real thing
"""The plugin's neighbours in memory: an agent, a server and a dockerd that fail on request.

Each `fail` maps a verb to the error that its next call raises.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Literal, TypeVar

import msgspec

from plait.client.agent import (
    AgentStatus,
    AttachRequest,
    AttachResult,
    EndpointIdentity,
    LocalEndpoint,
    PeerStatus,
    Reservation,
)
from plait.client.base import BatchOp, WatchEvent
from plait.docker.addressing import FAMILIES, Family, IpNetwork, gateway, of_family
from plait.docker.directory import Directory
from plait.docker.engine import EngineRefused
from plait.docker.pools import overlap
from plait.model import marks
from plait.model.errors import PlaitError
from plait.model.objects import (
    AnyObject,
    Cluster,
    ClusterSpec,
    Metadata,
    Network,
    Object,
    Pod,
    PublishedPort,
)
from plait.wire.docker import (
    Actor,
    Container,
    ContainerDetail,
    CreateNetworkBody,
    DockerEvent,
    DockerNetwork,
)

T = TypeVar("T", bound=Object)


class Failing:
    """Raises what was asked for, once."""

    def __init__(self) -> None:
        self.fail: dict[str, Exception] = {}

    def _may_fail(self, verb: str) -> None:
        error = self.fail.pop(verb, None)
        if error is not None:
            raise error


class FakeAgent(Failing):
    """An agent without a kernel. Addresses are given out from the bottom of each pool."""

    def __init__(self, directory: Directory) -> None:
        super().__init__()
        self._directory = directory
        self.local: dict[str, LocalEndpoint] = {}
        self.results: dict[str, AttachResult] = {}
        self.ports: dict[str, tuple[PublishedPort, ...]] = {}
        self.identified: list[tuple[str, EndpointIdentity]] = []
        self.held: set[tuple[str, str]] = set()
        self.taken_ports: set[int] = set()
        self.stuck = asyncio.Event()
        self.stuck.set()
        """Cleared: attach waits until it is set."""

    def _used(self) -> set[str]:
        return {a for e in self.local.values() for a in e.addresses} | {a for _, a in self.held}

    def _network(self, name: str) -> Network:
        network = self._directory.networks.get(name)
        if network is None:
            raise PlaitError("PLAIT-NET-006", f"there is no network {name!r}")
        return network

    def _free(self, network: Network, family: Family) -> str:
        pool = of_family(network.spec.pools, family)
        taken = self._used() | {gateway(network, family)} | set(network.spec.reserved)
        for address in ipaddress.ip_network(pool).hosts():
            if str(address) not in taken:
                return str(address)
        raise PlaitError("PLAIT-IPAM-012", f"the pool {pool} has no free address")

    async def attach(self, request: AttachRequest) -> AttachResult:
        """See `Agent`."""
        self._may_fail("attach")
        if request.id in self.results:
            return self.results[request.id]
        await self.stuck.wait()
        network = self._network(request.network)
        addresses = list(request.addresses)
        for address in addresses:
            if any(address in e.addresses for e in self.local.values()):
                raise PlaitError("PLAIT-IPAM-010", f"the address {address} is in use")
        for family in FAMILIES:
            if of_family(network.spec.pools, family) and not of_family(addresses, family):
                addresses.append(self._free(network, family))
        result = AttachResult(
            id=request.id,
            interface=marks.host_ifname(request.id),
            peer_name=marks.peer_ifname(request.id),
            mac=request.mac or marks.endpoint_mac(request.id),
            mtu=1450,
            addresses=tuple(addresses),
            gateways=tuple(g for f in FAMILIES if (g := gateway(network, f))),
            pools=network.spec.pools,
            internal=network.spec.internal,
        )
        self._make(result)
        self.held -= {(request.network, a) for a in addresses}
        self.results[request.id] = result
        self.local[request.id] = LocalEndpoint(
            request=request,
            addresses=result.addresses,
            mac=result.mac,
            interface=result.interface,
        )
        return result

    def _make(self, result: AttachResult) -> None:
        """Make the endpoint in the kernel; the fake has none."""

    def _unmake(self, result: AttachResult) -> None:
        """Undo `_make`."""

    async def detach(self, endpoint: str) -> bool:
        """See `Agent`."""
        self._may_fail("detach")
        result = self.results.pop(endpoint, None)
        if result is not None:
            self._unmake(result)
        self.ports.pop(endpoint, None)
        return self.local.pop(endpoint, None) is not None

    async def identify(self, endpoint: str, identity: EndpointIdentity) -> None:
        """See `Agent`."""
        self._may_fail("identify")
        known = self.local.get(endpoint)
        if known is None:
            raise PlaitError("PLAIT-AGENT-003", f"there is no endpoint {endpoint[:12]}")
        self.identified.append((endpoint, identity))
        told = msgspec.structs.asdict(identity)
        request = msgspec.structs.replace(known.request, identified=True, **told)
        self.local[endpoint] = msgspec.structs.replace(known, request=request, phase="ready")

    async def joined(self, endpoint: str, sandbox: str) -> None:
        """See `Agent`."""
        known = self.local[endpoint]
        self.local[endpoint] = msgspec.structs.replace(known, sandbox=sandbox)

    async def publish(
        self, endpoint: str, ports: tuple[PublishedPort, ...]
    ) -> tuple[PublishedPort, ...]:
        """See `Agent`."""
        self._may_fail("publish")
        if endpoint not in self.local:
            raise PlaitError("PLAIT-AGENT-003", f"there is no endpoint {endpoint[:12]}")
        for port in ports:
            if port.host_port in self.taken_ports:
                raise PlaitError("PLAIT-AGENT-007", f"the host port {port.host_port} is taken")
        chosen = itertools.count(32768)
        result = tuple(
            msgspec.structs.replace(p, host_port=p.host_port or next(chosen)) for p in ports
        )
        self.ports[endpoint] = result
        return result

    async def reserve(self, network: str, family: Literal[4, 6], address: str = "") -> Reservation:
        """See `Agent`."""
        self._may_fail("reserve")
        if address in self._used():
            raise PlaitError("PLAIT-IPAM-010", f"the address {address} is in use")
        chosen = address or self._free(self._network(network), family)
        self.held.add((network, chosen))
        return Reservation(address=chosen, network=network)

    async def release(self, network: str, address: str) -> None:
        """See `Agent`."""
        self.held.discard((network, address))

    async def endpoints(self) -> tuple[LocalEndpoint, ...]:
        """See `Agent`."""
        return tuple(self.local.values())

    async def status(self) -> AgentStatus:
        """See `Agent`."""
        return AgentStatus(
            node="fake",
            version="0",
            ready=True,
            server="",
            server_connected=True,
            revision=0,
            endpoints=len(self.local),
            networks=len(self._directory.networks),
            docker=True,
            repairs=0,
        )

    async def peers(self) -> tuple[PeerStatus, ...]:
        """See `Agent`."""
        return ()

    async def pod(self, namespace: str, name: str, uid: str, *, wait: float) -> Pod:
        """See `Agent`."""
        self._may_fail("pod")
        raise PlaitError("PLAIT-AGENT-009", f"the pod {namespace}/{name} is not known on this host")

    async def check(self, endpoint: str) -> tuple[str, ...]:
        """See `Agent`."""
        if endpoint not in self.local:
            raise PlaitError("PLAIT-AGENT-003", f"there is no endpoint {endpoint[:12]}")
        return ()

    async def plan(self) -> str:
        """See `Agent`."""
        return ""


class FakeApi(Failing):
    """A server's Networks and its Cluster; every change reaches the directory at once, as an
    agent's snapshot would."""

    def __init__(self, directory: Directory, pools: tuple[str, ...]) -> None:
        super().__init__()
        self._directory = directory
        self.cluster = Cluster(metadata=Metadata(name="plait"), spec=ClusterSpec(pools=pools))
        self.networks: dict[str, Network] = {}
        self.busy: set[str] = set()
        """Networks with endpoints on other hosts."""
        self.prefixes: set[str] = set()
        """CIDRs that hosts use."""
        self.behind = False
        """Changes do not reach the directory."""
        self._uids = itertools.count(1)

    def publish(self) -> None:
        """Let the directory see the networks."""
        if not self.behind:
            self._directory.replace_networks(self.networks.values())

    async def get(self, kind: type[T], name: str, namespace: str = "") -> T:
        """See `Api`."""
        self._may_fail("get")
        found: object = self.cluster if kind is Cluster else self.networks.get(name)
        if not isinstance(found, kind):
            raise PlaitError("PLAIT-API-004", f"there is no {kind.__name__} {name!r}")
        return found

    async def list(self, kind: type[T], namespace: str = "") -> tuple[T, ...]:
        """See `Api`."""
        return tuple(n for n in self.networks.values() if isinstance(n, kind))

    def _check(self, pool: IpNetwork) -> None:
        for network in self.networks.values():
            for other in network.spec.pools:
                if overlap(pool, ipaddress.ip_network(other)):
                    name = network.metadata.name
                    raise PlaitError("PLAIT-NET-001", f"{pool} overlaps {other} of {name}")
        for prefix in self.prefixes:
            if overlap(pool, ipaddress.ip_network(prefix)):
                raise PlaitError("PLAIT-NET-002", f"{pool} overlaps {prefix} of the node h2")

    def _cut(self, room: str) -> str:
        network = ipaddress.ip_network(room)
        for pool in network.subnets(new_prefix=20 if network.version == 4 else 64):
            try:
                self._check(pool)
            except PlaitError:
                continue
            return str(pool)
        raise PlaitError("PLAIT-NET-003", "the cluster's pools are used up")

    async def create(self, obj: T, *, dry_run: bool = False) -> T:
        """See `Api`; of Networks only."""
        self._may_fail("dry_run" if dry_run else "create")
        if not isinstance(obj, Network):
            raise PlaitError("PLAIT-API-003", f"the fake keeps no {obj.kind}")
        if obj.metadata.name in self.networks:
            raise PlaitError("PLAIT-API-005", f"the network {obj.metadata.name} exists already")
        for pool in obj.spec.pools:
            self._check(ipaddress.ip_network(pool))
        pools = obj.spec.pools or tuple(self._cut(p) for p in self.cluster.spec.pools)
        stored = msgspec.structs.replace(
            obj,
            spec=msgspec.structs.replace(obj.spec, pools=pools),
            metadata=msgspec.structs.replace(obj.metadata, uid=f"uid-{next(self._uids)}"),
        )
        if not dry_run:
            self.networks[obj.metadata.name] = stored
            self.publish()
        return stored

    async def update(self, obj: T, *, dry_run: bool = False) -> T:
        """See `Api`; of Networks only."""
        if isinstance(obj, Network) and not dry_run:
            self.networks[obj.metadata.name] = obj
            self.publish()
        return obj

    async def delete(
        self,
        kind: type[Object],
        name: str,
        namespace: str = "",
        *,
        revision: int = 0,
        dry_run: bool = False,
    ) -> None:
        """See `Api`; of Networks only."""
        self._may_fail("delete")
        if name not in self.networks:
            raise PlaitError("PLAIT-API-004", f"there is no network {name!r}")
        if name in self.busy:
            raise PlaitError("PLAIT-API-011", f"the network {name} has endpoints")
        if not dry_run:
            del self.networks[name]
            self.publish()

    async def batch(self, ops: Sequence[BatchOp]) -> tuple[AnyObject, ...]:
        """The plugin makes no batches."""
        raise PlaitError("PLAIT-API-010", "the fake makes no batches")

    async def watch(self, kinds: Sequence[type[Object]]) -> AsyncIterator[WatchEvent]:
        """The plugin watches nothing itself."""
        yield WatchEvent(type="synced")

    async def close(self) -> None:
        """See `Api`."""


class FakeEngine(Failing):
    """A dockerd's networks and containers."""

    def __init__(self) -> None:
        super().__init__()
        self.by_id: dict[str, DockerNetwork] = {}
        self.container_list: dict[str, Container] = {}
        self.details: dict[str, ContainerDetail] = {}
        self.queue: asyncio.Queue[DockerEvent | Exception] = asyncio.Queue()
        self.removed: list[str] = []
        self.inspectable = asyncio.Event()
        self.inspectable.set()
        """Cleared: inspect waits, as for a container that is starting."""
        self._ids = itertools.count(1)

    async def connect(self) -> None:
        """See `Engine`."""
        self._may_fail("connect")

    async def networks(self) -> tuple[DockerNetwork, ...]:
        """See `Engine`."""
        self._may_fail("networks")
        return tuple(msgspec.structs.replace(n, containers=None) for n in self.by_id.values())

    async def network(self, network_id: str) -> DockerNetwork | None:
        """See `Engine`."""
        return self.by_id.get(network_id)

    async def containers(self, container_id: str) -> tuple[Container, ...]:
        """See `Engine`."""
        self._may_fail("containers")
        found = self.container_list.get(container_id)
        return (found,) if found else ()

    async def inspect(self, container_id: str) -> ContainerDetail | None:
        """See `Engine`."""
        await self.inspectable.wait()
        return self.details.get(container_id)

    async def create_network(self, body: CreateNetworkBody) -> str:
        """See `Engine`."""
        self._may_fail("create_network")
        if any(n.name == body.name for n in self.by_id.values()):
            raise EngineRefused(409, f"network with name {body.name} already exists")
        network_id = f"{next(self._ids):064x}"
        self.by_id[network_id] = DockerNetwork(
            id=network_id,
            name=body.name,
            driver=body.driver,
            internal=body.internal,
            enable_ipv6=body.enable_ipv6,
            ipam=body.ipam,
            options=body.options,
            labels=body.labels,
        )
        self._tell("create", network_id)
        return network_id

    def _tell(self, action: str, network_id: str) -> None:
        self.queue.put_nowait(
            DockerEvent(type="network", action=action, actor=Actor(id=network_id))
        )

    async def remove_network(self, network_id: str) -> None:
        """See `Engine`."""
        self._may_fail("remove_network")
        self.by_id.pop(network_id, None)
        self.removed.append(network_id)
        self._tell("destroy", network_id)

    async def events(self, since_nano: int) -> AsyncIterator[DockerEvent]:
        """See `Engine`; what the test puts into `queue`, where an exception ends the stream."""
        while True:
            event = await self.queue.get()
            if isinstance(event, Exception):
                raise event
            yield event

    async def close(self) -> None:
        """See `Engine`."""
