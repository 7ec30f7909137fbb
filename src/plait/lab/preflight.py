"""What a lab needs of this machine, looked at before anything is made."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Final

from plait.model.errors import PlaitError

SEARCH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOSTS: Final = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "ip": "iproute2",
    "nft": "nftables",
}
"""Programs that make hosts and cables, and their Debian packages."""
DOCKER: Final = {
    "dockerd": "docker.io",
    "docker": "docker.io",
    "busybox": "busybox-static",
    "dash": "dash",
    "wget": "wget",
    "getent": "libc-bin",
}
"""Programs of a lab with dockerds, likewise."""
KUBERNETES: Final = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "/usr/lib/cni/loopback": "containernetworking-plugins",
    "conntrack": "conntrack",
    "iptables": "iptables",
    "busybox": "busybox-static",
    "dash": "dash",
    "wget": "wget",
    "getent": "libc-bin",
}
"""Programs of a lab with Kubernetes that Debian has, likewise."""


def find(program: str) -> str | None:
    """Path of a program, also when the caller's PATH has no sbin."""
    return shutil.which(program, path=SEARCH)


def check(
    *,
    docker: bool,
    kubernetes: bool = False,
    which: Callable[[str], str | None] = find,
    uid: Callable[[], int] = os.geteuid,
) -> None:
    """Raise PLAIT-HOST-002 without root, PLAIT-HOST-001 that names every missing program."""
    if uid() != 0:
        raise PlaitError(
            "PLAIT-HOST-002", "a lab needs root: it makes namespaces", fix=("sudo plait lab up",)
        )
    wanted = HOSTS | (DOCKER if docker else {}) | (KUBERNETES if kubernetes else {})
    missing = [program for program in wanted if which(program) is None]
    if missing:
        packages = " ".join(dict.fromkeys(wanted[program] for program in missing))
        raise PlaitError(
            "PLAIT-HOST-001",
            f"a lab needs {', '.join(missing)}, which this machine lacks",
            fix=(f"apt-get install -y {packages}",),
        )
