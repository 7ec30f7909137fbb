"""`plait up`, `join` and `down`: the life of Plait on this host."""

from __future__ import annotations

import sys

import click

from plait.cli.frame import Command
from plait.cli.options import F, dry_run_option

SHARED = (
    click.option("--name", default="", help="Name of the node; default the host's name."),
    click.option("--address", default="", metavar="IP[/LEN]", help="Underlay address to use."),
    click.option("--interface", default="", help="Underlay interface to use."),
    click.option("--site", default="", help="Name of the place; Services may prefer it."),
)


def shared_options(function: F) -> F:
    """Options of `up` and `join`."""
    for option in reversed(SHARED):
        option(function)
    return function


@click.command(
    cls=Command,
    examples=[
        "plait up",
        "plait up --address 192.0.2.10 --pool 10.200.0.0/16",
        "plait up --load-balancer-pool 192.0.2.240/28",
        "plait up --encap direct --dry-run",
    ],
)
@shared_options
@click.option("--pool", "pools", multiple=True, metavar="CIDR", help="Pool, one a family.")
@click.option(
    "--service-pool",
    "service_pools",
    multiple=True,
    metavar="CIDR",
    help="Addresses of Services, one a family.",
)
@click.option(
    "--load-balancer-pool",
    "load_balancer_pools",
    multiple=True,
    metavar="CIDR",
    help="Addresses that lead to a host from outside, for Services of type LoadBalancer.",
)
@click.option(
    "--encap",
    type=click.Choice(["auto", "direct", "vxlan"]),
    help="Between hosts; auto: direct on one subnet, vxlan across.",
)
@click.option("--port", type=click.IntRange(1, 65535), help="TCP port of the server [6440].")
@dry_run_option
def up(
    name: str,
    address: str,
    interface: str,
    site: str,
    pools: tuple[str, ...],
    service_pools: tuple[str, ...],
    load_balancer_pools: tuple[str, ...],
    encap: str | None,
    port: int | None,
    dry_run: bool,
) -> None:
    """Make this host a server and an agent.

    Checks the host first and says what is missing. Run it again at any time: it goes on where it
    stood, and starts what is down.
    """
    from plait.cli import connect, lifecycle

    lifecycle.require_root("plait up")
    options = lifecycle.UpOptions(
        name=name,
        address=address,
        interface=interface,
        site=site,
        pools=pools,
        service_pools=service_pools,
        load_balancer_pools=load_balancer_pools,
        encap=encap,  # type: ignore[arg-type]
        port=port or 0,
    )
    connect.wait_for(lifecycle.up(options, connect.paths(), dry_run=dry_run))


@click.command(
    cls=Command,
    examples=[
        "plait join 192.0.2.10 --token plait1.…",
        "plait join server.example:6440 --token - < token.txt",
    ],
)
@click.argument("server", metavar="HOST[:PORT]")
@click.option(
    "--token",
    required=True,
    envvar="PLAIT_JOIN_TOKEN",
    help="From `plait token create`; - reads it.",
)
@shared_options
@click.option("--no-start", is_flag=True, help="Something else runs `plait agent run` here.")
@dry_run_option
def join(
    server: str,
    token: str,
    name: str,
    address: str,
    interface: str,
    site: str,
    no_start: bool,
    dry_run: bool,
) -> None:
    """Make this host an agent of the server HOST.

    The token pins the server's certificate authority: a false server never sees the secret.
    """
    from plait.cli import connect, lifecycle

    lifecycle.require_root("plait join")
    if token == "-":  # noqa: S105 - the word for standard input
        token = sys.stdin.readline()
    options = lifecycle.UpOptions(name=name, address=address, interface=interface, site=site)
    connect.wait_for(
        lifecycle.join(
            server, token.strip(), options, connect.paths(), start=not no_start, dry_run=dry_run
        )
    )


@click.command(cls=Command, examples=["plait down", "plait down --purge"])
@click.option(
    "--purge", is_flag=True, help="Leave no trace: kernel objects, state, Docker networks."
)
@click.option(
    "--force", is_flag=True, help="With --purge: disconnect containers that are attached."
)
@dry_run_option
def down(purge: bool, force: bool, dry_run: bool) -> None:
    """Stop the server and the agent of this host.

    Containers keep their network: what is in the kernel stays until `--purge`.
    """
    from plait.cli import connect, lifecycle, purging

    lifecycle.require_root("plait down")
    purging.down(connect.paths(), purge=purge, force=force, dry_run=dry_run)
