"""`plait policy stage` and `enforce`: policies that only count, and policies that decide."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from plait.cli import complete
from plait.cli.frame import Command
from plait.cli.options import dry_run_option

if TYPE_CHECKING:
    from collections.abc import Iterable

    from plait.model.policies import Policy


@click.command(
    cls=Command,
    short_help="Let policies count what they would do.",
    examples=["plait policy stage isolate.shop", "plait policy stage 'learned.shop*'"],
)
@click.argument("names", nargs=-1, required=True, metavar="NAME…", shell_complete=complete.policies)
@dry_run_option
def stage(names: tuple[str, ...], dry_run: bool) -> None:
    """Let policies count what they would do, and decide nothing.

    NAME may be a pattern. All of them or none.
    """
    _set_staged(names, staged=True, dry_run=dry_run)


@click.command(
    cls=Command,
    short_help="Let staged policies decide.",
    examples=[
        "plait policy enforce isolate.shop --dry-run",
        "plait policy enforce 'learned.shop*'",
    ],
)
@click.argument("names", nargs=-1, required=True, metavar="NAME…", shell_complete=complete.policies)
@dry_run_option
def enforce(names: tuple[str, ...], dry_run: bool) -> None:
    """Let staged policies decide.

    NAME may be a pattern: policies that were learnt together belong together, for one closes what
    the others open. All of them or none. With --dry-run it says which pairs of endpoints change.
    """
    _set_staged(names, staged=False, dry_run=dry_run)


def _set_staged(names: tuple[str, ...], *, staged: bool, dry_run: bool) -> None:
    import msgspec

    from plait.cli import connect, output
    from plait.cli.offline import deciding
    from plait.cli.previewing import say_changes
    from plait.client.base import BatchOp
    from plait.model.policies import Policy
    from plait.policy.find_policy import find_policies
    from plait.policy.preview import preview
    from plait.policy.verb_effects import still_staged
    from plait.policy.world import World

    def as_asked(policy: Policy) -> Policy:
        spec = msgspec.structs.replace(policy.spec, staged=staged)
        return msgspec.structs.replace(policy, spec=spec)

    async def work() -> tuple[list[Any], list[Policy]]:
        async with connect.api() as client:
            objects = await deciding(client)
            found = find_policies([o for o in objects if isinstance(o, Policy)], names)
            changed = [as_asked(policy) for policy in found if policy.spec.staged != staged]
            if dry_run:
                for policy in changed:
                    await client.update(policy, dry_run=True)
            elif changed:
                await client.batch([BatchOp(verb="update", object=policy) for policy in changed])
            return objects, found

    objects, found = connect.wait_for(work())
    state = "staged" if staged else "enforced"
    for policy in found:
        same = policy.spec.staged == staged
        done = f"is {state} already" if same else f"would be {state}" if dry_run else state
        output.good(f"policy {policy.metadata.name} {done}")
    changed = {policy.key: as_asked(policy) for policy in found if policy.spec.staged != staged}
    if not changed:
        return
    after = World.of(changed.get(obj.key, obj) for obj in objects)
    if dry_run:
        say_changes(preview(World.of(objects), after))
    else:
        verb = "enforce" if staged else "stage"
        output.say(f"  undo: plait policy {verb} {_names(changed.values())}")
        if staged and any(policy.spec.origin for policy in changed.values()):
            output.say("  applying its manifest again enforces it", err=True)
    if not staged and (waiting := still_staged(after, tuple(changed.values()))):
        output.warn(
            "staged policies accept nothing of what this closes: "
            + ", ".join(policy.metadata.name for policy in waiting)
        )
        output.say(f"    fix: plait policy enforce {_names(waiting)}", err=True)


def _names(policies: Iterable[Policy]) -> str:
    return shlex.join(policy.metadata.name for policy in policies)
