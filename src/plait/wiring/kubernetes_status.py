"""What the connector of this host says of itself, asked and shown."""

from __future__ import annotations

from typing import Final

import aiohttp
import msgspec

from plait.cli.services import services
from plait.client.reasons import reason
from plait.kubernetes.report import Report
from plait.model.errors import PlaitError
from plait.model.paths import Paths

TIMEOUT: Final = 5.0
"""Seconds for an answer."""


async def ask(paths: Paths) -> Report:
    """The report; PLAIT-HOST-005 where no connector runs."""
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(paths.kubernetes_socket)),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT),
            ) as session,
            session.get("http://localhost/status") as response,
        ):
            return msgspec.json.decode(await response.read(), type=Report)
    except (aiohttp.ClientError, OSError, TimeoutError, msgspec.MsgspecError) as error:
        configured = paths.kubernetes_config.exists()
        raise PlaitError(
            "PLAIT-HOST-005",
            "no connector to Kubernetes answers on this host",
            where=str(paths.kubernetes_socket),
            why=reason(error),
            fix=(
                ("plait kubernetes install", services(paths).log_hint("kubernetes"))
                if configured
                else (
                    "plait kubernetes install --kubeconfig FILE",
                    "kubectl -n plait-system get lease plait-connector   # where it runs as a pod",
                )
            ),
        ) from None


def as_facts(report: Report) -> list[tuple[str, str]]:
    """The report as labelled values, kinds and problems aside."""
    if report.leads:
        role = "this one writes"
    else:
        role = f"{report.leader} writes" if report.leader else "nobody writes: no lease is held"
    heard = f"heard {report.age:.0f} s ago"
    link = f"connected, {heard}" if report.connected else f"not wholly connected, {heard}"
    due = "in step" if report.synced else f"{report.due} objects may have to be written"
    return [
        ("connector", f"{report.identity}, {role}"),
        ("api server", f"{report.api_server}, {link}"),
        ("plait", "connected" if report.server_connected else "out of reach"),
        ("objects", f"{due}; {report.written} written, {report.told} told to Kubernetes"),
    ]
