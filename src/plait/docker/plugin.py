"""The plugin as a whole: what the composition root builds, starts and stops."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from plait.client.agent import Agent
from plait.client.base import Api
from plait.docker.directory import Changes, Directory
from plait.docker.engine import Engine
from plait.docker.follower import RESYNC, Follower
from plait.docker.identity import Identifier
from plait.docker.ipam_driver import IpamDriver
from plait.docker.network_driver import NetworkDriver
from plait.docker.networks import NetworkKeeper
from plait.docker.pools import Pools
from plait.docker.reaper import Reaper
from plait.docker.socket import DEADLINE, PluginSocket, calls

SOCKET: Final = Path("/run/docker/plugins/plait.sock")
"""Where dockerd looks for the plugin of the driver `plait`."""


class DockerPlugin:
    """Docker's networks on this host are Plait's.

    The composition root makes `Directory(Journal(path))` and feeds its `replace_networks` with
    the Network objects of the agent's snapshot whenever they change, beginning with the first
    complete snapshot (one read from the agent's cache will do). `clock` gives Unix time in seconds.

    The socket is served whether or not Docker runs: dockerd waits 15 s a call for a plugin that
    is missing when it starts.
    """

    def __init__(
        self,
        agent: Agent,
        api: Api,
        engine: Engine,
        directory: Directory,
        *,
        socket: Path = SOCKET,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        deadline: float = DEADLINE,
        resync: float = RESYNC,
    ) -> None:
        rng = rng or random.SystemRandom()
        pools = Pools(api, clock=clock, rng=rng)
        # The inner deadline ends first, so that its message says what was waited for.
        patience = deadline * 0.75
        self._network = NetworkDriver(agent, directory, pools, deadline=patience)
        ipam = IpamDriver(agent, directory, pools, clock=clock, deadline=patience)
        self._socket = PluginSocket(socket, calls(self._network, ipam), deadline=deadline)
        self._keeper = NetworkKeeper(api, engine, directory, pools, clock=clock)
        self._identifier = Identifier(agent, engine, directory, clock=clock)
        self._follower = Follower(
            engine,
            directory,
            self._keeper,
            self._identifier,
            Reaper(agent, directory, clock=clock),
            clock=clock,
            rng=rng,
            resync=resync,
        )
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether dockerd answers (`Node.status.docker`)."""
        return self._follower.connected

    @property
    def connection(self) -> Changes:
        """Wakes whoever waits for `connected` to change."""
        return self._follower.changes

    @property
    def problems(self) -> tuple[str, ...]:
        """What stands between Docker's networks and Plait's, and containers that stay without
        traffic, for `plait status`."""
        return self._keeper.problems + self._identifier.problems

    async def start(self) -> None:
        """Serve the socket, then follow dockerd in a task of our own."""
        await self._socket.start()
        self._task = asyncio.create_task(self._follower.run(), name="docker-follower")

    async def stop(self) -> None:
        """End both; containers and their traffic stay as they are."""
        await self._socket.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self._network.settle()
