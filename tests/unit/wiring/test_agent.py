"""The process of the agent: there is one of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest

from plait.client import enrol
from plait.model.config import AgentConfig
from plait.model.errors import PlaitError
from plait.model.paths import Paths
from plait.wiring.agent import run_agent
from plait.wiring.daemon import only_one


async def test_a_second_agent_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object) -> NoReturn:
        raise AssertionError("the kernel was reached for")

    monkeypatch.setattr("plait.wiring.agent.open_doors", opened)
    paths = Paths(tmp_path)
    paths.node.mkdir(parents=True)
    paths.agent_config.parent.mkdir(parents=True, exist_ok=True)
    config = AgentConfig(node="h1", server="https://192.0.2.1:6112")
    paths.agent_config.write_bytes(msgspec.json.encode(config))
    identity = enrol.NodeIdentity(name="h1", uid="u1", secret="s")
    (paths.node / enrol.NODE_FILE).write_bytes(msgspec.json.encode(identity))
    with (
        only_one(paths.agent_lock, "it runs", "plait status"),
        pytest.raises(PlaitError) as refused,
    ):
        await run_agent(paths, asyncio.Event())
    assert refused.value.code == "PLAIT-HOST-004"
    assert list(paths.agent.iterdir()) == []
