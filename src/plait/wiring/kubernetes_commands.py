"""`plait kubernetes`: the connector to Kubernetes, and how it is."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click

from plait.cli.frame import Group
from plait.cli.options import F, dry_run_option, json_option
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


def access_options(function: F) -> F:
    """How Kubernetes is reached."""
    for option in (
        click.option("--context", default="", help="Of the kubeconfig; default its current one."),
        click.option(
            "--kubeconfig",
            type=click.Path(dir_okay=False, path_type=Path),
            help="How Kubernetes is reached; default as kubectl.",
        ),
    ):
        option(function)
    return function


@kubernetes.command(
    examples=[
        "plait kubernetes install --here --kubeconfig /etc/kubernetes/admin.conf",
        "plait kubernetes install --apply",
        "plait kubernetes install --agents > plait.yaml",
    ]
)
@access_options
@click.option("--network", default="plait", show_default=True, help="Network that pods are in.")
@click.option("--here", is_flag=True, help="Run the connector on this host, not as a pod.")
@click.option("--apply", is_flag=True, help="Apply the manifests instead of printing them.")
@click.option("--agents", is_flag=True, help="Run the agents as pods, too.")
@click.option("--image", default="", help="Of the pods [busybox:1; nodes have Plait].")
@click.option("--program-path", default="", help="Where nodes have Plait; default as here.")
@click.option("--api-server", default="", metavar="HOST:PORT", help="As nodes reach it.")
@dry_run_option
def install(
    kubeconfig: Path | None,
    context: str,
    network: str,
    here: bool,
    apply: bool,
    agents: bool,
    image: str,
    program_path: str,
    api_server: str,
    dry_run: bool,
) -> None:
    """Make Plait the network of a Kubernetes cluster.

    Prints manifests with tokens for `kubectl apply -f -`; with --apply it applies them, with
    --here the connector runs on this host instead. On every node that does not run its agent as a
    pod: `plait join`, then `plait cni install --kubernetes`.
    """
    from plait.cli import connect, lifecycle
    from plait.wiring import kubernetes_setup as setup

    if here and (apply or agents or image or program_path or api_server):
        raise click.UsageError("--here runs no pods: leave the options of pods out")
    config = setup.config_of(kubeconfig, context, network)
    if here:
        lifecycle.require_root("plait kubernetes install --here")
        connect.wait_for(setup.install_here(config, _paths(), dry_run=dry_run))
        return
    options = setup.Options(agents=agents, image=image, path=program_path, api_server=api_server)
    connect.wait_for(setup.install_cluster(config, options, apply=apply, dry_run=dry_run))


@kubernetes.command(
    examples=[
        "plait kubernetes uninstall --dry-run",
        "plait kubernetes uninstall --kubeconfig admin.conf",
        "plait kubernetes uninstall --cluster-gone",
    ]
)
@access_options
@click.option("--cluster-gone", is_flag=True, help="There is no cluster any more: clean Plait.")
@click.option("--force", is_flag=True, help="Also while pods are on Plait's network.")
@dry_run_option
def uninstall(
    kubeconfig: Path | None, context: str, cluster_gone: bool, force: bool, dry_run: bool
) -> None:
    """Take everything back that `install` and the connector made.

    Taints, conditions and load-balancer addresses in Kubernetes, the manifests, Plait on the nodes
    where its agents are pods, and Kubernetes' objects in Plait. Users' objects stay.
    """
    import msgspec

    from plait.cli import connect
    from plait.wiring import kubernetes_setup as setup
    from plait.wiring.kubernetes import read_config

    config = read_config(_paths())
    if kubeconfig is not None or context:
        said = setup.config_of(kubeconfig, context, config.network)
        config = msgspec.structs.replace(
            said, kubeconfig=said.kubeconfig or config.kubeconfig, network=config.network
        )
    connect.wait_for(
        setup.uninstall(config, _paths(), gone=cluster_gone, force=force, dry_run=dry_run)
    )


@kubernetes.command(
    "run",
    examples=[
        "plait kubernetes run",
        "plait kubernetes run --kubeconfig admin.conf",
        "plait kubernetes run --server 192.0.2.10 --token-file /root/token",
    ],
)
@access_options
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
    context: str,
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
        "context": context or None,
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
