"""Choosing and checking pools with the server, without storing anything."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterable
from typing import Final

from plait.client.base import Api
from plait.docker.addressing import Family, IpNetwork, of_family, parse_pool
from plait.model.errors import PlaitError
from plait.model.objects import Cluster, Metadata, Network, NetworkSpec

CLUSTER: Final = "plait"
TRIES: Final = 8
CLAIM: Final = 60.0
"""Seconds for which a pool that was offered to dockerd is not offered again: `network create`
asks for the pool first and names the network last."""
OVERLAPS: Final = ("PLAIT-NET-001", "PLAIT-NET-002")
OWN_IPAM: Final = "docker network create -d plait --ipam-driver plait NAME"
AGAIN: Final = "repeat the command without --subnet: dockerd then proposes its next pool"


class Pools:
    """Free pools. The server alone decides in the end; this makes a good guess beforehand.

    `clock` gives seconds of any epoch, `rng` spreads the guesses of hosts that create networks
    at the same time.
    """

    def __init__(self, api: Api, *, clock: Callable[[], float], rng: random.Random) -> None:
        self._api = api
        self._clock = clock
        self._rng = rng
        self._offered: dict[str, float] = {}

    async def check(self, spec: NetworkSpec) -> Network:
        """The network as the server would store it; its refusal otherwise."""
        probe = Network(metadata=Metadata(name=f"docker-{secrets.token_hex(6)}"), spec=spec)
        return await self._api.create(probe, dry_run=True)

    async def free(self, family: Family, known: Iterable[Network]) -> str:
        """A free pool; PLAIT-NET-003 when the cluster has none of the family left."""
        cut = of_family((await self.check(NetworkSpec())).spec.pools, family)
        if not cut:
            raise PlaitError(
                "PLAIT-NET-003",
                f"the cluster has no IPv{family} pool to cut a network from",
                fix=(f"docker network create with --subnet and an IPv{family} pool",),
            )
        taken = [parse_pool(p) for n in known for p in n.spec.pools]
        taken += [parse_pool(p) for p in self._recent()]
        room = await self._room(parse_pool(cut))
        for _ in range(TRIES):
            guess = subpool(room, parse_pool(cut).prefixlen, self._rng)
            if any(overlap(guess, other) for other in taken):
                continue
            if await self._is_free(guess):
                return self._offer(str(guess))
        return self._offer(cut)

    async def _room(self, cut: IpNetwork) -> IpNetwork:
        cluster = await self._api.get(Cluster, CLUSTER)
        pools = [parse_pool(p) for p in cluster.spec.pools]
        return next((pool for pool in pools if overlap(pool, cut)), cut)

    async def _is_free(self, pool: IpNetwork) -> bool:
        try:
            await self.check(NetworkSpec(pools=(str(pool),)))
        except PlaitError as error:
            if error.code in OVERLAPS:
                return False
            raise
        return True

    def _recent(self) -> tuple[str, ...]:
        now = self._clock()
        self._offered = {p: t for p, t in self._offered.items() if now - t < CLAIM}
        return tuple(self._offered)

    def _offer(self, pool: str) -> str:
        self._offered[pool] = self._clock()
        return pool


def overlap(a: IpNetwork, b: IpNetwork) -> bool:
    """Whether two networks share an address; those of different families never do."""
    return a.version == b.version and a.overlaps(b)


def subpool(room: IpNetwork, prefixlen: int, rng: random.Random) -> IpNetwork:
    """Any subnet of that length; the room itself when it is no larger."""
    if prefixlen <= room.prefixlen:
        return room
    index = rng.randrange(1 << (prefixlen - room.prefixlen))
    start = int(room.network_address) + (index << (room.max_prefixlen - prefixlen))
    return type(room)((start, prefixlen))


def advise(error: PlaitError) -> PlaitError:
    """The server's refusal of a pool that was said or that Docker's default IPAM chose, with
    what mends it. The server's own advice is about the probe, which has no name."""
    if error.code not in OVERLAPS:
        return error
    return PlaitError(
        error.code, error.detail, where=error.where, why=error.why, fix=(OWN_IPAM, AGAIN)
    )
