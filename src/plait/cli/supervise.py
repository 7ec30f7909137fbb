"""`plait supervisor run`: started by `plait up` where there is no systemd; hidden from help."""

from __future__ import annotations

import click

from plait.cli.frame import Group


@click.group(cls=Group, hidden=True, examples=["plait supervisor run"])
def supervisor() -> None:
    """Keep our programs running on a host without systemd."""


@supervisor.command(examples=["plait supervisor run"])
def run() -> None:
    """Run in the foreground until SIGTERM.

    Starts the server, the agent and the connector if this host was set up with them.
    """
    import asyncio
    import os

    from plait.cli.rotation import RotatingLog
    from plait.cli.services import CONFIGURED, command
    from plait.cli.supervisor import SUPERVISOR_PID, Program, Supervisor
    from plait.model.errors import PlaitError
    from plait.model.paths import Paths

    # Whatever file system the shell stood on must stay unmountable.
    os.chdir("/")
    paths = Paths.from_env(os.environ)
    env = {**os.environ, SUPERVISOR_PID: str(os.getpid())}

    async def main() -> None:
        programs = {
            name: Program(name, command(name), RotatingLog(paths.log / f"{name}.log"), env=env)
            for name in CONFIGURED
        }
        keeper = Supervisor(programs, paths.supervisor_socket, paths.supervisor_pid)
        await keeper.run([name for name, config in CONFIGURED.items() if config(paths).exists()])

    try:
        asyncio.run(main())
    except BlockingIOError:
        raise PlaitError(
            "PLAIT-HOST-004",
            "a supervisor runs here already",
            where=str(paths.supervisor_pid),
            fix=("plait status", "plait down"),
        ) from None
