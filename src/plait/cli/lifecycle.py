"""Bring Plait up on a host, let it join others, take it down.

Every step looks whether it was done already, and a step's result is written only when the step
is complete. So a command that was interrupted is run again and goes on where it stood.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from plait.cli import connect, output
from plait.cli.hostfacts import read_host
from plait.cli.preflight import (
    Finding,
    HostFacts,
    check_host,
    check_join,
    check_port,
    choose_address,
    choose_pools,
    root_required,
)
from plait.cli.progress import step
from plait.cli.service_pools import (
    ServicePools,
    choose_balancer_pools,
    choose_service_pools,
    with_service_pools,
)
from plait.cli.services import Services, services
from plait.cli.targets import dns_label
from plait.cli.trust import must_enrol, pools_of, renew_lapsed
from plait.model.config import DEFAULT_PORT, AgentConfig, ServerConfig
from plait.model.errors import PlaitError
from plait.model.objects import ClusterSpec, Encap, Node
from plait.model.paths import Paths

READY_TIMEOUT: Final = 10.0
"""Seconds for a process to become ready."""
POLL: Final = 0.05
ASK_TIMEOUT: Final = 2.0
"""Seconds to ask a server that may be down."""


class UpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asked of `plait up`; empty means "choose"."""

    name: str = ""
    address: str = ""
    interface: str = ""
    pools: tuple[str, ...] = ()
    service_pools: tuple[str, ...] = ()
    load_balancer_pools: tuple[str, ...] = ()
    encap: Encap | None = None
    port: int = 0
    site: str = ""


def require_root(command: str) -> None:
    """PLAIT-HOST-002 unless root."""
    if os.geteuid() != 0:
        raise root_required(command)


def write_config(path: Path, config: msgspec.Struct | list[str]) -> None:
    """Put a configuration file in place at once, mode 0600, durable when it returns."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.parent.chmod(0o700)
    temporary = path.with_suffix(".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def remember_made(paths: Paths) -> None:
    """Note which directories outside of ours are about to be made, once."""
    if not paths.made.exists():
        plugins = paths.docker_plugin.parent
        missing = [str(d) for d in (plugins, plugins.parent) if not d.exists()]
        write_config(paths.made, missing)


def read_server_config(paths: Paths) -> ServerConfig | None:
    """Settings of this host's server, or None."""
    try:
        return msgspec.json.decode(paths.server_config.read_bytes(), type=ServerConfig)
    except FileNotFoundError:
        return None


def stop_on(findings: tuple[Finding, ...]) -> None:
    """Warn of what is not fatal, and raise the first that is, the others said before."""
    fatal = [finding.error for finding in findings if finding.fatal]
    for finding in findings:
        if not finding.fatal:
            output.warn(finding.error.detail)
            for fix in finding.error.fix:
                output.say(f"    fix: {fix}", err=True)
    for error in fatal[1:]:
        output.say(error.render(), err=True)
    if fatal:
        raise fatal[0]


def node_name(asked: str) -> str:
    """The node's name: the one asked for, or this host's."""
    name = asked or dns_label(socket.gethostname().partition(".")[0])
    if not name or dns_label(name) != name:
        raise PlaitError(
            "PLAIT-NAME-001",
            f"`{name or socket.gethostname()}` cannot name a node",
            why="a name has letters a-z, digits and hyphens, at most 63",
            fix=(f"--name {dns_label(name) or 'host1'}",),
        )
    return name


def plan_server(options: UpOptions, facts: HostFacts) -> ServerConfig:
    """The server's settings; raises what stands in the way."""
    port = options.port or DEFAULT_PORT
    stop_on(check_host(facts) + check_port(facts, port))
    address = choose_address(facts, options.address, options.interface)
    pools = choose_pools(options.pools, facts.uses, secrets.token_bytes(5))
    stop_on(pools.findings)
    services = choose_service_pools(
        options.service_pools, pools.cidrs, facts.uses, secrets.token_bytes(5)
    )
    balancers = choose_balancer_pools(options.load_balancer_pools, (*pools.cidrs, *services.cidrs))
    stop_on(services.findings + balancers.findings)
    others = [str(ipaddress.ip_interface(a).ip) for a in facts.addresses]
    return ServerConfig(
        port=port,
        addresses=tuple(dict.fromkeys([str(address.ip), *others])),
        names=(socket.gethostname(),),
        cluster=ClusterSpec(
            pools=pools.cidrs,
            encap=options.encap or "auto",
            service_pools=services.cidrs,
            load_balancer_pools=balancers.cidrs,
        ),
    )


