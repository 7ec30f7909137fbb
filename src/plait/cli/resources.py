"""`plait get`, `describe`, `apply`, `delete`: objects of any kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from plait.cli import complete
from plait.cli.frame import Command, nearest
from plait.cli.options import dry_run_option, json_option, namespace_option

if TYPE_CHECKING:
    from plait.client.base import Api
    from plait.model.objects import AnyObject, Object


def table_of(objects: tuple[Any, ...], *, empty: str) -> None:
    """A table of objects of one kind."""
    from plait.cli import columns, output

    headings, rows = columns.rows(objects)
    output.table(headings, rows, empty=empty)


async def find(client: Api, kind: type[Object], name: str, namespace: str) -> Any:
    """An object by its name; an endpoint also by the name that people use.

    PLAIT-API-004 names the nearest one when there is none.
    """
    from plait.model.errors import PlaitError
    from plait.model.objects import Endpoint

    try:
        return await client.get(kind, name, namespace if kind.namespaced else "")
    except PlaitError as error:
        if error.code not in {"PLAIT-API-004", "PLAIT-NAME-001"}:
            raise
    everything = await client.list(kind, namespace if kind.namespaced else "")
    names = {o.metadata.name: o for o in everything}
    if kind is Endpoint:
        by_spec: dict[str, list[Any]] = {}
        for endpoint in everything:
            assert isinstance(endpoint, Endpoint)
            by_spec.setdefault(endpoint.spec.name, []).append(endpoint)
        same = by_spec.get(name, [])
        if len(same) == 1:
            return same[0]
        if same:
            raise PlaitError(
                "PLAIT-API-004",
                f"{len(same)} endpoints are called `{name}`",
                why="their ids are " + ", ".join(e.metadata.name for e in same),
                fix=tuple(f"plait get endpoints {e.metadata.name}" for e in same[:3]),
            )
        names |= {k: v[0] for k, v in by_spec.items()}
    hints = nearest(name, [n for n in names if n])
    where = f" in namespace `{namespace}`" if kind.namespaced else ""
    raise PlaitError(
        "PLAIT-API-004",
        f"no {kind.__name__.lower()} `{name}`{where}",
        fix=tuple(f"plait get {kind.plural} {hint}" for hint in hints)
        or (f"plait get {kind.plural}",),
    )


@click.command(
    cls=Command,
    examples=[
        "plait get networks",
        "plait get endpoints -A --json",
        "plait get networkpolicies --namespace shop",
        "plait get node host2",
    ],
)
@click.argument("kind", shell_complete=complete.kinds)
@click.argument("name", required=False, shell_complete=complete.names_of_kind)
@namespace_option
@click.option("-A", "--all-namespaces", is_flag=True, help="Of every namespace.")
@json_option
def get(kind: str, name: str | None, namespace: str, all_namespaces: bool, as_json: bool) -> None:
    """List the objects of KIND, or show the one called NAME."""
    from plait.cli import connect, output
    from plait.cli.kinds import find_wanted

    wanted = find_wanted(kind)

    async def ask() -> tuple[Any, ...]:
        async with connect.api() as client:
            if name:
                stored = wanted.stored_name(name, namespace)
                return (await find(client, wanted.kind, stored, namespace),)
            scope = namespace if wanted.namespaced and not all_namespaces else ""
            stored_in = scope if wanted.kind.namespaced else ""
            listed = await client.list(wanted.kind, stored_in)
            return tuple(obj for obj in listed if wanted.covers(obj, scope))

    found = connect.wait_for(ask())
    if as_json:
        output.json_out(found[0] if name else {"kind": "List", "items": found})
        return
    scoped = wanted.namespaced and not all_namespaces
    where = f" in namespace {namespace}; -A lists those of all" if scoped else ""
    table_of(found, empty=f"no {wanted.plural}{where}")


@click.command(
    cls=Command, examples=["plait describe network web", "plait describe endpoint web -n shop"]
)
@click.argument("kind", shell_complete=complete.kinds)
@click.argument("name", shell_complete=complete.names_of_kind)
@namespace_option
@json_option
def describe(kind: str, name: str, namespace: str, as_json: bool) -> None:
    """Show the object NAME of KIND and what belongs to it."""
    from plait.cli import connect, output
    from plait.cli.describe import related, sheet
    from plait.cli.kinds import find_wanted

    wanted = find_wanted(kind)

    async def ask() -> tuple[Any, tuple[tuple[str, tuple[Any, ...]], ...]]:
        async with connect.api() as client:
            stored = wanted.stored_name(name, namespace)
            obj = await find(client, wanted.kind, stored, namespace)
            return obj, await related(client, obj)

    obj, groups = connect.wait_for(ask())
    if as_json:
        output.json_out({"object": obj, "related": dict(groups)})
        return
    output.facts(sheet(obj))
    for title, items in groups:
        if items:
            output.say(f"\n{title} ({len(items)})")
            table_of(items, empty="")


@click.command(
    cls=Command,
    examples=[
        "plait apply -f network.yaml",
        "plait apply -f manifests/ --dry-run",
        "kubectl get networkpolicies -A -o yaml | plait apply -f -",
        "plait get network web --json | plait apply -f -",
    ],
)
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    required=True,
    type=click.Path(allow_dash=True),
    help="File, directory of files (.yaml .yml .json), or - for standard input.",
)
@dry_run_option
@json_option
def apply(files: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Create or change the objects of manifests, all of them or none.

    A manifest holds one or more documents in YAML or JSON, each with `apiVersion: plait/v1`,
    `kind`, `metadata` and `spec`, or as Kubernetes has them: NetworkPolicy,
    ClusterNetworkPolicy, Namespace, Service and EndpointSlice.
    """
    from plait.cli import connect, output
    from plait.cli.applying import apply_all
    from plait.cli.reading import read_manifests

    objects = read_manifests(files)

    async def work() -> list[tuple[AnyObject, str]]:
        async with connect.api() as client:
            return await apply_all(client, objects, dry_run=dry_run)

    outcome = connect.wait_for(work())
    if as_json:
        output.json_out([{"object": obj, "result": result} for obj, result in outcome])
        return
    suffix = " (dry run)" if dry_run else ""
    for obj, result in outcome:
        output.good(f"{obj.kind.lower()} {obj.metadata.name} {result}{suffix}")
    made = [obj for obj, result in outcome if _translated(obj) and result != "unchanged"]
    if dry_run and made:
        from plait.cli.printing import yaml_text

        output.say("\n" + yaml_text(made))


