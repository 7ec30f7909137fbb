"""`plait policy matrix`: who reaches whom, by port."""

from __future__ import annotations

import click

from plait.cli import complete
from plait.cli.frame import Command
from plait.cli.offline import files_option
from plait.cli.options import json_option


@click.command(
    cls=Command,
    short_help="Show who reaches whom, by port.",
    examples=[
        "plait policy matrix --port 80/tcp",
        "plait policy matrix -f manifests/ --port 80/tcp --port http --json",
        "plait policy matrix -n shop --csv > shop.csv",
    ],
)
@files_option
@click.option(
    "--port",
    "ports",
    multiple=True,
    metavar="PORT",
    help="80/tcp, 53/udp, a port's name, icmp. Default: those that policies name.",
)
@click.option(
    "-n",
    "--namespace",
    "namespaces",
    multiple=True,
    shell_complete=complete.namespaces,
    help="Endpoints of this namespace only.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@json_option
def matrix(
    files: tuple[str, ...],
    ports: tuple[str, ...],
    namespaces: tuple[str, ...],
    as_csv: bool,
    as_json: bool,
) -> None:
    """Show which endpoint reaches which other one, by port.

    With -f the answer comes from manifests alone: no server, no root, no network.
    """
    from plait.cli import output
    from plait.cli.grid import write_csv, write_grids, write_json
    from plait.cli.offline import world_of
    from plait.policy.matrix import matrix as ask
    from plait.policy.matrix import ports_named
    from plait.policy.questions import parse_asked

    asked = [parse_asked(text) for text in dict.fromkeys(ports)]
    world = world_of(files)
    found = ask(world, asked or ports_named(world), namespaces)
    if as_json:
        write_json(found)
    elif as_csv:
        write_csv(found)
    elif not found.endpoints:
        scope = f" in {' or '.join(namespaces)}" if namespaces else ""
        output.say(f"there is no endpoint{scope}", err=True)
    else:
        write_grids(found)
