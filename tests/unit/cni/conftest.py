"""The plugin over a whole agent whose kernel is in memory."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import until

from plait.agent import fake
from plait.agent.agent import Agent
from plait.cni.kept import Kept
from plait.cni.plugin import Answer, CniPlugin
from plait.kernel.fake_netlink import FakeSpace

BOOT = "boot-1"


class Runtime:
    """A container runtime and its host."""

    def __init__(self, host: fake.FakeHost, agent: Agent, directory: Path) -> None:
        self.host = host
        self.agent = agent
        self.directory = directory
        self.queue = directory / "queue"
        self.now = 1_000 * 10**9
        """Nanoseconds since boot."""
        self.plugin = self.restarted()

    def restarted(self) -> CniPlugin:
        """The plugin of a new process: it knows what is on the disk."""
        self.now += 10**6
        kept = Kept(self.queue, BOOT)
        service = self.agent.service
        self.plugin = CniPlugin(service, kept, network=service.network, boottime=lambda: self.now)
        return self.plugin

    def netns(self, name: str) -> str:
        """A network namespace: for the agent's fake kernel, and for whoever looks at its path."""
        path = self.directory / name
        if not path.exists():
            path.touch()
            self.host.kernel.paths[str(path)] = FakeSpace(path.stat().st_ino)
        return str(path)

    def body(self, verb: str, container: str = "c1", ifname: str = "eth0", **keys: Any) -> bytes:
        """What the shim sends; `started`, `netns`, `args` and `boot` are of the environment."""
        self.now += 10**6
        netns = keys.pop("netns", None)
        if netns is None and verb in ("ADD", "CHECK"):
            netns = self.netns(container)
        environment = {
            "PLAIT_STARTED": keys.pop("started", self.now),
            "PLAIT_BOOT": keys.pop("boot", ""),
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_IFNAME": ifname,
            "CNI_NETNS": netns or "",
            "CNI_ARGS": keys.pop("args", ""),
            "CNI_PATH": "/opt/cni/bin",
        }
        config = {"cniVersion": "1.1.0", "name": "podnet", "type": "plait", **keys}
        head = "".join(f"{name}={value}\0" for name, value in environment.items() if value)
        return head.encode() + b"\0" + json.dumps(config).encode()

    async def __call__(self, verb: str, container: str = "c1", **keys: Any) -> Any:
        """The result of a call that succeeds."""
        answer = await self.plugin.handle(self.body(verb, container, **keys))
        said = self.said(answer)
        assert answer.status == 0, said
        return said

    async def refused(self, verb: str, container: str = "c1", **keys: Any) -> dict[str, Any]:
        """The error of a call that is refused."""
        answer = await self.plugin.handle(self.body(verb, container, **keys))
        assert answer.status != 0, answer
        said: dict[str, Any] = self.said(answer)
        assert said["code"] == answer.status
        return said

    def said(self, answer: Answer) -> Any:
        return json.loads(answer.body) if answer.body else None

    async def attached(self) -> set[tuple[str, str]]:
        """Container and interface of every endpoint."""
        found = await self.agent.service.endpoints()
        return {(e.request.workload.id, e.request.ifname) for e in found}


@pytest.fixture
def host(tmp_path: Path) -> fake.FakeHost:
    return fake.FakeHost(fake.server(), tmp_path)


@pytest.fixture
async def runtime(host: fake.FakeHost, tmp_path: Path) -> AsyncIterator[Runtime]:
    agent = host.agent()
    await agent.start()
    runtime = Runtime(host, agent, tmp_path)
    try:
        await until(lambda: agent.state.snapshot.ready)
        await until(lambda: all(s.blocks for s in agent.state.book.all()))
        yield runtime
    finally:
        await runtime.plugin.stop()
        await agent.stop()
