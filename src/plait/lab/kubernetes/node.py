"""A node of a lab's cluster: configuration and command lines of containerd and the kubelet.

containerd's CNI directories are the usual ones, the host's own, with Debian's standard plugins in
them, as on a machine with the package `kubernetes-cni`: containerd itself calls `loopback`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from plait.lab import hosts
from plait.lab.kubernetes import images, layout
from plait.lab.kubernetes.keeper import Command
from plait.lab.topology import HostPlan

SOCKET: Final = "/run/containerd/containerd.sock"
CONTAINERD_CONFIG: Final = f"{layout.ETC}/containerd.toml"
KUBELET_CONFIG: Final = f"{layout.ETC}/kubelet.yaml"
STANDARD_PLUGINS: Final = "/usr/lib/cni"
"""Where Debian's containernetworking-plugins puts them."""
LEASE: Final = 8
"""Seconds; the kubelet renews at a quarter of it."""

GLOBAL_SYSCTLS: Final = {
    "/proc/sys/vm/overcommit_memory": 1,
    "/proc/sys/vm/panic_on_oom": 0,
    "/proc/sys/kernel/panic": 10,
    "/proc/sys/kernel/panic_on_oops": 1,
    "/proc/sys/kernel/keys/root_maxkeys": 1_000_000,
    "/proc/sys/kernel/keys/root_maxbytes": 25_000_000,
}
"""What a kubelet wants of a machine (kubelet/cm/container_manager_linux.go). A host of a lab is
shown these values: they are this machine's own, and no namespace holds them apart."""

EVICTION_SIGNALS: Final = (
    "memory.available",
    "nodefs.available",
    "nodefs.inodesFree",
    "imagefs.available",
)
"""None of them evicts a pod: the disk is this machine's, and may be full of other things."""

CONTAINERD: Final = f"""\
version = 2
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{images.PAUSE}"
  # A machine may not let us lower it (CAP_SYS_RESOURCE); runc then fails.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{layout.CNI_BIN}"
    conf_dir = "{layout.CNI_CONF}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"""


def kubelet_configuration() -> dict[str, Any]:
    """KubeletConfiguration (kubelet.config.k8s.io/v1beta1)."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": f"{layout.ETC}/ca.crt"},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": "/",
        "clusterDNS": [layout.RESOLVER],
        "clusterDomain": layout.DOMAIN,
        "evictionHard": dict.fromkeys(EVICTION_SIGNALS, "0%"),
        "failSwapOn": False,
        "featureGates": {
            name: value == "true"
            for name, _, value in (gate.partition("=") for gate in layout.FEATURES.split(","))
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "kubeAPIBurst": 200,
        "kubeAPIQPS": 100,
        "eventRecordQPS": 50,
        "nodeLeaseDurationSeconds": LEASE,
        "nodeStatusReportFrequency": "10s",
        "nodeStatusUpdateFrequency": "2s",
        "protectKernelDefaults": True,
        "readOnlyPort": 0,
        "resolvConf": "/etc/resolv.conf",
    }


def sysctls(directory: Path) -> dict[str, str]:
    """Files below a host's directory in the place of `GLOBAL_SYSCTLS`: bind mounts of a boot."""
    files = directory / "sysctl"
    files.mkdir(parents=True, exist_ok=True)
    binds = {}
    for key, value in GLOBAL_SYSCTLS.items():
        if Path(key).exists():
            file = files / key.removeprefix("/proc/sys/").replace("/", ".")
            file.write_text(f"{value}\n")
            binds[key] = str(file)
    return binds


def link_plugins(directory: Path) -> None:
    """Put the standard plugins into the CNI directory of a host."""
    target = hosts.disk(directory, layout.CNI_BIN)
    target.mkdir(parents=True, exist_ok=True)
    for plugin in Path(STANDARD_PLUGINS).iterdir():
        link = target / plugin.name
        if not link.exists():
            link.symlink_to(plugin)


def files() -> dict[str, str]:
    """Configuration of a node: path inside it -> content."""
    return {
        CONTAINERD_CONFIG: CONTAINERD,
        KUBELET_CONFIG: yaml.safe_dump(kubelet_configuration()),
    }


def containerd() -> Command:
    """containerd, with the CRI plugin."""
    return Command("containerd", ("containerd", "--config", CONTAINERD_CONFIG))


def kubelet(programs: Path, host: HostPlan) -> Command:
    """The kubelet."""
    return Command(
        "kubelet",
        (
            str(programs / "kubelet"),
            f"--config={KUBELET_CONFIG}",
            f"--kubeconfig={layout.KUBELET}",
            f"--hostname-override={host.name}",
            f"--node-ip={layout.address4(host)},{layout.address6(host)}",
            "--root-dir=/var/lib/kubelet",
            "--cert-dir=/var/lib/kubelet/pki",
            "--volume-plugin-dir=/var/lib/kubelet/plugins",
            "--container-runtime=remote",
            f"--container-runtime-endpoint=unix://{SOCKET}",
            f"--pod-infra-container-image={images.PAUSE}",
        ),
    )


def import_image(archive: str) -> tuple[str, ...]:
    """Command line that gives containerd an image of an archive."""
    return ("ctr", "--address", SOCKET, "--namespace", "k8s.io", "images", "import", archive)


def imported() -> tuple[str, ...]:
    """Command line that names the images that containerd has."""
    return ("ctr", "--address", SOCKET, "--namespace", "k8s.io", "images", "ls", "-q")
