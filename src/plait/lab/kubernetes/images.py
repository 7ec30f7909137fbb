"""Images of a lab's containers, as archives that `ctr images import` reads; there is no registry.

The names are those that a manifest would say, with a tag: `busybox:1` is then not pulled, for it
is there already (imagePullPolicy IfNotPresent is the default of every tag but `latest`).
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from plait.lab import image
from plait.lab.kubernetes import programs

PAUSE: Final = "plait.lab/pause:1"
BUSYBOX: Final = "docker.io/library/busybox:1"
"""What a manifest calls `busybox:1`."""
CREATED: Final = "1970-01-01T00:00:00Z"
ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
"""Go's names for what uname(2) says."""


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def write_archive(path: Path, name: str, layer: bytes, config: Mapping[str, Any]) -> None:
    """Write an image of one layer in the form of `docker save`.

    `layer` is a tar file of the root file system, `config` the image's configuration (Cmd, Env,
    Entrypoint, User).
    """
    digest = hashlib.sha256(layer).hexdigest()
    described = json.dumps(
        {
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "created": CREATED,
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created": CREATED}],
        }
    ).encode()
    identity = hashlib.sha256(described).hexdigest()
    manifest = [
        {
            "Config": f"{identity}.json",
            "RepoTags": [name],
            "Layers": [f"{digest}/layer.tar"],
        }
    ]
    with tarfile.open(path, "w") as archive:
        _add(archive, f"{identity}.json", described)
        _add(archive, f"{digest}/layer.tar", layer)
        _add(archive, "manifest.json", json.dumps(manifest).encode())


def _pause_layer(program: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(program, "pause")
    return content.getvalue()


def write(directory: Path) -> tuple[Path, ...]:
    """Write the archives of all images, and say where they are."""
    directory.mkdir(parents=True, exist_ok=True)
    pause, busybox, layer = (directory / name for name in ("pause.tar", "busybox.tar", "layer.tar"))
    image.write(layer)
    write_archive(
        pause,
        PAUSE,
        _pause_layer(programs.directory() / "pause"),
        {"Entrypoint": ["/pause"], "User": "65535:65535"},
    )
    write_archive(busybox, BUSYBOX, layer.read_bytes(), {"Cmd": ["sh"], "Env": ["PATH=/bin"]})
    layer.unlink()
    return pause, busybox
