"""dockerd goes and comes under traffic between containers: with and without live-restore."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from tests.lab.census import ready, verbs
from tests.lab.conftest import eventually, unique
from tests.lab.traffic import Place, running

from plait.client.agent_socket import run as at_once
from plait.lab import bringup, image
from plait.lab.lab import Lab

pytestmark = [pytest.mark.root, pytest.mark.docker]


def run(lab: Lab, host: str, name: str, *options: str) -> Place:
    """A container on the network `plait`, known by its name."""
    argv = ["docker", "run", "-d", "--name", name, "--network", "plait", *options]
    done = lab.run(host, [*argv, image.NAME, "sleep", "600"], check=False)
    assert done.returncode == 0, done.stderr
    return eventually(f"{name} is known", lambda: find(lab, host, name))


def find(lab: Lab, host: str, name: str) -> Place | None:
    """Where a container that runs is, once it has traffic."""
    listed = lab.run(host, ["docker", "inspect", name], check=False)
    if listed.returncode or not (pid := json.loads(listed.stdout)[0]["State"]["Pid"]):
        return None
    for endpoint in at_once(verbs(lab, host).endpoints()):
        if (endpoint.request.name, endpoint.phase) == (name, "ready"):
            return Place(host, pid, endpoint.addresses)
    return None


@pytest.fixture
def names(docker_lab: Lab) -> Iterator[dict[str, str]]:
    """Names for a container a host; the containers of these names are gone afterwards."""
    names = {host: unique(f"on-{host}") for host in ("h1", "h2", "h3")}
    with ExitStack() as stack:
        for host, name in names.items():
            eventually(f"{host} is ready", lambda host=host: ready(docker_lab, host))
            stack.callback(docker_lab.run, host, ["docker", "rm", "-f", name], check=False)
        yield names


def fetches(lab: Lab, host: str, source: str, target: str) -> bool:
    """A name is looked up from inside a container, and its holder answers an echo."""
    argv = ["docker", "exec", source, "ping", "-c1", "-W2", target]
    return lab.run(host, argv, check=False).returncode == 0


def test_with_live_restore_no_packet_is_lost(docker_lab: Lab, names: dict[str, str]) -> None:
    lab = docker_lab
    lab.state.live_restore = True
    try:
        for host in ("h1", "h2"):
            bringup.restart_docker(lab, host)
        places = {host: run(lab, host, name) for host, name in names.items()}
        targets = {host: places[host] for host in ("h2", "h3")}
        with running(lab, places["h1"], targets) as traffic:
            traffic.assert_whole()
            bringup.restart_docker(lab, "h2")
            bringup.restart_docker(lab, "h1")
            traffic.assert_whole()
            bringup.kill_docker(lab, "h2")
            bringup.FAULTS["start-docker"](lab, "h2")
            traffic.assert_whole()
        late = unique("late")
        try:
            place = run(lab, "h2", late)
            assert place.addresses
            assert fetches(lab, "h2", late, names["h1"])
        finally:
            lab.run("h2", ["docker", "rm", "-f", late], check=False)
    finally:
        lab.state.live_restore = False
        for host, name in names.items():
            lab.run(host, ["docker", "rm", "-f", name], check=False)
        for host in ("h1", "h2"):
            bringup.restart_docker(lab, host)


def test_without_live_restore_containers_come_back_with_their_network(
    docker_lab: Lab, names: dict[str, str]
) -> None:
    lab = docker_lab
    places = {host: run(lab, host, name, "--restart", "always") for host, name in names.items()}
    with running(lab, places["h1"], {"h3": places["h3"]}) as traffic:
        traffic.assert_whole()
        bringup.restart_docker(lab, "h2")
        back = eventually("it is back", lambda: find(lab, "h2", names["h2"]))
        assert back.pid != places["h2"].pid
        eventually("by name", lambda: fetches(lab, "h1", names["h1"], names["h2"]))
        assert fetches(lab, "h2", names["h2"], names["h3"])
        traffic.assert_whole()
