"""Keeps Docker's networks and Plait's the same on this host: the door that acts on a plan."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import structlog

from plait.client.base import Api
from plait.docker.addressing import FAMILIES, bare, gateway, of_family
from plait.docker.directory import Directory
from plait.docker.engine import DRIVER, Engine, EngineRefused
from plait.docker.names import distinct_label, dns_label, valid_labels
from plait.docker.options import NETWORK, parse
from plait.docker.pools import Pools, advise
from plait.docker.reconcile import (
    BUILTIN,
    DOCKER_NAME,
    Action,
    Ask,
    Bind,
    Clash,
    Create,
    Delete,
    Learn,
    Remove,
    Settled,
    bound,
    create_body,
    docker_name,
    fits,
    plan,
    subnets,
)
from plait.model.errors import PlaitError
from plait.model.objects import Metadata, Network, NetworkSpec
from plait.wire.docker import GENERIC, DockerNetwork

OVERLAP: Final = "PLAIT-NET-001"
EXISTS: Final = "PLAIT-API-005"
GONE: Final = "PLAIT-API-004"
IN_USE: Final = "PLAIT-API-011"
TRIES: Final = 3
PATIENCE: Final = 20.0
"""Seconds for dockerd to say that it deletes what it lists no more."""
LEAVING: Final = 5.0
"""Seconds in which a network that the user removed may still be in use: of containers that went
just before it the server hears a moment later."""

log: Final = structlog.get_logger("plait.docker")


class NetworkKeeper:
    """One round at a time: list, plan, act. What fails is reported and tried again next round."""

    def __init__(
        self,
        api: Api,
        engine: Engine,
        directory: Directory,
        pools: Pools,
        *,
        clock: Callable[[], float],
    ) -> None:
        """`clock` gives seconds of any epoch."""
        self._clock = clock
        self._unlisted: dict[str, float] = {}
        """Networks that dockerd lists no more, by its id: since when."""
        self._in_use: dict[str, float] = {}
        """Networks to be deleted that are in use, by name: since when."""
        self._api = api
        self._engine = engine
        self._directory = directory
        self._pools = pools
        self.problems: tuple[str, ...] = ()
        """What the last round could not do, for people."""
        self._acts: dict[type[Any], Callable[[Any], Awaitable[None]]] = {
            Learn: self._learn,
            Bind: self._bind,
            Remove: self._remove,
            Create: self._create,
            Delete: self._delete,
            Ask: self._ask,
            Settled: self._settled,
            Clash: self._clash,
        }

    async def round(self) -> bool:
        """Bring both sides together; False when something is left to be done."""
        if not self._directory.synced:
            return True
        listed = await self._engine.networks()
        leaving = self._leaving(listed)
        actions = plan(
            listed,
            self._directory.networks,
            self._directory.records,
            self._directory.deletions,
            leaving,
        )
        problems = [p for p in [await self._act(a) for a in actions] if p]
        for problem in problems:
            if problem not in self.problems:
                log.warning("docker network", problem=problem)
        self.problems = tuple(problems)
        deletions = self._directory.deletions
        self._in_use = {name: at for name, at in self._in_use.items() if name in deletions}
        return not problems and not leaving and not self._in_use

    def _leaving(self, listed: tuple[DockerNetwork, ...]) -> frozenset[str]:
        """Names of networks that dockerd lists no more and may be deleting right now.

        It takes a network out of its list first and calls DeleteNetwork then. The record stays
        until that call, or it would find nothing to delete; after PATIENCE it will not come (the
        network vanished while nobody was told). A record without a Plait Network may be in the
        making: dockerd lists it only after CreateNetwork.
        """
        now = self._clock()
        present = {n.id for n in listed}
        gone = {i: r for i, r in self._directory.records.items() if i not in present and r.seen}
        self._unlisted = {i: min(self._unlisted.get(i, now), now) for i in gone}
        for network_id, since in self._unlisted.items():
            if now - since >= PATIENCE:
                self._directory.forget(network_id)
        return frozenset(
            r.network for i, r in gone.items() if i in self._directory.records and not r.alias
        )

    async def _act(self, action: Action) -> str:
        try:
            await self._acts[type(action)](action)
        except PlaitError as error:
            if isinstance(action, Learn):
                self._directory.fail(action.network.id, error)
            return f"{error.code}: {error.detail}"
        except EngineRefused as error:
            return f"dockerd refuses: {error.message}"
        return ""

    # -- from Docker to Plait

    async def _bind(self, action: Bind) -> None:
        self._directory.put(action.network_id, action.record)

    async def _learn(self, action: Learn) -> None:
        docker = action.network
        known = docker.id in self._directory.records
        named = (docker.options or {}).get(NETWORK, "")
        if named:
            network = await self._api.get(Network, named)
        else:
            detail = await self._engine.network(docker.id)
            if detail is None:
                return
            network = await self._find_or_create(detail)
        if known and docker.id not in self._directory.records:
            # The user removed it again, when nobody could say yet which network was meant.
            if not named:
                self._directory.delete(network.metadata.name, network.metadata.uid)
            return
        if not fits(docker, network):
            await self._remove(Remove(docker, f"the network {network.metadata.name} exists"))
            return
        # Not `seen`: the agent's snapshot may be behind the server's answer.
        record = bound(docker, network, self._directory.records.get(docker.id))
        self._directory.put(docker.id, msgspec.structs.replace(record, seen=False))

    async def _find_or_create(self, docker: DockerNetwork) -> Network:
        labels = [dns_label(docker.name), distinct_label(docker.name)]
        for name in labels:
            try:
                return await self._create_plait(docker, name)
            except PlaitError as error:
                if error.code != EXISTS:
                    raise advise(error) from error
            existing = await self._api.get(Network, name)
            if docker_name(existing) == docker.name:
                return existing
        raise PlaitError(EXISTS, f"the networks {' and '.join(labels)} exist already")

    async def _create_plait(self, docker: DockerNetwork, name: str) -> Network:
        """Store the network, with an IPv6 pool of the cluster's if Docker chose none.

        Another host may take the pool at the same time, so it is cut anew a few times.
        """
        annotations = {DOCKER_NAME: docker.name} if name != docker.name else {}
        metadata = Metadata(
            name=name, labels=valid_labels(docker.labels or {}), annotations=annotations
        )
        for attempt in range(TRIES):
            spec = await self._spec(docker)
            try:
                return await self._api.create(Network(metadata=metadata, spec=spec))
            except PlaitError as error:
                cut = len(spec.pools) > len(subnets(docker))
                if error.code != OVERLAP or not cut or attempt == TRIES - 1:
                    raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _spec(self, docker: DockerNetwork) -> NetworkSpec:
        config = docker.ipam.config or ()
        pools = list(subnets(docker))
        if not of_family(pools, 6):
            cut = await self._pools.check(NetworkSpec())
            pools += [p for p in cut.spec.pools if ":" in p]
        gateways = [bare(c.gateway) for c in config if c.gateway]
        base = NetworkSpec(pools=tuple(pools), gateways=tuple(gateways))
        probe = Network(metadata=Metadata(name="probe"), spec=base)
        return NetworkSpec(
            pools=tuple(pools),
            gateways=tuple(g for g in (gateway(probe, f) for f in FAMILIES) if g),
            internal=docker.internal or parse({GENERIC: docker.options or {}}).internal,
            reserved=tuple(bare(a) for c in config for a in (c.auxiliary_addresses or {}).values()),
            external_ipam=docker.ipam.driver != DRIVER,
        )

    # -- from Plait to Docker

    async def _create(self, action: Create) -> None:
        network = action.network
        gateways = {p: gateway(network, 6 if ":" in p else 4) for p in network.spec.pools}
        await self._engine.create_network(create_body(network, gateways))
        log.info("network offered to Docker", network=network.metadata.name)

    async def _remove(self, action: Remove) -> None:
        """Take a network away from this Docker alone."""
        docker = action.network
        detail = await self._engine.network(docker.id)
        if detail is not None and detail.containers:
            raise PlaitError(
                IN_USE,
                f"the Docker network {docker.name} cannot be removed: containers are on it",
                why=action.why,
                fix=(f"docker network disconnect {docker.name} CONTAINER",),
            )
        record = self._directory.records.get(docker.id)
        if record is not None:
            self._directory.put(docker.id, msgspec.structs.replace(record, removing=True))
        await self._engine.remove_network(docker.id)
        self._directory.forget(docker.id)
        log.info("network removed from Docker", network=docker.name, why=action.why)

    async def _delete(self, action: Delete) -> None:
        """The user removed the network here: delete it for all, or put it back."""
        name = action.network.metadata.name
        if name == BUILTIN:
            log.info("network put back into Docker", network=name, why="it is ready-made")
            self._directory.deleted(name)
            return
        try:
            await self._api.delete(Network, name)
        except PlaitError as error:
            if error.code == IN_USE:
                now = self._clock()
                if now - self._in_use.setdefault(name, now) < LEAVING:
                    return  # The next round asks again.
                log.info("network put back into Docker", network=name, why=error.detail)
                self._directory.deleted(name)
            elif error.code != GONE:
                raise
            self._in_use.pop(name, None)
            return
        self._in_use.pop(name, None)
        log.info("network deleted for all hosts", network=name)

    async def _ask(self, action: Ask) -> None:
        try:
            network = await self._api.get(Network, action.name)
        except PlaitError as error:
            if error.code != GONE:
                raise
            self._directory.deleted(action.name)
            return
        if network.metadata.uid == action.uid:
            await self._delete(Delete(network))
        else:
            self._directory.deleted(action.name)

    async def _settled(self, action: Settled) -> None:
        self._directory.deleted(action.name)

    async def _clash(self, action: Clash) -> None:
        name = docker_name(action.network)
        raise PlaitError(
            EXISTS,
            f"the network {name} cannot be offered to Docker here:"
            f" a network of the driver {action.driver} has that name",
            fix=(f"docker network rm {name}",),
        )
