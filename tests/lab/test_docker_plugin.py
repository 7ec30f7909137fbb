"""The plugin under a real dockerd, in a network and a mount namespace of its own.

The agent is a fake that makes plain veths with `ip`; everything else is the real thing.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import secrets
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from plait.client.agent import AttachResult, LocalEndpoint
from plait.docker.addressing import gateway, host_prefix, of_family
from plait.docker.directory import Directory
from plait.docker.engine import DockerEngine
from plait.docker.fake import FakeAgent, FakeApi
from plait.docker.journal import Journal
from plait.docker.plugin import DockerPlugin
from plait.model.objects import Metadata, Network, NetworkSpec

pytestmark = [pytest.mark.root, pytest.mark.docker]

POOLS = ("10.128.0.0/9", "fd70:6c61:6974:100::/56")
DEADLINE = 30.0


def run(*argv: str, ok: bool = True, stdin: bytes | None = None) -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, timeout=120, check=False)
    output = done.stdout.decode() + done.stderr.decode()
    if ok and done.returncode != 0:
        raise AssertionError(f"{' '.join(argv)}: exit {done.returncode}: {output}")
    return output


def wait_until(look: Callable[[], bool], what: str, deadline: float = DEADLINE) -> None:
    end = time.monotonic() + deadline
    while not look():
        assert time.monotonic() < end, f"not within {deadline} s: {what}"
        time.sleep(0.05)


async def until(look: Callable[[], bool], what: str, deadline: float = DEADLINE) -> None:
    end = time.monotonic() + deadline
    while not look():
        assert time.monotonic() < end, f"not within {deadline} s: {what}"
        await asyncio.sleep(0.02)


def busybox_image() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.add("/bin/busybox", "bin/busybox")
        for applet in ("sh", "ip", "ping", "ping6", "nc", "sleep", "cat", "wget", "httpd"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return content.getvalue()


class DockerHost:
    """A dockerd that has a host of its own."""

    def __init__(self, root: Path) -> None:
        self.name = f"pdk-{secrets.token_hex(4)}"
        self.root = root
        self.run_dir = root / "run"
        self.socket = self.run_dir / "docker.sock"
        self.live_restore = False
        self.process: subprocess.Popen[bytes] | None = None
        self.holder: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        (self.run_dir / "docker" / "plugins").mkdir(parents=True)
        run("ip", "netns", "add", self.name)
        self.ip("link", "set", "lo", "up")
        self.ip("link", "add", "up0", "type", "veth", "peer", "name", "up1")
        self.ip("link", "set", "up1", "up")
        self.ip("addr", "add", "198.51.100.2/24", "dev", "up0")
        self.ip("link", "set", "up0", "up")
        self.ip("route", "add", "default", "via", "198.51.100.1")
        # Forwarding on beforehand: dockerd then leaves the FORWARD policy alone.
        keys = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        run("nsenter", f"--net=/run/netns/{self.name}", "sysctl", "-qw", *keys)
        self.hold()
        self.start()
        self.docker("import", "-", "box", stdin=busybox_image())

    def hold(self) -> None:
        """A process that keeps the mount namespace, so that a new dockerd finds the mounts of
        containers that outlived the old one."""
        script = 'mount --bind "$0" /run && echo && exec sleep infinity'
        self.holder = subprocess.Popen(
            [
                "nsenter", f"--net=/run/netns/{self.name}",
                "unshare", "-m", "--propagation", "private", "sh", "-c", script, str(self.run_dir),
            ],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.holder.stdout is not None
        self.holder.stdout.readline()
        self.holder.stdout.close()

    def start(self) -> None:
        flags = ["--live-restore"] if self.live_restore else []
        argv = [
            "nsenter", "-t", str(self.holder.pid), "-n", "-m", "--",
            "dockerd", "--data-root", str(self.root / "data"),
            "--exec-root", "/run/docker-exec", "-p", "/run/dockerd.pid",
            "-H", "unix:///run/docker.sock", "--cgroup-parent", self.name, *flags,
        ]  # fmt: skip
        log = (self.root / "dockerd.log").open("ab")
        self.process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
        log.close()
        wait_until(lambda: "Server:" in self.docker("version", ok=False), "dockerd answers", 60)

    def stop(self, sig: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(sig)
            self.process.wait(60)
            self.process = None

    def down(self) -> None:
        try:
            ids = self.docker("ps", "-aq", ok=False).split()
            if ids:
                self.docker("rm", "-f", *ids, ok=False)
            self.stop()
        finally:
            self.stop(signal.SIGKILL)
            if self.holder is not None:
                self.holder.kill()
                self.holder.wait()
            run("ip", "netns", "del", self.name, ok=False)
            for group in Path("/sys/fs/cgroup").glob(f"*/{self.name}"):
                self.clear(group)
            shutil.rmtree(self.root / "data", ignore_errors=True)

    def clear(self, group: Path) -> None:
        """End what a failed test left in a cgroup of this host, and remove the cgroup."""
        for procs in group.rglob("cgroup.procs"):
            for pid in procs.read_text().split():
                os.kill(int(pid), signal.SIGKILL)
        folders = [f for f in group.rglob("*") if f.is_dir()]
        wait_until(lambda: not any((f / "cgroup.procs").read_text() for f in folders), "empty")
        for folder in sorted(folders, reverse=True):
            folder.rmdir()
        group.rmdir()

    def ip(self, *argv: str, ok: bool = True) -> str:
        return run("ip", "-n", self.name, *argv, ok=ok)

    def docker(self, *argv: str, ok: bool = True, stdin: bytes | None = None) -> str:
        return run("docker", "-H", f"unix://{self.socket}", *argv, ok=ok, stdin=stdin)


class VethAgent(FakeAgent):
    """The fake agent, with a veth for each endpoint in the docker host's namespace."""

    def __init__(self, directory: Directory, host: DockerHost) -> None:
        super().__init__(directory)
        self.host = host

    def _make(self, result: AttachResult) -> None:
        near, far = result.interface, result.peer_name
        veth = ("type", "veth", "peer", "name", far, "address", result.mac)
        self.host.ip("link", "add", near, "group", "112", *veth)
        self.host.ip("link", "set", near, "up")
        for via in result.gateways:
            nodad = ("nodad",) if ":" in via else ()
            self.host.ip("addr", "add", host_prefix(via), "dev", near, *nodad)
        for address in result.addresses:
            self.host.ip("route", "add", address, "dev", near)

    def _unmake(self, result: AttachResult) -> None:
        self.host.ip("link", "del", result.interface, ok=False)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerHost]:
    host = DockerHost(tmp_path_factory.mktemp("dk"))
    try:
        host.up()
        yield host
    finally:
        host.down()


