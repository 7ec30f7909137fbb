"""Completion: of subcommands from the table, of object names from the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from plait.cli.frame import Command

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

TIMEOUT = 1.5
"""Seconds; a shell must not hang on the tab key."""

Completer = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]


def _names(kind_name: str, incomplete: str) -> list[CompletionItem]:
    import asyncio

    from click.shell_completion import CompletionItem

    from plait.cli.connect import api
    from plait.model.objects import KINDS, Endpoint

    async def ask() -> list[CompletionItem]:
        async with asyncio.timeout(TIMEOUT), api() as client:
            found = await client.list(KINDS[kind_name])
        items: dict[str, Any] = {}
        for obj in found:
            name = obj.metadata.name
            text = obj.spec.name if isinstance(obj, Endpoint) else ""
            items[text or name] = name if text else ""
        return [
            CompletionItem(name, help=note or None)
            for name, note in sorted(items.items())
            if name.startswith(incomplete)
        ]

    try:
        return asyncio.run(ask())
    except Exception:  # a shell's completion must stay silent whatever happens
        return []


def completer(kind_name: str) -> Completer:
    """A completer for the names of a kind."""
    return lambda _ctx, _param, incomplete: _names(kind_name, incomplete)


namespaces = completer("Namespace")
networks = completer("Network")
nodes = completer("Node")
endpoints = completer("Endpoint")
policies = completer("Policy")
services = completer("Service")


def kinds(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Plural names of the kinds."""
    from click.shell_completion import CompletionItem

    from plait.model.objects import PLURALS

    return [CompletionItem(plural) for plural in PLURALS if plural.startswith(incomplete)]


def names_of_kind(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of the kind that stands before on the command line."""
    from plait.cli.kinds import find_kind

    try:
        return _names(find_kind(ctx.params.get("kind") or "").__name__, incomplete)
    except Exception:  # an unknown kind completes to nothing
        return []


SETUP = {
    "bash": 'eval "$(plait completion bash)"   in ~/.bashrc',
    "zsh": 'eval "$(plait completion zsh)"   in ~/.zshrc',
    "fish": "plait completion fish > ~/.config/fish/completions/plait.fish",
}


@click.command(
    cls=Command,
    examples=['eval "$(plait completion bash)"', "plait completion zsh > ~/.zfunc/_plait"],
)
@click.argument("shell", type=click.Choice(list(SETUP)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that completes plait's commands and names in SHELL.

    Names of networks, nodes and endpoints come from the server while you type.
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None, shell
    click.echo(found(ctx.find_root().command, {}, "plait", "_PLAIT_COMPLETE").source())
