"""Shim and configuration on this host: put there, looked at, taken away.

A file is put in place whole, by a rename; the configuration last, for with it runtimes begin to
call. Files of others are never touched: ours are known by what is in them.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

import plait
from plait.cni import conflist
from plait.cni.conflist import Choices
from plait.model.errors import PlaitError
from plait.model.paths import Paths

PACKAGE: Final = Path(plait.__file__).parent
SHIM: Final = PACKAGE / "native/plait-cni"
"""The shim of this installation."""
SOURCE: Final = PACKAGE.parents[1] / "native"
"""In a checkout: where it is built from."""
MARK: Final = b"POST /v1/cni HTTP/1.1"
"""In every shim of ours, and in no other program."""


class Places(NamedTuple):
    """Where the two files are."""

    shim: Path
    conflist: Path


class Found(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is installed; empty paths for what is not."""

    shim: str = ""
    current: bool = False
    """The shim is the one of this installation."""
    conflist: str = ""
    network: str = ""
    identity: str = ""
    before: tuple[str, ...] = ()
    """Configurations that come before ours in their directory: containerd takes the first."""
    kept: int = 0
    """DELs that wait for the agent."""


def places(paths: Paths, name: str, bin_dir: Path | None, conf_dir: Path | None) -> Places:
    """Where the files of a configuration of that name are; None: in the usual directories."""
    # What is remembered must mean the same from another working directory.
    return Places(
        (bin_dir or paths.cni_bin).absolute() / conflist.TYPE,
        (conf_dir or paths.cni_conf).absolute() / conflist.FILE.format(name=name),
    )


