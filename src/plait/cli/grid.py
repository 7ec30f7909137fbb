"""A matrix on paper: a grid for people, CSV for programs."""

from __future__ import annotations

import csv
import io
from typing import Final

from plait.cli import output
from plait.policy.matrix import Matrix

ALLOWED: Final = "."
DENIED: Final = "X"
SELF: Final = " "


def grid(matrix: Matrix, port: int) -> str:
    """One port: a row a sender, a column a receiver, which is called by its row's number."""
    size = len(matrix.endpoints)
    width = len(str(size))
    labels = [f"{i + 1:>{width}} {output.clean(name)}" for i, name in enumerate(matrix.endpoints)]
    margin = max(map(len, labels))
    lines = [" " * margin + " " + "".join(f" {i + 1:>{width}}" for i in range(size))]
    for i, label in enumerate(labels):
        cells = (
            SELF if i == j else ALLOWED if matrix.allowed(i, j, port) else DENIED
            for j in range(size)
        )
        lines.append(
            (f"{label.ljust(margin)} " + "".join(f" {c:>{width}}" for c in cells)).rstrip()
        )
    return "\n".join(lines)


def write_grids(matrix: Matrix) -> None:
    """A grid a port."""
    for k, port in enumerate(matrix.ports):
        output.say(f"{port}: from row to column; {ALLOWED} allowed, {DENIED} denied")
        output.say(grid(matrix, k))
        if k + 1 < len(matrix.ports):
            output.say()


def write_csv(matrix: Matrix) -> None:
    """One line for each source, destination and port (RFC 4180)."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("src", "dst", "port", "allowed", "why"))
    for cell in matrix.cells():
        writer.writerow((cell.src, cell.dst, cell.port, "yes" if cell.allowed else "no", cell.why))
    output.say(text.getvalue().rstrip("\r\n"))
