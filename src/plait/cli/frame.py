"""The frame of every command: a group that loads its commands when they are asked for.

`plait --help` must answer within 100 ms, so a command is known here by its name, its one-line
help and the place of its code; importing that code waits until it runs. Nothing but click is
imported at the top of this module.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import click

HELP_OPTIONS = {"help_option_names": ["-h", "--help"], "max_content_width": 80}


class Entry(NamedTuple):
    """A command that is not loaded yet."""

    target: str
    """`module:attribute` of a click command."""
    help: str
    """One line for the list of commands."""
    section: str
    """Heading below which the list shows it; empty: not shown."""


def nearest(word: str, choices: Sequence[str]) -> tuple[str, ...]:
    """The choices that look most like a mistyped word, best first; at most three."""
    import difflib

    return tuple(difflib.get_close_matches(word, choices, n=3, cutoff=0.55))


def write_examples(formatter: click.HelpFormatter, examples: Sequence[str]) -> None:
    """Examples as they are typed, one a line; help wraps everything else."""
    if examples:
        formatter.write("\nExamples:\n")
        for example in examples:
            formatter.write(f"  {example}\n")


class Command(click.Command):
    """A command whose help keeps the lines of its examples as they are written."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, one a line."""
        write_examples(formatter, self.examples)
        super().format_epilog(ctx, formatter)


class Group(click.Group):
    """A group that names the nearest command when one does not exist."""

    command_class = Command

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, one a line."""
        write_examples(formatter, self.examples)
        super().format_epilog(ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Refuse an unknown command with a hint."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            hints = nearest(name, self.list_commands(ctx))
            hint = f" Did you mean {' or '.join(f'`{h}`' for h in hints)}?" if hints else ""
            ctx.fail(f"no such command `{name}`.{hint}")
        return super().resolve_command(ctx, args)


class LazyGroup(Group):
    """The top of the command line, made from a table of entries."""

    def __init__(self, *args: Any, entries: Mapping[str, Entry], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table, hidden ones left out."""
        return [name for name, entry in self.entries.items() if entry.section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load the command's module."""
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command), entry.target
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands by section, without loading any of them."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, entry in self.entries.items():
            if entry.section:
                sections.setdefault(entry.section, []).append((name, entry.help))
        width = max((len(name) for name in self.entries), default=0)
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl([(name.ljust(width), text) for name, text in rows])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Complete a command's name from the table alone."""
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=entry.help)
            for name, entry in self.entries.items()
            if entry.section and name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)


def usage_error(problem: click.ClickException) -> None:
    """Print a mistake in the command line in the form of `PlaitError.render`."""
    if isinstance(problem, click.exceptions.NoArgsIsHelpError):
        problem.show()
        return
    ctx = getattr(problem, "ctx", None)
    path = ctx.command_path if ctx else "plait"
    message = problem.format_message()
    click.echo(f"error[PLAIT-CLI-001]: {message[:1].lower()}{message[1:]}", err=True)
    click.echo(f"  fix: {path} --help", err=True)


def run(group: click.Command, args: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0 done, 1 refused or failed, 2 usage.

    A failure is explained, never dumped: `PLAIT_DEBUG=1` shows the traceback.
    """
    debug = bool(os.environ.get("PLAIT_DEBUG"))
    try:
        code = group.main(args=args, prog_name="plait", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as problem:
        usage_error(problem)
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except BrokenPipeError:
        # The reader of our pipe has gone (`plait ps | head`): end without a word, and give the
        # interpreter's own flush at exit somewhere to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        from plait.cli.errors import explain

        return explain(error)
    return code if isinstance(code, int) else 0