def check_same(options: UpOptions, server: ServerConfig, agent: AgentConfig | None) -> None:
    """PLAIT-HOST-009 when options of a second `plait up` contradict those of the first."""
    differs = []
    if options.port and options.port != server.port:
        differs.append(f"--port is {server.port}")
    if options.pools and not set(options.pools) <= set(server.cluster.pools):
        differs.append(f"--pool is {' '.join(server.cluster.pools)}")
    if options.encap and options.encap != server.cluster.encap:
        differs.append(f"--encap is {server.cluster.encap}")
    if agent and options.name and options.name != agent.node:
        differs.append(f"--name is {agent.node}")
    if differs:
        raise PlaitError(
            "PLAIT-HOST-009",
            "this host was set up before with other settings",
            why="; ".join(differs),
            fix=("plait up", "plait down --purge   # forgets the whole network"),
        )


async def until(what: str, ready: Callable[[], Awaitable[bool]], name: str, by: Services) -> None:
    """Wait until `ready` says so; PLAIT-HOST-008 shows where the log is."""
    deadline = time.monotonic() + READY_TIMEOUT
    last: PlaitError | None = None
    while time.monotonic() < deadline:
        try:
            async with asyncio.timeout(max(0.1, deadline - time.monotonic())):
                if await ready():
                    return
        except PlaitError as error:
            last = error
        except TimeoutError:
            break
        await asyncio.sleep(POLL)
    raise PlaitError(
        "PLAIT-HOST-008",
        f"{what} within {READY_TIMEOUT:.0f} s",
        why=last.detail if last else f"the {name} is {by.state(name)}",
        fix=(by.log_hint(name), "plait up   (goes on where it stood)"),
    )


async def server_ready() -> bool:
    """Whether the server on this host answers for the whole network."""
    from plait.model.objects import Cluster

    async with connect.api() as client:
        await client.get(Cluster, "plait")
    return True


async def agent_ready() -> bool:
    """Whether the agent on this host has programmed the kernel."""
    return (await connect.agent().status()).ready


async def forgotten(node: str, word: str = "PLAIT-AUTH-007") -> bool:
    """Whether the server says that it does not know this node; silence says nothing.

    `word` is how it says so: to an administrator, PLAIT-API-004.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ASK_TIMEOUT), connect.api() as client:
            try:
                await client.get(Node, node)
            except PlaitError as error:
                return error.code == word
    return False


async def start_server(paths: Paths) -> None:
    """Start the server and wait until it answers."""
    manager = services(paths)
    manager.start("server")
    await until("the server did not answer", server_ready, "server", manager)


async def start_agent(paths: Paths) -> None:
    """Start the agent and wait until it is ready."""
    manager = services(paths)
    manager.start("agent")
    await until("the agent did not become ready", agent_ready, "agent", manager)


async def enrol_here(paths: Paths, config: AgentConfig, token: str) -> None:
    """Get the node its certificate, then write the agent's settings."""
    from plait.cli.trust import enrol_node

    remember_made(paths)
    await enrol_node(config.server, token, config.node, paths.node)
    write_config(paths.agent_config, config)


async def enrol_with_own_server(paths: Paths, config: AgentConfig) -> None:
    """Enrol this host's node with the server on the same host."""
    from plait.wire.api import TokenRequest

    async with connect.api() as client:
        request = TokenRequest(ttl=60.0, single_use=True, description="plait up")
        made = await client.create_token(request)
    await enrol_here(paths, config, made.token)


async def join_command(paths: Paths) -> str:
    """The command that lets another host join, with a new token."""
    from plait.wire.api import TokenRequest

    config = read_server_config(paths)
    assert config is not None
    async with connect.api() as client:
        made = await client.create_token(TokenRequest(description="plait up"))
    return f"plait join {connect.host_port(config.addresses[0], config.port)} --token {made.token}"


def next_steps(join: str) -> list[str]:
    """What to do after `plait up`."""
    return [
        "",
        "Let other hosts join (the token is good for 24 hours):",
        f"  {join}",
        "",
        "Try it:",
        "  docker run -d --network plait --name web nginx",
        "  docker run --rm --network plait busybox wget -qO- http://web",
        "  plait status",
    ]


async def add_service_pools(options: UpOptions) -> None:
    """Give a running network the pools for Services that the user names and it lacks; one that was
    made before there were any has none."""
    from plait.model.objects import Cluster

    async with connect.api() as client:
        found = await client.get(Cluster, "plait")
        asked = ServicePools(options.service_pools, options.load_balancer_pools)
        spec = with_service_pools(found.spec, asked)
        if spec != found.spec:
            await client.update(msgspec.structs.replace(found, spec=spec))
            output.good("the network has these pools for Services now")


