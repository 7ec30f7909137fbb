"""The process of a lab host that runs the programs of its cluster, in the place of systemd.

`python -m plait.lab.kubernetes.keeper FILE` reads a `Set` of programs from FILE, starts those that
are wanted, starts again what dies, and takes orders on `layout.KEEPER_SOCKET`, as the supervisor
of Plait's own programs does on its own (`plait.cli.supervisor`).
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import msgspec

from plait.cli.rotation import RotatingLog
from plait.cli.supervisor import Backoff, Program, Supervisor
from plait.lab.kubernetes import layout


class Command(msgspec.Struct, frozen=True):
    """A program and its command line."""

    name: str
    argv: tuple[str, ...]


class Set(msgspec.Struct, frozen=True, kw_only=True):
    """What a host runs."""

    programs: tuple[Command, ...]
    at_once: tuple[str, ...]
    """Names of those that start with the keeper; the others wait for an order."""


QUICK = Backoff(base=0.1, cap=2.0)
"""A lab's machine has nothing better to do than to be back soon."""


async def keep(programs: Set) -> None:
    """Run until told to stop."""
    running = {
        command.name: Program(
            command.name,
            command.argv,
            RotatingLog(Path(layout.LOGS, f"{command.name}.log")),
            env=os.environ,
            backoff=QUICK,
        )
        for command in programs.programs
    }
    keeper = Supervisor(running, Path(layout.KEEPER_SOCKET), Path(layout.KEEPER_PID))
    await keeper.run(programs.at_once)


if __name__ == "__main__":
    asyncio.run(keep(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Set)))
