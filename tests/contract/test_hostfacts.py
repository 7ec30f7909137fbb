"""What preflight reads of a host, on the real kernel in a namespace of its own."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from plait.cli import hostfacts
from plait.kernel import netns
from plait.model.paths import Paths


@pytest.fixture
def inside() -> Iterator[None]:
    fd = netns.create()
    with netns.inside(fd):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    os.close(fd)


@pytest.mark.root
@pytest.mark.usefixtures("inside")
def test_a_vxlan_port_is_foreign_unless_a_vxlan_device_has_it(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    assert not hostfacts.read_host(paths).foreign_vxlan_port
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 4789))
        assert hostfacts.read_host(paths).foreign_vxlan_port
    device = "ip link add v0 type vxlan id 9 dstport 4789 nolearning local 127.0.0.1"
    subprocess.run(device.split(), check=True)
    subprocess.run(["ip", "link", "set", "v0", "up"], check=True)
    assert not hostfacts.read_host(paths).foreign_vxlan_port


@pytest.mark.root
@pytest.mark.usefixtures("inside")
def test_features_of_this_kernel(tmp_path: Path) -> None:
    features = {f.name: f for f in hostfacts.read_host(Paths(tmp_path)).features}
    assert features["IPv6"].present
    assert features["IPv6"].required
    assert all(feature.present for feature in features.values())


def test_the_stub_of_systemd_resolved_hides_no_resolver(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    assert hostfacts.real_resolvers(paths) == ()
    paths.resolv_conf.parent.mkdir(parents=True)
    paths.resolv_conf.write_text("# stub\nnameserver 127.0.0.53\noptions edns0\n")
    assert hostfacts.real_resolvers(paths) == ("127.0.0.53",)
    behind = tmp_path / "run/systemd/resolve/resolv.conf"
    behind.parent.mkdir(parents=True)
    behind.write_text("nameserver 192.0.2.53\nnameserver fe80::1%eth0\n")
    assert hostfacts.real_resolvers(paths) == ("192.0.2.53", "fe80::1%eth0")


@pytest.mark.parametrize(
    ("text", "named"),
    [('{"dns": ["192.0.2.53"]}', True), ("{}", False), ("[1]", False), ("{", False)],
)
@pytest.mark.root
@pytest.mark.usefixtures("inside")
def test_docker_settings(tmp_path: Path, text: str, named: bool) -> None:
    file = tmp_path / "etc/docker/daemon.json"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert hostfacts.read_host(Paths(tmp_path)).docker_dns is named
