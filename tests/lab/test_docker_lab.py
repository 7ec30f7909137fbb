"""Real dockerds on three hosts, used as a Docker user would."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.lab.conftest import eventually

from plait.lab import bringup, daemons
from plait.lab.demo import CHECKS
from plait.lab.demo_stage import Demo
from plait.lab.lab import Lab
from plait.model.errors import PlaitError

pytestmark = [pytest.mark.root, pytest.mark.docker]


@pytest.fixture(scope="module")
def world(docker_lab: Lab) -> Iterator[Demo]:
    """The lab with a container `web-HOST` on each host, as the demo has it."""
    world = Demo(docker_lab)
    world.start_webs()
    yield world
    for host in world.hosts:
        world.docker(host, "rm", "-f", *world.docker(host, "ps", "-aq").split())


@contextmanager
def gone_after(world: Demo, host: str, name: str) -> Iterator[str]:
    """A name for a container that is gone at the end of the block."""
    name = f"{name}-{secrets.token_hex(2)}"
    try:
        yield name
    finally:
        world.docker(host, "rm", "-f", name, check=False)


@contextmanager
def serving(world: Demo, host: str, name: str, network: str, *options: str) -> Iterator[str]:
    """A container with a page, gone at the end of the block; gives its name."""
    with gone_after(world, host, name) as name:
        world.serve(host, name, network, *options)
        yield name


def page_comes(world: Demo, host: str, container: str, name: str) -> bool:
    """Another container's page is fetched by its name, at once or within the time."""
    seen = [""]

    def look() -> bool:
        seen[0] = world.fetch(host, container, f"http://{name}/")
        return seen[0].startswith("page of ")

    return eventually(f"page of {name} on {host}", look, seen)


def refused(world: Demo, host: str, container: str, name: str) -> bool:
    return not world.fetch(host, container, f"http://{name}/").startswith("page of ")


def networks(world: Demo, host: str) -> list[str]:
    return world.docker(host, "network", "ls", "--format", "{{.Name}}").split()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_demo(world: Demo, check: object) -> None:
    seen = check(world)  # type: ignore[operator]
    assert seen.ok, seen.text


def test_a_renamed_container_is_found_by_its_new_name(world: Demo) -> None:
    with serving(world, "h2", "before", "plait") as old:
        assert page_comes(world, "h1", "web-h1", old)
        new = f"after-{secrets.token_hex(2)}"
        world.docker("h2", "rename", old, new)
        try:
            assert page_comes(world, "h1", "web-h1", new)
            assert refused(world, "h1", "web-h1", old)
        finally:
            world.docker("h2", "rm", "-f", new)


def test_a_container_in_two_networks_reaches_both(world: Demo) -> None:
    network = f"side-{secrets.token_hex(2)}"
    world.docker("h1", "network", "create", "-d", "plait", network)
    eventually("the network on h2", lambda: network in networks(world, "h2"))
    with (
        serving(world, "h1", "far", network) as far,
        serving(world, "h2", "both", "plait") as both,
    ):
        assert refused(world, "h2", both, far)
        world.docker("h2", "network", "connect", network, both)
        assert page_comes(world, "h2", both, far)
        assert page_comes(world, "h2", both, "web-h1")
        assert page_comes(world, "h1", far, both)
        world.docker("h2", "network", "disconnect", network, both)
        eventually("cut off again", lambda: refused(world, "h2", both, far))
        assert page_comes(world, "h2", both, "web-h3")
    world.docker("h2", "network", "rm", network)
    for host in world.hosts:
        eventually(f"gone on {host}", lambda host=host: network not in networks(world, host))


def test_an_internal_network_has_no_way_out(world: Demo) -> None:
    network = f"inner-{secrets.token_hex(2)}"
    world.docker("h1", "network", "create", "-d", "plait", "--internal", network)
    eventually("the network on h3", lambda: network in networks(world, "h3"))
    with (
        serving(world, "h1", "in1", network) as first,
        serving(world, "h3", "in3", network) as third,
    ):
        assert page_comes(world, "h1", first, third)
        assert not world.answers_ping("h1", first, "100.64.99.2")
    world.docker("h1", "network", "rm", network)


def test_a_taken_address_is_refused_on_every_host(world: Demo) -> None:
    four, _ = world.addresses("h1", "web-h1", "plait")
    name = f"thief-{secrets.token_hex(2)}"
    with pytest.raises(PlaitError, match="`docker run` failed") as error:
        world.serve("h2", name, "plait", "--ip", four)
    world.docker("h2", "rm", "-f", name)
    assert four in error.value.why
    assert page_comes(world, "h3", "web-h3", "web-h1")


