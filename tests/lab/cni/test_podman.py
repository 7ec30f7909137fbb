"""Debian's podman 4.3 with its CNI backend: a client of the plugin that we did not write."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab.cni.conftest import Box
from tests.lab.conftest import eventually, remove_network

from plait.client.agent import LocalEndpoint
from plait.lab.lab import Lab
from plait.lab.workloads import PLAIT

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("podman") is None, reason="podman is missing: scripts/setup"),
]

CONTAINERS_CONF = """\
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
[network]
network_backend = "cni"
network_config_dir = "/etc/cni/net.d"
cni_plugin_dirs = ["/opt/cni/bin"]
"""
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
"""podman's own are above what this process may give where it is confined."""
WAIT = ("sleep", "1000")


class Podman:
    """podman on the lab's host, with storage of its own."""

    def __init__(self, box: Box, home: Path, rootfs: Path) -> None:
        self.box = box
        self.rootfs = rootfs
        config = home / "containers.conf"
        config.write_text(CONTAINERS_CONF)
        self.argv = [
            "env", f"CONTAINERS_CONF={config}", "podman", "--storage-driver", "vfs",
            "--root", str(home / "root"), "--runroot", "/run/podman-test",
        ]  # fmt: skip

    def __call__(self, *words: str, check: bool = True) -> str:
        return self.box.sh(*self.argv, *words, check=check)

    def refused(self, *options: str) -> str:
        """What is said when a container does not start."""
        words = ("run", "--network", "plait", *LIMITS, *options, "--rootfs", str(self.rootfs))
        argv = [*self.argv, *words, *WAIT]
        done: subprocess.CompletedProcess[str] = self.box.lab.run(self.box.host, argv, check=False)
        assert done.returncode != 0
        return done.stderr

    def run(self, name: str, *options: str, command: tuple[str, ...] = WAIT) -> str:
        words = ("run", "-d", "--name", name, "--network", "plait", *LIMITS, *options)
        return self(*words, "--rootfs", str(self.rootfs), *command).strip()

    def networks(self, name: str) -> Any:
        (said,) = json.loads(self("inspect", name))
        return said["NetworkSettings"]["Networks"]

    def endpoint(self, name: str) -> LocalEndpoint:
        (found,) = (e for e in self.box.endpoints() if e.request.name == name)
        return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("podman")


@pytest.fixture
def podman(installed: None, box: Box, home: Path, rootfs: Path) -> Iterator[Podman]:
    podman = Podman(box, home, rootfs)
    try:
        yield podman
    finally:
        podman("rm", "-f", "-a", "-t", "0")
        assert box.endpoints() == ()


def test_a_container_has_its_name_address_and_network(podman: Podman) -> None:
    ident = podman.run("My_web")
    endpoint = podman.endpoint("my-web")
    assert endpoint.request.workload.id == ident
    assert endpoint.request.aliases[0] == "my_web"
    network = podman.networks("My_web")["plait"]
    assert (network["IPAddress"], network["GlobalIPv6Address"]) == endpoint.addresses
    assert network["MacAddress"] == endpoint.mac
    podman("rm", "-f", "-t", "0", "My_web")
    assert podman.box.endpoints() == ()


def test_containers_reach_each_other_by_name_and_alias(podman: Podman) -> None:
    httpd = ("busybox", "httpd", "-f", "-p", "80", "-h", "/etc")
    podman.run("web", "--network-alias", "shop", command=httpd)
    podman.run("client")
    for name in ("web", "shop", "web.default.plait.local"):
        eventually(
            f"{name} answers",
            lambda name=name: podman(
                "exec",
                "client",
                "wget",
                "-q",
                "-T",
                "2",
                "-t",
                "1",
                "-O-",
                f"http://{name}/nsswitch.conf",
                check=False,
            ),
        )


def test_chosen_address_mac_and_ports(podman: Podman) -> None:
    podman.run("probe")
    # Of the same block: one that has to be lent is given back a while later only.
    head, _, last = podman.endpoint("probe").addresses[0].rpartition(".")
    free = f"{head}.{int(last) ^ 32}"
    options = (
        "--ip",
        free,
        "--mac-address",
        "92:d0:c6:0a:29:33",
        "-p",
        "8095:80",
        "-p",
        "8096:53/udp",
    )
    podman.run("web", *options)
    endpoint = podman.endpoint("web")
    assert endpoint.addresses[0] == free
    assert endpoint.mac == "92:d0:c6:0a:29:33"
    assert {(p.protocol, p.host_port, p.port) for p in endpoint.request.ports} == {
        ("tcp", 8095, 80),
        ("udp", 8096, 53),
    }
    said = podman.refused("--ip", free)
    assert "PLAIT-IPAM-010" in said


def test_a_container_that_is_started_again_keeps_its_name(podman: Podman) -> None:
    podman.run("again")
    first = podman.endpoint("again")
    podman("stop", "-t", "0", "again")
    assert podman.box.endpoints() == ()
    podman("start", "again")
    second = podman.endpoint("again")
    assert second.request.id == first.request.id
    podman("restart", "-t", "0", "again")
    assert podman.endpoint("again").phase == "ready"


def test_a_network_is_connected_and_disconnected(podman: Podman) -> None:
    box = podman.box
    box.lab.run("h1", [*PLAIT, "network", "create", "second", "--no-docker"])
    box.sh(*PLAIT, "cni", "install", "--network", "second", "--name", "second")
    podman.run("both")
    podman("network", "connect", "second", "both")
    endpoints = [e for e in box.endpoints() if e.request.name == "both"]
    assert {(e.request.network, e.request.ifname) for e in endpoints} == {
        ("plait", "eth0"),
        ("second", "eth1"),
    }
    routes = podman("exec", "both", "ip", "route").splitlines()
    defaults = [line for line in routes if line.startswith("default")]
    assert ["dev eth0" in line for line in defaults] == [True]
    podman("network", "disconnect", "second", "both")
    assert [e.request.network for e in box.endpoints() if e.request.name == "both"] == ["plait"]
    box.sh(*PLAIT, "cni", "uninstall", "--name", "second")
    podman("rm", "-f", "-t", "0", "both")
    remove_network(box.lab, "second")


def test_a_container_is_removed_while_the_agent_is_down(podman: Podman, cni_lab: Lab) -> None:
    box = podman.box
    podman.run("orphan")
    podman.run("stays")
    box.sh(*PLAIT, "agent", "stop")
    try:
        podman("rm", "-f", "-t", "0", "orphan")
        said = podman.refused()
        assert "the agent of this host does not answer" in said
    finally:
        box.sh(*PLAIT, "agent", "start")
    eventually("only the other is left", lambda: names(box) == ["stays"])


def names(box: Box) -> list[str]:
    try:
        return [endpoint.request.name for endpoint in box.endpoints()]
    except Exception:
        return []
