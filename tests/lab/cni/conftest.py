"""A lab host with a real agent, and a container runtime's side of CNI on it.

A container is a network namespace; plugins are run inside the host as a runtime runs them, ours by
way of the shim.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.lab.census import assert_back, at_rest, inside, ready, verbs
from tests.lab.cni import talk
from tests.lab.conftest import eventually, made, unique
from tests.support import shim as shims
from tests.support.libcni import Attachment, Network, PluginError

from plait.client.agent import LocalEndpoint
from plait.client.agent_socket import run as at_once
from plait.cni import route
from plait.cni.conflist import CAPABILITIES
from plait.lab import hosts, image
from plait.lab.lab import Lab
from plait.lab.workloads import PLAIT

OURS: Mapping[str, Any] = {"type": "plait", "capabilities": dict.fromkeys(CAPABILITIES, True)}
CONFIG: Mapping[str, Any] = {"cniVersion": "1.1.0", "name": "podnet", "type": "plait"}
TALK = str(Path(talk.__file__))
PATIENCE, SILENCE = 10.0, 1.0
"""Seconds for an answer that must come, and for one that must not."""
DEBIAN = "/usr/lib/cni"
"""Plugins of Debian's containernetworking-plugins."""


def ours(**keys: Any) -> dict[str, Any]:
    """Our plugin's part of a list, with keys of its own."""
    return {**OURS, **keys}


def question(proto: str, address: str, port: int, source: int, seconds: float) -> tuple[str, ...]:
    """The command that asks."""
    words = (str(port), str(source), str(seconds))
    return (sys.executable, "-I", TALK, "ask", proto, address, *words)


