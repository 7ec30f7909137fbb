"""Docker's network driver: calls of dockerd turned into verbs of the agent.

Every handler may come twice, late, or for what is gone, and none asks Docker anything:
dockerd holds locks while it calls (docker-net-dhcp issues 23 and 44).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import msgspec

from plait.client.agent import Agent, AttachRequest, AttachResult
from plait.docker import ports
from plait.docker.addressing import Family, bare, host_prefix, join_routes, of_family, parse_pool
from plait.docker.directory import Directory
from plait.docker.engine import DRIVER
from plait.docker.journal import NetworkRecord
from plait.docker.options import NETWORK, NetworkOptions, parse
from plait.docker.pools import Pools, advise
from plait.model.errors import PlaitError
from plait.model.objects import NetworkSpec, Workload
from plait.wire.docker import (
    ConnectivityCall,
    CreateEndpointCall,
    CreateEndpointReply,
    CreateNetworkCall,
    EndpointCall,
    EndpointInterface,
    InterfaceName,
    JoinCall,
    JoinReply,
    NetworkCall,
    Nothing,
    PoolData,
)

Reply = dict[str, Any]
NULL_POOLS = ("0.0.0.0/0", "::/0")
"""Pools of Docker's IPAM driver `null`."""


class NetworkDriver:
    """Handlers of `/NetworkDriver.*`. `deadline` is in seconds."""

    def __init__(
        self,
        agent: Agent,
        directory: Directory,
        pools: Pools,
        *,
        deadline: float,
    ) -> None:
        self._agent = agent
        self._directory = directory
        self._pools = pools
        self._deadline = deadline
        self._cleaning: set[asyncio.Task[bool]] = set()

    async def capabilities(self, _: Nothing) -> Reply:
        """Local scope: Plait, not Docker's own store, spreads the networks over the hosts."""
        return {"Scope": "local", "ConnectivityScope": "global"}

    async def gateway_check(self, _: Nothing) -> Reply:
        """Docker 28 and later ask whether a gateway address is needed: always."""
        return {"SkipIPv4": False, "SkipIPv6": False}

    async def refuse_swarm(self, _: Nothing) -> Reply:
        """Swarm's manager asks this of a driver of global scope, for a service."""
        raise PlaitError(
            "PLAIT-DOCKER-003",
            "Plait's networks do not carry swarm services",
            why="swarm services need a managed plugin; Plait is a plugin of the host",
            fix=("docker run -d --network NAME IMAGE", "docker compose up -d"),
        )

    async def nothing(self, _: Nothing) -> Reply:
        """A call that asks nothing of us: discovery of swarm's nodes."""
        return {}

    # -- networks

    async def create_network(self, call: CreateNetworkCall) -> Reply:
        """Check the network with the server and keep its id; its name comes with an event."""
        options = parse(call.options)
        v4 = _pools(call.ipv4_data)
        v6 = _pools(call.ipv6_data)
        for pool in v4 + v6:
            if pool.pool in NULL_POOLS:
                raise PlaitError(
                    "PLAIT-DOCKER-002",
                    "`--ipam-driver null` is not supported",
                    fix=("docker network create -d plait --ipam-driver plait NAME",),
                )
            parse_pool(pool.pool)
        if len(v4) > 1 or len(v6) > 1:
            raise PlaitError(
                "PLAIT-DOCKER-002",
                "a network has at most one pool a family",
                fix=("give one --subnet for IPv4 and one for IPv6",),
            )
        pools = tuple(p.pool for p in v4 + v6)
        if options.network:
            self._check_named(options, pools)
        elif call.network_id not in self._directory.records:
            await self._check_new(options, v4 + v6)
        record = NetworkRecord(network=options.network, namespace=options.namespace)
        if call.network_id not in self._directory.records:
            self._directory.put(call.network_id, record)
        return {}

    def _check_named(self, options: NetworkOptions, pools: tuple[str, ...]) -> None:
        name = options.network
        network = self._directory.networks.get(name)
        if network is None:
            raise PlaitError(
                "PLAIT-NET-006", f"there is no network {name!r}", fix=("plait network ls",)
            )
        foreign = [p for p in pools if p not in network.spec.pools]
        if foreign:
            raise PlaitError(
                "PLAIT-DOCKER-002",
                f"the pool {foreign[0]} is not one of the network {name}",
                why=f"it has {', '.join(network.spec.pools)}",
                fix=(
                    f"docker network create -d {DRIVER} --ipam-driver {DRIVER}"
                    f" --ipam-opt {NETWORK}={name} -o {NETWORK}={name} NAME",
                ),
            )

    async def _check_new(self, options: NetworkOptions, pools: tuple[PoolData, ...]) -> None:
        spec = NetworkSpec(
            pools=tuple(p.pool for p in pools),
            gateways=tuple(bare(p.gateway) for p in pools if p.gateway),
            reserved=tuple(bare(a) for p in pools for a in (p.aux_addresses or {}).values()),
            internal=options.internal,
        )
        try:
            await self._pools.check(spec)
        except PlaitError as error:
            raise advise(error) from error

    async def delete_network(self, call: NetworkCall) -> Reply:
        """Forget the id, and delete the Plait Network unless only this Docker was meant."""
        record = self._directory.records.get(call.network_id)
        if record is not None:
            network = self._directory.networks.get(record.network)
            # The snapshot may not have it yet: the record says which network was meant.
            uid = record.uid if network is None else network.metadata.uid
            if uid and not (record.removing or record.alias):
                self._directory.delete(record.network, uid)
            self._directory.forget(call.network_id)
        return {}

    # -- endpoints

    async def create_endpoint(self, call: CreateEndpointCall) -> Reply:
        """Attach without identity: no traffic passes before Docker has told whose it is."""
        record, network = await self._directory.resolve(call.network_id, self._deadline)
        given = call.interface or EndpointInterface()
        addresses = tuple(bare(a) for a in (given.address, given.address_ipv6) if a)
        request = AttachRequest(
            id=call.endpoint_id,
            network=network.metadata.name,
            namespace=record.namespace or "default",
            addresses=addresses,
            mac=given.mac_address.lower(),
            workload=Workload(runtime="docker"),
            identified=False,
        )
        result = await self._attach(request)
        for address in addresses:
            self._directory.unhold(network.metadata.name, address)
        reply = CreateEndpointReply(interface=missing(given, result))
        return _builtins(reply)

    async def _attach(self, request: AttachRequest) -> AttachResult:
        try:
            return await self._agent.attach(request)
        except asyncio.CancelledError:
            # The deadline has passed: dockerd will not call DeleteEndpoint for this one.
            self._clean(self._agent.detach(request.id))
            raise

    def _clean(self, work: Awaitable[bool]) -> None:
        task = asyncio.ensure_future(work)
        self._cleaning.add(task)
        task.add_done_callback(self._cleaned)

    def _cleaned(self, task: asyncio.Task[bool]) -> None:
        # A failed detach is found again by the reaper; here its exception is only taken.
        self._cleaning.discard(task)
        if not task.cancelled():
            task.exception()

    async def settle(self) -> None:
        """Wait for detaches that handlers left behind."""
        await asyncio.gather(*self._cleaning, return_exceptions=True)

    async def endpoint_info(self, _: EndpointCall) -> Reply:
        """dockerd asks several times per start and understands nothing of a plugin's answer."""
        return {"Value": {}}

    async def join(self, call: JoinCall) -> Reply:
        """Which interface to take, and its routes. The namespace itself is not entered:
        dockerd moves the interface later."""
        record, _ = await self._directory.resolve(call.network_id, self._deadline)
        request = await self._request(call.endpoint_id)
        if request is None:
            raise PlaitError(
                "PLAIT-AGENT-003",
                f"there is no endpoint {call.endpoint_id[:12]}",
                fix=("start the container again",),
            )
        result = await self._agent.attach(request)
        await self._agent.joined(call.endpoint_id, call.sandbox_key)
        return _builtins(join_reply(result, on_segment=record.on_segment))

    async def leave(self, _: EndpointCall) -> Reply:
        """dockerd gives the interface back; DeleteEndpoint follows."""
        return {}

    async def delete_endpoint(self, call: EndpointCall) -> Reply:
        """Detach; success when there is none."""
        await self._agent.detach(call.endpoint_id)
        return {}

    async def _request(self, endpoint_id: str) -> AttachRequest | None:
        for endpoint in await self._agent.endpoints():
            if endpoint.request.id == endpoint_id:
                return endpoint.request
        return None

    # -- published ports

    async def program(self, call: ConnectivityCall) -> Reply:
        """Publish the container's ports; dockerd calls this with no ports, too."""
        wanted = ports.bindings(call.options)
        found = self._directory.lookup(call.network_id)
        if found is not None and found[1].spec.internal:
            # `docker run -p` on an internal network publishes nothing, as with Docker's bridge.
            return {}
        await ports.publish(wanted, lambda p: self._agent.publish(call.endpoint_id, p))
        return {}

    async def revoke(self, call: EndpointCall) -> Reply:
        """Publish nothing any more; success when the endpoint is gone."""
        try:
            await self._agent.publish(call.endpoint_id, ())
        except PlaitError as error:
            if error.code != "PLAIT-AGENT-003":
                raise
        return {}


