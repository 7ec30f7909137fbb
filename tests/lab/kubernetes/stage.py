"""What the scenes on a real cluster share: a namespace each, and words to play in it.

Pods are of the lab's image and serve `/cgi-bin/who`, which answers with the pod's name and with the
address that it was asked from.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.lab.traces import processes

from plait.client.polling import poll
from plait.lab import daemons
from plait.lab.kubernetes import cluster
from plait.lab.lab import Lab

T = TypeVar("T")

IMAGE = "busybox:1"
PORT = 8080
SERVE = ("httpd", "-f", "-p", str(PORT), "-h", "/www")
WHO = "cgi-bin/who"
PATIENCE = 60.0
"""Seconds for what Kubernetes itself has to do first, on two busy cores."""
TIMEOUT = 2
"""Seconds for one question."""


@dataclass(frozen=True)
class Pod:
    """A pod that was placed and has addresses."""

    name: str
    uid: str
    node: str
    addresses: tuple[str, ...]
    ready: bool
    restarts: int

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> Pod:
        status = item["status"]
        return cls(
            name=item["metadata"]["name"],
            uid=item["metadata"]["uid"],
            node=item["spec"].get("nodeName", ""),
            addresses=tuple(entry["ip"] for entry in status.get("podIPs", ())),
            ready=any(
                c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", ())
            ),
            restarts=sum(c["restartCount"] for c in status.get("containerStatuses", ())),
        )


@dataclass(frozen=True)
class Answer:
    """What came of a question: who answered, and whom he saw; or why nobody did."""

    server: str = ""
    client: str = ""
    error: str = ""

    @classmethod
    def of(cls, done: subprocess.CompletedProcess[str]) -> Answer:
        words = done.stdout.split()
        if done.returncode == 0 and len(words) == 2:
            return cls(server=words[0], client=words[1])
        return cls(error=(done.stderr or done.stdout).strip() or f"exit {done.returncode}")


def authority(address: str, port: int) -> str:
    """Address and port, as a URL has them."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def cgroups(process: Path) -> str:
    """Of a process, by its directory in /proc; the kubelet puts a pod's uid into them."""
    try:
        return (process / "cgroup").read_text()
    except OSError:
        return ""


def question(where: str) -> tuple[str, ...]:
    """Command line that asks a server who it is, once."""
    return ("wget", "-nv", "-O-", f"-T{TIMEOUT}", "--tries=1", f"http://{where}/{WHO}")


def deployment(
    name: str,
    replicas: int = 1,
    *,
    labels: Mapping[str, str] | None = None,
    command: Sequence[str] = SERVE,
    spread: bool = False,
    pod: Mapping[str, Any] | None = None,
    container: Mapping[str, Any] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """A Deployment of pods with the label `app: <name>`, one a node first where `spread`."""
    own = {"app": name}
    template: dict[str, Any] = {
        "terminationGracePeriodSeconds": 1,
        "containers": [
            {
                "name": "c",
                "image": IMAGE,
                "command": list(command),
                "ports": [{"name": "http", "containerPort": PORT}],
                "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
                **(container or {}),
            }
        ],
        **(pod or {}),
    }
    if spread:
        template["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": own},
            }
        ]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": own},
            "template": {"metadata": {"labels": {**own, **(labels or {})}}, "spec": template},
            **spec,
        },
    }


def service(name: str, *, app: str = "", port: int = 80, **spec: Any) -> dict[str, Any]:
    """A Service of both families in front of the pods of a Deployment."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "ipFamilyPolicy": "RequireDualStack",
            "selector": {"app": app or name},
            "ports": [{"name": "http", "port": port, "targetPort": "http"}],
            **spec,
        },
    }


def policy(name: str, app: str = "", **spec: Any) -> dict[str, Any]:
    """A NetworkPolicy for the pods of a Deployment, or of the namespace."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name},
        "spec": {"podSelector": {"matchLabels": {"app": app}} if app else {}, **spec},
    }


DENY_ALL = policy("deny-all", policyTypes=["Ingress", "Egress"])


