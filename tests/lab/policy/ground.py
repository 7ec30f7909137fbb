"""Hosts of a lab that follow what is written, workloads on them, and who reaches whom."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, NamedTuple

import msgspec
from tests.lab.census import inside, status
from tests.lab.conftest import eventually

from plait.client.api import ApiClient
from plait.client.base import BatchOp
from plait.lab import workloads
from plait.lab.daemons import FIRST
from plait.lab.lab import Lab
from plait.lab.state import WorkloadState
from plait.lab.workloads import Order
from plait.model.objects import AnyObject, Metadata, Namespace

PATIENCE = 0.4
"""Seconds for which a probe waits; whoever is let through answers within a few milliseconds."""
LATER_LOOKS = (2.0, 8.0)
"""Seconds for which it waits when a packet that should have passed did not: one may be lost on a
busy machine, or a thousand be asked at once; and only one that passes proves a thing at once."""

Outcomes = frozenset[str]
"""What may come of a probe."""
OPEN: Final[Outcomes] = frozenset({"connected"})
SHUT: Final[Outcomes] = frozenset({"timed out"})
TOLD: Final[Outcomes] = frozenset({"refused"})


class Probe(NamedTuple):
    """One question."""

    source: str
    """Key of a pod."""
    ip: str
    port: int
    protocol: str


class Wrong(NamedTuple):
    """An answer that differs."""

    probe: Probe
    expected: Outcomes
    found: str

    def __str__(self) -> str:
        p = self.probe
        wanted = " or ".join(sorted(self.expected))
        return f"{p.source} -> {p.ip} {p.port}/{p.protocol}: {self.found}, expected {wanted}"


class Ground:
    """See the module's docstring. Who inherits it puts workloads into `_loads`."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.hosts = tuple(lab.plan.machines)
        self._loads: dict[str, WorkloadState] = {}
        """By what probes call them."""
        self._marks = itertools.count(1)
        self._loop = asyncio.Runner()
        socket = inside(lab, FIRST, "/run/plait/server.sock")
        self._api = self._loop.run(_client(str(socket)))
        self._probers = ThreadPoolExecutor(max_workers=16)

    def close(self) -> None:
        """Let go."""
        self._loop.run(self._api.close())
        self._loop.close()
        self._probers.shutdown()

    # Making it so.

    def write(self, *ops: BatchOp) -> None:
        """Through the API, at once."""
        if ops:
            self._loop.run(self._api.batch(ops))

    def put(self, *objects: AnyObject) -> None:
        """Store objects; they are not part of any scene."""
        self.write(*(BatchOp(verb="update", object=obj) for obj in objects))

    def delete(self, *objects: AnyObject) -> None:
        """Remove objects, whatever their revision."""
        self.write(*(BatchOp(verb="delete", object=unrevised(obj)) for obj in objects))

    def enforced(self) -> int:
        """Wait until every host's kernel follows what is stored by now; its revision."""
        # A write of its own: the events of a batch share a revision and may come one by one.
        mark = Namespace(metadata=Metadata(name="stage", labels={"mark": str(next(self._marks))}))
        stored = self._loop.run(self._api.update(mark))
        revision = stored.metadata.revision
        for host in self.hosts:
            eventually(f"{host} follows", partial(self._follows, host, revision))
        return revision

    def _follows(self, host: str, revision: int) -> bool:
        said = status(self.lab, host)
        return said is not None and said.applied >= revision

    # Looking at it.

    def load(self, key: str) -> WorkloadState:
        """The workload of a pod."""
        return self._loads[key]

    def ask(self, probes: Iterable[Probe], timeout: float = PATIENCE) -> dict[Probe, str]:
        """What came of each probe; all are sent at once."""
        by_source: dict[str, list[Probe]] = {}
        for probe in probes:
            by_source.setdefault(probe.source, []).append(probe)

        def out_of(source: str) -> list[str]:
            orders = [
                Order(ip=p.ip, port=p.port, proto=p.protocol, timeout=timeout)
                for p in by_source[source]
            ]
            return [r.result for r in workloads.probe(self.lab, self._loads[source], orders)]

        found = self._probers.map(out_of, by_source)
        return {
            probe: result
            for probes_of, results in zip(by_source.values(), found, strict=True)
            for probe, result in zip(probes_of, results, strict=True)
        }

    def wrong(self, expected: Mapping[Probe, Outcomes]) -> list[Wrong]:
        """Answers that differ. What passes though it should not is wrong for good; what was met
        with silence is asked again."""
        final: list[Wrong] = []
        lost: list[Wrong] = []
        for patience in (PATIENCE, *LATER_LOOKS):
            differing = self._differing(expected, patience)
            lost = [item for item in differing if {item.found} == SHUT]
            final += [item for item in differing if {item.found} != SHUT]
            expected = {item.probe: item.expected for item in lost}
            if not lost:
                break
        return final + lost

    def _differing(self, expected: Mapping[Probe, Outcomes], timeout: float) -> list[Wrong]:
        found = self.ask(expected, timeout)
        return [
            Wrong(probe, expected[probe], result)
            for probe, result in found.items()
            if result not in expected[probe]
        ]


def unrevised(obj: AnyObject) -> AnyObject:
    """For a delete whatever the revision."""
    metadata = msgspec.structs.replace(obj.metadata, revision=0)
    return msgspec.structs.replace(obj, metadata=metadata)


async def _client(socket: str) -> ApiClient:
    return ApiClient("http://localhost", unix_socket=socket)
