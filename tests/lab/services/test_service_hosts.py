"""A Service over three hosts on two sites: real server, agents and kernel.

site 1: h1 (a backend) h3 (the caller)      site 2: h2 (a backend), through the tunnel
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.lab.conftest import eventually

from plait.lab import daemons, workloads
from plait.lab.lab import Lab
from plait.lab.state import WorkloadState
from plait.lab.workloads import Order

pytestmark = pytest.mark.root

HOSTS: Final = ("h1", "h2", "h3")
PORTS: Final = {"tcp": 80, "udp": 81, "sctp": 82}
LISTEN: Final = tuple(f"{port}/{protocol}" for protocol, port in PORTS.items())
CALLS: Final = 24
_CALL: Final = """
import socket, sys
found = []
for _ in range(int(sys.argv[3])):
    with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET) as sock:
        sock.settimeout(3)
        try:
            sock.connect((sys.argv[1], int(sys.argv[2])))
            sock.sendall(b"who\\n")
            found.append(sock.recv(64).split(b"\\n")[0].decode())
        except OSError as error:
            found.append(type(error).__name__)
print(*found, sep="\\n")
"""


class Scene:
    """A Service, its backends and a caller."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.directory = directory
        self.space = f"svc-{secrets.token_hex(2)}"
        self.caller: WorkloadState
        self.backends: dict[str, WorkloadState] = {}
        self.services: list[str] = []

    def apply(self, name: str, **spec: Any) -> dict[str, Any]:
        """Make a Service so; what it is then."""
        manifest = {
            "apiVersion": "plait/v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": self.space},
            "spec": {
                "network": "plait",
                "selector": {"matchLabels": {"app": self.space}},
                "ports": [
                    {"name": word, "protocol": word.upper(), "port": port}
                    for word, port in PORTS.items()
                ],
                **spec,
            },
        }
        file = self.directory / f"{name}.yaml"
        file.write_text(yaml.safe_dump(manifest))
        daemons.plait(self.lab, "h1", "apply", "-f", str(file))
        self.services.append(name)
        words = ("get", "services", name, "-n", self.space, "--json")
        found = json.loads(daemons.plait(self.lab, "h1", *words))
        return dict(found["items"][0] if "items" in found else found)["spec"]

    def run(self, host: str, name: str) -> WorkloadState:
        """A backend."""
        labels = [f"app={self.space}"]
        load = workloads.run(
            self.lab, host, name, listen=LISTEN, namespace=self.space, labels=labels
        )
        self.backends[name] = load
        return load

    def probe(self, target: str, protocol: str) -> set[str]:
        """What the caller gets of many calls: names of backends, or what went wrong."""
        order = Order(ip=target, port=PORTS[protocol], proto=protocol, timeout=3)
        results = workloads.probe(self.lab, self.caller, [order] * CALLS)
        return {r.peer if r.result == "connected" and r.peer else r.result for r in results}

    def from_host(self, host: str, target: str, port: int) -> set[str]:
        """The same of a host itself."""
        words = [sys.executable, "-c", _CALL, target, str(port), str(CALLS)]
        return set(self.lab.run(host, words).stdout.split())

    def underlay(self, host: str) -> tuple[str, str]:
        """IPv4 and IPv6 address of a host."""
        found = json.loads(daemons.plait(self.lab, "h1", "get", "nodes", host, "--json"))
        spec = (found["items"][0] if "items" in found else found)["spec"]
        four, six = (address.partition("/")[0] for address in sorted(spec["addresses"]))
        return four, six


@pytest.fixture(scope="module")
def scene(plait_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    made = Scene(plait_lab, tmp_path_factory.mktemp("services"))
    try:
        made.caller = workloads.run(plait_lab, "h3", "caller", namespace=made.space)
        made.run("h1", "near")
        made.run("h2", "far")
        yield made
    finally:
        for load in (*made.backends.values(), made.caller):
            workloads.remove(plait_lab, load)
        for name in made.services:
            words = ("delete", "services", name, "-n", made.space)
            daemons.plait(plait_lab, "h1", *words)


def test_callers_on_every_host_reach_backends_on_every_host(scene: Scene) -> None:
    spec = scene.apply("web")
    both = {"near", "far"}
    for address in spec["addresses"]:
        for protocol in ("tcp", "udp"):
            eventually(
                f"the caller reaches both at {address} by {protocol}",
                lambda a=address, p=protocol: scene.probe(a, p) == both,
            )
        # The lab's SCTP says no names.
        assert scene.probe(address, "sctp") == {"connected"}
        for host in HOSTS:
            eventually(
                f"{host} reaches both at {address}",
                lambda h=host, a=address: scene.from_host(h, a, 80) == both,
            )


def test_a_node_port_of_every_host_leads_everywhere(scene: Scene) -> None:
    spec = scene.apply("port", type="NodePort")
    port = next(p["nodePort"] for p in spec["ports"] if p["name"] == "tcp")
    both = {"near", "far"}
    for called in HOSTS:
        for address in scene.underlay(called):
            eventually(
                f"{called} answers at {address}",
                lambda a=address: scene.from_host("h3", a, port) == both,
            )
            eventually(
                f"{called} answers h2 at {address}",
                lambda a=address: scene.from_host("h2", a, port) == both,
            )


def test_local_traffic_stays_on_the_host_that_was_called(scene: Scene) -> None:
    spec = scene.apply("local", type="NodePort", externalTraffic="Local")
    port = next(p["nodePort"] for p in spec["ports"] if p["name"] == "tcp")
    for address in scene.underlay("h1"):
        eventually(
            "only the backend there answers",
            lambda a=address: scene.from_host("h3", a, port) == {"near"},
        )


def test_backends_of_the_callers_site_come_first(scene: Scene) -> None:
    address = scene.apply("near", prefer="site")["addresses"][0]
    eventually("h3 calls its site", lambda: scene.from_host("h3", address, 80) == {"near"})
    eventually("h2 calls its own", lambda: scene.from_host("h2", address, 80) == {"far"})


def test_a_backend_that_goes_is_not_called_any_more(scene: Scene) -> None:
    spec = scene.apply("moving")
    address = spec["addresses"][0]
    third = scene.run("h3", "third")
    eventually("all answer", lambda: scene.probe(address, "udp") == {"near", "far", "third"})
    workloads.remove(scene.lab, third)
    del scene.backends["third"]
    eventually("two answer", lambda: scene.probe(address, "udp") == {"near", "far"})