def test_containers_outlive_the_death_of_their_dockerd(world: Demo) -> None:
    with serving(world, "h2", "phoenix", "plait", "--restart", "always") as phoenix:
        assert page_comes(world, "h1", "web-h1", phoenix)
        bringup.FAULTS["kill-docker"](world.lab, "h2")
        # The process lives on under its shim, and its network with it.
        assert page_comes(world, "h1", "web-h1", phoenix)
        bringup.FAULTS["start-docker"](world.lab, "h2")
        # dockerd ends what it finds and starts it anew.
        assert page_comes(world, "h1", "web-h1", phoenix)
        world.docker("h2", "start", "web-h2")
        assert page_comes(world, "h1", "web-h1", "web-h2")


def test_a_host_that_lost_its_power_runs_its_containers_again(world: Demo) -> None:
    with serving(world, "h3", "lazarus", "plait", "--restart", "always") as lazarus:
        assert page_comes(world, "h1", "web-h1", lazarus)
        bringup.FAULTS["kill"](world.lab, "h3")
        bringup.FAULTS["restart"](world.lab, "h3")
        assert page_comes(world, "h1", "web-h1", lazarus)
        world.docker("h3", "start", "web-h3")
        assert page_comes(world, "h2", "web-h2", "web-h3")


def test_a_killed_agent_serves_docker_again(world: Demo) -> None:
    bringup.FAULTS["kill-agent"](world.lab, "h1")
    # dockerd waits for its plug-in: nobody has to try twice.
    with serving(world, "h1", "patient", "plait") as patient:
        assert page_comes(world, "h2", "web-h2", patient)


def test_what_is_removed_leaves_no_endpoint(world: Demo) -> None:
    with serving(world, "h2", "brief", "plait") as brief:
        assert page_comes(world, "h1", "web-h1", brief)

    def names() -> set[str]:
        listed = json.loads(daemons.plait(world.lab, "h1", "ps", "--json"))["items"]
        return {endpoint["spec"].get("name", "") for endpoint in listed}

    assert "web-h1" in names()
    eventually("no endpoint", lambda: brief not in names())


ENDING = """\
echo page of $0 > /www/index.html
httpd -f -p 80 -h /www & page=$!
trap 'sleep 3; kill $page; sleep 3; exit' TERM
wait
"""
"""A program that, told to end, takes calls for a while, and then has something else to do."""
CALLS = "while sleep 0.02; do wget -T2 -t1 -qO- http://$0/ || echo refused; done"
ILL = ("--health-cmd", "false", "--health-interval", "200ms", "--health-retries", "1")


def test_a_service_spares_who_ends_and_who_is_ill(world: Demo) -> None:
    name = f"fair-{secrets.token_hex(2)}"
    alias = ("--network-alias", f"{name}-pages")
    world.plait("h1", "service", "create", name, "--endpoint", f"{name}-pages", "--port", "80")

    def conditions() -> dict[str, str]:
        said = json.loads(world.plait("h1", "service", "show", name, "--json"))
        return {backend["name"]: backend["condition"] for backend in said["backends"]}

    with (
        serving(world, "h1", "stays", "plait", *alias) as stays,
        serving(world, "h2", "ill", "plait", *alias, *ILL) as ill,
        gone_after(world, "h2", "ends") as ends,
        gone_after(world, "h1", "calls") as calls,
    ):
        run = ("run", "-d", "--network", "plait", "--name")
        world.docker("h2", *run, ends, *alias, "busybox", "sh", "-c", ENDING, ends)
        known = {stays: "", ends: "", ill: "unhealthy"}
        eventually("one is ill", lambda: conditions() == known)
        world.docker("h1", *run, calls, "busybox", "sh", "-c", CALLS, name)

        def log() -> list[str]:
            return world.docker("h1", "logs", calls).splitlines()

        eventually("both answer", lambda: {f"page of {stays}", f"page of {ends}"} <= set(log()))
        world.docker("h2", "kill", "-s", "TERM", ends)
        eventually("it is told", lambda: conditions().get(ends) == "stopping")
        eventually("it is gone", lambda: ends not in conditions())
        heard = log()
        assert set(heard) == {f"page of {stays}", f"page of {ends}"}, f"{ill}: {heard}"
        assert heard[-20:] == [f"page of {stays}"] * 20
    world.plait("h1", "service", "rm", name)
