"""On a node: pods created all at once, and when each answered its first TCP connection.

Addresses are read where either network leaves those that it has given, in the host's routes or
in host-local's directory, and are tried in one loop until they answer, so that no report of the
kubelet to the API server is waited for. The pod says its name itself: `/cgi-bin/who` of the lab's
image.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

from plait.kubernetes import kubeconfig
from plait.kubernetes.api import KubernetesApi
from plait.kubernetes.kinds import PODS
from plait.lab.kubernetes import layout

LEASES: Final = Path("/var/lib/cni/networks")
"""Where host-local keeps a file for each address that it has given."""
ROUTES: Final = Path("/proc/net/route")
HOST_ROUTE: Final = "FFFFFFFF"
NAMESPACE: Final = "default"
PORT: Final = 8080
PAUSE: Final = 0.05
"""Seconds between two attempts at an address, and between two readings of the addresses."""
ATTEMPT: Final = 0.5
"""Seconds for one attempt: a lost SYN is sent again after one second only."""
PATIENCE: Final = 400.0
QUESTION: Final = b"GET /cgi-bin/who HTTP/1.0\r\n\r\n"


def leased() -> set[str]:
    """Addresses that host-local has given; nothing else that it writes there is a number."""
    return {entry.name for entry in LEASES.glob("*/*") if entry.name[0].isdigit()}


def routed() -> set[str]:
    """Addresses that the host has a route of their own to."""
    lines = (line.split() for line in ROUTES.read_text().splitlines()[1:])
    return {
        str(IPv4Address(bytes.fromhex(fields[1])[::-1]))
        for fields in lines
        if fields[7] == HOST_ROUTE
    }


ADDRESSES: Final[Mapping[str, Callable[[], set[str]]]] = {"leases": leased, "routes": routed}


def manifest(name: str) -> dict[str, Any]:
    """A pod of the lab's image with a server."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": "bench"}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "c",
                    "image": "busybox:1",
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["httpd", "-f", "-p", str(PORT), "-h", "/www"],
                }
            ],
        },
    }


async def _attempt(address: str) -> tuple[float, str]:
    """When the connection stood, and the name of the pod."""
    async with asyncio.timeout(ATTEMPT):
        reader, writer = await asyncio.open_connection(address, PORT)
    stood = time.perf_counter()
    try:
        writer.write(QUESTION)
        said = await reader.read()
    finally:
        writer.close()
    return stood, said.rpartition(b"\r\n")[2].split()[0].decode()


class Run:
    """Pods from their creation until they answer."""

    def __init__(self, api: KubernetesApi, addresses: Callable[[], set[str]]) -> None:
        self._api = api
        self._addresses = addresses
        self._known: set[str] = set()

    async def start(self, names: list[str]) -> dict[str, float]:
        """Create pods at once; seconds of each from its creation to its first connection."""
        began: dict[str, float] = {}
        answered: dict[str, float] = {}
        expected = len(self._known) + len(names)
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(self._create(name, began))
            while len(self._known) < expected:
                for address in self._addresses() - self._known:
                    self._known.add(address)
                    group.create_task(self._try(address, answered))
                await asyncio.sleep(PAUSE)
        return {name: answered[name] - began[name] for name in names}

    async def _create(self, name: str, began: dict[str, float]) -> None:
        began[name] = time.perf_counter()
        await self._api.create(PODS.resources[0], manifest(name), NAMESPACE)

    async def _try(self, address: str, answered: dict[str, float]) -> None:
        while True:
            try:
                stood, name = await _attempt(address)
            except (OSError, TimeoutError):
                await asyncio.sleep(PAUSE)
                continue
            answered[name] = stood
            return


async def measure(count: int, addresses: Callable[[], set[str]]) -> list[float]:
    """Seconds of each of `count` pods, after one that finds out whether everything is there."""
    api = KubernetesApi(kubeconfig.load(Path(layout.ADMIN)), timeout=PATIENCE)
    try:
        run = Run(api, addresses)
        await run.start(["bench-warm"])
        found = await run.start([f"bench-{number}" for number in range(count)])
    finally:
        await api.close()
    return sorted(found.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--addresses", choices=ADDRESSES, required=True)
    options = parser.parse_args()
    json.dump(asyncio.run(measure(options.count, ADDRESSES[options.addresses])), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
