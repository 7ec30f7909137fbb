"""Say what a long command is doing: one line a step, a spinner's place on a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import click

from plait.cli import output

SLOW = 0.5
"""Seconds from which a step's time is worth showing."""


@contextlib.contextmanager
def step(text: str, *, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """A step: announced on a terminal, then ticked off; left unticked when it fails."""
    terminal = sys.stdout.isatty()
    began = clock()
    if terminal:
        click.echo(f"… {text}\r", nl=False)
    try:
        yield
    except BaseException:
        if terminal:
            click.echo()
        raise
    took = clock() - began
    output.good(text + (f" ({took:.1f} s)" if took >= SLOW else ""))
