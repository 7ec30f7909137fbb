"""Who reaches whom: probes from every workload to every other, and the table of results."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import click
import msgspec

from plait.lab.lab import Lab
from plait.lab.state import WorkloadState
from plait.lab.workloads import Order, Result, probe

Way = Literal["ip", "name"]
MARKS = {"connected": ".", "refused": "r", "timed out": "X", "unknown name": "?"}


class Port(msgspec.Struct, frozen=True):
    """A port to probe."""

    port: int
    proto: str

    def __str__(self) -> str:
        return f"{self.port}/{self.proto}"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One probe and what came of it."""

    src: str
    dst: str
    port: int
    proto: str
    ip: str
    """Address, or name, that was probed."""
    result: str
    peer: str = ""
    detail: str = ""


class Matrix(msgspec.Struct, frozen=True, kw_only=True):
    """All of them."""

    ports: tuple[str, ...]
    rows: tuple[Row, ...]


def parse_port(text: str) -> Port:
    """`80/tcp`, `53/udp`, `7/sctp`; without a protocol, TCP."""
    number, _, protocol = text.partition("/")
    protocol = protocol or "tcp"
    if (
        protocol not in {"tcp", "udp", "sctp"}
        or not re.fullmatch("[0-9]{1,5}", number)
        or not 0 < int(number) < 65536
    ):
        raise click.BadParameter(f"`{text}` is not of the form PORT/tcp|udp|sctp")
    return Port(int(number), protocol)


def title(load: WorkloadState) -> str:
    """How a workload stands in a table: `namespace/name`."""
    return f"{load.namespace}/{load.name}"


def targets(load: WorkloadState, way: Way) -> list[tuple[str, Literal[4, 6]]]:
    """What to aim at, and its family: every address, or the full name once a family."""
    name = f"{load.name}.{load.namespace}.plait.local"
    return [
        (address if way == "ip" else name, 6 if ":" in address else 4) for address in load.addresses
    ]


def measure(
    lab: Lab,
    sources: Sequence[WorkloadState],
    destinations: Sequence[WorkloadState],
    ports: Sequence[Port],
    *,
    way: Way = "ip",
    timeout: float = 1.0,
) -> Matrix:
    """Probe all pairs at once; a workload is not probed by itself."""

    def one(source: WorkloadState) -> list[Row]:
        aims = [
            (target, ip, family, port)
            for target in destinations
            if target is not source
            for ip, family in targets(target, way)
            for port in ports
        ]
        orders = [
            Order(ip=ip, family=family, port=port.port, proto=port.proto, timeout=timeout)
            for _, ip, family, port in aims
        ]
        results = probe(lab, source, orders)
        return [
            row(source, target, ip, port, result)
            for (target, ip, _, port), result in zip(aims, results, strict=True)
        ]

    with ThreadPoolExecutor(max_workers=8) as pool:
        rows = [row for rows in pool.map(one, sources) for row in rows]
    return Matrix(ports=tuple(map(str, ports)), rows=tuple(rows))


def row(source: WorkloadState, target: WorkloadState, ip: str, port: Port, result: Result) -> Row:
    """A result with its question."""
    return Row(
        src=title(source),
        dst=title(target),
        port=port.port,
        proto=port.proto,
        ip=ip,
        result=result.result,
        peer=result.peer,
        detail=result.detail,
    )


def squares(matrix: Matrix) -> list[tuple[str, list[str], list[list[str]]]]:
    """For each port: its name, headings, and rows of marks, one a family."""
    drawn = []
    for port in matrix.ports:
        rows = [r for r in matrix.rows if f"{r.port}/{r.proto}" == port]
        names = list(dict.fromkeys([r.src for r in rows] + [r.dst for r in rows]))
        cells: dict[tuple[str, str], str] = {}
        for r in rows:
            cells[r.src, r.dst] = cells.get((r.src, r.dst), "") + MARKS.get(r.result, "?")
        drawn.append(
            (
                port,
                ["from \\ to", *names],
                [[src, *(cells.get((src, dst), "-") for dst in names)] for src in names],
            )
        )
    return drawn
