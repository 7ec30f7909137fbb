"""What an agent is made of: its settings, and the doors through which it acts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from plait import __version__
from plait.agent.loop import RESYNC, Offload
from plait.agent.metrics import Metric
from plait.agent.policing import PolicyDoors
from plait.agent.programmers.base import Programmer
from plait.agent.state import Identity
from plait.agent.sync import HEARTBEAT
from plait.agent.watchers import Watcher
from plait.client.base import Api
from plait.ipam.allocate import COOL_DOWN
from plait.kernel.hostfacts import HostFacts
from plait.kernel.nft_counters import CounterDoor
from plait.kernel.sysctl import Sysctl

HOLD: Final = 600.0
"""Seconds after which a held address that nobody attached with is free again."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of this host's agent. Times are seconds."""

    identity: Identity
    directory: Path
    """State of the agent; 0700."""
    socket: Path | None = None
    """Where the verbs are served; None: not at all."""
    server: str = ""
    """URL of the server, for `plait status`."""
    address: str = ""
    """Underlay address, with or without prefix length; empty: found out."""
    interface: str = ""
    """Underlay interface; empty: found out."""
    site: str = ""
    dns: bool = True
    """A resolver listens on this host."""
    version: str = __version__
    resync: float = RESYNC
    heartbeat: float = HEARTBEAT
    cool_down: float = COOL_DOWN
    hold: float = HOLD


class Doors(msgspec.Struct, frozen=True, kw_only=True):
    """Everything through which the agent acts."""

    api: Api
    programmers: tuple[Programmer, ...]
    """In `programmers.ORDER`."""
    facts: Callable[[], HostFacts]
    sysctl: Sysctl
    boot: str
    """Identity of this boot (kernel.hostfacts.boot_identity)."""
    counters: CounterDoor
    policy: PolicyDoors
    watchers: tuple[Watcher, ...] = ()
    purge: tuple[Callable[[], object], ...] = ()
    """What removes the rest of ours when nothing is wanted any more (the nft table)."""
    problems: tuple[Callable[[], Iterable[str]], ...] = ()
    """What the kernel lacks or refuses beside the programmers' ops, a sentence each."""
    metrics: tuple[Callable[[], Iterable[Metric]], ...] = ()
    offload: Offload = asyncio.to_thread
    """Runs what takes long outside of the event loop."""
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
