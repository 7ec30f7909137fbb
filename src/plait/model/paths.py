"""Where Plait keeps things on a host: one value, so that a lab host can be given its own.

The layout follows the Filesystem Hierarchy Standard 3.0: state that must survive a reboot below
`/var/lib`, sockets below `/run`, logs below `/var/log`. `PLAIT_ROOT` puts another directory in
front of all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT_VARIABLE = "PLAIT_ROOT"
"""Environment variable that names the root; default `/`."""


@dataclass(frozen=True)
class Paths:
    """Every file and directory of ours, below `root`."""

    root: Path = Path("/")

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Paths:
        """The paths that an environment asks for."""
        return cls(Path(environ.get(ROOT_VARIABLE) or "/"))

    # State: 0700, survives a reboot.

    @property
    def state(self) -> Path:
        """Directory of everything that must survive a reboot."""
        return self.root / "var/lib/plait"

    @property
    def server_config(self) -> Path:
        """Settings of this host's server; its presence says that the host has one."""
        return self.state / "server.json"

    @property
    def agent_config(self) -> Path:
        """Settings of this host's agent; its presence says that the host has one."""
        return self.state / "agent.json"

    @property
    def kubernetes_config(self) -> Path:
        """Settings of this host's connector; its presence says that the host has one."""
        return self.state / "kubernetes.json"

    @property
    def made(self) -> Path:
        """List of the directories outside of ours that were not there before `plait up`."""
        return self.state / "made.json"

    @property
    def ca(self) -> Path:
        """Directory of the certificate authority (server only)."""
        return self.state / "ca"

    @property
    def store(self) -> Path:
        """The SQLite store (server only)."""
        return self.state / "store.db"

    @property
    def node(self) -> Path:
        """Directory of the node's identity: certificate, key, pinned CA certificate, secret."""
        return self.state / "node"

    @property
    def agent(self) -> Path:
        """Directory of the agent's journal, last snapshot and previous sysctl values."""
        return self.state / "agent"

    @property
    def cni_queue(self) -> Path:
        """Directory of CNI's DELs that came while no agent answered (native/plait-cni.c)."""
        return self.state / "cni" / "queue"

    @property
    def cni_installed(self) -> Path:
        """List of the places where `plait cni install` has put files."""
        return self.state / "cni" / "installed.json"

    # Runtime: sockets and pids, gone after a reboot.

    @property
    def run(self) -> Path:
        """Directory of sockets and pid files."""
        return self.root / "run/plait"

    @property
    def server_socket(self) -> Path:
        """The server's API for root on this host."""
        return self.run / "server.sock"

    @property
    def agent_socket(self) -> Path:
        """The agent's API for root on this host."""
        return self.run / "agent.sock"

    @property
    def agent_lock(self) -> Path:
        """Held by the agent of this host while it runs."""
        return self.run / "agent.lock"

    @property
    def kubernetes_socket(self) -> Path:
        """Where the connector to Kubernetes on this host says how it is."""
        return self.run / "kubernetes.sock"

    @property
    def kubernetes_lock(self) -> Path:
        """Held by the connector of this host while it runs."""
        return self.run / "kubernetes.lock"

    @property
    def supervisor_socket(self) -> Path:
        """Control socket of our supervisor, where there is no systemd."""
        return self.run / "supervisor.sock"

    @property
    def supervisor_pid(self) -> Path:
        """Pid file of our supervisor; holds an flock while it lives."""
        return self.run / "supervisor.pid"

    # Others' places.

    @property
    def log(self) -> Path:
        """Directory of logs, where there is no systemd."""
        return self.root / "var/log/plait"

    @property
    def docker_plugin(self) -> Path:
        """Where dockerd looks for the plug-in's socket."""
        return self.root / "run/docker/plugins/plait.sock"

    @property
    def docker_socket(self) -> Path:
        """The Docker API of this host."""
        return self.root / "var/run/docker.sock"

    @property
    def cni_bin(self) -> Path:
        """Where container runtimes look for CNI plugins."""
        return self.root / "opt/cni/bin"

    @property
    def cni_conf(self) -> Path:
        """Where container runtimes look for CNI configurations."""
        return self.root / "etc/cni/net.d"

    @property
    def resolv_conf(self) -> Path:
        """The host's resolvers, resolv.conf(5)."""
        return self.root / "etc/resolv.conf"

    @property
    def units(self) -> Path:
        """Where an administrator's systemd units live, systemd.unit(5)."""
        return self.root / "etc/systemd/system"