def _builtins(reply: msgspec.Struct) -> Reply:
    plain: Reply = msgspec.to_builtins(reply)
    return plain


def _pools(data: tuple[PoolData, ...] | None) -> tuple[PoolData, ...]:
    return tuple(p for p in data or () if p.pool)


def missing(given: EndpointInterface, result: AttachResult) -> EndpointInterface:
    """What dockerd had left empty; an answer to what it had chosen makes it fail."""
    v4 = "" if given.address else of_family(result.addresses, 4)
    v6 = "" if given.address_ipv6 else of_family(result.addresses, 6)
    return EndpointInterface(
        address=host_prefix(v4) if v4 else "",
        address_ipv6=host_prefix(v6) if v6 else "",
        mac_address="" if given.mac_address else result.mac,
    )


def _next_hop(result: AttachResult, family: Family) -> str:
    has_address = of_family(result.addresses, family)
    return of_family(result.gateways, family) if has_address else ""


def join_reply(result: AttachResult, *, on_segment: bool) -> JoinReply:
    """Answer to Join."""
    return JoinReply(
        interface_name=InterfaceName(src_name=result.peer_name, dst_prefix="eth"),
        gateway=_next_hop(result, 4),
        gateway_ipv6=_next_hop(result, 6),
        static_routes=join_routes(result, on_segment=on_segment),
    )
