"""Trust on the command line: enrol this host's node, and know a remote server by its token."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from plait.client import enrol
from plait.model.errors import PlaitError

if TYPE_CHECKING:
    from plait.client.api import ApiClient
    from plait.wire.api import PoolUse

LEAVE_TIMEOUT: Final = 5.0
"""Seconds that a host which leaves waits for the server."""
FORGOTTEN: Final = ("PLAIT-AUTH-007", "PLAIT-API-004", "PLAIT-HOST-005")
"""What the server, or this host, says of a node that is none any more."""


async def enrol_node(server: str, token: str, name: str, directory: Path) -> None:
    """Get this host's node its certificate; its identity is kept when it has one already."""
    await enrol.enrol(server, token, name, directory)


async def pools_of(server: str, token: str) -> tuple[PoolUse, ...]:
    """The pools of the network that a token invites to. Nothing is kept, here or there.

    PLAIT-AUTH-003 and -004 when the token is not good, PLAIT-AUTH-005 when the server is another.
    """
    from plait.client.api import ApiClient

    pem = await enrol.fetch_ca(server, token)
    with tempfile.TemporaryDirectory(prefix="plait-join-") as directory:
        ca_file = Path(directory) / enrol.CA_FILE
        ca_file.write_text(pem)
        async with ApiClient(server, ca_file=ca_file, token=token) as client:
            return await client.pools()


def must_enrol(directory: Path, now: float) -> bool:
    """Whether the node has no certificate that is still good; `now` is Unix time."""
    try:
        return now >= enrol.validity(directory / enrol.CERT_FILE)[1]
    except (OSError, ValueError):
        return True


async def renew_lapsed(client: ApiClient, directory: Path, now: float) -> bool:
    """Renew a certificate that lapsed while the host was off, by the node's own secret.

    True when it was renewed; False when it is still good, or when the server cannot be reached:
    the agent then works from what it knows, and renews it as soon as the server is back.
    PLAIT-AUTH-007 when the node was forgotten meanwhile, PLAIT-HOST-005 without an identity.
    """
    if not must_enrol(directory, now):
        return False
    try:
        await enrol.renew(client, directory, now)
    except PlaitError as error:
        if error.code != "PLAIT-API-012":
            raise
        return False
    return True


async def leave(client: ApiClient, name: str, directory: Path, now: float) -> str:
    """Take this host's own node off the server, with its endpoints and blocks.

    Empty when it is gone, or was; else why that could not be done within `LEAVE_TIMEOUT`.
    """
    try:
        async with asyncio.timeout(LEAVE_TIMEOUT):
            if must_enrol(directory, now):
                await enrol.renew(client, directory, now)
            await client.forget_node(name)
    except TimeoutError:
        return f"the server did not answer within {LEAVE_TIMEOUT:.0f} s"
    except PlaitError as error:
        if error.code not in FORGOTTEN:
            return f"{error.detail}: {error.why}" if error.why else error.detail
    return ""


async def pinned_ca(server: str, token: str, config_file: Path) -> Path:
    """The certificate of the authority that a token pins, fetched once and kept beside the
    user's configuration. PLAIT-AUTH-005 when the server shows another one."""
    digest = enrol.pinned_hash(token)
    path = config_file.parent / f"ca-{digest[:16]}.crt"
    if not path.exists():
        pem = await enrol.fetch_ca(server, token)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            new = path.with_suffix(".new")
            new.write_text(pem)
            new.replace(path)
        except OSError as error:
            raise PlaitError(
                "PLAIT-CLI-002",
                "the server's certificate cannot be kept",
                where=str(path),
                why=str(error),
                fix=("export PLAIT_CA_FILE=FILE",),
            ) from None
    return path
