"""What goes to standard output: JSON, tables, a few words.

A table is drawn by rich on a terminal only; a pipe gets plain columns, for `awk` and `grep`.
`NO_COLOR` (no-color.org) and `TERM=dumb` switch colour off.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

Row = Sequence[str]


def colour_wanted() -> bool:
    """Whether colour may be used at all; click and rich look at the terminal themselves."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def clean(text: str) -> str:
    """Text of others made safe for a terminal: control characters become their escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(text: str = "", *, err: bool = False) -> None:
    """One line."""
    click.echo(text, err=err, color=None if colour_wanted() else False)


def good(text: str) -> None:
    """One line that says that something was done."""
    mark = click.style("✓", fg="green") if colour_wanted() else "✓"
    say(f"{mark} {text}")


def warn(text: str) -> None:
    """One line of warning on standard error."""
    mark = click.style("warning", fg="yellow", bold=True) if colour_wanted() else "warning"
    say(f"{mark}: {text}", err=True)


def json_out(value: Any) -> None:
    """A value (structs of msgspec too) as indented JSON, for `jq`."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def plain_table(headings: Row, rows: Sequence[Row]) -> str:
    """Columns padded with spaces, two between them, no trailing blanks."""
    cells = [list(headings), *([clean(c) or "-" for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


_STATES = {
    "ready": "green",
    "up": "green",
    "yes": "green",
    "pending": "yellow",
    "not ready": "yellow",
    "degraded": "yellow",
    "unreachable": "red",
    "down": "red",
    "no": "red",
}
"""Colour of a cell by its whole text."""


def table(headings: Row, rows: Sequence[Row], *, empty: str = "nothing there") -> None:
    """A table; `empty` is said on standard error when there is no row."""
    if not rows:
        say(empty, err=True)
        return
    headings = [h.upper() for h in headings]
    if not sys.stdout.isatty():
        say(plain_table(headings, rows))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        drawn.add_column(heading, overflow="fold")
    for row in rows:
        cells = [clean(c) or "-" for c in row]
        drawn.add_row(*(Text(c, style=_STATES.get(c, "")) for c in cells))
    Console(no_color=not colour_wanted(), highlight=False).print(drawn)


def facts(pairs: Sequence[tuple[str, str]]) -> None:
    """Labelled values, one a line."""
    width = max((len(label) for label, _ in pairs), default=0)
    for label, value in pairs:
        say(f"{label.ljust(width)}  {clean(value) or '-'}")
