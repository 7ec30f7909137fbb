"""Which server and which agent a command talks to.

In order: `PLAIT_SERVER` and `PLAIT_TOKEN`; the file `~/.config/plait/config` (JSON with `server`,
`token`, `caFile`); the socket of the server on this host; the server that this host's node has
joined, with the node's certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
from collections.abc import AsyncIterator, Awaitable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from plait.model.config import DEFAULT_PORT, AgentConfig, ServerConfig
from plait.model.errors import PlaitError
from plait.model.paths import Paths

if TYPE_CHECKING:
    from plait.client.agent_socket import AgentClient
    from plait.client.api import ApiClient

T = TypeVar("T")
_HOST_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789.-:_%"
_EXAMPLE: Final = "export PLAIT_SERVER=https://192.0.2.10:6440"


class Remote(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A server elsewhere, as in the user's configuration file."""

    server: str
    token: str = ""
    ca_file: str = ""


def paths() -> Paths:
    """The paths of this process."""
    return Paths.from_env(os.environ)


def config_file(environ: Mapping[str, str]) -> Path:
    """The user's configuration file (XDG base directories)."""
    base = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME", "/root")) / ".config")
    return Path(base) / "plait/config"


def remote(environ: Mapping[str, str]) -> Remote | None:
    """The server that the user named, if any; PLAIT-CLI-001 when that is no server's name."""
    if server := environ.get("PLAIT_SERVER"):
        url = server_url(server, _EXAMPLE)
        return Remote(url, environ.get("PLAIT_TOKEN", ""), environ.get("PLAIT_CA_FILE", ""))
    path = config_file(environ)
    try:
        text = path.read_bytes()
    except OSError:
        return None
    try:
        named = msgspec.json.decode(text, type=Remote)
    except msgspec.MsgspecError as error:
        raise PlaitError("PLAIT-CLI-004", str(error), where=str(path)) from None
    return msgspec.structs.replace(named, server=server_url(named.server, _EXAMPLE))


def agent_config(here: Paths) -> AgentConfig | None:
    """Settings of this host's agent, or None when the host has none."""
    try:
        return msgspec.json.decode(here.agent_config.read_bytes(), type=AgentConfig)
    except (FileNotFoundError, PermissionError):
        return None


def not_here() -> PlaitError:
    """PLAIT-HOST-005."""
    return PlaitError(
        "PLAIT-HOST-005",
        "Plait does not run on this host",
        fix=("plait up", "plait join HOST --token TOKEN", "export PLAIT_SERVER=https://HOST:6440"),
    )


async def open_api() -> ApiClient:
    """A client of the server; PLAIT-HOST-005 when there is none to talk to."""
    from plait.client.api import ApiClient

    here = paths()
    if wanted := remote(os.environ):
        ca_file = wanted.ca_file
        if not ca_file and wanted.token:
            from plait.cli.trust import pinned_ca

            ca_file = str(await pinned_ca(wanted.server, wanted.token, config_file(os.environ)))
        return ApiClient(wanted.server, token=wanted.token, ca_file=ca_file or None)
    if os.geteuid() != 0:
        raise PlaitError(
            "PLAIT-HOST-002",
            "only root may use the server's socket on this host",
            fix=("run the same command with sudo", "export PLAIT_SERVER=… PLAIT_TOKEN=…"),
        )
    if here.server_config.exists():
        return ApiClient("http://localhost", unix_socket=str(here.server_socket))
    config = agent_config(here)
    if config is None:
        raise not_here()
    return node_api(here, config)


def node_api(here: Paths, config: AgentConfig) -> ApiClient:
    """A client of the server that this host has joined, by the node's certificate."""
    from plait.client.api import ApiClient

    return ApiClient(
        config.server,
        ca_file=str(here.node / "ca.crt"),
        cert_file=str(here.node / "node.crt"),
        key_file=str(here.node / "node.key"),
    )


@contextlib.asynccontextmanager
async def api() -> AsyncIterator[ApiClient]:
    """A client of the server for the time of a command."""
    client = await open_api()
    try:
        yield client
    finally:
        await client.close()


async def server_address(client: ApiClient) -> str:
    """`HOST:PORT` by which other hosts reach the server, as far as this host knows."""
    here = paths()
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        config = msgspec.json.decode(here.server_config.read_bytes(), type=ServerConfig)
        if config.addresses:
            return host_port(config.addresses[0], config.port)
    return urlsplit(client.url).netloc or "HOST"


def host_port(host: str, port: int) -> str:
    """`host:port`, an IPv6 address in brackets (RFC 3986 section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def server_url(text: str, fix: str) -> str:
    """`https://host:port` out of `HOST[:PORT]`; PLAIT-CLI-001, with this fix, for anything else."""
    bare = text.removeprefix("https://").rstrip("/")
    with contextlib.suppress(ValueError):
        bare = f"[{ipaddress.IPv6Address(bare)}]"
    host, port = "", 0
    with contextlib.suppress(ValueError):
        parts = urlsplit(f"https://{bare}")
        if parts.netloc == bare and "@" not in bare:
            host, port = parts.hostname or "", parts.port or DEFAULT_PORT
    if not host or not set(host) <= set(_HOST_LETTERS):
        raise PlaitError("PLAIT-CLI-001", f"`{text}` is no HOST[:PORT]", fix=(fix,))
    return f"https://{host_port(host, port)}"


def agent() -> AgentClient:
    """A client of this host's agent."""
    from plait.client.agent_socket import AgentClient

    here = paths()
    if not here.agent_config.exists():
        if os.geteuid() != 0:
            raise PlaitError(
                "PLAIT-HOST-002",
                "only root may use the agent of this host",
                fix=("run the same command with sudo",),
            )
        raise not_here()
    return AgentClient(str(here.agent_socket))


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run one coroutine to its end."""
    return asyncio.run(work)


async def attempt(work: Awaitable[T]) -> T | PlaitError:
    """The result, or the refusal: for pictures that show what can be had."""
    try:
        return await work
    except PlaitError as error:
        return error
