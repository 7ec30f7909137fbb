"""Which hosts are nodes, what is in their files, and where the programs come from."""

from pathlib import Path

import msgspec
import pytest
import yaml

from plait.lab import bringup, hosts, topology
from plait.lab.kubernetes import control_plane, layout, node, programs
from plait.lab.kubernetes.keeper import Command, Set
from plait.model.errors import PlaitError


@pytest.mark.parametrize(
    ("wanted", "count", "docker", "nodes"),
    [("0", 3, False, 0), ("0", 3, True, 0), ("all", 3, False, 3), ("2", 3, True, 2)],
)
def test_the_first_hosts_are_nodes(wanted: str, count: int, docker: bool, nodes: int) -> None:
    assert bringup.node_count(wanted, count, docker=docker) == nodes


@pytest.mark.parametrize("wanted", ["4", "-1", "x", "", "²"])
def test_numbers_of_nodes_out_of_range(wanted: str) -> None:
    with pytest.raises(ValueError, match="0 to 3"):
        bringup.node_count(wanted, 3, docker=False)


def test_docker_needs_a_host_that_is_no_node() -> None:
    with pytest.raises(ValueError, match="--hosts 4 --kubernetes=3 --docker"):
        bringup.node_count("all", 3, docker=True)


def test_a_dry_run_says_which_hosts_are_nodes() -> None:
    lines = bringup.describe(topology.plan("t", 2), 1)
    assert [line.split(":")[0].strip() for line in lines if "Kubernetes" in line] == ["h1"]


def test_a_file_of_a_host_is_on_its_own_disk(tmp_path: Path) -> None:
    layout.write(tmp_path, {layout.ADMIN: "secret", "/root/.kube/config": "secret"})
    found = hosts.disk(tmp_path, layout.ADMIN)
    assert found == tmp_path / "etc-kubernetes/admin.conf"
    assert found.read_text() == "secret"
    assert found.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "root-.kube/config").exists()


def test_configuration_of_a_node_can_be_read() -> None:
    files = node.files()
    kubelet = yaml.safe_load(files[node.KUBELET_CONFIG])
    assert kubelet["clusterDNS"] == ["169.254.1.1"]
    assert kubelet["featureGates"]["IPv6DualStack"] is True
    assert kubelet["nodeLeaseDurationSeconds"] < control_plane.GRACE
    assert f'bin_dir = "{layout.CNI_BIN}"' in files[node.CONTAINERD_CONFIG]


def test_both_families_reach_the_command_lines() -> None:
    host = topology.plan("t", 1).hosts["h1"]
    assert "--node-ip=100.64.1.11,fd64:1::b" in node.kubelet(Path("/k"), host).argv
    api = control_plane.api_server(Path("/k"), host).argv
    assert "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112" in api


def test_a_set_of_programs_survives_its_file() -> None:
    wanted = Set(programs=(Command("a", ("b", "c")),), at_once=("a",))
    assert msgspec.json.decode(msgspec.json.encode(wanted), type=Set) == wanted


def test_what_was_not_built_is_named_with_the_script_that_builds_it(tmp_path: Path) -> None:
    environ = {programs.CACHE_VARIABLE: str(tmp_path)}
    assert programs.missing(environ) == list(programs.BUILT)
    with pytest.raises(PlaitError, match="PLAIT-HOST-001") as error:
        programs.check(environ)
    assert error.value.fix == ("scripts/kube",)
    assert str(tmp_path) in str(error.value.where)
    for name in programs.BUILT:
        file = programs.directory(environ) / name
        file.parent.mkdir(exist_ok=True)
        file.touch(mode=0o755)
    programs.check(environ)
