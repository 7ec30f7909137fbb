"""The plugin under a real dockerd; see conftest.py for the stage."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from plait.docker.addressing import gateway, of_family
from plait.docker.condition import GRACE
from plait.model.errors import PlaitError
from plait.model.objects import Network

pytestmark = [pytest.mark.root, pytest.mark.docker]

BOX = ("box", "/bin/sleep", "1000")


async def test_default_ipam_network_is_adopted_and_has_ipv6(stage, until) -> None:
    await stage.docker("network", "create", "-d", "plait", "blue")
    await until(lambda: "blue" in stage.api.networks, "the network is created")
    spec = stage.api.networks["blue"].spec
    assert spec.external_ipam
    assert of_family(spec.pools, 4).startswith("172.")
    assert of_family(spec.pools, 6).startswith("fd70:")
    for name in ("aa", "bb"):
        await stage.docker(
            "run", "-d", "--init", "--net", "blue", "--name", name, "-l", f"app={name}",
            "--network-alias", f"{name}-alias", "box", "/bin/sleep", "1000",
        )  # fmt: skip
        await until(lambda n=name: stage.told(n), "identity")
    await until(lambda: "bb-alias" in stage.told("bb").aliases, "aliases")
    assert stage.told("aa").labels["app"] == "aa"
    b = next(e for e in stage.agent.local.values() if e.request.name == "bb")
    for address in b.addresses:
        await stage.docker("exec", "aa", "/bin/ping", "-c1", "-w3", address)
    routes = await stage.docker("exec", "aa", "/bin/ip", "route")
    assert "172.18.0.0/17 via" in routes
    await stage.docker("rename", "bb", "b_two")
    await until(lambda: stage.told("b-two"), "rename")
    assert stage.told("b-two").labels["plait.docker-name"] == "b_two"
    await stage.docker("rm", "-f", "aa", "b_two")
    assert not stage.agent.local
    await stage.docker("network", "rm", "blue")
    await until(lambda: "blue" not in stage.api.networks, "the network is deleted for all")


async def test_network_of_plait_appears_in_docker_and_goes_with_it(stage, until) -> None:
    await stage.offer("plait")
    shown = json.loads(await stage.docker("network", "inspect", "plait"))[0]
    assert shown["IPAM"]["Driver"] == "plait"
    assert {c["Subnet"] for c in shown["IPAM"]["Config"]} == set(
        stage.api.networks["plait"].spec.pools
    )
    await stage.run("aa", "--net", "plait")
    await stage.run("bb", "--net", "plait")
    for address in stage.endpoint("bb").addresses:
        await stage.ping("aa", address)
    await stage.ping("aa", "bb")
    routes = await stage.docker("exec", "aa", "/bin/ip", "route")
    pool = of_family(stage.api.networks["plait"].spec.pools, 4)
    assert f"{pool} via" in routes
    assert "default via" in routes
    addresses = await stage.docker("exec", "aa", "/bin/ip", "addr", "show", "eth0")
    assert all(f"{a}/" in addresses for a in stage.endpoint("aa").addresses)
    await stage.docker("rm", "-f", "aa", "bb")
    await stage.api.delete(Network, "plait")
    await until(lambda: not stage.directory.records, "the network left Docker")
    assert "plait" not in await stage.docker("network", "ls")


async def test_own_ipam_takes_a_free_pool_and_requested_addresses(stage, until) -> None:
    own = ("-d", "plait", "--ipam-driver", "plait")
    await stage.docker("network", "create", *own, "green")
    await until(lambda: "green" in stage.api.networks, "the network is created")
    spec = stage.api.networks["green"].spec
    assert not spec.external_ipam
    assert of_family(spec.pools, 4).startswith("10.")
    v6 = "fd00:1:2:3::/64"
    await stage.docker(
        "network", "create", *own, "--ipv6", "--subnet", "10.99.0.0/24", "--subnet", v6, "red"
    )
    await until(lambda: "red" in stage.api.networks, "the network is created")
    flags = ("--net", "red", "--ip", "10.99.0.77", "--ip6", "fd00:1:2:3::77")
    await stage.run("aa", *flags)
    assert stage.endpoint("aa").addresses == ("10.99.0.77", "fd00:1:2:3::77")
    refused = await stage.docker("run", "--name", "bb", *flags, *BOX, ok=False)
    assert "PLAIT-IPAM-010" in refused
    # A container on both networks reaches each by its own addresses.
    await stage.run("cc", "--net", "green")
    await stage.docker("network", "connect", "--alias", "other", "red", "cc")
    await until(
        lambda: any("other" in e.request.aliases for e in stage.agent.local.values()),
        "connected and identified",
    )
    await stage.ping("cc", "10.99.0.77")
    await stage.ping("cc", "fd00:1:2:3::77")
    await stage.docker("network", "disconnect", "green", "cc")
    assert {e.request.network for e in stage.agent.local.values()} == {"red"}
    await stage.ping("aa", of_family(stage.endpoint("cc", "red").addresses, 4))
    await stage.docker("stop", "-t0", "cc")
    await stage.docker("start", "cc")
    await until(lambda: "cc" in {e.request.name for e in stage.agent.local.values()}, "again")
    await stage.docker("rm", "-f", "aa", "bb", "cc")
    assert not stage.agent.held


async def test_internal_network(stage, until) -> None:
    await stage.docker("network", "create", "-d", "plait", "--internal", "inner")
    await until(lambda: "inner" in stage.api.networks, "the network is created")
    assert stage.api.networks["inner"].spec.internal
    await stage.run("aa", "--net", "inner", "-p", "18080:80")
    await stage.run("bb", "--net", "inner")
    for address in stage.endpoint("bb").addresses:
        await stage.ping("aa", address)
    assert not any(stage.agent.ports.values())
    # With a second network, the way out is that one's.
    await stage.offer("plait")
    await stage.docker("network", "connect", "plait", "aa")
    routes = await stage.docker("exec", "aa", "/bin/ip", "route")
    assert f"default via {gateway(stage.api.networks['plait'], 4)} " in routes


async def test_published_ports(stage, until) -> None:
    await stage.offer("plait")
    stage.agent.taken_ports = {18000}
    await stage.run(
        "aa", "--net", "plait", "-p", "18080:80", "-p", "127.0.0.1:18053:53/udp",
        "-p", "18000-18005:81",
    )  # fmt: skip
    ports = {(p.protocol, p.host_ip, p.host_port, p.port) for p in
             stage.agent.ports[stage.endpoint("aa").request.id]}  # fmt: skip
    assert ports == {
        ("tcp", "", 18080, 80), ("udp", "127.0.0.1", 18053, 53), ("tcp", "", 18001, 81),
    }  # fmt: skip
    refused = await stage.docker("run", "--net", "plait", "-p", "18000:80", *BOX, ok=False)
    assert "PLAIT-AGENT-007" in refused
    await stage.docker("rm", "-f", "aa")
    assert not stage.agent.ports


async def test_refusals_name_the_fix(stage, until) -> None:
    create = ("network", "create", "-d", "plait")
    refused = await stage.docker(*create, "-o", "colour=red", "blue", ok=False)
    assert "PLAIT-DOCKER-002" in refused
    assert "plait.network" in refused
    stage.api.prefixes.add("172.16.0.0/12")
    refused = await stage.docker(*create, "blue", ok=False)
    assert "PLAIT-NET-002" in refused
    assert "docker network create -d plait --ipam-driver plait NAME" in refused
    refused = await stage.docker(*create, "-o", "plait.network=none", "blue", ok=False)
    assert "PLAIT-NET-006" in refused
    assert not stage.directory.records
    refused = await stage.docker(
        *create, "--ipam-driver", "plait", "--ip-range", "10.3.0.0/25", "--subnet", "10.3.0.0/24",
        "blue", ok=False,
    )  # fmt: skip
    assert "PLAIT-DOCKER-002" in refused


async def test_existing_network_under_another_docker_name(stage, until) -> None:
    await stage.offer("shared")
    await stage.docker(
        "network", "create", "-d", "plait", "--ipam-driver", "plait",
        "--ipam-opt", "plait.network=shared", "-o", "plait.network=shared",
        "-o", "plait.namespace=team", "Mine_Too",
    )  # fmt: skip
    await stage.run("aa", "--net", "Mine_Too")
    await stage.run("bb", "--net", "shared", "-l", "plait.namespace=other")
    assert stage.endpoint("aa").request.network == "shared"
    assert stage.told("aa").namespace == "team"
    assert stage.told("bb").namespace == "other"
    await stage.docker("rm", "-f", "aa", "bb")
    await until(lambda: any(r.alias for r in stage.directory.records.values()), "alias known")
    await stage.docker("network", "rm", "Mine_Too")
    await until(lambda: len(stage.directory.records) == 1, "forgotten")
    assert "shared" in stage.api.networks


async def test_removed_network_in_use_elsewhere_comes_back(stage, until) -> None:
    await stage.offer("busy")
    stage.api.busy.add("busy")
    before = set(stage.directory.records)
    await stage.docker("network", "rm", "busy")
    await until(
        lambda: (after := set(stage.directory.records)) != set() and after != before,
        "put back",
    )
    assert "busy" in await stage.docker("network", "ls")


async def test_agent_restart_between_containers(stage, until) -> None:
    await stage.offer("plait")
    await stage.run("aa", "--net", "plait", "--network-alias", "web")
    await until(lambda: "web" in stage.told("aa").aliases, "alias")
    await stage.plugin.stop()
    await stage.docker("rename", "aa", "zz")
    await stage.start()
    await until(lambda: stage.told("zz"), "the new name is learnt from the listing")
    assert all("web" in t.aliases for _, t in stage.agent.identified)
    await stage.run("bb", "--net", "plait")
    await stage.ping("bb", "zz")


@pytest.fixture
async def live_restored(host, stage, until):
    """A dockerd whose containers outlive it; afterwards one without, as the others want it."""
    host.live_restore = True
    await asyncio.to_thread(host.stop)
    await asyncio.to_thread(host.start)
    await until(lambda: stage.plugin.connected, "connected")
    yield
    host.live_restore = False
    await stage.docker("rm", "-f", "aa", "bb", ok=False)
    await asyncio.to_thread(host.stop)
    await asyncio.to_thread(host.start)


async def restart_under_a_container(host, stage, until) -> None:
    try:
        await asyncio.to_thread(host.stop)
        await until(lambda: not stage.plugin.connected, "dockerd is seen to be away")
    finally:
        await asyncio.to_thread(host.start)
    await until(lambda: stage.plugin.connected, "connected again")
    await until(lambda: bool(stage.agent.local), "the container runs")
    await stage.run("bb", "--net", "plait")
    await until(lambda: "aa" in {e.request.name for e in stage.agent.local.values()}, "identity")
    await stage.ping("bb", of_family(stage.endpoint("aa").addresses, 4))


async def test_dockerd_restart(host, stage, until) -> None:
    await stage.offer("plait")
    await stage.run("aa", "--net", "plait", "--restart", "always")
    await restart_under_a_container(host, stage, until)


async def test_dockerd_restart_with_live_restore(host, stage, until, live_restored) -> None:
    await stage.offer("plait")
    await stage.run("aa", "--net", "plait", "--restart", "always")
    first = stage.endpoint("aa")
    await restart_under_a_container(host, stage, until)
    # The same endpoint all along; aliases and labels may have become known meanwhile.
    now = stage.endpoint("aa")
    assert (now.request.id, now.addresses) == (first.request.id, first.addresses)


COMPOSE = """
version: "3.5"
services:
  web:
    image: box
    command: ["/bin/sleep", "1000"]
    init: true
    labels: {app: web}
  client:
    image: box
    command: ["/bin/sleep", "1000"]
    init: true
