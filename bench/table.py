"""A figure of ours beside a peer's, judged by a budget; and the table of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec


class Budget(msgspec.Struct, frozen=True):
    """A limit of design section 8, on our figure or on its ratio to the peer's."""

    of: Literal["ours", "ratio"]
    least: bool
    """The limit is a minimum."""
    limit: float

    def __str__(self) -> str:
        sign = "≥" if self.least else "≤"
        return f"{sign} {number(self.limit)}{' ×' if self.of == 'ratio' else ''}"


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the table. Figures are medians unless `what` says otherwise."""

    what: str
    unit: str
    ours: float
    peer: str = ""
    """Who was measured beside us, and how."""
    theirs: float | None = None
    budget: Budget | None = None

    @property
    def ratio(self) -> float | None:
        """Ours by theirs."""
        return self.ours / self.theirs if self.theirs else None

    @property
    def met(self) -> bool | None:
        """Within the budget; None without one."""
        if self.budget is None:
            return None
        value = self.ours if self.budget.of == "ours" else self.ratio
        if value is None:
            return None
        return value >= self.budget.limit if self.budget.least else value <= self.budget.limit


def at_most(limit: float) -> Budget:
    """Our figure is no greater."""
    return Budget("ours", False, limit)


def at_least(limit: float) -> Budget:
    """Our figure is no smaller."""
    return Budget("ours", True, limit)


def ratio_at_most(limit: float) -> Budget:
    """Ours by the peer's is no greater."""
    return Budget("ratio", False, limit)


def ratio_at_least(limit: float) -> Budget:
    """Ours by the peer's is no smaller."""
    return Budget("ratio", True, limit)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))
    return ordered[rank]


def number(value: float) -> str:
    """Three significant digits or all that stand before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    text = f"{value:.3g}"
    return f"{value:.4f}".rstrip("0").rstrip(".") if "e" in text else text


def cells(row: Row) -> tuple[str, ...]:
    """A row as text, in the order of `HEADINGS`."""
    verdict = {None: "", True: "met", False: "MISSED"}[row.met]
    return (
        row.what,
        f"{number(row.ours)} {row.unit}",
        "" if row.theirs is None else f"{number(row.theirs)} {row.unit}",
        "" if row.ratio is None else f"{row.ratio:.2f}",
        "" if row.budget is None else str(row.budget),
        verdict,
        row.peer,
    )


HEADINGS = ("what", "Plait", "peer", "ratio", "budget", "", "the peer is")
RIGHT = (1, 2, 3)
"""Columns of figures."""


def plain(rows: Sequence[Row]) -> str:
    """The table for a terminal."""
    lines = [HEADINGS, *(cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADINGS))]
    out = []
    for line in lines:
        parts = [
            text.rjust(width) if i in RIGHT else text.ljust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        out.append("  ".join(parts).rstrip())
    out.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(out)


def markdown(rows: Sequence[Row]) -> str:
    """The table for docs/benchmarks.md."""
    lines = [HEADINGS, ("---", *("--:" if i in RIGHT else "---" for i in range(1, 7)))]
    lines += [cells(row) for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