class Stage:
    """A plugin on a docker host, and its neighbours."""

    def __init__(self, host: DockerHost) -> None:
        self.host = host
        self.state = host.root / f"state-{secrets.token_hex(3)}"
        self.agent: VethAgent | None = None
        self.api: FakeApi | None = None

    async def start(self) -> None:
        """Start the plugin, or start it anew with the neighbours' memory as it was."""
        self.directory = directory = Directory(Journal(self.state / "docker.json"))
        agent = VethAgent(directory, self.host)
        api = FakeApi(directory, POOLS)
        self.plugin = DockerPlugin(
            agent,
            api,
            DockerEngine(self.host.socket),
            directory,
            socket=self.host.run_dir / "docker" / "plugins" / "plait.sock",
            resync=1.0,
        )
        if self.agent and self.api:
            agent.local, agent.results = self.agent.local, self.agent.results
            agent.ports, api.networks = self.agent.ports, self.api.networks
        self.agent, self.api = agent, api
        api.publish()
        await self.plugin.start()
        await until(lambda: self.plugin.connected, "the plugin follows dockerd")

    async def docker(self, *argv: str, ok: bool = True) -> str:
        return await asyncio.to_thread(self.host.docker, *argv, ok=ok)

    async def clean(self) -> None:
        ids = (await self.docker("ps", "-aq")).split()
        if ids:
            await self.docker("rm", "-f", *ids)
        for name in tuple(self.api.networks):
            self.api.busy.discard(name)
            await self.api.delete(Network, name)
        listing = ("network", "ls", "-qf", "driver=plait")
        await until(lambda: not self.host.docker(*listing).split(), "all networks left Docker")
        await self.plugin.stop()


@pytest.fixture
async def stage(host: DockerHost) -> AsyncIterator[Stage]:
    stage = Stage(host)
    await stage.start()
    try:
        yield stage
    finally:
        await stage.clean()


def told(stage: Stage, name: str) -> dict[str, object]:
    return next((t for _, t in reversed(stage.agent.identified) if t["name"] == name), {})