async def up(options: UpOptions, paths: Paths, *, dry_run: bool) -> None:
    """Make this host a server and an agent; done twice, it changes nothing."""
    config = read_server_config(paths)
    agent = connect.agent_config(paths)
    if config is None and agent is not None:
        await resume_joined(options, agent, paths, dry_run=dry_run)
        return
    first = agent is None
    if config is None:
        facts = read_host(paths, interface=options.interface, port=options.port or DEFAULT_PORT)
        config = plan_server(options, facts)
        where = f"{config.addresses[0]}, pools {', '.join(config.cluster.pools)}"
        if dry_run:
            output.good(f"this host would be the server {where}")
            return
        output.good(f"this host can be the server: {where}")
        write_config(paths.server_config, config)
    else:
        check_same(options, config, agent)
    if dry_run:
        output.good("this host is set up; its server and agent would be started if they are down")
        return
    with step(f"server on port {config.port}"):
        await start_server(paths)
    if options.service_pools or options.load_balancer_pools:
        await add_service_pools(options)
    gone = agent is not None and await forgotten(agent.node, "PLAIT-API-004")
    if agent is None or gone or must_enrol(paths.node, time.time()):
        agent = agent or AgentConfig(
            node=node_name(options.name),
            server=f"https://{connect.host_port('127.0.0.1', config.port)}",
            address=options.address,
            interface=options.interface,
            site=options.site,
        )
        with step(f"node {agent.node} enrolled"):
            await enrol_with_own_server(paths, agent)
    with step("agent ready"):
        await start_agent(paths)
    if paths.kubernetes_config.exists():
        services(paths).start("kubernetes")
    if first:
        for line in next_steps(await join_command(paths)):
            output.say(line)
    else:
        output.say("Plait runs here. `plait status` shows it, `plait token create` invites hosts.")


async def resume_joined(
    options: UpOptions, agent: AgentConfig, paths: Paths, *, dry_run: bool
) -> None:
    """`plait up` on a host that has joined a server: start its agent if it is down."""
    pools = (*options.pools, *options.service_pools, *options.load_balancer_pools)
    if options.port or pools or options.encap:
        raise PlaitError(
            "PLAIT-HOST-004",
            f"this host has joined {agent.server}, which decides ports, pools and encapsulation",
            fix=("plait up", "plait down --purge   # leaves that network"),
        )
    if dry_run:
        output.good(f"the agent of {agent.server} would be started if it is down")
        return
    join = f"plait join {urlsplit(agent.server).netloc} --token TOKEN"
    async with connect.node_api(paths, agent) as client:
        if await renew_lapsed(client, paths.node, time.time()):
            output.good("the certificate, which had lapsed while the host was off, is renewed")
    if await forgotten(agent.node):
        raise PlaitError(
            "PLAIT-AUTH-007",
            f"the server does not know the node {agent.node} any more",
            why="it was forgotten (`plait node forget`), and its addresses were given to others",
            fix=(join, "plait down --purge"),
        )
    with step("agent ready"):
        await start_agent(paths)


async def join(
    server: str, token: str, options: UpOptions, paths: Paths, *, start: bool = True, dry_run: bool
) -> None:
    """Make this host an agent of a server; done twice, it changes nothing. Without `start`
    something else runs the agent."""
    agent = connect.agent_config(paths)
    url = connect.server_url(server, "plait join 192.0.2.10:6440 …")
    if read_server_config(paths) is not None or (agent is not None and agent.server != url):
        other = agent.server if agent else "its own server"
        raise PlaitError(
            "PLAIT-HOST-004",
            f"this host already belongs to {other}",
            fix=("plait status", "plait down --purge   # leaves that network"),
        )
    if agent is None:
        facts = read_host(paths, interface=options.interface)
        stop_on(check_host(facts))
        choose_address(facts, options.address, options.interface)
        stop_on(check_join(await pools_of(url, token), facts.uses))
        agent = AgentConfig(
            node=node_name(options.name),
            server=url,
            address=options.address,
            interface=options.interface,
            site=options.site,
        )
        if dry_run:
            output.good(f"this host would join {url} as node {agent.node}")
            return
    elif dry_run:
        output.good(f"this host has joined {url}; its agent would be started if it is down")
        return
    known = paths.agent_config.exists() and not must_enrol(paths.node, time.time())
    if not known or await forgotten(agent.node):
        with step(f"node {agent.node} enrolled with {url}"):
            await enrol_here(paths, agent, token)
    if not start:
        return
    with step("agent ready"):
        await start_agent(paths)
    output.say("This host is part of the network: `plait peers` shows how it reaches the others.")


def attached_containers(networks: Any) -> list[str]:
    """Names of containers on Docker networks of ours, out of Docker's list of networks."""
    return sorted(
        {
            container.get("Name", "?")
            for network in networks or ()
            if network.get("Driver") == "plait"
            for container in (network.get("Containers") or {}).values()
        }
    )