networks:
  default:
    driver: plait
"""


async def test_compose(stage, until, tmp_path: Path) -> None:
    (tmp_path / "docker-compose.yml").write_text(COMPOSE)
    compose = (
        "docker-compose", "-H", f"unix://{stage.host.socket}", "--project-directory",
        str(tmp_path), "-f", str(tmp_path / "docker-compose.yml"), "-p", "shop",
    )  # fmt: skip
    await stage.command(*compose, "up", "-d", "--scale", "web=2")
    await until(lambda: "shop-default" in stage.api.networks, "the network is created")
    names = {"shop-web-1", "shop-web-2", "shop-client-1"}
    await until(lambda: names <= {t.name for _, t in stage.agent.identified}, "identities")
    web = stage.told("shop-web-1")
    assert "web" in web.aliases
    assert web.labels["app"] == "web"
    assert web.labels["com.docker.compose.project"] == "shop"
    assert web.labels["plait.docker-name"] == "shop_web_1"
    for address in stage.endpoint("shop-web-2").addresses:
        await stage.ping("shop_client_1", address)
    await stage.ping("shop_client_1", "web")
    await stage.command(*compose, "down", "-t", "0")
    await until(lambda: "shop-default" not in stage.api.networks, "the network is deleted")
    assert not stage.agent.local


async def test_swarm_services_do_not_half_work(stage) -> None:
    await stage.offer("plait")
    await stage.docker("swarm", "init", "--advertise-addr", "198.51.100.2")
    try:
        refused = await stage.docker(
            "service", "create", "-d", "--network", "plait", *BOX, ok=False
        )
        assert "plait" in refused
        assert not (await stage.docker("service", "ls", "-q")).split()
        # Containers go on to work on a swarm's node.
        await stage.run("aa", "--net", "plait")
    finally:
        await stage.docker("swarm", "leave", "--force")


async def test_nothing_is_left_when_docker_forgets(stage, until) -> None:
    """dockerd ignores an error of DeleteEndpoint on `rm -f` and frees the address."""
    await stage.offer("plait")
    await stage.run("aa", "--net", "plait")
    stage.agent.fail["detach"] = PlaitError("PLAIT-KERNEL-001", "the kernel refused")
    await stage.docker("rm", "-f", "aa")
    assert stage.agent.local

    def detached() -> bool:
        stage.later += 1.0
        return not stage.agent.local

    await until(detached, "the reaper detaches")


IGNORING = ("box", "/bin/sh", "-c", "trap '' TERM; /bin/sleep 1000")
"""Image and command of a container that does not end when it is told to."""
PROBE = ("--health-cmd", "/bin/cat /ok", "--health-interval", "100ms", "--health-retries", "1")


async def test_how_a_container_is(stage, until) -> None:
    await stage.offer("plait")

    def words() -> list[str]:
        return [told.condition for _, told in stage.agent.identified]

    async def told(condition: str) -> None:
        await until(lambda: words()[-1:] == [condition], condition or "ready")

    await stage.docker("run", "-d", "--net", "plait", "--name", "aa", *PROBE, *IGNORING)
    await told("unhealthy")
    await stage.docker("exec", "aa", "/bin/sh", "-c", "echo >/ok")
    await told("")
    await stage.docker("pause", "aa")
    await told("paused")
    await stage.docker("unpause", "aa")
    await told("")
    await stage.docker("kill", "-s", "HUP", "aa")
    await stage.docker("kill", "-s", "TERM", "aa")
    await told("stopping")
    stage.later += GRACE
    await told("")
    before = len(words())
    await stage.docker("stop", "-t", "1", "aa")
    await until(lambda: not stage.agent.local, "it is gone")
    assert words()[0] == "starting"
    # Its probe may fail before it is gone, and that is told too.
    assert "stopping" in words()[before:]