async def test_default_ipam_network_is_adopted_and_has_ipv6(stage: Stage) -> None:
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
        await until(lambda n=name: told(stage, n), "identity")
    await until(lambda: "bb-alias" in told(stage, "bb")["aliases"], "aliases")
    assert told(stage, "aa")["labels"]["app"] == "aa"
    b = next(e for e in stage.agent.local.values() if e.request.name == "bb")
    for address in b.addresses:
        await stage.docker("exec", "aa", "/bin/ping", "-c1", "-w3", address)
    routes = await stage.docker("exec", "aa", "/bin/ip", "route")
    assert "172.18.0.0/17 via" in routes
    await stage.docker("rename", "bb", "b_two")
    await until(lambda: told(stage, "b-two"), "rename")
    assert told(stage, "b-two")["labels"]["plait.docker-name"] == "b_two"
    await stage.docker("rm", "-f", "aa", "b_two")
    assert not stage.agent.local
    await stage.docker("network", "rm", "blue")
    await until(lambda: "blue" not in stage.api.networks, "the network is deleted for all")


BOX = ("box", "/bin/sleep", "1000")


async def start(stage: Stage, name: str, *flags: str) -> None:
    await stage.docker("run", "-d", "--init", "--name", name, *flags, *BOX)
    await until(lambda: told(stage, name) != {}, f"identity of {name}")


def endpoint(stage: Stage, name: str, network: str = "") -> LocalEndpoint:
    return next(
        e
        for e in stage.agent.local.values()
        if e.request.name == name and network in ("", e.request.network)
    )


async def ping(stage: Stage, source: str, address: str) -> str:
    return await stage.docker("exec", source, "/bin/ping", "-c1", "-w3", address)


async def offered(stage: Stage, name: str, **spec: object) -> None:
    """Make a Plait Network and wait until Docker has it."""
    network = Network(metadata=Metadata(name=name), spec=NetworkSpec(**spec))
    await stage.api.create(network)
    wanted = {name}
    await until(
        lambda: wanted <= {r.network for r in stage.directory.records.values() if r.seen},
        f"{name} in Docker",
    )


async def test_network_of_plait_appears_in_docker_and_goes_with_it(stage: Stage) -> None:
    await offered(stage, "plait")
    shown = json.loads(await stage.docker("network", "inspect", "plait"))[0]
    assert shown["IPAM"]["Driver"] == "plait"
    assert {c["Subnet"] for c in shown["IPAM"]["Config"]} == set(
        stage.api.networks["plait"].spec.pools
    )
    await start(stage, "aa", "--net", "plait")
    await start(stage, "bb", "--net", "plait")
    for address in endpoint(stage, "bb").addresses:
        await ping(stage, "aa", address)
    await ping(stage, "aa", "bb")
    routes = await stage.docker("exec", "aa", "/bin/ip", "route")
    pool = of_family(stage.api.networks["plait"].spec.pools, 4)
    assert f"{pool} via" in routes
    assert "default via" in routes
    addresses = await stage.docker("exec", "aa", "/bin/ip", "addr", "show", "eth0")
    assert all(f"{a}/" in addresses for a in endpoint(stage, "aa").addresses)
    await stage.docker("rm", "-f", "aa", "bb")
    await stage.api.delete(Network, "plait")
    await until(lambda: not stage.directory.records, "the network left Docker")
    assert "plait" not in await stage.docker("network", "ls")


async def test_own_ipam_takes_a_free_pool_and_requested_addresses(stage: Stage) -> None:
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
    await start(stage, "aa", *flags)
    assert endpoint(stage, "aa").addresses == ("10.99.0.77", "fd00:1:2:3::77")
    refused = await stage.docker("run", "--name", "bb", *flags, *BOX, ok=False)
    assert "PLAIT-IPAM-010" in refused
    # A container on both networks reaches each by its own addresses.
    await start(stage, "cc", "--net", "green")
    await stage.docker("network", "connect", "--alias", "other", "red", "cc")
    await until(lambda: len(stage.agent.local) == 3, "connected")
    await until(lambda: "other" in endpoint(stage, "cc", "red").request.aliases, "alias")
    await ping(stage, "cc", "10.99.0.77")
    await ping(stage, "cc", "fd00:1:2:3::77")
    await stage.docker("network", "disconnect", "green", "cc")
    assert {e.request.network for e in stage.agent.local.values()} == {"red"}
    await ping(stage, "aa", of_family(endpoint(stage, "cc", "red").addresses, 4))
    await stage.docker("stop", "-t0", "cc")
    await stage.docker("start", "cc")
    await until(lambda: "cc" in {e.request.name for e in stage.agent.local.values()}, "again")
    await stage.docker("rm", "-f", "aa", "bb", "cc")
    assert not stage.agent.held