def _translated(obj: AnyObject) -> bool:
    """Whether it was made of an object of another kind, so that people have not seen it yet."""
    from plait.model.objects import Policy

    return isinstance(obj, Policy) and obj.spec.origin is not None


@click.command(
    cls=Command,
    examples=["plait delete network web", "plait delete -f network.yaml --dry-run"],
)
@click.argument("kind", required=False, shell_complete=complete.kinds)
@click.argument("names", nargs=-1, shell_complete=complete.names_of_kind)
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    type=click.Path(allow_dash=True),
    help="Delete the objects that these manifests name.",
)
@click.option("--ignore-not-found", is_flag=True, help="An object that is not there is no error.")
@namespace_option
@dry_run_option
def delete(
    kind: str | None,
    names: tuple[str, ...],
    files: tuple[str, ...],
    ignore_not_found: bool,
    namespace: str,
    dry_run: bool,
) -> None:
    """Delete objects: KIND NAME…, or those of manifests."""
    from plait.cli import connect, output
    from plait.cli.kinds import Wanted, find_wanted
    from plait.cli.reading import read_manifests
    from plait.model.errors import PlaitError
    from plait.model.objects import Endpoint

    if bool(files) == bool(kind) or (kind and not names):
        raise click.UsageError("give KIND NAME… or --file, not both")
    wanted = find_wanted(kind) if kind else Wanted(Endpoint)
    scope_of = namespace if wanted.kind.namespaced else ""
    targets = [(wanted.kind, wanted.stored_name(name, namespace), scope_of) for name in names]
    if files:
        # What was created last depends on what was created first.
        targets = [
            (type(o), o.metadata.name, o.metadata.namespace)
            for o in reversed(read_manifests(files))
        ]

    async def work() -> None:
        async with connect.api() as client:
            for target, name, scope in targets:
                try:
                    await client.delete(target, name, scope, dry_run=dry_run)
                except PlaitError as error:
                    if error.code != "PLAIT-API-004" or not ignore_not_found:
                        raise
                    continue
                done = "would be deleted" if dry_run else "deleted"
                output.good(f"{target.__name__.lower()} {name} {done}")

    connect.wait_for(work())
