"""A real kube-apiserver over a real etcd, on ports of 127.0.0.1, for the tests of a client.

No controller runs beside it. Nothing is compacted but by `compact`. Pods are watched through its
cache, as all kinds are by default; NetworkPolicies straight from etcd, so that a compaction is
felt by their watches at once.
"""

from __future__ import annotations

import datetime
import secrets
import shutil
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from plait.client.polling import poll
from plait.kubernetes.kubeconfig import Access
from plait.lab.kubernetes import pki, programs

READY = 60.0
"""Seconds within which it must serve."""


def why_not() -> str:
    """Why it cannot run here; empty if it can."""
    if not shutil.which("etcd"):
        return "there is no etcd here: scripts/kube --packages"
    if not (programs.directory() / "kube-apiserver").exists():
        return f"there is no kube-apiserver in {programs.directory()}: scripts/kube"
    return ""


class KubeApiserver:
    """The running pair."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._etcd_port, self._peer_port, self.port = _free_ports(3)
        self._token = secrets.token_hex(16)
        authority = pki.Authority(datetime.datetime.now(datetime.UTC))
        self._authority = authority.pem.encode()
        self._serving = authority.server("kube-apiserver", ["127.0.0.1", "localhost"])
        self._processes: list[subprocess.Popen[bytes]] = []

    def access(self, port: int = 0) -> Access:
        """An administrator's; on another port, for one who stands between."""
        return Access(
            server=f"https://127.0.0.1:{port or self.port}",
            source="test",
            authority=self._authority,
            token=self._token,
        )

    def start(self) -> None:
        """Start both and wait until they serve."""
        here = self._directory
        files = {
            "apiserver.crt": self._serving.certificate,
            "apiserver.key": self._serving.key,
            "accounts.key": pki.key_pem(pki.new_key()),
            "tokens.csv": f'{self._token},admin,1,"system:masters"\n',
        }
        for name, content in files.items():
            (here / name).write_text(content)
        etcd = f"http://127.0.0.1:{self._etcd_port}"
        peer = f"http://127.0.0.1:{self._peer_port}"
        self._run(
            "etcd",
            f"--data-dir={here}/member",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        )
        self._serve()

    def restart(self) -> None:
        """Kill the API server, and start it with its caches empty."""
        server = self._processes.pop()
        server.kill()
        server.wait()
        self._serve()

    def _serve(self) -> None:
        here = self._directory
        etcd = f"http://127.0.0.1:{self._etcd_port}"
        self._run(
            str(programs.directory() / "kube-apiserver"),
            f"--etcd-servers={etcd}",
            "--etcd-compaction-interval=0",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--secure-port={self.port}",
            f"--tls-cert-file={here}/apiserver.crt",
            f"--tls-private-key-file={here}/apiserver.key",
            f"--token-auth-file={here}/tokens.csv",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={here}/accounts.key",
            f"--service-account-key-file={here}/accounts.key",
            "--authorization-mode=RBAC",
            "--allow-privileged=true",
            "--disable-admission-plugins=ServiceAccount",
            "--watch-cache-sizes=networkpolicies.networking.k8s.io#0",
        )
        assert poll(self._ready, seconds=READY, every=0.1), self.words()

    def stop(self) -> None:
        """End both."""
        for process in reversed(self._processes):
            process.kill()
            process.wait()

    def compact(self, revision: int) -> None:
        """Have etcd forget what changed up to a revision."""
        body = msgspec.json.encode({"revision": str(revision)})
        url = f"http://127.0.0.1:{self._etcd_port}/v3/kv/compaction"
        request = urllib.request.Request(url, data=body, method="POST")
        _body(request, timeout=10)

    def words(self) -> str:
        """The last words of both."""
        return "\n".join(
            f"{log.name}: " + "\n".join(log.read_text(errors="replace").splitlines()[-8:])
            for log in sorted(self._directory.glob("*.log"))
        )

    def _run(self, *argv: str) -> None:
        log = self._directory / f"{Path(argv[0]).name}.log"
        with log.open("wb") as out:
            self._processes.append(
                subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            )

    def _ready(self) -> bool:
        assert all(each.poll() is None for each in self._processes), self.words()
        context = ssl.create_default_context(cadata=self._authority.decode())
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.port}/readyz",
            headers={"Authorization": f"Bearer {self._token}"},
        )
        try:
            return _body(request, timeout=5, context=context) == b"ok"
        except (urllib.error.URLError, OSError):
            return False


def _body(request: urllib.request.Request, **options: Any) -> bytes:
    """What is answered. Raises OSError; one that is an answer as well has let go of its socket."""
    try:
        with urllib.request.urlopen(request, **options) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        error.close()
        raise


@contextmanager
def running(directory: Path) -> Iterator[KubeApiserver]:
    """One that is gone after the block."""
    server = KubeApiserver(directory)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody has now."""
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()
