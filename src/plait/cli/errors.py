"""From anything that goes wrong to a sentence with a code and a fix."""

from __future__ import annotations

import errno

import click

from plait.model.errors import PlaitError

ISSUE_HINT = "PLAIT_DEBUG=1 before the same command shows where it happened"


def as_plait_error(error: Exception) -> PlaitError:
    """The error that a user is shown for an exception."""
    if isinstance(error, PlaitError):
        return error
    if isinstance(error, ExceptionGroup) and error.exceptions:
        return as_plait_error(error.exceptions[0])
    if isinstance(error, PermissionError):
        return PlaitError(
            "PLAIT-HOST-002",
            f"you may not use {error.filename or 'that'}",
            why=str(error),
            fix=("run the same command as root (sudo)",),
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return PlaitError(
            "PLAIT-STORE-001",
            f"no space is left for {error.filename or 'a file'}",
            fix=("df -h /var/lib /run /var/log",),
        )
    if isinstance(error, OSError):
        what = error.strerror or type(error).__name__
        where = str(error.filename) if error.filename else ""
        return PlaitError("PLAIT-CLI-002", what.lower(), where=where)
    return PlaitError(
        "PLAIT-CLI-003",
        f"{type(error).__name__}: {error}",
        why="this is a defect of plait",
        fix=(ISSUE_HINT,),
    )


def styled(error: PlaitError) -> str:
    """The error's text with its head in red and its labels in bold.

    click strips the colour when standard error is not a terminal.
    """
    lines = error.render().splitlines()
    head, _, rest = lines[0].partition(": ")
    out = [click.style(head, fg="red", bold=True) + ": " + rest]
    for line in lines[1:]:
        label, colon, text = line.partition(":")
        if colon and label.strip() in {"why", "fix", "or"}:
            line = click.style(label, bold=True) + ":" + text
        out.append(line)
    return "\n".join(out)


def explain(error: Exception) -> int:
    """Print the error to standard error and return the exit code, 1."""
    from plait.cli.output import colour_wanted

    shown = as_plait_error(error)
    click.echo(styled(shown), err=True, color=None if colour_wanted() else False)
    return 1
