"""A matrix on paper: a grid for people, CSV and JSON for programs."""

from __future__ import annotations

import csv
import sys
from typing import Final

import click
import msgspec

from plait.cli import output
from plait.policy.matrix import Cell, Matrix

ALLOWED: Final = "."
DENIED: Final = "X"
UNCLEAR: Final = "?"
"""The receiver has no port of that name, or families differ."""
SELF: Final = " "


def grid(matrix: Matrix, port: int) -> str:
    """One port: a row a sender, a column a receiver, which is called by its row's number."""
    size = len(matrix.endpoints)
    width = len(str(size))
    labels = [f"{i + 1:>{width}} {output.clean(name)}" for i, name in enumerate(matrix.endpoints)]
    margin = max(map(len, labels))
    lines = [" " * margin + " " + "".join(f" {i + 1:>{width}}" for i in range(size))]
    for i, label in enumerate(labels):
        cells = (SELF if i == j else _mark(matrix, i, j, port) for j in range(size))
        lines.append(
            (f"{label.ljust(margin)} " + "".join(f" {c:>{width}}" for c in cells)).rstrip()
        )
    return "\n".join(lines)


def _mark(matrix: Matrix, src: int, dst: int, port: int) -> str:
    allowed, why = matrix.answers[matrix.kinds[src], matrix.kinds[dst], port]
    return UNCLEAR if why else ALLOWED if allowed else DENIED


def write_grids(matrix: Matrix) -> None:
    """A grid a port, and what every mark that is not clear means."""
    for k, port in enumerate(matrix.ports):
        output.say(f"{port}: from row to column; {ALLOWED} allowed, {DENIED} denied")
        output.say(grid(matrix, k))
        unclear = {why for (_, _, port), (_, why) in matrix.answers.items() if port == k and why}
        for why in sorted(unclear):
            output.say(f"{UNCLEAR} {why}")
        if k + 1 < len(matrix.ports):
            output.say()


def write_csv(matrix: Matrix) -> None:
    """One line for each source, destination and port (RFC 4180, with the lines of Unix)."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(Cell._fields)
    for cell in matrix.cells():
        writer.writerow((*cell[:3], "yes" if cell.allowed else "no", cell.why))


def write_json(matrix: Matrix) -> None:
    """A list with one row for each source, destination and port; a row a line, as it comes, for
    there may be millions."""
    output.say('{"kind": "List", "items": [')
    before = ""
    for cell in matrix.cells():
        row = cell._asdict()
        if not cell.why:
            del row["why"]
        click.echo(before + msgspec.json.encode(row).decode(), nl=False)
        before = ",\n"
    output.say("\n]}")
