"""Where the programs of Kubernetes are that `scripts/kube` has built on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from plait.model.errors import PlaitError

VERSION: Final = "1.20.2"
"""The Kubernetes of Debian 12; `scripts/kube` builds it."""
CACHE_VARIABLE: Final = "PLAIT_KUBE_CACHE"
"""Environment variable that moves the directory in which built versions are kept."""
CACHE: Final = "/var/cache/plait/kube"
BUILT: Final = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kubectl",
    "pause",
)


def directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the built programs are, or would be."""
    return Path(environ.get(CACHE_VARIABLE) or CACHE) / f"v{VERSION}"


def missing(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Programs of Kubernetes that are not there."""
    where = directory(environ)
    return [name for name in BUILT if not os.access(where / name, os.X_OK)]


def check(environ: Mapping[str, str] = os.environ) -> None:
    """Raise PLAIT-HOST-001 when Kubernetes was not built on this machine."""
    if gone := missing(environ):
        raise PlaitError(
            "PLAIT-HOST-001",
            f"a lab with Kubernetes needs {', '.join(gone)}, which this machine lacks",
            where=str(directory(environ)),
            fix=("scripts/kube",),
        )
