"""`plait ipam`: how full the pools are, who holds which block."""

from __future__ import annotations

from typing import Any

import click

from plait.cli import complete
from plait.cli.frame import Group
from plait.cli.options import dry_run_option, json_option


@click.group(cls=Group, examples=["plait ipam show", "plait ipam show web --blocks"])
def ipam() -> None:
    """Addresses: use of the pools, blocks of the nodes, held addresses."""


@ipam.command(
    examples=["plait ipam show", "plait ipam show web --blocks", "plait ipam show --json"]
)
@click.argument("network", required=False, shell_complete=complete.networks)
@click.option("--blocks", "with_blocks", is_flag=True, help="Also list the blocks of the nodes.")
@json_option
def show(network: str | None, with_blocks: bool, as_json: bool) -> None:
    """Show the use of every pool, or of those of NETWORK."""
    from plait.cli import connect, output
    from plait.cli.resources import find, table_of
    from plait.cli.usage import network_use
    from plait.model.objects import AddressBlock, Endpoint, Network

    async def ask() -> tuple[Any, Any, Any]:
        async with connect.api() as client:
            chosen = (
                (await find(client, Network, network, ""),)
                if network
                else await client.list(Network)
            )
            return chosen, await client.list(AddressBlock), await client.list(Endpoint)

    networks, blocks, endpoints = connect.wait_for(ask())
    uses = network_use(networks, blocks, endpoints)
    names = {use.network for use in uses}
    mine = tuple(b for b in blocks if b.spec.network in names)
    if as_json:
        output.json_out({"networks": uses, "blocks": mine})
        return
    rows = [
        [
            use.network,
            pool.cidr,
            str(pool.used),
            str(pool.blocks),
            pool.percent,
            f"{pool.size:,}" if pool.size < 1 << 32 else f"2^{pool.size.bit_length() - 1}",
        ]
        for use in uses
        for pool in use.pools
    ]
    output.table(
        ["network", "pool", "addresses", "blocks", "claimed", "size"],
        rows,
        empty="there is no network",
    )
    if with_blocks:
        output.say()
        table_of(mine, empty="no node has claimed a block")


@ipam.command(examples=["plait ipam release 10.112.0.9 --network web"])
@click.argument("address")
@click.option("--network", required=True, shell_complete=complete.networks)
@dry_run_option
def release(address: str, network: str, dry_run: bool) -> None:
    """Give back an address held on this host.

    It is held for a container that never came.
    An address that an endpoint uses stays; detach the endpoint to free it.
    """
    import ipaddress

    from plait.cli import connect, output

    try:
        address = str(ipaddress.ip_address(address))
    except ValueError:
        raise click.BadParameter(f"`{address}` is no address", param_hint="ADDRESS") from None

    async def work() -> None:
        client = connect.agent()
        for endpoint in await client.endpoints():
            if address in endpoint.addresses and endpoint.request.network == network:
                from plait.model.errors import PlaitError

                name = endpoint.request.name or endpoint.request.id
                raise PlaitError(
                    "PLAIT-IPAM-010",
                    f"the endpoint {name} uses {address}",
                    fix=(f"plait detach {endpoint.request.id}",),
                )
        if not dry_run:
            await client.release(network, address)

    connect.wait_for(work())
    output.good(f"{address} {'would be released' if dry_run else 'released'}")
