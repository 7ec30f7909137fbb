"""A list of 10,000 realistic pods: CPU seconds and memory of who follows them.

Pods as kubelet and a Deployment leave them: about 5.5 KB of JSON, half of it managedFields. A
server in a process of its own has the pages ready; each client runs in a process of its own that
has imported and connected before it is measured. Ours is the reflector, whole: pages of 500, then
the watch. The peers have the same pages with the same HTTP client and keep what they decoded.
Memory is the peak above what the process had before.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import ClientSession, web

from bench.table import Row, at_most
from plait.kubernetes import kinds
from plait.kubernetes.api import KubernetesApi
from plait.kubernetes.kubeconfig import Access
from plait.kubernetes.reflector import Reflector

PODS: Final = 10_000
PAGE: Final = 500
BUDGET_CPU, BUDGET_MIB = 1.0, 80


class Cost(msgspec.Struct):
    """Of one list."""

    cpu: float
    """Seconds, of user and system."""
    peak: float
    """MiB."""


# The server


def pod(number: int) -> dict[str, Any]:
    """A pod of one of 500 Deployments."""
    app, node = number % 500, number % 100
    tail = f"{number:05x}"
    fields = {
        f"f:{name}": {".": {}, **{f"f:key-{k}": {} for k in range(12)}}
        for name in ("labels", "annotations", "ownerReferences", "containers", "status", "volumes")
    }
    now = "2026-11-22T10:00:00Z"
    conditions = ("Initialized", "Ready", "ContainersReady", "PodScheduled")
    volume = "kube-api-access-x7x2q"
    return {
        "metadata": {
            "name": f"app-{app}-6d4b75cb6d-{tail}",
            "generateName": f"app-{app}-6d4b75cb6d-",
            "namespace": f"team-{app % 40}",
            "uid": f"3c6f1ab2-0e1d-4a53-9f0e-{number:012x}",
            "resourceVersion": str(100_000 + number),
            "creationTimestamp": now,
            "labels": {
                "app.kubernetes.io/name": f"app-{app}",
                "app.kubernetes.io/instance": f"release-{app}",
                "app.kubernetes.io/component": "server",
                "pod-template-hash": "6d4b75cb6d",
                "team": f"team-{app % 40}",
            },
            "annotations": {
                "kubectl.kubernetes.io/restartedAt": now,
                "prometheus.io/scrape": "true",
                "prometheus.io/port": "9090",
                "checksum/config": f"{number:064x}",
            },
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": f"app-{app}-6d4b75cb6d",
                    "uid": f"9a8b7c6d-0000-4000-8000-{app:012x}",
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
            "managedFields": [
                {
                    "manager": manager,
                    "operation": "Update",
                    "apiVersion": "v1",
                    "time": now,
                    "fieldsType": "FieldsV1",
                    "fieldsV1": {"f:metadata": fields},
                }
                for manager in ("kube-controller-manager", "kubelet")
            ],
        },
        "spec": {
            "volumes": [{"name": volume, "projected": {"defaultMode": 420, "sources": []}}],
            "containers": [
                {
                    "name": "server",
                    "image": f"registry.example.org/team/app-{app}:v1.2.3",
                    "ports": [
                        {"name": "http", "containerPort": 8080, "protocol": "TCP"},
                        {"name": "metrics", "containerPort": 9090, "protocol": "TCP"},
                    ],
                    "env": [{"name": f"SETTING_{k}", "value": f"value-{k}"} for k in range(8)],
                    "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
                    "volumeMounts": [{"name": volume, "mountPath": "/var/run/secrets"}],
                    "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}},
                    "imagePullPolicy": "IfNotPresent",
                }
            ],
            "restartPolicy": "Always",
            "serviceAccountName": f"app-{app}",
            "nodeName": f"node-{node}.example.org",
            "schedulerName": "default-scheduler",
            "tolerations": [
                {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute"}
                for key in ("not-ready", "unreachable")
            ],
        },
        "status": {
            "phase": "Running",
            "conditions": [
                {"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": now}
                for kind in conditions
            ],
            "hostIP": f"192.0.2.{node}",
            "podIP": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",
            "podIPs": [
                {"ip": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"},
                {"ip": f"fd00::{number:x}"},
            ],
            "startTime": now,
            "containerStatuses": [
                {
                    "name": "server",
                    "state": {"running": {"startedAt": now}},
                    "ready": True,
                    "restartCount": 0,
                    "image": f"registry.example.org/team/app-{app}:v1.2.3",
                    "imageID": f"registry.example.org/team/app@sha256:{app:064x}",
                    "containerID": f"containerd://{number:064x}",
                }
            ],
            "qosClass": "Burstable",
        },
    }


def pages() -> list[bytes]:
    """The list, as it goes over the wire; each page's token is its successor's number."""
    made = []
    for first in range(0, PODS, PAGE):
        meta: dict[str, str] = {"resourceVersion": "200000"}
        if first + PAGE < PODS:
            meta["continue"] = str(first // PAGE + 1)
        items = [pod(number) for number in range(first, first + PAGE)]
        made.append(
            msgspec.json.encode(
                {"kind": "PodList", "apiVersion": "v1", "metadata": meta, "items": items}
            )
        )
    return made


async def serve() -> None:
    """Serve the list until standard input ends; says its port and the list's size."""
    ready = pages()
    names = [{"name": "pods"}]

    async def discover(_: web.Request) -> web.Response:
        return web.json_response({"resources": names})

    async def pods(request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            stream = web.StreamResponse()
            await stream.prepare(request)
            await asyncio.Event().wait()
        return web.Response(body=ready[int(request.query.get("continue", "0"))])

    app = web.Application()
    app.add_routes([web.get("/api/v1", discover), web.get("/api/v1/pods", pods)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], sum(map(len, ready)), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


# The clients


def spent() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory(field: str) -> float:
    """MiB of /proc/self/status."""
    return int(Path("/proc/self/status").read_text().split(field)[1].split()[0]) / 1024


async def ours(url: str) -> Cost:
    """The reflector, until it has listed."""
    api = KubernetesApi(Access(server=url))
    told: list[int] = []
    reflector = Reflector(api, kinds.PODS, lambda changes: told.append(len(changes)))
    await api.read_bytes("/api/v1")
    before, resident = spent(), memory("VmRSS:")
    task = asyncio.create_task(reflector.run())
    await reflector.synced.wait()
    cost = Cost(spent() - before, memory("VmHWM:") - resident)
    assert told == [PODS]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await api.close()
    return cost


async def decoded_by(decode: Any, url: str) -> Cost:
    """The same pages, each decoded as a whole, every object kept."""
    kept: list[Any] = []
    async with ClientSession() as session:
        async with session.get(f"{url}/api/v1") as response:
            await response.read()
        before, resident = spent(), memory("VmRSS:")
        token = "0"
        while token:
            async with session.get(f"{url}/api/v1/pods", params={"continue": token}) as response:
                page = decode(await response.read())
            kept += page["items"]
            token = page["metadata"].get("continue", "")
        assert len(kept) == PODS
        return Cost(spent() - before, memory("VmHWM:") - resident)


CLIENTS: Final[dict[str, Any]] = {
    "ours": ours,
    "json": lambda url: decoded_by(json.loads, url),
    "msgspec": lambda url: decoded_by(msgspec.json.decode, url),
}


def run(name: str, url: str) -> Cost:
    """The cost of one client in a process of its own."""
    argv = [sys.executable, "-P", "-m", "bench.reflector", name, url]
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True)
    return msgspec.json.decode(done.stdout, type=Cost)


def rows() -> list[Row]:
    server = subprocess.Popen(
        [sys.executable, "-P", "-m", "bench.reflector", "serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        port, size = server.stdout.readline().split()
        print(f"    {PODS:,} pods, {int(size) / 1e6:.1f} MB", file=sys.stderr, flush=True)
        url = f"http://127.0.0.1:{port}"
        costs = {}
        for name in CLIENTS:
            print(f"    {name}", file=sys.stderr, flush=True)
            # The best of three: what else the machine does only adds.
            found = [run(name, url) for _ in range(3)]
            costs[name] = Cost(min(c.cpu for c in found), min(c.peak for c in found))
    finally:
        server.communicate("")
    what = f"list of {PODS:,} pods"
    peers = {"json": "aiohttp + json", "msgspec": "aiohttp + msgspec without types"}
    mine = costs["ours"]
    return [
        row
        for name, peer in peers.items()
        for row in (
            Row(
                what=f"{what}, CPU, best of 3",
                unit="s",
                ours=mine.cpu,
                peer=peer,
                theirs=costs[name].cpu,
                budget=at_most(BUDGET_CPU) if name == "json" else None,
            ),
            Row(
                what=f"{what}, peak memory",
                unit="MiB",
                ours=mine.peak,
                peer=peer,
                theirs=costs[name].peak,
                budget=at_most(BUDGET_MIB) if name == "json" else None,
            ),
        )
    ]


def main() -> None:
    if sys.argv[1] == "serve":
        asyncio.run(serve())
    else:
        cost = asyncio.run(CLIENTS[sys.argv[1]](sys.argv[2]))
        sys.stdout.buffer.write(msgspec.json.encode(cost))


if __name__ == "__main__":
    main()
