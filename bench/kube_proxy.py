"""kube-proxy 1.20 in iptables mode, as `scripts/kube` builds it, beside a fake API server.

It runs iptables-legacy, which serves it best: with iptables-nft, Debian's default, each change
among 10,000 Services takes minutes.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench.services_stage import BACKEND_PORT, POOL, PORT, cluster_ip
from plait.kernel import netns
from plait.kubernetes import kinds
from plait.kubernetes.fake_server import FakeKubernetes

PROGRAM: Final = Path(
    os.environ.get("PLAIT_KUBE_CACHE", "/var/cache/plait/kube"), "v1.20.2/kube-proxy"
)
_SERVICES: Final = kinds.SERVICES.resources[0]
_SLICES: Final = kinds.ENDPOINT_SLICES.resources[0]
_NODES: Final = kinds.NODES.resources[0]
_LEGACY: Final = Path("/usr/sbin/xtables-legacy-multi")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class KubeProxy:
    """kube-proxy and its API server, in a network namespace."""

    def __init__(self, stack: ExitStack, namespace: int) -> None:
        self._namespace = namespace
        self._server = FakeKubernetes()
        self._server.like_1_20()
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(lambda: self._loop.call_soon_threadsafe(self._loop.stop))
        started.wait()
        self._stack = stack
        self._process: subprocess.Popen[bytes] | None = None
        self._do(lambda: self._server.put(_NODES, {"metadata": {"name": "node"}}))

    def _serve(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        with netns.inside(self._namespace):
            self._loop.run_until_complete(self._server.start())
            started.set()
            self._loop.run_forever()
            self._loop.run_until_complete(self._server.stop())

    def _do(self, act: Callable[[], object]) -> None:
        done = threading.Event()

        def run() -> None:
            act()
            done.set()

        self._loop.call_soon_threadsafe(run)
        done.wait()

    def start(self, services: int, backends: Sequence[str]) -> None:
        """Begin with so many Services of these backends."""

        def put() -> None:
            for number in range(services):
                self._server.put(_SERVICES, _service(number))
                self._server.put(_SLICES, _slice(number, backends))

        self._do(put)
        words = [
            str(PROGRAM),
            f"--master=http://127.0.0.1:{self._server.port}",
            "--hostname-override=node",
            "--proxy-mode=iptables",
            f"--cluster-cidr={POOL}",
            "--iptables-min-sync-period=0s",
            "--conntrack-max-per-core=0",
            "--conntrack-min=0",
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
        ]
        programs = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        for family in ("iptables", "ip6tables"):
            for verb in ("", "-save", "-restore"):
                (programs / f"{family}{verb}").symlink_to(_LEGACY)
        path = f"{programs}:{os.environ['PATH']}"
        with netns.inside(self._namespace):
            self._process = subprocess.Popen(
                words,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=dict(os.environ, PATH=path),
            )
        self._stack.callback(self.stop)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def change(self, number: int, backends: Sequence[str]) -> None:
        """Give a Service other backends."""
        self._do(lambda: self._server.put(_SLICES, _slice(number, backends)))

    def cpu(self) -> float:
        """Seconds that it and the programs that it ran have used."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / _TICKS

    def settled(self) -> None:
        """Wait until it is idle."""
        before, quiet = self.cpu(), 0
        while quiet < 4:
            time.sleep(0.25)
            now = self.cpu()
            quiet = quiet + 1 if now - before < 0.02 else 0
            before = now


def _service(number: int) -> dict[str, object]:
    return {
        "metadata": {"name": f"s{number}", "namespace": "default"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": cluster_ip(number),
            "clusterIPs": [cluster_ip(number)],
            "ports": [{"port": PORT, "targetPort": BACKEND_PORT, "protocol": "TCP"}],
            "sessionAffinity": "None",
        },
    }


def _slice(number: int, backends: Sequence[str]) -> dict[str, object]:
    return {
        "metadata": {
            "name": f"s{number}-x",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": f"s{number}"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "", "port": BACKEND_PORT, "protocol": "TCP"}],
        "endpoints": [{"addresses": [each], "conditions": {"ready": True}} for each in backends],
    }
