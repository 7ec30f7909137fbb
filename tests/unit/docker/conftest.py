"""A plugin's parts over neighbours in memory."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from plait.docker.directory import Directory
from plait.docker.fake import FakeAgent, FakeApi, FakeEngine
from plait.docker.follower import Follower
from plait.docker.identity import Identifier
from plait.docker.ipam_driver import IpamDriver
from plait.docker.journal import Journal
from plait.docker.network_driver import NetworkDriver
from plait.docker.networks import NetworkKeeper
from plait.docker.pools import Pools
from plait.docker.reaper import Reaper
from plait.model.objects import Metadata, Network, NetworkSpec
from plait.wire.docker import Container, DockerNetwork, Ipam, IpamConfig, NetworkContainer

POOLS = ("10.128.0.0/9", "fd70:6c61:6974:100::/56")
DEADLINE = 0.05


class Clock:
    """Unix time that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class World:
    """Everything that the plugin's parts touch."""

    path: Path
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.engine = FakeEngine()
        self.directory = Directory(Journal(self.path))
        self.agent = FakeAgent(self.directory)
        self.api = FakeApi(self.directory, POOLS)
        self.rng = random.Random(1)
        self.build()

    def build(self) -> None:
        """The plugin's own parts."""
        directory = self.directory
        pools = Pools(self.api, clock=self.clock, rng=self.rng)
        self.pools = pools
        self.driver = NetworkDriver(self.agent, directory, pools, deadline=DEADLINE)
        self.ipam = IpamDriver(self.agent, directory, pools, clock=self.clock, deadline=DEADLINE)
        self.keeper = NetworkKeeper(self.api, self.engine, directory, pools, clock=self.clock)
        self.identifier = Identifier(self.agent, self.engine, directory, clock=self.clock)
        self.reaper = Reaper(self.agent, directory, clock=self.clock)
        self.follower = Follower(
            self.engine,
            directory,
            self.keeper,
            self.identifier,
            self.reaper,
            clock=self.clock,
            rng=self.rng,
        )

    def restart(self) -> None:
        """A new plugin with the journal, the agent and the server of the old one."""
        self.directory = Directory(Journal(self.path))
        self.agent._directory = self.api._directory = self.directory
        self.build()
        self.api.publish()

    async def network(self, name: str, *pools: str, **spec: object) -> Network:
        """A Plait Network."""
        wanted = NetworkSpec(pools=pools, **spec)  # type: ignore[arg-type]
        return await self.api.create(Network(metadata=Metadata(name=name), spec=wanted))

    async def bound(self, name: str, *pools: str, **spec: object) -> tuple[str, Network]:
        """A Plait Network that Docker has, and Docker's id of it."""
        network = await self.network(name, *pools, **spec)
        assert await self.keeper.round()
        assert await self.keeper.round()
        ids = [i for i, r in self.directory.records.items() if r.network == name]
        return ids[0], network

    def docker_network(
        self, name: str, *subnets: str, ipam: str = "default", **more: object
    ) -> DockerNetwork:
        """A Docker network that a user made."""
        network = DockerNetwork(
            id=f"{name.encode().hex():0>64}",
            name=name,
            driver="plait",
            ipam=Ipam(driver=ipam, config=tuple(IpamConfig(subnet=s) for s in subnets)),
            **more,  # type: ignore[arg-type]
        )
        self.engine.by_id[network.id] = network
        return network

    def container(
        self,
        container_id: str,
        name: str,
        labels: dict[str, str] | None = None,
        *,
        state: str = "running",
        status: str = "Up 3 minutes",
    ) -> Container:
        """A container in Docker's listing."""
        entry = Container(
            id=container_id, names=(f"/{name}",), labels=labels, state=state, status=status
        )
        self.engine.container_list[container_id] = entry
        return entry

    def connect(self, network_id: str, container_id: str, endpoint_id: str) -> None:
        """An endpoint in Docker's description of a network."""
        network = self.engine.by_id[network_id]
        entry = NetworkContainer(endpoint_id=endpoint_id)
        containers = {**(network.containers or {}), container_id: entry}
        self.engine.by_id[network_id] = DockerNetwork(
            **{f: getattr(network, f) for f in network.__struct_fields__ if f != "containers"},
            containers=containers,
        )


@pytest.fixture
async def world(tmp_path: Path) -> World:
    world = World(tmp_path / "docker.json")
    world.api.publish()
    return world
