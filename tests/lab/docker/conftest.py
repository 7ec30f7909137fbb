"""A stage for the plugin under a real dockerd, in a network and a mount namespace of its own.

The agent is a fake that makes plain veths with `ip`; everything else is the real thing.
"""

from __future__ import annotations

import asyncio
import io
import os
import secrets
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import until

from plait.client.agent import AttachResult, EndpointIdentity, LocalEndpoint
from plait.client.polling import poll
from plait.docker.addressing import host_prefix
from plait.docker.directory import Directory
from plait.docker.engine import DockerEngine
from plait.docker.fake import FakeAgent, FakeApi
from plait.docker.journal import Journal
from plait.docker.plugin import DockerPlugin
from plait.model.objects import Metadata, Network, NetworkSpec

BOX = ("box", "/bin/sleep", "1000")
"""Image and command of a container that waits."""
POOLS = ("10.128.0.0/9", "fd70:6c61:6974:100::/56")
DEADLINE = 30.0


def run(*argv: str, ok: bool = True, stdin: bytes | None = None) -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, timeout=120, check=False)
    output = done.stdout.decode() + done.stderr.decode()
    if ok and done.returncode != 0:
        raise AssertionError(f"{' '.join(argv)}: exit {done.returncode}: {output}")
    return output


def wait_until(look: Callable[[], bool], what: str, deadline: float = DEADLINE) -> None:
    assert poll(look, seconds=deadline), f"not within {deadline} s: {what}"


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
        self.later = 0.0
        """Seconds by which the plugin's clock is ahead."""
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
            clock=lambda: time.time() + self.later,
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

    async def command(self, *argv: str) -> str:
        return await asyncio.to_thread(run, *argv)

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

    # -- what a test does

    def told(self, name: str) -> EndpointIdentity | None:
        """What the agent was last told of the container of that name."""
        return next((t for _, t in reversed(self.agent.identified) if t.name == name), None)

    async def run(self, name: str, *flags: str) -> None:
        """`docker run`, until the agent knows whose the endpoint is."""
        await self.docker("run", "-d", "--init", "--name", name, *flags, *BOX)
        await until(lambda: self.told(name) is not None, f"identity of {name}")

    def endpoint(self, name: str, network: str = "") -> LocalEndpoint:
        """The endpoint of a container (in a network)."""
        return next(
            e
            for e in self.agent.local.values()
            if e.request.name == name and network in ("", e.request.network)
        )

    async def ping(self, source: str, address: str) -> str:
        """One ping from a container."""
        return await self.docker("exec", source, "/bin/ping", "-c1", "-w3", address)

    async def offer(self, name: str, **spec: Any) -> None:
        """Make a Plait Network and wait until Docker has it."""
        network = Network(metadata=Metadata(name=name), spec=NetworkSpec(**spec))
        await self.api.create(network)
        await until(
            lambda: name in {r.network for r in self.directory.records.values() if r.seen},
            f"{name} in Docker",
        )


@pytest.fixture
async def stage(host: DockerHost) -> AsyncIterator[Stage]:
    stage = Stage(host)
    await stage.start()
    try:
        yield stage
    finally:
        await stage.clean()


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., Any]:
    """Wait for a condition, with a deadline."""
    return until
