"""The shim and a real agent that is down, dies, or comes back; and `plait cni install`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.lab.census import inside, ready
from tests.lab.cni.conftest import Box, ours, refused
from tests.lab.conftest import eventually
from tests.support.libcni import Attachment, PluginError

from plait.lab import daemons
from plait.lab.workloads import PLAIT

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("nothing_stays")]

QUEUE = "/var/lib/plait/cni/queue"


@pytest.fixture
def down(box: Box) -> Iterator[None]:
    """The agent is down for the length of a test, unless that starts it."""
    daemons.steer(box.lab, box.host, "stop", "agent")
    try:
        yield
    finally:
        start(box)


def start(box: Box) -> None:
    daemons.steer(box.lab, box.host, "start", "agent")
    eventually("the agent is ready", lambda: ready(box.lab, box.host))


def kept(box: Box) -> int:
    directory = inside(box.lab, box.host, QUEUE)
    return len(list(directory.iterdir())) if directory.is_dir() else 0


def test_without_an_agent_the_runtime_is_to_try_again(box: Box, down: None) -> None:
    network, at = box.network(), box.container()
    error = refused(11, lambda: network.add(at))
    assert error.msg == "the agent of this host does not answer"
    refused(50, network.status)


def test_a_del_without_an_agent_is_kept_and_served_before_the_next_add(box: Box) -> None:
    network, first, second = box.network(), box.container(), box.container()
    address = network.add(first)["ips"][0]["address"].partition("/")[0]
    network.add(second)
    daemons.steer(box.lab, box.host, "stop", "agent")
    try:
        for _ in range(5):
            network.delete(first)
            network.delete(Attachment(first.container, ""), cached=False)
        box.sh("ip", "netns", "delete", first.container)
        # With a result and without.
        assert kept(box) == 2
    finally:
        start(box)
    assert network.add(box.container(), ips=[address])["ips"][0]["address"] == f"{address}/32"
    assert kept(box) == 0
    assert box.endpoint(second).phase == "ready"


def test_kept_dels_are_served_without_any_call(box: Box) -> None:
    network, at = box.network(), box.container()
    network.add(at)
    daemons.steer(box.lab, box.host, "stop", "agent")
    try:
        network.delete(at)
    finally:
        start(box)
    eventually("the DEL was served", lambda: not box.endpoints() and not kept(box))


def test_a_del_of_another_boot_is_none(box: Box, down: None) -> None:
    """The container id may live again since."""
    network, at = box.network(), box.container()
    network.delete(at)
    (file,) = inside(box.lab, box.host, QUEUE).iterdir()
    boot, _, rest = file.read_bytes().partition(b"\0")
    assert boot.startswith(b"PLAIT_BOOT=")
    start(box)
    network.add(at)
    file.write_bytes(b"PLAIT_BOOT=another\0" + rest)
    network.add(box.container())
    assert kept(box) == 0
    assert box.endpoint(at).phase == "ready"


def test_what_waits_for_its_pod_ends_with_the_agent(box: Box) -> None:
    """The agent stops at once, and the runtime is to try again."""
    network = box.network(ours(identity="kubernetes", deadline=90))
    at = box.container()
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=never;K8S_POD_UID=uid-never-1"
    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(network.add, at, args=args)
        eventually("the ADD waits for its pod", lambda: box.waiting(1) or adding.done())
        daemons.steer(box.lab, box.host, "restart", "agent")
        with pytest.raises(PluginError) as caught:
            adding.result(10)
    assert caught.value.code == 11
    start(box)
    assert box.endpoints() == ()


class TestInstalling:
    """`plait cni install` and its counterparts."""

    @pytest.fixture(autouse=True)
    def _removed(self, box: Box) -> Iterator[None]:
        yield
        box.clean()
        box.sh(*PLAIT, "cni", "uninstall", "--force")
        box.sh("rm", "-rf", "/etc/cni/net.d", "/opt/cni/bin")

    def plait(self, box: Box, *words: str) -> str:
        return box.sh(*PLAIT, "cni", *words)

    def test_what_is_installed_works(self, box: Box) -> None:
        self.plait(box, "install", "--deadline", "20")
        (name,) = box.sh("ls", "/etc/cni/net.d").split()
        assert name == "10-plait.conflist"
        conflist = json.loads(box.sh("cat", f"/etc/cni/net.d/{name}"))
        assert conflist["cniVersion"] == "1.0.0"
        (plugin,) = conflist["plugins"]
        assert plugin["deadline"] == 20
        assert set(plugin["capabilities"]) == set(ours()["capabilities"])
        box.shim = Path("/opt/cni/bin/plait")
        assert box.sh("stat", "-c", "%a", str(box.shim)).strip() == "755"
        network = box.network(plugin, name=conflist["name"], version=conflist["cniVersion"])
        network.add(box.container())
        found = json.loads(self.plait(box, "status", "--json"))
        assert found["attached"] == 1
        assert found["installed"]["current"]

    def test_again_changes_nothing_but_what_was_asked(self, box: Box) -> None:
        self.plait(box, "install")
        assert "written" not in self.plait(box, "install")
        said = self.plait(box, "install", "--kubernetes")
        assert [line.endswith("written") for line in said.splitlines()] == [False, True]

    def test_files_of_others_are_left_alone(self, box: Box) -> None:
        box.sh("mkdir", "-p", "/etc/cni/net.d", "/opt/cni/bin")
        box.sh("sh", "-c", 'echo \'{"type": "bridge"}\' > /etc/cni/net.d/10-plait.conflist')
        box.sh("sh", "-c", "echo mine > /opt/cni/bin/plait")
        done = box.lab.run(box.host, [*PLAIT, "cni", "install"], check=False)
        assert "PLAIT-API-005" in done.stderr
        self.plait(box, "uninstall", "--force")
        assert "bridge" in box.sh("cat", "/etc/cni/net.d/10-plait.conflist")
        assert box.sh("cat", "/opt/cni/bin/plait") == "mine\n"

    def test_nothing_is_installed_before_the_agent_answers(self, box: Box, down: None) -> None:
        done = box.lab.run(box.host, [*PLAIT, "cni", "install"], check=False)
        assert "PLAIT-AGENT-001" in done.stderr
        assert box.sh("sh", "-c", "ls /etc/cni/net.d /opt/cni/bin 2>/dev/null || :").split() == []

    def test_all_stays_while_containers_need_it(self, box: Box) -> None:
        self.plait(box, "install")
        network, at = box.network(name="plait"), box.container()
        network.add(at)
        done = box.lab.run(box.host, [*PLAIT, "cni", "uninstall"], check=False)
        assert "PLAIT-API-011" in done.stderr
        assert box.sh("ls", "/etc/cni/net.d", "/opt/cni/bin").split() == [
            "/etc/cni/net.d:",
            "10-plait.conflist",
            "/opt/cni/bin:",
            "plait",
        ]
        network.delete(at)
        self.plait(box, "uninstall")
        assert box.sh("sh", "-c", "ls /opt/cni/bin 2>/dev/null || :").split() == []