async def test_internal_network(stage: Stage) -> None:
    await stage.docker("network", "create", "-d", "plait", "--internal", "inner")
    await until(lambda: "inner" in stage.api.networks, "the network is created")
    assert stage.api.networks["inner"].spec.internal
    await start(stage, "aa", "--net", "inner", "-p", "18080:80")
    await start(stage, "bb", "--net", "inner")
    for address in endpoint(stage, "bb").addresses:
        await ping(stage, "aa", address)
    assert not any(stage.agent.ports.values())
    # With a second network, the way out is that one's.
    await offered(stage, "plait")
    await stage.docker("network", "connect", "plait", "aa")
    routes = await stage.docker("exec", "aa", "/bin/ip", "route")
    assert f"default via {gateway(stage.api.networks['plait'], 4)} " in routes


async def test_published_ports(stage: Stage) -> None:
    await offered(stage, "plait")
    stage.agent.taken_ports = {18000}
    await start(
        stage, "aa", "--net", "plait", "-p", "18080:80", "-p", "127.0.0.1:18053:53/udp",
        "-p", "18000-18005:81",
    )  # fmt: skip
    ports = {(p.protocol, p.host_ip, p.host_port, p.port) for p in
             stage.agent.ports[endpoint(stage, "aa").request.id]}  # fmt: skip
    assert ports == {
        ("tcp", "", 18080, 80), ("udp", "127.0.0.1", 18053, 53), ("tcp", "", 18001, 81),
    }  # fmt: skip
    refused = await stage.docker("run", "--net", "plait", "-p", "18000:80", *BOX, ok=False)
    assert "PLAIT-AGENT-007" in refused
    await stage.docker("rm", "-f", "aa")
    assert not stage.agent.ports


async def test_refusals_name_the_fix(stage: Stage) -> None:
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


async def test_existing_network_under_another_docker_name(stage: Stage) -> None:
    await offered(stage, "shared")
    await stage.docker(
        "network", "create", "-d", "plait", "--ipam-driver", "plait",
        "--ipam-opt", "plait.network=shared", "-o", "plait.network=shared",
        "-o", "plait.namespace=team", "Mine_Too",
    )  # fmt: skip
    await start(stage, "aa", "--net", "Mine_Too")
    await start(stage, "bb", "--net", "shared", "-l", "plait.namespace=other")
    assert endpoint(stage, "aa").request.network == "shared"
    assert told(stage, "aa")["namespace"] == "team"
    assert told(stage, "bb")["namespace"] == "other"
    await stage.docker("rm", "-f", "aa", "bb")
    await until(lambda: any(r.alias for r in stage.directory.records.values()), "alias known")
    await stage.docker("network", "rm", "Mine_Too")
    await until(lambda: len(stage.directory.records) == 1, "forgotten")
    assert "shared" in stage.api.networks


async def test_removed_network_in_use_elsewhere_comes_back(stage: Stage) -> None:
    await offered(stage, "busy")
    stage.api.busy.add("busy")
    before = set(stage.directory.records)
    await stage.docker("network", "rm", "busy")
    await until(
        lambda: (after := set(stage.directory.records)) != set() and after != before,
        "put back",
    )
    assert "busy" in await stage.docker("network", "ls")


async def test_agent_restart_between_containers(stage: Stage) -> None:
    await offered(stage, "plait")
    await start(stage, "aa", "--net", "plait", "--network-alias", "web")
    await until(lambda: "web" in told(stage, "aa")["aliases"], "alias")
    await stage.plugin.stop()
    await stage.docker("rename", "aa", "zz")
    await stage.start()
    await until(lambda: told(stage, "zz") != {}, "the new name is learnt from the listing")
    assert all("web" in t["aliases"] for _, t in stage.agent.identified)
    await start(stage, "bb", "--net", "plait")
    await ping(stage, "bb", "zz")


@pytest.mark.parametrize("live_restore", [False, True])
async def test_dockerd_restart(host: DockerHost, stage: Stage, live_restore: bool) -> None:
    await offered(stage, "plait")
    if live_restore:
        host.live_restore = True
        await asyncio.to_thread(host.stop)
        await asyncio.to_thread(host.start)
        await until(lambda: stage.plugin.connected, "connected")
    await start(stage, "aa", "--net", "plait", "--restart", "always")
    first = endpoint(stage, "aa")
    try:
        await asyncio.to_thread(host.stop)
        await until(lambda: not stage.plugin.connected, "dockerd is seen to be away")
        if live_restore:
            assert endpoint(stage, "aa") == first
    finally:
        await asyncio.to_thread(host.start)
        host.live_restore = False
    await until(lambda: stage.plugin.connected, "connected again")
    await until(lambda: bool(stage.agent.local), "the container runs")
    await start(stage, "bb", "--net", "plait")
    if live_restore:
        assert endpoint(stage, "aa") == first
    await until(lambda: "aa" in {e.request.name for e in stage.agent.local.values()}, "identity")
    await ping(stage, "bb", of_family(endpoint(stage, "aa").addresses, 4))
