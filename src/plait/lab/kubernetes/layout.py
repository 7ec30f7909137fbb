"""Addresses of a lab's cluster, its users, and the files of a host, all under their usual names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from plait.lab import hosts
from plait.lab.topology import HostPlan

ETC: Final = "/etc/kubernetes"
LOGS: Final = "/var/log/kubernetes"
KEEPER_SOCKET: Final = "/run/kubernetes/keeper.sock"
KEEPER_PID: Final = "/run/kubernetes/keeper.pid"
CNI_BIN: Final = "/opt/cni/bin"
CNI_CONF: Final = "/etc/cni/net.d"
PORT: Final = 6443
SERVICE_RANGES: Final = ("10.96.0.0/16", "fd00:96::/112")
FIRST_SERVICE: Final = ("10.96.0.1", "fd00:96::1")
"""Of `kubernetes.default`: the first address of each range."""
RESOLVER: Final = "169.254.1.1"
"""Where Plait answers DNS on every host."""
DOMAIN: Final = "cluster.local"
FEATURES: Final = ",".join(
    f"{name}=true"
    for name in (
        "IPv6DualStack",
        "EndpointSliceTerminatingCondition",
        "ServiceLBNodePortControl",
        "MixedProtocolLBService",
    )
)
"""What is on by default in later versions, and a network has to do with."""

ADMIN: Final = f"{ETC}/admin.conf"
CONNECTOR: Final = f"{ETC}/plait.conf"
KUBELET: Final = f"{ETC}/kubelet.conf"


def address4(host: HostPlan) -> str:
    """The host's underlay address, IPv4."""
    return host.interface.address4.partition("/")[0]


def address6(host: HostPlan) -> str:
    """The host's underlay address, IPv6."""
    return host.interface.address6.partition("/")[0]


def write(host_directory: Path, files: Mapping[str, str]) -> None:
    """Write files of a host, seen from inside, for root alone; they hold keys."""
    for path, text in files.items():
        target = hosts.disk(host_directory, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch(mode=0o600)
        target.write_text(text)