def read_shim() -> bytes:
    """The shim of this installation, built first where it runs from a checkout.
    PLAIT-HOST-001 when there is none."""
    source = SOURCE / "plait-cni.c"
    stale = source.exists() and (not SHIM.exists() or SHIM.stat().st_mtime < source.stat().st_mtime)
    if stale:
        argv = [sys.executable, str(SOURCE / "build.py"), str(SHIM)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PlaitError(
                "PLAIT-HOST-001",
                "the CNI shim could not be built",
                where=str(source),
                why=done.stderr.strip()[-500:],
                fix=("scripts/setup --shim",),
            )
    if not SHIM.exists():
        raise PlaitError(
            "PLAIT-HOST-001",
            "this installation of Plait has no CNI shim",
            where=str(SHIM),
            why="it was installed for a machine for which none is built",
            fix=("pip install a wheel of plait for x86_64 or aarch64",),
        )
    return SHIM.read_bytes()


def refuse_foreign(at: Places) -> None:
    """PLAIT-API-005 when somebody else's file is where one of ours would be."""
    foreign = [
        path
        for path, ours in ((at.shim, is_shim(at.shim)), (at.conflist, is_conflist(at.conflist)))
        if path.exists() and not ours
    ]
    if foreign:
        raise PlaitError(
            "PLAIT-API-005",
            f"{foreign[0]} is not of Plait",
            where=str(foreign[0]),
            why="a file of somebody else is never overwritten",
            fix=(
                f"mv {foreign[0]} {foreign[0]}.before-plait",
                # The plugin is called as its type is, whatever the configuration is called.
                "plait cni install --bin-dir OTHER"
                if foreign[0] == at.shim
                else "plait cni install --name OTHER",
            ),
        )


def is_shim(path: Path) -> bool:
    """The file is a shim of ours, of any version."""
    return path.is_file() and MARK in path.read_bytes()


def is_conflist(path: Path) -> bool:
    """The file is a configuration that calls our plugin."""
    return path.is_file() and conflist.plugin_of(path.read_text(errors="replace")) is not None


def put(path: Path, content: bytes, mode: int) -> bool:
    """Put a file in its place, whole; False when it is there as it should be."""
    if path.is_file() and path.read_bytes() == content and path.stat().st_mode & 0o777 == mode:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    # A dot: no runtime reads a configuration of that name.
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(fresh, "wb", opener=lambda p, flags: os.open(p, flags, mode)) as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    finally:
        fresh.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return True


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """What installs have done on this host, for `uninstall` and `plait down --purge`."""

    places: tuple[tuple[str, str], ...] = ()
    made: tuple[str, ...] = ()
    """Directories that were not there before, the inner ones first."""


def remember(paths: Paths, at: Places) -> None:
    """Note where the files are about to be, and which directories they need."""
    known = _remembered(paths)
    missing = {
        str(directory) for path in at for directory in path.parents if not directory.exists()
    }
    made = sorted({*known.made, *missing}, key=len, reverse=True)
    here = (str(at.shim), str(at.conflist))
    _note(paths, Installed(places=tuple(sorted({*known.places, here})), made=tuple(made)))


def _remembered(paths: Paths) -> Installed:
    try:
        return msgspec.json.decode(paths.cni_installed.read_bytes(), type=Installed)
    except (FileNotFoundError, msgspec.DecodeError):
        return Installed()


def _note(paths: Paths, installed: Installed) -> None:
    put(paths.cni_installed, msgspec.json.encode(installed), 0o600)


def _forget(paths: Paths, at: Places) -> None:
    """Nothing of ours is there any more: with the last place go the directories that we made."""
    known = _remembered(paths)
    left = tuple(place for place in known.places if place != (str(at.shim), str(at.conflist)))
    if left:
        _note(paths, msgspec.structs.replace(known, places=left))
        return
    for directory in known.made:
        # Not empty: somebody else uses it by now.
        with contextlib.suppress(OSError):
            Path(directory).rmdir()
    paths.cni_installed.unlink(missing_ok=True)


def remove_conflist(at: Places) -> bool:
    """Remove the configuration; False when there is none of ours."""
    ours = is_conflist(at.conflist)
    if ours:
        at.conflist.unlink()
    return ours


def remove_shim(paths: Paths, at: Places) -> bool:
    """Remove the shim; False when there is none of ours, or when another configuration of the
    same directory still calls it."""
    others = [p for p in _configurations(at.conflist.parent) if p != at.conflist and is_conflist(p)]
    ours = is_shim(at.shim) and not others
    if ours:
        at.shim.unlink()
    _forget(paths, at)
    return ours


def remove_all(paths: Paths) -> None:
    """Remove what any install put anywhere; no error for what is not there."""
    everywhere = [Places(Path(shim), Path(conf)) for shim, conf in _remembered(paths).places]
    everywhere.append(places(paths, Choices().name, None, None))
    for at in everywhere:
        with contextlib.suppress(OSError):
            remove_conflist(at)
    for at in everywhere:
        with contextlib.suppress(OSError):
            remove_shim(paths, at)


def look(paths: Paths, at: Places) -> Found:
    """What is installed."""
    text = at.conflist.read_text(errors="replace") if at.conflist.is_file() else ""
    part = conflist.plugin_of(text)
    ours = is_shim(at.shim)
    before = [p.name for p in _configurations(at.conflist.parent) if p.name < at.conflist.name]
    queue = paths.cni_queue
    return Found(
        shim=str(at.shim) if ours else "",
        current=ours and SHIM.exists() and SHIM.read_bytes() == at.shim.read_bytes(),
        conflist=str(at.conflist) if part is not None else "",
        network=str(part.get("network", Choices().network)) if part else "",
        identity=str(part.get("identity", Choices().identity)) if part else "",
        before=tuple(before) if part is not None else (),
        kept=sum(1 for p in queue.iterdir() if p.name[0] != ".") if queue.is_dir() else 0,
    )


def _configurations(directory: Path) -> list[Path]:
    """Files that a runtime reads there, in its order."""
    if not directory.is_dir():
        return []
    return sorted(p for p in directory.iterdir() if p.suffix in (".conf", ".conflist", ".json"))
