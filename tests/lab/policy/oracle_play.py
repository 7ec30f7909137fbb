"""How the oracle's cases are played on hosts of a lab: which ones always, where its pods stand, and
what is asked and counted. For stages of every kind."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, TypeVar

import pytest
from tests.lab.policy.ground import OPEN, SHUT, Outcomes, Probe, Wrong
from tests.support import oracle

S_contra = TypeVar("S_contra", contravariant=True)

REPRESENTATIVE = {
    *(1, 4, 11, 22, 36, 70, 123, 134, 145, 149, 179, 216),  # every tag of the data
    *(193, 195, 196, 198, 199, 221, 223, 224, 225, 226, 227, 230),  # everything that changes
}
SOON = {
    f"CNP{name}"
    for name in (
        *("AdminTierEgressNodePeers", "AdminTierIntegration", "AdminTierPriorityField"),
        "BaselineTierEgressNamedPort",
    )
}


class Times:
    """What was asked and how long it took."""

    def __init__(self) -> None:
        self.scenes = self.probes = self.wrong = 0
        self.enforcing = self.probing = 0.0

    def __str__(self) -> str:
        return (
            f"{self.scenes} scenes, {self.probes} probes, {self.wrong} wrong: "
            f"{self.enforcing:.1f} s until enforced, {self.probing:.1f} s of probes"
        )


@contextmanager
def counting(request: pytest.FixtureRequest) -> Iterator[Times]:
    """Told at the end of the block, whatever becomes of the tests."""
    found = Times()
    yield found
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():
        print(f"\n{request.node.name}: {found}")


class Shows(Protocol[S_contra]):
    """A stage."""

    def show(self, scene: S_contra) -> None:
        """Make it so."""

    def wrong(self, expected: Mapping[Probe, Outcomes]) -> list[Wrong]:
        """Answers that differ."""


def ask(
    stage: Shows[S_contra],
    times: Times,
    scene: S_contra,
    expected: Mapping[Probe, Outcomes],
    name: str,
) -> None:
    """Show a scene and send all of its probes."""
    begun = time.monotonic()
    stage.show(scene)
    enforced = time.monotonic()
    wrong = stage.wrong(expected)
    times.enforcing += enforced - begun
    times.probing += time.monotonic() - enforced
    times.scenes += 1
    times.probes += len(expected)
    times.wrong += len(wrong)
    assert not wrong, f"{name}: {len(wrong)} of {len(expected)} differ, such as " + "; ".join(
        map(str, wrong[:5])
    )


def place(key: str) -> str:
    """Pods of a namespace stand on different hosts, and pods of a host in different namespaces."""
    return f"h{sum(map(ord, key)) % 3 + 1}"


def listening(pod: oracle.Pod) -> tuple[str, ...]:
    """What it serves, as a workload takes it."""
    return tuple(f"{port}/{protocol}" for protocol, port in pod.listens)


def expectation(scene: oracle.Scene) -> dict[Probe, Outcomes]:
    """What must come of the scene's probes, which all say their receiver's address."""
    return {
        Probe(p.src, p.address, p.port, p.protocol.lower()): OPEN if p.allowed else SHUT
        for p in scene.probes
    }


LISTEN_ON_HOST = """
import asyncio, sys
from plait.lab import workload
async def main(address, *ports):
    udp = [int(port.removesuffix("/udp")) for port in ports if port.endswith("/udp")]
    await workload.listen("host", [port for port in ports if not port.endswith("/udp")])
    loop = asyncio.get_running_loop()
    for port in udp:
        await loop.create_datagram_endpoint(
            lambda: workload.Udp("host"), local_addr=(address, port))
    print("ready", flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
asyncio.run(main(*sys.argv[1:]))
"""
HOST_PORTS = (
    *("34345/tcp", "34346/tcp", "34348/tcp", "34350/tcp"),
    *("34347/udp", "34349/udp", "34351/sctp", "34352/sctp"),
)
"""What the pods on the hosts' own network serve; UDP on the host's own address alone, so that it
answers from there."""
