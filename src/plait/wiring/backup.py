"""`plait server backup` and `restore`: one file that holds all that makes a server itself.

A tar archive, mode 0600, with the store, the certificate authority and the settings. Without the
authority every node would have to join again, so it belongs in the backup; and so the backup is
as secret as the authority's key.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from plait.model.errors import PlaitError
from plait.model.paths import Paths
from plait.server.bootstrap import renew_history
from plait.store.sqlite import SqliteStore, restore
from plait.wiring import control
from plait.wiring.server import control_socket

STORE: Final = "store.db"
SETTINGS: Final = "server.json"
AUTHORITY: Final = "ca/"
TIMEOUT: Final = 120.0
"""Seconds for a running server to copy its store."""
MAX_MEMBER: Final = 8 << 30


def write_backup(paths: Paths, target: Path) -> None:
    """Write the backup, complete or not at all; the server may run."""
    if not paths.server_config.exists():
        raise PlaitError("PLAIT-HOST-005", "no server was set up on this host", fix=("plait up",))
    if not target.parent.is_dir():
        raise PlaitError(
            "PLAIT-STORE-007",
            f"there is no directory {target.parent}",
            where=str(target),
            fix=(f"mkdir -p {shlex.quote(str(target.parent))}",),
        )
    with tempfile.TemporaryDirectory(dir=paths.state, prefix="backup-") as directory:
        copy = Path(directory) / STORE
        running = control.ask(control_socket(paths), {"verb": "backup", "path": str(copy)}, TIMEOUT)
        if not running:
            asyncio.run(_copy_store(paths.store, copy))
        temporary = target.with_name(target.name + ".new")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                with tarfile.open(fileobj=file, mode="w") as archive:
                    archive.add(copy, STORE)
                    archive.add(paths.server_config, SETTINGS)
                    for part in sorted(paths.ca.iterdir()):
                        if part.is_file():
                            archive.add(part, AUTHORITY + part.name)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


async def _copy_store(source: Path, copy: Path) -> None:
    store = SqliteStore(source)
    await store.open()
    try:
        await store.backup(copy)
    finally:
        await store.close()


def restore_backup(paths: Paths, source: Path) -> None:
    """Put a backup in place; refused while the server runs (PLAIT-STORE-006).

    The store is checked and replaced first: when it is refused nothing has changed. Agents
    then begin their watches anew, and nodes that joined after the backup must join again.
    """
    paths.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=paths.state, prefix="restore-") as directory:
        parts = _unpack(source, Path(directory))
        restore(parts / STORE, paths.store)
        asyncio.run(_new_history(paths.store))
        paths.ca.mkdir(exist_ok=True, mode=0o700)
        for part in sorted((parts / AUTHORITY).iterdir()):
            part.replace(paths.ca / part.name)
        (parts / SETTINGS).replace(paths.server_config)


async def _new_history(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    try:
        await renew_history(store)
    finally:
        await store.close()


def _unpack(source: Path, directory: Path) -> Path:
    """The members that we know, and nothing else, whatever the archive says of paths and modes."""
    (directory / AUTHORITY).mkdir(mode=0o700)
    found = set()
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                name = member.name
                inside = name.removeprefix(AUTHORITY)
                known = name in {STORE, SETTINGS} or (
                    name != inside and inside in {"ca.pem", "ca.crt", "server.pem"}
                )
                if not known or not member.isfile() or member.size > MAX_MEMBER:
                    continue
                stream = archive.extractfile(member)
                assert stream is not None
                fd = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with os.fdopen(fd, "wb") as file:
                    shutil.copyfileobj(stream, file)
                found.add(name)
    except tarfile.ReadError:
        # tarfile names every compression that it tried, a line each.
        raise _no_backup(source, "it is no tar archive, or it ends too early") from None
    except tarfile.TarError as error:
        raise PlaitError(
            "PLAIT-STORE-002", "the backup cannot be read", where=str(source), why=str(error)
        ) from None
    missing = {STORE, SETTINGS, AUTHORITY + "ca.pem"} - found
    if missing:
        raise _no_backup(source, f"it has no {', '.join(sorted(missing))}")
    return directory


def _no_backup(source: Path, why: str) -> PlaitError:
    return PlaitError(
        "PLAIT-STORE-002", "the file is no backup of a Plait server", where=str(source), why=why
    )