@contextmanager
def serving(lab: Lab, host: str, at: Attachment | None, proto: str, port: int) -> Iterator[None]:
    enter = [] if at is None else ["ip", "netns", "exec", Path(at.netns).name]
    argv = [*enter, sys.executable, "-I", TALK, "serve", proto, str(port)]
    process = hosts.popen(
        lab.host(host), argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline().strip()
        assert said == "ready", process.communicate()[1]
        yield
    finally:
        process.communicate()


class Box:
    """A host that runs containers."""

    def __init__(self, lab: Lab, host: str, shim: Path) -> None:
        self.lab = lab
        self.host = host
        self.shim = shim
        self._spaces: list[str] = []

    # The runtime.

    def execute(
        self, plugin: str, environment: Mapping[str, str], stdin: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a plugin as a runtime does: its environment, the configuration on its input."""
        program = str(self.shim) if plugin == "plait" else f"{DEBIAN}/{plugin}"
        pairs = [f"{name}={value}" for name, value in environment.items()]
        return self.lab.run(self.host, ["env", *pairs, program], check=False, stdin=stdin)

    def network(self, *plugins: Mapping[str, Any], **options: Any) -> Network:
        """A network configuration list."""
        return Network(self.execute, plugins or (OURS,), **options)

    def post(self, body: bytes, *, hang_up: bool = False) -> tuple[int, Any]:
        """What the shim sends, sent by this process: exit status and result of the answer; with
        `hang_up` nobody waits for one."""
        head = f"POST {route.PATH} HTTP/1.1\r\nHost: plait\r\nContent-Length: {len(body)}\r\n"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(inside(self.lab, self.host, "/run/plait/agent.sock")))
            sock.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
            if hang_up:
                return 0, None
            with sock.makefile("rb") as stream:
                answer, _, result = stream.read().partition(b"\r\n\r\n")
        (status,) = re.findall(rb"Plait-CNI-Exit: (\d+)", answer)
        return int(status), json.loads(result) if result else None

    def waiting(self, count: int) -> bool:
        """The agent has that many calls of CNI under way, by the links of its socket."""
        lines = self.sh("ss", "-Hxn", "src", "/run/plait/agent.sock").splitlines()
        return len([line for line in lines if "ESTAB" in line]) >= count

    def container(self, ifname: str = "eth0") -> Attachment:
        """A new container: an empty network namespace."""
        name = f"c{secrets.token_hex(8)}"
        self.sh("ip", "netns", "add", name)
        self._spaces.append(name)
        return Attachment(name, f"/run/netns/{name}", ifname)

    # The host.

    def sh(self, *argv: str, check: bool = True) -> str:
        done = self.lab.run(self.host, argv, check=False)
        assert not check or done.returncode == 0, f"{argv}: {done.stderr or done.stdout}"
        return done.stdout

    def inside(self, at: Attachment, *argv: str, check: bool = True) -> str:
        """A command's output in a container's network namespace."""
        return self.sh("ip", "netns", "exec", Path(at.netns).name, *argv, check=check)

    def show(self, at: Attachment, *what: str) -> Any:
        """What `ip -j` says in a container."""
        return json.loads(self.inside(at, "ip", "-j", *what) or "[]")

    def links(self, at: Attachment) -> list[str]:
        """Names of the interfaces in a container."""
        return [link["ifname"] for link in self.show(at, "link")]

    def addresses(self, at: Attachment) -> set[str]:
        """Global addresses of the container's interface, with prefix length."""
        (link,) = self.show(at, "address", "show", "dev", at.ifname)
        return {
            f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"] if a["scope"] == "global"
        }

    def endpoints(self) -> tuple[LocalEndpoint, ...]:
        return at_once(verbs(self.lab, self.host).endpoints())

    def endpoint(self, at: Attachment) -> LocalEndpoint:
        """The agent's endpoint of a container."""
        (found,) = (
            e
            for e in self.endpoints()
            if e.request.workload.id == at.container and e.request.ifname == at.ifname
        )
        return found

    @contextmanager
    def serving(self, at: Attachment | None, proto: str, port: int) -> Iterator[None]:
        """Somebody in a container (None: on the host) who answers with the asker's address."""
        with serving(self.lab, self.host, at, proto, port):
            yield

    @contextmanager
    def serving_on(self, host: str, proto: str, port: int) -> Iterator[None]:
        """The same on another machine of the lab."""
        with serving(self.lab, host, None, proto, port):
            yield

    def ask(
        self,
        at: Attachment | None,
        proto: str,
        address: str,
        port: int,
        seconds: float = PATIENCE,
    ) -> str:
        """The answer to a question out of a container, or of the host; empty without one."""
        argv = question(proto, address, port, 0, seconds)
        return (self.sh(*argv) if at is None else self.inside(at, *argv)).strip()

    def ask_from(
        self,
        host: str,
        proto: str,
        address: str,
        port: int,
        source: int = 0,
        seconds: float = PATIENCE,
    ) -> str:
        """The same out of another machine of the lab."""
        return self.lab.run(host, question(proto, address, port, source, seconds)).stdout.strip()

    def clean(self) -> None:
        """Every container goes, and whatever of them the agent still has."""
        for endpoint in self.endpoints():
            at_once(verbs(self.lab, self.host).detach(endpoint.request.id))
        for name in self._spaces:
            self.sh("ip", "netns", "delete", name, check=False)
        self._spaces.clear()


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shim, built."""
    if not shims.COMPILER:
        pytest.skip(shims.NO_COMPILER)
    return shims.build(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="session")
def cni_lab() -> Iterator[Lab]:
    """One host with a server and an agent."""
    with made(unique("cni"), 1) as lab:
        yield lab


@pytest.fixture
def box(cni_lab: Lab, shim: Path) -> Iterator[Box]:
    """The lab's host as a runtime sees it, without containers."""
    eventually("the agent is ready", lambda: ready(cni_lab, "h1"))
    box = Box(cni_lab, "h1", shim)
    try:
        yield box
    finally:
        box.clean()


@pytest.fixture(scope="module")
def nothing_stays(cni_lab: Lab, shim: Path) -> Iterator[None]:
    """Nothing of a module's containers stays on the host: a census before, and after."""
    box = Box(cni_lab, "h1", shim)
    # The node's address blocks are claimed, which stays.
    at = box.container()
    network = box.network()
    network.add(at)
    network.delete(at)
    box.clean()
    before = at_rest(cni_lab, "h1")
    yield
    assert_back(cni_lab, "h1", before)


def request(verb: str, at: Attachment, started: int, **keys: Any) -> bytes:
    """What the shim sends of a call that began at that time, in ns since boot."""
    environment = {
        "PLAIT_STARTED": str(started),
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": at.container,
        "CNI_NETNS": at.netns,
        "CNI_IFNAME": at.ifname,
    }
    head = b"".join(f"{name}={value}\0".encode() for name, value in environment.items())
    return head + b"\0" + json.dumps({**CONFIG, **keys}).encode()


def now() -> int:
    """Nanoseconds since boot."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def refused(code: int, call: Callable[[], Any]) -> PluginError:
    """The call is refused with that code."""
    with pytest.raises(PluginError) as caught:
        call()
    assert caught.value.code == code, caught.value
    return caught.value


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root file system of containers: busybox, and a real wget."""
    directory = tmp_path_factory.mktemp("rootfs")
    archive = directory / "image.tar"
    image.write(archive)
    root = directory / "root"
    with tarfile.open(archive) as tar:
        tar.extractall(root, filter="fully_trusted")
    for name in ("proc", "sys", "dev", "run"):
        (root / name).mkdir(exist_ok=True)
    return root


@pytest.fixture(scope="module")
def installed(nothing_stays: None, cni_lab: Lab, shim: Path) -> Iterator[None]:
    """The plugin as users install it."""
    cni_lab.run("h1", [*PLAIT, "cni", "install"])
    yield
    cni_lab.run("h1", [*PLAIT, "cni", "uninstall", "--force"])
    cni_lab.run("h1", ["rm", "-rf", "/etc/cni/net.d", "/opt/cni/bin"])
