"""The agent's process: kernel doors, agent, resolver, Docker plug-in, and the tasks between.

server -> agent.sync -> names -> zone, directory        (Names.observe)
agent.service -> names -> zone                          (task "agent -> names")
agent.balancer -> zone                                  (Names.ask)
resolver -> agent.policing -> sets of names             (before an answer is given)
resolver -> agent.policing                              (before another resolver is asked)
docker plug-in -> agent                                 (task "docker -> agent")
CNI shim -> agent.sock -> CNI plug-in                   (a route of the agent's socket)
DELs that the shim kept -> CNI plug-in                  (task "kept DELs -> agent")
kernel -> flow log                                      (task "kernel -> flows")
kernel -> counters                                      (task "kernel -> counters")
flow log, counters -> server                            (task "flows -> server")
clock -> node certificate                               (task "certificate")
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from plait.agent import cache
from plait.agent.agent import Agent, Config
from plait.agent.state import Identity
from plait.agent.sync import FORGOTTEN
from plait.client import enrol
from plait.client.api import ApiClient
from plait.cni import route
from plait.cni.kept import Kept
from plait.cni.plugin import CniPlugin
from plait.dns.resolvconf import ResolvConf
from plait.dns.server import DnsServer
from plait.dns.zone import Zone
from plait.docker.directory import Directory
from plait.docker.engine import DockerEngine
from plait.docker.journal import Journal
from plait.docker.plugin import DockerPlugin
from plait.kernel.hostfacts import boot_identity
from plait.kernel.nflog import Nflog
from plait.model.config import AgentConfig
from plait.model.errors import PlaitError
from plait.model.paths import Paths
from plait.wiring.daemon import notify, only_one
from plait.wiring.kernel import open_doors
from plait.wiring.names import Names
from plait.wiring.telling import cni_metrics, dns_metrics, docker_metrics

RENEW_CHECK: Final = 600.0
"""Seconds between looks at the age of the node's certificate."""
RENEW_RETRY: Final = 30.0
"""Seconds before a renewal that failed is tried again: the certificate may have lapsed."""
RESOLVED: Final = Path("/run/systemd/resolve/resolv.conf")
"""The host's resolvers where its own file names systemd's stub: dockerd gives these to its
containers, so what they answer is believed as the host believes it."""
RETRY: Final = 15.0
"""Seconds before a part that could not start tries again."""

log: Final = structlog.get_logger("plait.wiring")


def read_config(paths: Paths) -> tuple[AgentConfig, Identity]:
    """Settings and identity written by `plait up` or `join`; PLAIT-HOST-005 without them."""
    identity = enrol.read_identity(paths.node)
    try:
        config = msgspec.json.decode(paths.agent_config.read_bytes(), type=AgentConfig)
    except FileNotFoundError:
        config = None
    if config is None or identity is None:
        raise PlaitError(
            "PLAIT-HOST-005",
            "this host has not joined a network",
            fix=("plait up", "plait join HOST --token TOKEN"),
        )
    return config, Identity(name=identity.name, uid=identity.uid)


def api_client(config: AgentConfig, paths: Paths) -> ApiClient:
    """The node's client of the server."""
    return ApiClient(
        config.server,
        ca_file=paths.node / enrol.CA_FILE,
        cert_file=paths.node / enrol.CERT_FILE,
        key_file=paths.node / enrol.KEY_FILE,
    )


def agent_settings(config: AgentConfig, identity: Identity, paths: Paths) -> Config:
    """The agent's own settings out of what the user decided."""
    return Config(
        identity=identity,
        directory=paths.agent,
        socket=paths.agent_socket,
        server=config.server,
        address=config.address,
        interface=config.interface,
        site=config.site,
    )


