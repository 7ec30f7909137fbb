"""`plait status`, `peers`, `ps`, `version`: the picture at a glance."""

from __future__ import annotations

from typing import Any

import click

from plait.cli import complete
from plait.cli.frame import Command
from plait.cli.options import json_option


@click.command(cls=Command, examples=["plait status", "plait status --json | jq .problems"])
@json_option
def status(as_json: bool) -> None:
    """Show how this host and the network are, and what to do about problems."""
    from plait.cli import connect, output
    from plait.cli.picture import as_facts, look

    picture = connect.wait_for(look(connect.paths()))
    if as_json:
        output.json_out(picture)
        return
    output.facts(as_facts(picture))
    if picture.networks:
        output.say()
        rows = [
            [
                use.network,
                ", ".join(pool.cidr for pool in use.pools),
                str(use.endpoints),
                ", ".join(pool.percent for pool in use.pools),
            ]
            for use in picture.networks
        ]
        output.table(["network", "pools", "endpoints", "claimed"], rows)
    if picture.problems:
        output.say()
    for problem in picture.problems:
        output.warn(problem.text)
        for fix in problem.fix:
            output.say(f"    fix: {fix}", err=True)


@click.command(cls=Command, examples=["plait peers", "plait peers --json"])
@json_option
def peers(as_json: bool) -> None:
    """Show how this host reaches every other host: directly, by vxlan, or not, and why."""
    from plait.cli import connect, output

    async def ask() -> Any:
        return await connect.agent().peers()

    found = connect.wait_for(ask())
    if as_json:
        output.json_out({"kind": "List", "items": found})
        return
    rows = [
        [
            peer.node,
            "ready" if peer.ready else "down",
            peer.encap,
            peer.address,
            str(peer.mtu),
            str(peer.blocks),
            str(peer.endpoints),
            peer.reason,
        ]
        for peer in found
    ]
    headings = ["node", "state", "by", "address", "mtu", "blocks", "endpoints", "reason"]
    output.table(headings, rows, empty="no other host has joined; `plait token create` invites one")


@click.command(
    cls=Command,
    examples=["plait ps", "plait ps --network web --node host2", "plait ps --json | jq '.items[]'"],
)
@click.option("-n", "--namespace", default="", shell_complete=complete.namespaces)
@click.option("--network", default="", shell_complete=complete.networks)
@click.option("--node", default="", shell_complete=complete.nodes)
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="With this label.")
@json_option
def ps(namespace: str, network: str, node: str, labels: tuple[str, ...], as_json: bool) -> None:
    """List the endpoints of the whole network."""
    from plait.cli import connect, output
    from plait.cli.options import parse_labels
    from plait.cli.resources import table_of
    from plait.model.objects import Endpoint

    wanted = parse_labels(labels).items()

    async def ask() -> Any:
        async with connect.api() as client:
            return await client.list(Endpoint, namespace)

    found = tuple(
        e
        for e in connect.wait_for(ask())
        if (not network or e.spec.network == network)
        and (not node or e.spec.node == node)
        and wanted <= e.metadata.labels.items()
    )
    if as_json:
        output.json_out({"kind": "List", "items": found})
        return
    table_of(found, empty="no endpoint; `docker run --network plait …` makes one")


@click.command(cls=Command, examples=["plait version", "plait version --json"])
@json_option
def version(as_json: bool) -> None:
    """Show the versions of this program, this host's agent and the server's nodes."""
    from plait import __version__
    from plait.cli import connect, output
    from plait.model.errors import PlaitError
    from plait.model.objects import Node

    async def agent() -> str:
        return (await connect.agent().status()).version

    async def nodes() -> dict[str, str]:
        async with connect.api() as client:
            return {n.metadata.name: n.status.version for n in await client.list(Node)}

    async def ask() -> dict[str, Any]:
        answer: dict[str, Any] = {"plait": __version__}
        for key, work in (("agent", agent), ("nodes", nodes)):
            try:
                answer[key] = await work()
            except PlaitError as error:
                answer[key] = None
                answer[f"{key}Error"] = error.detail
        return answer

    found = connect.wait_for(ask())
    if as_json:
        output.json_out(found)
        return
    pairs = [("plait", __version__), ("agent", found["agent"] or f"- ({found['agentError']})")]
    pairs += [(f"node {name}", text or "-") for name, text in (found["nodes"] or {}).items()]
    output.facts(pairs)
