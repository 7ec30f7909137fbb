"""The process of the connector to Kubernetes: clients of both sides, the controller, its socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, AsyncExitStack
from pathlib import Path
from typing import NoReturn

import msgspec
import structlog

from plait.cli import connect
from plait.cli.trust import pinned_ca
from plait.client.api import ApiClient
from plait.kubernetes import kubeconfig
from plait.kubernetes.api import KubernetesApi
from plait.kubernetes.controller import DEFAULT_NETWORK, Controller
from plait.kubernetes.health import HealthServer
from plait.kubernetes.kubeconfig import Access
from plait.model.config import KubernetesConfig
from plait.model.errors import PlaitError
from plait.model.paths import Paths
from plait.wiring import daemon
from plait.wiring.control import private_socket
from plait.wiring.daemon import notify

log = structlog.get_logger("plait.kubernetes")


def read_config(paths: Paths) -> KubernetesConfig:
    """Settings that `plait kubernetes install` wrote; the defaults where there are none."""
    try:
        return msgspec.json.decode(paths.kubernetes_config.read_bytes(), type=KubernetesConfig)
    except FileNotFoundError:
        return KubernetesConfig()


def find_access(config: KubernetesConfig, environ: Mapping[str, str]) -> Access:
    """How the API server is reached."""
    named = Path(config.kubeconfig) if config.kubeconfig else None
    home = Path(environ["HOME"]) if environ.get("HOME") else None
    return kubeconfig.find(named, environ, home=home, context=config.context)


async def open_plait(config: KubernetesConfig, paths: Paths, token: str) -> ApiClient:
    """A client of Plait's server: of the one that is named, with a token, or of this host's."""
    if not config.server:
        if not paths.server_config.exists() and connect.remote(os.environ) is None:
            raise PlaitError(
                "PLAIT-HOST-005",
                "no server of Plait runs on this host, and none was named",
                fix=("plait kubernetes run --server HOST --token-file FILE", "plait up"),
            )
        return await connect.open_api()
    token_file = None if token else config.token_file
    token = token or read_token(config)
    url = connect.server_url(config.server, "plait kubernetes run --server 192.0.2.10:6440")
    authority = await pinned_ca(url, token, paths.run / "authority")
    return ApiClient(url, token=token, token_file=token_file, ca_file=authority)


def read_token(config: KubernetesConfig) -> str:
    """The token of the file that the settings name; PLAIT-AUTH-001 where there is none."""
    try:
        return Path(config.token_file).read_text().strip() if config.token_file else _no_token("")
    except OSError as error:
        return _no_token(f"{config.token_file}: {error.strerror}")


def _no_token(why: str) -> NoReturn:
    raise PlaitError(
        "PLAIT-AUTH-001",
        "Plait's server is not this host's, and there is no token for it",
        why=why,
        fix=("plait token create --role connector   # on the server",),
    )


def only_one(path: Path) -> AbstractContextManager[None]:
    """Be the only connector of this host; see `daemon.only_one`."""
    what = "a connector to Kubernetes runs on this host already"
    return daemon.only_one(path, what, "plait kubernetes status")


def listener(address: str) -> socket.socket:
    """A socket that is bound to `ADDRESS:PORT`; PLAIT-HOST-007 where that is taken."""
    host, _, port = address.rpartition(":")
    try:
        if not 0 <= int(port) <= 65535:
            raise ValueError(port)  # getaddrinfo takes any number.
        found = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, ValueError):
        raise PlaitError(
            "PLAIT-CLI-001",
            f"`{address}` is no ADDRESS:PORT",
            fix=("plait kubernetes run --listen 127.0.0.1:6442",),
        ) from None
    bound = socket.socket(found[0], socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(found[4])
    except OSError as error:
        bound.close()
        raise PlaitError(
            "PLAIT-HOST-007", f"{address} cannot be listened on", why=error.strerror or ""
        ) from None
    return bound


@contextlib.asynccontextmanager
async def serving(controller: Controller, paths: Paths, listen: str) -> AsyncIterator[None]:
    """Answer questions about the connector."""
    health = HealthServer(controller.report, lambda: controller.ready)
    places = [private_socket(paths.kubernetes_socket)]
    if listen:
        places.append(listener(listen))
    await health.start(*places)
    try:
        yield
    finally:
        await health.stop()
        paths.kubernetes_socket.unlink(missing_ok=True)


async def run_connector(
    config: KubernetesConfig, paths: Paths, stop: asyncio.Event, *, token: str = ""
) -> None:
    """Keep both sides together until `stop`. Tasks: `Controller.tasks`. `token` counts before the
    one of the settings."""
    access = find_access(config, os.environ)
    async with AsyncExitStack() as stack:
        stack.enter_context(only_one(paths.kubernetes_lock))
        plait = await open_plait(config, paths, token)
        stack.push_async_callback(plait.close)
        kubernetes = KubernetesApi(access)
        stack.push_async_callback(kubernetes.close)
        controller = Controller(
            kubernetes,
            plait,
            identity=platform.node(),
            lease_namespace=config.lease_namespace,
            network=config.network or DEFAULT_NETWORK,
            token_ends=lambda: plait.expires,
        )
        await stack.enter_async_context(serving(controller, paths, config.listen))
        tasks = [asyncio.create_task(work, name=name) for name, work in controller.tasks()]
        stack.push_async_callback(_end, tasks)
        waiting = asyncio.create_task(stop.wait(), name="stop")
        notify("READY=1", os.environ)
        log.info("connector", api_server=access.server, network=config.network or DEFAULT_NETWORK)
        done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        for task in done - {waiting}:
            task.result()  # No task ends by itself: raises what ended it.


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
