"""Take everything of ours off this host: CNI plugin, Docker's networks, kernel objects, sysctls.

Runs without the agent. dockerd asks a network's driver before it forgets the network, so a
stand-in answers on the plug-in's socket for that time: yes to everything.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

import structlog
from aiohttp import ClientError, ClientSession, UnixConnector, web

from plait.agent.agent import Agent, Config
from plait.agent.state import Identity
from plait.client import enrol
from plait.client.api import ApiClient
from plait.cni import install
from plait.docker.engine import DockerEngine, EngineRefused, EngineUnavailable
from plait.model.paths import Paths
from plait.wiring.kernel import open_doors

log = structlog.get_logger("plait.purge")

DRIVER = "plait"
CONTENT = "application/vnd.docker.plugins.v1.1+json"
"""Content type of Docker's plug-in protocol."""


async def purge_host(paths: Paths, *, force: bool) -> tuple[str, ...]:
    """Remove everything; returns what could not be removed, in words."""
    # First, so that no runtime calls a plugin whose agent is gone for ever.
    install.remove_all(paths)
    failed = await _purge_docker(paths, force=force)
    identity = enrol.read_identity(paths.node)
    async with AsyncExitStack() as stack:
        # Nothing is asked of the server: it may be gone for ever.
        api = ApiClient("https://localhost:1")
        stack.push_async_callback(api.close)
        paths.agent.mkdir(parents=True, exist_ok=True, mode=0o700)
        doors = open_doors(api, paths.resolv_conf, stack)
        agent = Agent(
            Config(
                identity=Identity(
                    name=identity.name if identity else "none", uid=identity.uid if identity else ""
                ),
                directory=paths.agent,
            ),
            doors,
        )
        failed += await agent.purge()
        agent.ports.close()
        for watcher in doors.watchers:
            watcher.close()
    return tuple(failed)


async def _purge_docker(paths: Paths, *, force: bool) -> list[str]:
    """Remove every Docker network of our driver."""
    engine = DockerEngine(paths.docker_socket)
    failed: list[str] = []
    try:
        await engine.connect()
        ours = [network for network in await engine.networks() if network.driver == DRIVER]
        if not ours:
            return []
        runner = await _stand_in(paths)
        try:
            for network in ours:
                if force:
                    await _disconnect_all(paths, network.id)
                try:
                    await engine.remove_network(network.id)
                except EngineRefused as error:
                    failed.append(f"Docker network {network.name}: {error}")
        finally:
            await runner.cleanup()
            paths.docker_plugin.unlink(missing_ok=True)
    except EngineUnavailable:
        log.info("docker.absent")
    finally:
        await engine.close()
    return failed


async def _stand_in(paths: Paths) -> web.AppRunner:
    """A driver that agrees to everything."""

    async def agree(request: web.Request) -> web.Response:
        body = b"{}"
        if request.path == "/Plugin.Activate":
            body = b'{"Implements":["NetworkDriver","IpamDriver"]}'
        return web.Response(body=body, content_type=CONTENT)

    app = web.Application()
    app.router.add_post("/{call}", agree)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    paths.docker_plugin.parent.mkdir(parents=True, exist_ok=True)
    paths.docker_plugin.unlink(missing_ok=True)
    await web.UnixSite(runner, str(paths.docker_plugin)).start()
    paths.docker_plugin.chmod(0o600)
    return runner


async def _disconnect_all(paths: Paths, network: str) -> None:
    connector = UnixConnector(str(paths.docker_socket))
    try:
        async with ClientSession(connector=connector, base_url="http://docker") as session:
            async with session.get(f"/networks/{network}") as answer:
                containers = (await answer.json()).get("Containers") or {}
            for container in containers:
                body = {"Container": container, "Force": True}
                async with session.post(f"/networks/{network}/disconnect", json=body):
                    pass
    except ClientError as error:
        log.warning("docker.disconnect", network=network, error=str(error))
