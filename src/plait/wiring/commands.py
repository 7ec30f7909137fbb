"""`plait server` and `plait agent`: what runs the daemons, and what only they can do."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click

from plait.cli.frame import Group
from plait.cli.options import dry_run_option, json_option
from plait.model.paths import Paths


def _paths() -> Paths:
    return Paths.from_env(os.environ)


@click.group(cls=Group, examples=["plait server backup /root/plait.backup", "plait server run"])
def server() -> None:
    """The server: API, store, certificate authority."""


@server.command("run", examples=["plait server run"])
def run_server_command() -> None:
    """Run the server in the foreground.

    `plait up` sets it up and keeps it running; this is what it starts.
    """
    from plait.wiring.daemon import run
    from plait.wiring.server import run_server

    async def main(stop: asyncio.Event) -> None:
        await run_server(_paths(), stop)

    run(main)


@server.command(examples=["plait server backup /root/plait.backup"])
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@dry_run_option
def backup(file: Path, dry_run: bool) -> None:
    """Write the server's store and authority to FILE.

    The server may run. Keep FILE as secret as a private key: it holds one.
    """
    from plait.cli import lifecycle, output
    from plait.wiring.backup import write_backup

    lifecycle.require_root("plait server backup")
    if not dry_run:
        write_backup(_paths(), file.absolute())
    output.good(f"{file} {'would be ' if dry_run else ''}written")


@server.command(examples=["plait server restore /root/plait.backup && plait up"])
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@dry_run_option
def restore(file: Path, dry_run: bool) -> None:
    """Put a backup in the place of the server's store.

    The server must be stopped. Agents take up the restored state by themselves.
    """
    from plait.cli import lifecycle, output
    from plait.wiring.backup import restore_backup

    lifecycle.require_root("plait server restore")
    if dry_run:
        output.good(f"{file} would take the place of {_paths().store}")
        return
    restore_backup(_paths(), file)
    output.good("restored; `plait up` starts the server")


@click.group(cls=Group, examples=["plait agent plan", "plait agent run"])
def agent() -> None:
    """The agent: the only writer to this host's kernel."""


@agent.command("run", examples=["plait agent run"])
def run_agent_command() -> None:
    """Run the agent in the foreground.

    `plait up` and `plait join` set it up and keep it running; this is what they start.
    """
    from plait.wiring.agent import run_agent
    from plait.wiring.daemon import run

    async def main(stop: asyncio.Event) -> None:
        await run_agent(_paths(), stop)

    run(main)


@agent.command(examples=["plait agent plan", "plait agent plan --json"])
@json_option
def plan(as_json: bool) -> None:
    """Show what the agent would change in the kernel now.

    Nothing, when all is as it should be.
    """
    from plait.cli import connect, output

    async def ask() -> str:
        return await connect.agent().plan()

    text = connect.wait_for(ask())
    if as_json:
        output.json_out({"plan": text.splitlines()})
    elif text:
        output.say(text)
    else:
        output.say("the kernel is as it should be", err=True)


@agent.command(hidden=True, examples=["plait agent purge"])
@click.option("--force", is_flag=True, help="Disconnect containers that are attached.")
@dry_run_option
def purge(force: bool, dry_run: bool) -> None:
    """Remove every kernel object of ours from this host.

    A part of `plait down --purge`; the agent must be stopped.
    """
    from plait.cli import lifecycle, output
    from plait.model.errors import PlaitError
    from plait.wiring.purge import purge_host

    lifecycle.require_root("plait agent purge")
    if dry_run:
        output.good("every kernel object of ours would be removed")
        return
    failed = asyncio.run(purge_host(_paths(), force=force))
    if failed:
        raise PlaitError(
            "PLAIT-KERNEL-001",
            f"{len(failed)} objects could not be removed",
            why="; ".join(failed[:5]),
        )


def _life_verb(group: click.Group, name: str, verb: str) -> None:
    """`plait server stop` and its kind: for maintenance, and to see what goes on without it."""

    @group.command(
        verb,
        help=f"{verb.capitalize()} the {name} of this host.",
        examples=[f"plait {name} {verb}"],
    )
    @dry_run_option
    def command(dry_run: bool) -> None:
        from plait.cli import connect, lifecycle, output
        from plait.cli.services import CONFIGURED, services

        lifecycle.require_root(f"plait {name} {verb}")
        if not CONFIGURED[name](_paths()).exists():
            raise connect.not_here()
        done = {"start": "started", "stop": "stopped", "restart": "restarted"}[verb]
        if not dry_run:
            getattr(services(_paths()), verb)(name)
        output.good(f"{name} {'would be ' if dry_run else ''}{done}")


for _group, _name in ((server, "server"), (agent, "agent")):
    for _verb in ("start", "stop", "restart"):
        _life_verb(_group, _name, _verb)
