"""`plait network`: sets of endpoints that reach each other and nobody else's."""

from __future__ import annotations

from typing import Any

import click

from plait.cli import complete
from plait.cli.frame import Group
from plait.cli.options import dry_run_option, json_option, parse_labels


@click.group(cls=Group, examples=["plait network ls", "plait network create web"])
def network() -> None:
    """Networks: endpoints of one reach each other on all hosts, and nobody else's.

    A network also appears as a Docker network of the same name on every host with Docker.
    """


@network.command("ls", examples=["plait network ls", "plait network ls --json"])
@json_option
def list_(as_json: bool) -> None:
    """List the networks and how full they are."""
    from plait.cli import connect, output
    from plait.cli.usage import network_use
    from plait.model.objects import AddressBlock, Endpoint, Network

    async def ask() -> tuple[Any, Any, Any]:
        async with connect.api() as client:
            return (
                await client.list(Network),
                await client.list(AddressBlock),
                await client.list(Endpoint),
            )

    networks, blocks, endpoints = connect.wait_for(ask())
    if as_json:
        output.json_out({"kind": "List", "items": networks})
        return
    rows = [
        [
            use.network,
            ", ".join(pool.cidr for pool in use.pools),
            str(use.endpoints),
            ", ".join(pool.percent for pool in use.pools),
            "yes" if use.internal else "no",
        ]
        for use in network_use(networks, blocks, endpoints)
    ]
    output.table(
        ["name", "pools", "endpoints", "used", "internal"], rows, empty="there is no network"
    )


@network.command(
    examples=[
        "plait network create web",
        "plait network create db --internal",
        "plait network create office --pool 10.40.0.0/20 --reserved 10.40.0.0/28",
    ]
)
@click.argument("name")
@click.option(
    "--pool", "pools", multiple=True, metavar="CIDR", help="Pool, one a family; else a free one."
)
@click.option("--gateway", "gateways", multiple=True, metavar="IP", help="Default: the first.")
@click.option("--reserved", multiple=True, metavar="CIDR", help="Never given out unasked.")
@click.option("--internal", is_flag=True, help="No way out, no published ports.")
@click.option("--no-docker", is_flag=True, help="Do not show it to Docker.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE")
@dry_run_option
@json_option
def create(
    name: str,
    pools: tuple[str, ...],
    gateways: tuple[str, ...],
    reserved: tuple[str, ...],
    internal: bool,
    no_docker: bool,
    labels: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Create the network NAME on all hosts."""
    from plait.cli import connect, output
    from plait.model.objects import Metadata, Network, NetworkSpec

    wanted = Network(
        metadata=Metadata(name=name, labels=parse_labels(labels)),
        spec=NetworkSpec(
            pools=pools,
            gateways=gateways,
            reserved=reserved,
            internal=internal,
            docker=not no_docker,
        ),
    )

    async def work() -> Network:
        async with connect.api() as client:
            return await client.create(wanted, dry_run=dry_run)

    made = connect.wait_for(work())
    if as_json:
        output.json_out(made)
        return
    done = "would be created" if dry_run else "created"
    output.good(f"network {name} {done}: {', '.join(made.spec.pools)}")
    if not dry_run and not no_docker:
        output.say(f"  docker run -d --network {name} --name web nginx")


@network.command(examples=["plait network rm web", "plait network rm web db --dry-run"])
@click.argument("names", nargs=-1, required=True, shell_complete=complete.networks)
@dry_run_option
def rm(names: tuple[str, ...], dry_run: bool) -> None:
    """Delete networks on all hosts.

    Refused while endpoints are on one.
    """
    from plait.cli import connect, output
    from plait.model.objects import Network

    async def work() -> None:
        async with connect.api() as client:
            for name in names:
                await client.delete(Network, name, dry_run=dry_run)
                output.good(f"network {name} {'would be deleted' if dry_run else 'deleted'}")

    connect.wait_for(work())


@network.command(examples=["plait network inspect web", "plait network inspect web --json"])
@click.argument("name", shell_complete=complete.networks)
@json_option
@click.pass_context
def inspect(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show a network, its blocks and endpoints."""
    from plait.cli.resources import describe

    ctx.invoke(describe, kind="network", name=name, namespace="", as_json=as_json)