async def run_agent(paths: Paths, stop: asyncio.Event) -> None:
    """Serve until `stop`; the kernel then stays as it is (P4)."""
    config, identity = read_config(paths)
    paths.run.mkdir(parents=True, exist_ok=True, mode=0o755)
    paths.agent.mkdir(parents=True, exist_ok=True, mode=0o700)
    async with AsyncExitStack() as stack:
        # Two would write one journal.
        running = "the agent of this host runs already"
        stack.enter_context(only_one(paths.agent_lock, running, "plait status"))
        api = api_client(config, paths)
        stack.push_async_callback(api.close)
        zone = Zone(node=identity.name)
        directory = Directory(Journal(paths.agent / "docker.json"))
        names = Names(zone, directory, identity.name)
        kept = cache.load(paths.agent / "snapshot.json")
        if kept is not None:
            names.begin(kept.objects)
        doors = open_doors(api, paths.resolv_conf, stack)
        agent = Agent(
            agent_settings(config, identity, paths),
            doors,
            observe=names.observe,
            local=names.local_changed,
        )
        names.ask(agent.state.balancer)
        dels = Kept(paths.cni_queue, boot_identity().partition("/")[0])
        cni = CniPlugin(agent.service, dels, network=agent.service.network)
        agent.routes[route.PATH] = route.handler(cni)
        await agent.start()
        stack.push_async_callback(agent.stop)
        stack.push_async_callback(cni.stop)
        clock = asyncio.get_running_loop().time
        resolver = DnsServer(
            zone,
            host_servers=ResolvConf(paths.resolv_conf, clock),
            told=agent.policing.domains.answered,
            trusted=ResolvConf(RESOLVED, clock),
            may_ask=agent.policing.may_ask,
            catch_up=names.catch_up,
        )
        stack.push_async_callback(resolver.stop)
        engine = DockerEngine(paths.docker_socket)
        stack.push_async_callback(engine.close)
        plugin = DockerPlugin(agent.service, api, engine, directory, socket=paths.docker_plugin)
        stack.push_async_callback(plugin.stop)
        missing: dict[str, str] = {}
        agent.problem_sources += [lambda: plugin.problems, missing.values]
        agent.metric_sources += [
            partial(dns_metrics, resolver),
            partial(docker_metrics, plugin),
            partial(cni_metrics, cni),
        ]
        tasks = Tasks(stack)
        tasks.start("agent", agent.failed())
        tasks.start("agent -> names", names.follow(agent))
        tasks.start("resolver", keep_trying("resolver", resolver.start, missing))
        tasks.start("docker plug-in", keep_trying("docker plug-in", plugin.start, missing))
        tasks.start("docker -> agent", follow_docker(plugin, agent))
        tasks.start("kept DELs -> agent", cni.run())
        tasks.start("kernel -> flows", read_flows(agent, missing))
        tasks.start("kernel -> counters", agent.flows.count())
        tasks.start("flows -> server", agent.flows.ship(partial(api.report_flows, identity.name)))
        tasks.start(
            "certificate", keep_certificate(api, paths.node, missing, refused=agent.sync.refused)
        )
        notify("READY=1", os.environ)
        await stop.wait()


class Tasks:
    """Tasks that live as long as the process; one that fails ends it, for it would be missed."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        stack.push_async_callback(self._cancel)

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run under a name that stands in the log."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.error("task.failed", task=task.get_name(), exc_info=error)
        # The supervisor starts a whole agent; half of one would look healthy.
        os.kill(os.getpid(), 15)

    async def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def keep_trying(
    part: str, start: Callable[[], Coroutine[Any, Any, None]], missing: dict[str, str]
) -> None:
    """Start a part of the agent that can be missing for a while without harm to the rest.

    While it is missing, `missing` says so for `plait status`.
    """
    while True:
        try:
            await start()
        except (PlaitError, OSError) as error:
            log.error("part.not.started", part=part, error=str(error))
            missing[part] = f"the {part} could not start: {error}"
        else:
            missing.pop(part, None)
            return
        await asyncio.sleep(RETRY)


async def follow_docker(plugin: DockerPlugin, agent: Agent) -> None:
    """Tell the agent whether dockerd answers."""
    while True:
        agent.set_docker(plugin.connected)
        await plugin.connection.wait()


async def read_flows(agent: Agent, missing: dict[str, str]) -> None:
    """Read what the kernel logs of flows; while it cannot, `missing` says so."""
    while True:
        try:
            door = Nflog()
        except PlaitError as error:
            missing["flow log"] = f"flows are not logged: {error.detail} ({error.why})"
            await asyncio.sleep(RETRY)
        else:
            missing.pop("flow log", None)
            await agent.flows.read(door)


async def keep_certificate(
    api: ApiClient,
    directory: Path,
    missing: dict[str, str],
    *,
    refused: Callable[[PlaitError], None] = lambda _error: None,
    now: Callable[[], float] = time.time,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Renew the node's certificate at two thirds of its life, at once when it has lapsed (the
    host was off). Until that is done the failure stands in `missing`; `refused` is told when the
    server does not know the node any more; `now` is Unix time."""
    while True:
        pause = RENEW_CHECK
        if enrol.renewal_due(directory, now()):
            try:
                await enrol.renew(api, directory, now())
                log.info("certificate.renewed")
                missing.pop("certificate", None)
            except (PlaitError, OSError) as error:
                log.warning("certificate.not.renewed", error=str(error))
                if isinstance(error, PlaitError) and error.code == FORGOTTEN:
                    refused(error)
                missing["certificate"] = f"the node's certificate could not be renewed: {error}"
                pause = RENEW_RETRY
        # Jitter, so that hosts which joined together do not come together.
        await sleep(pause * (0.5 + random.random()))  # noqa: S311
