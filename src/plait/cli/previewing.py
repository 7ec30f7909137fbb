"""`plait policy preview`: what would change, before anything does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from plait.cli import complete
from plait.cli.frame import Command
from plait.cli.options import json_option

if TYPE_CHECKING:
    from plait.model.flows import FlowRecord
    from plait.model.objects import AnyObject
    from plait.policy.preview import Change

SHOWN = 40
"""Lines of changes that are printed; `--json` has all."""
NAMED = 8
"""Names that one line says."""
HOUR = 3600.0


@click.command(
    cls=Command,
    short_help="Say what a change would open and close.",
    examples=[
        "plait policy preview -f new.yaml",
        "plait policy preview --delete isolate.shop",
        "plait policy preview -f new.yaml --base manifests/ --json",
    ],
)
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    metavar="FILE",
    type=click.Path(allow_dash=True),
    help="What would be applied: file, directory, or - for standard input.",
)
@click.option(
    "--delete",
    "deleted",
    multiple=True,
    metavar="NAME",
    shell_complete=complete.policies,
    help="A policy that would be deleted.",
)
@click.option(
    "--base",
    "bases",
    multiple=True,
    metavar="FILE",
    type=click.Path(),
    help="Compare with these manifests, with no server, instead of with what there is.",
)
@click.option("--enforced", is_flag=True, help="As if the staged policies of -f were enforced.")
@json_option
def preview(
    files: tuple[str, ...],
    deleted: tuple[str, ...],
    bases: tuple[str, ...],
    enforced: bool,
    as_json: bool,
) -> None:
    """Say which endpoints would come to reach each other, and which would not any more.

    By the ports that policies name and those of flows that were seen; and which flows of the
    last hour would have been decided otherwise. Nothing is changed.
    """
    from plait.cli import output
    from plait.cli.offline import read
    from plait.cli.reading import read_manifests
    from plait.policy.flow_records import flow_of, once, ports_of
    from plait.policy.preview import flow_changes
    from plait.policy.preview import preview as ask
    from plait.policy.world import World

    if not files and not deleted:
        raise click.UsageError("give what would be applied (-f FILE) or deleted (--delete NAME)")
    if bases:
        base: list[AnyObject] = read(bases)
        records: tuple[FlowRecord, ...] = ()
    else:
        base, (records, _) = _stored()
    applied = read_manifests(files) if files else []
    changed = after(base, applied, deleted, enforced=enforced)
    before, then = World.of(base), World.of(changed)
    changes = ask(before, then, ports_of(records))
    records = tuple(once(records))
    flows = flow_changes(before, then, (flow_of(before, record) for record in records))
    if as_json:
        output.json_out({"pairs": _wire(changes), "flows": _wire(flows)})
        return
    say_changes(changes)
    if not bases:
        say_flows(flows, len(records))
    for name in [] if enforced else staged(applied):
        output.say(
            f"policy {name} is staged and would decide nothing; --enforced shows what it says",
            err=True,
        )


def _stored() -> tuple[list[AnyObject], tuple[tuple[FlowRecord, ...], int]]:
    from plait.cli import connect
    from plait.cli.offline import deciding
    from plait.cli.recent import recent_flows

    async def ask() -> tuple[list[AnyObject], tuple[tuple[FlowRecord, ...], int]]:
        async with connect.api() as client:
            return await deciding(client), await recent_flows(client, HOUR)

    return connect.wait_for(ask())


def after(
    base: Sequence[AnyObject],
    applied: Sequence[AnyObject],
    deleted: Sequence[str],
    *,
    enforced: bool = False,
) -> list[AnyObject]:
    """The objects as they would be. PLAIT-API-004 when a deleted policy is not there."""
    import msgspec

    from plait.cli.applying import merged
    from plait.model.policies import Policy
    from plait.policy.find_policy import find_policy

    found = {obj.key: obj for obj in base}
    policies = [obj for obj in base if isinstance(obj, Policy)]
    for name in deleted:
        found.pop(find_policy(policies, name).key, None)
    for obj in applied:
        if enforced and isinstance(obj, Policy):
            obj = msgspec.structs.replace(obj, spec=msgspec.structs.replace(obj.spec, staged=False))
        found[obj.key] = merged(obj, found[obj.key]) if obj.key in found else obj
    return list(found.values())


def staged(objects: Sequence[AnyObject]) -> list[str]:
    """Names of the policies that would decide nothing."""
    from plait.model.policies import Policy

    return [o.metadata.name for o in objects if isinstance(o, Policy) and o.spec.staged]


def _wire(changes: Sequence[Change]) -> list[dict[str, Any]]:
    return [
        {
            "src": src,
            "dst": dst,
            "port": port,
            "allowed": change.allowed,
            "by": change.by,
            "times": change.times,
        }
        for change in changes
        for src, dst, port in change.pairs()
    ]


def say_changes(changes: Sequence[Change]) -> None:
    """Changes for people: what closes, then what opens."""
    from plait.cli import output

    if not changes:
        output.say("no pair of endpoints changes")
        return
    for allowed, title in ((False, "would be denied"), (True, "would be allowed")):
        rows = [change for change in changes if change.allowed == allowed]
        if rows:
            output.say(f"{title}:")
        for change in rows[:SHOWN]:
            ports = "every port" if change.every else _some(change.ports)
            line = f"{_some(change.srcs)} -> {_some(change.dsts)}  {ports}"
            output.say(f"  {line}  ({output.clean(change.by)})")
        if len(rows) > SHOWN:
            output.say(f"  and {len(rows) - SHOWN} more; --json shows all")


def _some(names: Sequence[str]) -> str:
    """The first names, and how many others."""
    from plait.cli import output

    more = len(names) - NAMED
    text = ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
    return output.clean(text)


def say_flows(changes: Sequence[Change], seen: int) -> None:
    """Flows that were seen and would be decided otherwise, the most frequent first."""
    from plait.cli import output

    if not changes:
        output.say(f"of {seen} flows of the last hour none changes")
        return
    output.say(f"of {seen} flows of the last hour:")
    for change in sorted(changes, key=lambda c: -c.times)[:SHOWN]:
        now = "allowed" if change.allowed else "denied"
        output.say(
            f"  {change.times} × {_some(change.srcs)} -> {_some(change.dsts)} "
            f"{_some(change.ports)} would be {now} ({output.clean(change.by)})"
        )
    if len(changes) > SHOWN:
        output.say(f"  and {len(changes) - SHOWN} more; --json shows all")
