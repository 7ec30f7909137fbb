"""`plait node`: the hosts of the network."""

from __future__ import annotations

from typing import Any

import click

from plait.cli import complete
from plait.cli.frame import Group
from plait.cli.options import dry_run_option, json_option


@click.group(cls=Group, examples=["plait node ls", "plait node forget host3"])
def node() -> None:
    """Nodes: the hosts of the network."""


@node.command("ls", examples=["plait node ls", "plait node ls --json"])
@json_option
def list_(as_json: bool) -> None:
    """List the hosts of the network."""
    from plait.cli import connect, output
    from plait.cli.resources import table_of
    from plait.model.objects import Node

    async def ask() -> Any:
        async with connect.api() as client:
            return await client.list(Node)

    found = connect.wait_for(ask())
    if as_json:
        output.json_out({"kind": "List", "items": found})
        return
    table_of(found, empty="no host has joined")


@node.command(examples=["plait node forget host3", "plait node forget host3 --force"])
@click.argument("name", shell_complete=complete.nodes)
@click.option("--force", is_flag=True, help="Also a node that was seen within the last minute.")
@dry_run_option
@json_option
def forget(name: str, force: bool, dry_run: bool, as_json: bool) -> None:
    """Remove a lost host, its endpoints and its address blocks.

    Do this for a host that will not come back as it was: its addresses are given to others.
    """
    from plait.cli import connect, output
    from plait.cli.resources import find
    from plait.model.objects import AddressBlock, Endpoint, Node
    from plait.wire.api import Forgotten

    async def work() -> Forgotten:
        async with connect.api() as client:
            await find(client, Node, name, "")
            if not dry_run:
                return await client.forget_node(name, force=force)
            blocks = await client.list(AddressBlock)
            return Forgotten(
                node=name,
                endpoints=sum(e.spec.node == name for e in await client.list(Endpoint)),
                blocks=sum(b.spec.node == name for b in blocks),
                loans=sum(loan.node == name for b in blocks for loan in b.spec.loans),
            )

    gone = connect.wait_for(work())
    if as_json:
        output.json_out(gone)
        return
    done = "would be forgotten" if dry_run else "forgotten"
    output.good(
        f"node {name} {done}: {gone.endpoints} endpoints, {gone.blocks} blocks, {gone.loans} loans"
    )


@node.command(examples=["plait node label host2 zone=b", "plait node label host2 zone-"])
@click.argument("name", shell_complete=complete.nodes)
@click.argument("words", nargs=-1, required=True, metavar="KEY=VALUE|KEY-…")
@dry_run_option
@json_option
def label(name: str, words: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Set labels of a host, or take them away (KEY-). Policies select hosts by them."""
    from plait.cli.labelling import run
    from plait.model.objects import Node

    run(Node, name, words, dry_run=dry_run, as_json=as_json)
