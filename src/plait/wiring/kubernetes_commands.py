"""`plait kubernetes`: the connector to Kubernetes, and how it is."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click

from plait.cli.frame import Group
from plait.cli.options import json_option
from plait.model.paths import Paths


def _paths() -> Paths:
    return Paths.from_env(os.environ)


@click.group(
    cls=Group,
    examples=[
        "plait kubernetes install --kubeconfig /etc/kubernetes/admin.conf",
        "plait kubernetes status",
    ],
)
def kubernetes() -> None:
    """Kubernetes: its pods, Services and policies in Plait's network."""


@kubernetes.command(
    "run",
    examples=[
        "plait kubernetes run",
        "plait kubernetes run --kubeconfig admin.conf",
        "plait kubernetes run --server 192.0.2.10 --token-file /root/token",
    ],
)
@click.option(
    "--kubeconfig",
    type=click.Path(dir_okay=False, path_type=Path),
    help="How Kubernetes is reached; default as kubectl.",
)
@click.option("--context", help="Of the kubeconfig; default its current one.")
@click.option("--network", help="Plait's network that pods are in [plait].")
@click.option("--server", metavar="HOST[:PORT]", help="Plait's server; default this host's.")
@click.option(
    "--token", envvar="PLAIT_TOKEN", help="For that server, of the role connector; - reads it."
)
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with that token.",
)
@click.option("--lease-namespace", help="Namespace of the lease of the one that writes.")
@click.option("--listen", metavar="ADDRESS:PORT", help="Serve health and metrics there too.")
def run_connector_command(
    kubeconfig: Path | None,
    context: str | None,
    network: str | None,
    server: str | None,
    token: str | None,
    token_file: Path | None,
    lease_namespace: str | None,
    listen: str | None,
) -> None:
    """Run the connector in the foreground.

    What is not said here is as `plait kubernetes install` wrote it down. Several may run; one of
    them writes.
    """
    import msgspec

    from plait.wiring.daemon import run
    from plait.wiring.kubernetes import read_config, run_connector

    said = {
        "kubeconfig": str(kubeconfig.absolute()) if kubeconfig else None,
        "context": context,
        "network": network,
        "server": server,
        "token_file": str(token_file.absolute()) if token_file else None,
        "lease_namespace": lease_namespace,
        "listen": listen,
    }
    given = {name: value for name, value in said.items() if value is not None}
    config = msgspec.structs.replace(read_config(_paths()), **given)

    if token == "-":  # noqa: S105 - the word for standard input
        token = sys.stdin.readline()

    async def main(stop: asyncio.Event) -> None:
        await run_connector(config, _paths(), stop, token=(token or "").strip())

    run(main)


@kubernetes.command(
    examples=["plait kubernetes status", "plait kubernetes status --json | jq .problems"]
)
@json_option
def status(as_json: bool) -> None:
    """Show how the connector of this host is, and what did not come over."""
    from plait.cli import connector, output
    from plait.client.connector import ask

    report = ask(_paths().kubernetes_socket)
    if as_json:
        output.json_out(report)
    else:
        connector.show(report)
