"""The control plane of a lab's cluster, as command lines: etcd, API server, controllers, scheduler,
and Plait's connector.

It is tuned to be quick rather than quiet: a node that stops is missed within seconds, and its pods
move soon after, so that nobody waits five minutes to see it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from plait.lab import hosts
from plait.lab.kubernetes import layout
from plait.lab.kubernetes.keeper import Command
from plait.lab.topology import HostPlan

ETCD: Final = "http://127.0.0.1:2379"
ETCD_PEER: Final = "http://127.0.0.1:2380"
GRACE: Final = 12
"""Seconds without a sign of life after which a node is not ready; six of the kubelet's leases."""
TOLERATION: Final = 5
"""Seconds that a pod stays bound to a node that is not ready, where it does not say itself."""
RUN: Final = "/run/kubernetes"
"""For the serving certificates that the controllers make for themselves."""


def etcd() -> Command:
    """One member. What it acknowledged is safe from kill -9, which is the only crash of a lab."""
    return Command(
        "etcd",
        (
            "etcd",
            "--data-dir=/var/lib/etcd/member.etcd",
            f"--listen-client-urls={ETCD}",
            f"--advertise-client-urls={ETCD}",
            f"--listen-peer-urls={ETCD_PEER}",
            f"--initial-advertise-peer-urls={ETCD_PEER}",
            f"--initial-cluster=default={ETCD_PEER}",
            "--unsafe-no-fsync",
        ),
    )


def api_server(programs: Path, host: HostPlan) -> Command:
    """kube-apiserver, on all addresses of its host."""
    etc = layout.ETC
    return Command(
        "kube-apiserver",
        (
            str(programs / "kube-apiserver"),
            f"--etcd-servers={ETCD}",
            f"--advertise-address={layout.address4(host)}",
            f"--secure-port={layout.PORT}",
            f"--client-ca-file={etc}/ca.crt",
            f"--tls-cert-file={etc}/apiserver.crt",
            f"--tls-private-key-file={etc}/apiserver.key",
            f"--kubelet-client-certificate={etc}/apiserver-kubelet.crt",
            f"--kubelet-client-key={etc}/apiserver-kubelet.key",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-cluster-ip-range={','.join(layout.SERVICE_RANGES)}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={etc}/service-accounts.key",
            f"--service-account-key-file={etc}/service-accounts.key",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--default-not-ready-toleration-seconds={TOLERATION}",
            f"--default-unreachable-toleration-seconds={TOLERATION}",
            f"--feature-gates={layout.FEATURES}",
        ),
    )


def controller_manager(programs: Path) -> Command:
    """kube-controller-manager. It gives nodes no pod ranges: addresses are Plait's to give."""
    return Command(
        "kube-controller-manager",
        (
            str(programs / "kube-controller-manager"),
            f"--kubeconfig={layout.ADMIN}",
            "--bind-address=127.0.0.1",
            "--port=0",
            f"--cert-dir={RUN}/controller-manager",
            "--allocate-node-cidrs=false",
            f"--service-cluster-ip-range={','.join(layout.SERVICE_RANGES)}",
            f"--root-ca-file={layout.ETC}/ca.crt",
            f"--service-account-private-key-file={layout.ETC}/service-accounts.key",
            "--leader-elect=false",
            "--kube-api-qps=100",
            "--kube-api-burst=200",
            "--node-monitor-period=1s",
            f"--node-monitor-grace-period={GRACE}s",
            f"--feature-gates={layout.FEATURES}",
        ),
    )


def scheduler(programs: Path) -> Command:
    """kube-scheduler."""
    return Command(
        "kube-scheduler",
        (
            str(programs / "kube-scheduler"),
            f"--kubeconfig={layout.ADMIN}",
            "--bind-address=127.0.0.1",
            "--port=0",
            f"--cert-dir={RUN}/scheduler",
            "--leader-elect=false",
            f"--feature-gates={layout.FEATURES}",
        ),
    )


def connector() -> Command:
    """`plait kubernetes run`, which tells Plait's server of the cluster, and the cluster of it."""
    words = ("kubernetes", "run", f"--kubeconfig={layout.CONNECTOR}")
    return Command("plait-kubernetes", (hosts.PYTHON, "-P", "-m", "plait", *words))


def commands(programs: Path, host: HostPlan) -> tuple[Command, ...]:
    """All of it, in the order in which one needs the other."""
    return (
        etcd(),
        api_server(programs, host),
        controller_manager(programs),
        scheduler(programs),
        connector(),
    )
