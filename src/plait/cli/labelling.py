"""Labels of hosts and namespaces: `plait node label NAME KEY=VALUE KEY-`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from plait.cli import complete
from plait.cli.frame import Group
from plait.cli.options import dry_run_option, json_option

if TYPE_CHECKING:
    from plait.model.objects import Namespace, Node


def changed(labels: Mapping[str, str], words: Iterable[str]) -> dict[str, str]:
    """Labels after words are done: `key=value` sets one, `key-` takes it away.

    A key that stands twice, or a word of another form, is a mistake in the command line.
    """
    result = dict(labels)
    seen = set()
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            if not word.endswith("-") or word == "-":
                raise click.BadParameter(f"`{word}` is neither KEY=VALUE nor KEY-")
            key = word[:-1]
            result.pop(key, None)
        else:
            result[key] = value
        if not key or key in seen:
            raise click.BadParameter(f"`{word}` has no key" if not key else f"`{key}` stands twice")
        seen.add(key)
    return result


async def relabel(
    kind: type[Node] | type[Namespace], name: str, words: tuple[str, ...], *, dry_run: bool
) -> tuple[Any, bool]:
    """The object with changed labels, and whether they were others before.

    A namespace that has no object yet gets one: it exists as soon as somebody names it.
    """
    import msgspec

    from plait.cli import connect
    from plait.cli.resources import find
    from plait.model.errors import PlaitError
    from plait.model.objects import Metadata, Namespace

    async with connect.api() as client:
        while True:
            try:
                stored: Any = await client.get(kind, name)
            except PlaitError as error:
                if error.code != "PLAIT-API-004" or kind is not Namespace:
                    stored = await find(client, kind, name, "")
                else:
                    stored = Namespace(metadata=Metadata(name=name))
            labels = changed(stored.metadata.labels, words)
            if labels == stored.metadata.labels and stored.metadata.revision:
                return stored, False
            metadata = msgspec.structs.replace(stored.metadata, labels=labels)
            wanted = msgspec.structs.replace(stored, metadata=metadata)
            try:
                return await client.update(wanted, dry_run=dry_run), True
            except PlaitError as error:
                if error.code != "PLAIT-API-006":
                    raise  # else an agent wrote its status meanwhile: begin with what is there now


def run(
    kind: type[Node] | type[Namespace],
    name: str,
    words: tuple[str, ...],
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Do it, and say what came of it."""
    from plait.cli import connect, output
    from plait.cli.columns import labels_text

    changed({}, words)  # Mistakes in the words, before anybody is asked.
    obj, written = connect.wait_for(relabel(kind, name, words, dry_run=dry_run))
    if as_json:
        output.json_out(obj)
        return
    done = ("would be labelled" if dry_run else "labelled") if written else "unchanged"
    output.good(f"{kind.__name__.lower()} {name} {done}: {labels_text(obj.metadata.labels) or '-'}")


@click.group(
    cls=Group,
    examples=["plait namespace ls", "plait namespace label shop team=red"],
)
def namespace() -> None:
    """Namespaces: scopes of names, with labels that policies select by."""


@namespace.command("ls", examples=["plait namespace ls", "plait namespace ls --json"])
@json_option
def list_(as_json: bool) -> None:
    """List the namespaces and their labels."""
    from plait.cli import connect, output
    from plait.cli.resources import table_of
    from plait.model.objects import Namespace

    async def ask() -> Any:
        async with connect.api() as client:
            return await client.list(Namespace)

    found = connect.wait_for(ask())
    if as_json:
        output.json_out({"kind": "List", "items": found})
        return
    table_of(found, empty="no namespace")


@namespace.command(
    examples=["plait namespace label shop team=red", "plait namespace label shop team- env=prod"]
)
@click.argument("name", shell_complete=complete.namespaces)
@click.argument("words", nargs=-1, required=True, metavar="KEY=VALUE|KEY-…")
@dry_run_option
@json_option
def label(name: str, words: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Set labels of a namespace, or take them away (KEY-)."""
    from plait.model.objects import Namespace

    run(Namespace, name, words, dry_run=dry_run, as_json=as_json)
