"""What a lab remembers of itself, so that any later command, or a `down` after a crash, finds it.

One directory per lab holds `state.json` and everything else. The state is written before a thing
is made, so that what was half made can be taken down.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from plait.lab.hosts import Running
from plait.lab.topology import Plan
from plait.model.errors import PlaitError

ROOT: Final = Path("/var/lib/plait-lab")


class WorkloadState(msgspec.Struct, frozen=True, kw_only=True):
    """A process with a network namespace of its own on a lab host."""

    name: str
    host: str
    pid: int
    """As seen from outside."""
    start: int
    inner_pid: int
    """As seen inside the host."""
    endpoint: str = ""
    namespace: str = "default"
    network: str = "plait"
    listen: tuple[str, ...] = ()
    port_names: tuple[str, ...] = ()
    """As `plait attach --port-name` takes them: `http=80/tcp`."""
    addresses: tuple[str, ...] = ()


class State(msgspec.Struct, kw_only=True):
    """The lab; written whole after each change."""

    plan: Plan
    docker: bool = False
    kubernetes: int = 0
    """How many hosts, from the first on, are nodes of its cluster; 0: there is no cluster."""
    live_restore: bool = False
    encap: str = "auto"
    hosts: dict[str, Running] = {}
    cuts: tuple[tuple[str, str], ...] = ()
    workloads: dict[str, WorkloadState] = {}


def directory(name: str, root: Path = ROOT) -> Path:
    """The directory of a lab."""
    return root / name


def names(root: Path = ROOT) -> list[str]:
    """Labs that exist, running or crashed."""
    return sorted(path.parent.name for path in root.glob("*/state.json"))


def load(where: Path) -> State:
    """The state; PLAIT-LAB-001 when there is no lab."""
    try:
        return msgspec.json.decode((where / "state.json").read_bytes(), type=State)
    except FileNotFoundError:
        raise PlaitError(
            "PLAIT-LAB-001",
            f'there is no lab "{where.name}"',
            where=str(where),
            fix=("plait lab up", "plait lab ls"),
        ) from None


def save(where: Path, state: State) -> None:
    """Replace the state file in one step."""
    where.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = where / f".state.{os.getpid()}"
    aside.write_bytes(msgspec.json.format(msgspec.json.encode(state)))
    aside.replace(where / "state.json")


@contextmanager
def locked(where: Path) -> Iterator[None]:
    """One change of a lab at a time, across processes."""
    path = where.parent / f".{where.name}.lock"
    while True:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # A `down` removes the file: who waited for it must not hold a lock that nobody sees.
            if _same_file(file.fileno(), path):
                yield
                return


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
