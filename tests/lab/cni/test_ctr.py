"""`ctr run --cni` of Debian's containerd 1.6: go-cni, and a DEL that has no namespace."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.lab.cni.conftest import Box
from tests.lab.conftest import eventually

from plait.lab import hosts

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("ctr") is None, reason="containerd is missing: scripts/setup"),
]

CONFIG = """\
version = 2
root = "{home}/lib"
state = "/run/ctr-test"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "/run/ctr-test.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{home}/opt"
"""
CTR = ("ctr", "-a", "/run/ctr-test.sock")


@pytest.fixture(scope="module")
def containerd(installed: None, cni_lab: object, tmp_path_factory: object) -> Iterator[None]:
    """A containerd on the lab's host."""
    home: Path = tmp_path_factory.mktemp("containerd")
    (home / "config.toml").write_text(CONFIG.format(home=home))
    log = (home / "log").open("w")
    argv = ["containerd", "-c", str(home / "config.toml"), "-l", "warn"]
    process = hosts.popen(cni_lab.host("h1"), argv, stdout=log, stderr=subprocess.STDOUT)
    log.close()
    version = [*CTR, "version"]
    try:
        eventually(
            "containerd answers",
            lambda: cni_lab.run("h1", version, check=False).returncode == 0,
            home / "log",
            20,
        )
        yield
    finally:
        # The process here is nsenter's; containerd is what it started.
        cni_lab.run("h1", ["pkill", "-TERM", "-x", "containerd"], check=False)
        process.wait(20)


def test_a_container_is_connected_and_goes_with_its_process(
    containerd: None, box: Box, rootfs: Path
) -> None:
    said = box.sh(*CTR, "run", "--rm", "--cni", "--rootfs", str(rootfs), "c1", "/bin/ip", "address")
    assert "eth0" in said
    assert "inet 10." in said
    assert "inet6 fd" in said
    assert box.endpoints() == ()


def test_a_container_in_the_background_is_reached_and_found_when_it_dies(
    containerd: None, box: Box, rootfs: Path
) -> None:
    """ctr calls no DEL for it: the agent sees that the namespace has gone."""
    httpd = ("/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/etc")
    box.sh(*CTR, "run", "-d", "--cni", "--rootfs", str(rootfs), "c2", *httpd)
    (endpoint,) = box.endpoints()
    assert endpoint.request.workload.id == "default-c2"
    network, at = box.network(), box.container()
    network.add(at)
    for address in endpoint.addresses:
        host = f"[{address}]" if ":" in address else address
        wget = ("wget", "-q", "-T", "2", "-O-", f"http://{host}/nsswitch.conf")
        eventually(
            f"{address} answers", lambda wget=wget: "hosts" in box.inside(at, *wget, check=False)
        )
    box.sh(*CTR, "task", "kill", "-s", "KILL", "c2")
    box.sh(*CTR, "task", "rm", "-f", "c2", check=False)
    box.sh(*CTR, "container", "rm", "c2")
    gone = lambda: all(e.request.workload.id != "default-c2" for e in box.endpoints())  # noqa: E731
    eventually("the endpoint has gone", gone, seconds=20)


def test_a_command_that_does_not_exist_leaves_nothing(
    containerd: None, box: Box, rootfs: Path
) -> None:
    box.sh(*CTR, "run", "--rm", "--cni", "--rootfs", str(rootfs), "c3", "/no/such", check=False)
    assert box.endpoints() == ()