class Stage:
    """A namespace of the cluster."""

    def __init__(self, lab: Lab, namespace: str) -> None:
        self.lab = lab
        self.namespace = namespace

    def kubectl(self, *argv: str, stdin: str | None = None, check: bool = True) -> str:
        """`kubectl` in the namespace; fails the test with its words."""
        done = self.lab.run(
            daemons.FIRST,
            ["kubectl", f"--namespace={self.namespace}", *argv],
            check=False,
            stdin=stdin,
            timeout=PATIENCE + 30,
        )
        assert not check or done.returncode == 0, f"kubectl {' '.join(argv)}: {done.stderr}"
        return done.stdout

    def apply(self, *manifests: Mapping[str, Any]) -> None:
        """`kubectl apply`."""
        everything = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(everything))

    def get(self, kind: str, name: str = "", *argv: str) -> dict[str, Any]:
        """An object, or a list of them."""
        found: dict[str, Any] = json.loads(
            self.kubectl("get", kind, *([name] if name else []), "--output=json", *argv)
        )
        return found

    def deploy(self, *deployments: Mapping[str, Any]) -> None:
        """Apply Deployments and wait until all of their pods are ready."""
        self.apply(*deployments)
        for each in deployments:
            self.rolled_out(each["metadata"]["name"])

    def rolled_out(self, name: str) -> None:
        """Wait until a Deployment is what it should be."""
        argv = ("rollout", "status", f"deployment/{name}", f"--timeout={PATIENCE:.0f}s")
        done = self.lab.run(
            daemons.FIRST,
            ["kubectl", f"--namespace={self.namespace}", *argv],
            check=False,
            timeout=PATIENCE + 30,
        )
        assert done.returncode == 0, f"{done.stdout}{done.stderr}{self.evidence()}"

    def evidence(self) -> str:
        """What Kubernetes says of the pods here, for a test that failed."""
        events = self.kubectl("get", "events", "--sort-by=.lastTimestamp", check=False)
        pods = self.kubectl("get", "pods", "-o", "wide", check=False)
        return f"\n{pods}\n{events[-3000:]}"

    def pods(self, app: str) -> list[Pod]:
        """Pods of a Deployment that are not on their way out."""
        items = self.get("pods", "", f"--selector=app={app}")["items"]
        return [Pod.of(item) for item in items if "deletionTimestamp" not in item["metadata"]]

    def pod(self, app: str) -> Pod:
        """The pod of a Deployment of one."""
        (found,) = self.pods(app)
        return found

    def addresses(self, name: str) -> tuple[str, ...]:
        """Cluster addresses of a Service."""
        return tuple(self.get("service", name)["spec"]["clusterIPs"])

    def execute(self, pod: str, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command in a pod."""
        return self.lab.run(
            daemons.FIRST,
            ["kubectl", f"--namespace={self.namespace}", "exec", pod, "--", *argv],
            check=False,
        )

    def inside(self, pod: Pod, *argv: str) -> str:
        """What a program of this machine says in the pod's network namespace."""
        pid = next(process.name for process in processes() if pod.uid in cgroups(process))
        argv = ("nsenter", f"--target={pid}", "--net", "--", *argv)
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30).stdout

    def ask(self, pod: str, where: str) -> Answer:
        """What a pod gets of `host:port`, asked once."""
        return Answer.of(self.execute(pod, question(where)))

    def ask_from(self, host: str, where: str) -> Answer:
        """What a host of the lab gets of `host:port`, asked once."""
        return Answer.of(self.lab.run(host, question(where), check=False))

    def until(self, what: str, look: Callable[[], T], seconds: float = PATIENCE) -> T:
        """What `look` gives as soon as it is true."""
        found = poll(look, seconds=seconds, every=0.1)
        assert found, f"{what}: not in {seconds:.0f} s, last {found!r}{self.evidence()}"
        return found


def ready_nodes(lab: Lab) -> set[str]:
    """Nodes that take pods."""
    return cluster.nodes(lab, ready=True)
