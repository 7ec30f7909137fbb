"""Docker's IPAM driver: pools from the server, addresses from the agent.

A PoolID is the pool itself. Pools of different networks never overlap, so a pool names its
network, and dockerd's memory of PoolIDs survives whatever is restarted.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

from plait.client.agent import Agent
from plait.docker.addressing import Family, bare, first_address, gateway, host_prefix, parse_pool
from plait.docker.directory import Directory
from plait.docker.journal import HeldAddress
from plait.docker.options import parse_ipam
from plait.docker.pools import Pools
from plait.model.errors import PlaitError
from plait.model.objects import Network
from plait.wire.docker import (
    GATEWAY_ADDRESS,
    REQUEST_ADDRESS_TYPE,
    Nothing,
    ReleaseAddressCall,
    ReleasePoolCall,
    RequestAddressCall,
    RequestPoolCall,
)

Reply = dict[str, Any]


class IpamDriver:
    """Handlers of `/IpamDriver.*`. `deadline` is in seconds; `clock` gives Unix time."""

    def __init__(
        self,
        agent: Agent,
        directory: Directory,
        pools: Pools,
        *,
        clock: Callable[[], float],
        deadline: float,
    ) -> None:
        self._agent = agent
        self._directory = directory
        self._pools = pools
        self._clock = clock
        self._deadline = deadline
        self._began = clock()

    async def capabilities(self, _: Nothing) -> Reply:
        """Replay is not needed: PoolIDs say everything, and the agent knows the addresses."""
        return {"RequiresMACAddress": False, "RequiresRequestReplay": False}

    async def address_spaces(self, _: Nothing) -> Reply:
        """One space: pools are unique in the whole network."""
        return {"LocalDefaultAddressSpace": "plait", "GlobalDefaultAddressSpace": "plait"}

    async def request_pool(self, call: RequestPoolCall) -> Reply:
        """The pool asked for, that of the network named by `--ipam-opt`, or a free one."""
        family: Family = 6 if call.v6 else 4
        if call.sub_pool:
            raise PlaitError(
                "PLAIT-DOCKER-002",
                "`--ip-range` is not supported by Plait's address management",
                why="every host allocates from blocks of the whole pool",
                fix=("keep addresses free with --aux-address name=ADDRESS",),
            )
        named = parse_ipam(call.options)
        pool = self._pool_of(named, family) if named else call.pool
        if named and call.pool and pool != str(parse_pool(call.pool)):
            raise PlaitError(
                "PLAIT-DOCKER-002",
                f"the network {named} has the pool {pool}, not {call.pool}",
                fix=("leave --subnet out",),
            )
        if not pool:
            pool = await self._pools.free(family, self._directory.networks.values())
        parsed = parse_pool(pool)
        if parsed.version != family:
            raise PlaitError("PLAIT-NET-004", f"{pool} is not an IPv{family} pool")
        return {"PoolID": str(parsed), "Pool": str(parsed), "Data": {}}

    def _pool_of(self, name: str, family: Family) -> str:
        network = self._directory.networks.get(name)
        if network is None:
            raise PlaitError(
                "PLAIT-NET-006", f"there is no network {name!r}", fix=("plait network ls",)
            )
        for pool in network.spec.pools:
            if parse_pool(pool).version == family:
                return pool
        raise PlaitError("PLAIT-NET-006", f"the network {name} has no IPv{family} pool")

    async def release_pool(self, _: ReleasePoolCall) -> Reply:
        """Nothing is held for a pool: it lives and dies with its network."""
        return {}

    async def request_address(self, call: RequestAddressCall) -> Reply:
        """A gateway (said, or the network's), or an address that the agent holds for us."""
        pool = parse_pool(call.pool_id)
        wanted = bare(call.address)
        if wanted and ipaddress.ip_address(wanted) not in pool:
            raise PlaitError("PLAIT-IPAM-011", f"the address {wanted} is outside the pool {pool}")
        network = self._directory.owner_of(str(pool))
        if (call.options or {}).get(REQUEST_ADDRESS_TYPE) == GATEWAY_ADDRESS:
            return _answer(wanted or _gateway(network, str(pool)), pool.prefixlen)
        if network is None and wanted:
            # `--aux-address`: asked for before the network has a name. It becomes a reserved
            # address of the network with CreateNetwork.
            return _answer(wanted, pool.prefixlen)
        network = network or await self._directory.owner(str(pool), self._deadline)
        family: Family = 4 if pool.version == 4 else 6
        name = network.metadata.name
        if wanted and self._unheard(name, wanted):
            await self._agent.release(name, wanted)
        reservation = await self._agent.reserve(name, family, wanted)
        self._directory.hold(
            HeldAddress(network=name, address=reservation.address, since=self._clock())
        )
        return {"Address": host_prefix(reservation.address), "Data": {}}

    def _unheard(self, network: str, address: str) -> bool:
        """No answer of this life gave the address out. If it is held all the same, an agent
        died between the hold and the answer, and dockerd asks again."""
        return not any(
            (held.network, held.address) == (network, address) and held.since >= self._began
            for held in self._directory.held
        )

    async def release_address(self, call: ReleaseAddressCall) -> Reply:
        """Give back; an address without a pool is one that CreateEndpoint added."""
        network = self._directory.owner_of(call.pool_id) if call.pool_id else None
        if network is not None:
            address = bare(call.address)
            await self._agent.release(network.metadata.name, address)
            self._directory.unhold(network.metadata.name, address)
        return {}


def _gateway(network: Network | None, pool: str) -> str:
    family: Family = 4 if parse_pool(pool).version == 4 else 6
    return gateway(network, family) if network else first_address(pool)


def _answer(address: str, prefixlen: int) -> Reply:
    return {"Address": f"{address}/{prefixlen}", "Data": {}}
