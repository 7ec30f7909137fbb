"""`plait policy learn`: policies for the flows that were seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from plait.cli import complete
from plait.cli.frame import Command
from plait.cli.options import Duration, json_option

if TYPE_CHECKING:
    from plait.policy.learn import Learnt

SHOWN = 10
"""Names of workloads that are written out."""


@click.command(
    cls=Command,
    short_help="Propose policies for the flows that were seen.",
    examples=[
        "plait policy learn --from 1h -n shop > shop.yaml",
        "plait policy learn --from 1h --staged | plait apply -f -",
    ],
)
@click.option(
    "--from",
    "seconds",
    type=Duration(),
    default=3600.0,
    show_default="1h",
    help="Flows since so long ago; the server keeps the last hour.",
)
@click.option(
    "-n",
    "--namespace",
    "namespaces",
    multiple=True,
    shell_complete=complete.namespaces,
    help="Rule the endpoints of this namespace. Default: of all that were seen.",
)
@click.option("--staged", is_flag=True, help="Propose policies that count and do not decide.")
@json_option
def learn(seconds: float, namespaces: tuple[str, ...], staged: bool, as_json: bool) -> None:
    """Propose the narrowest policies for the accepted flows that were seen, as YAML.

    Nothing is changed. Endpoints are meant by the labels or the name that their replicas share,
    the outside by address. What was not seen would be closed.
    """
    from plait.cli import connect, output
    from plait.cli.offline import deciding
    from plait.cli.printing import yaml_text
    from plait.cli.recent import recent_flows
    from plait.policy.learn import learn as propose
    from plait.policy.world import World

    only = namespaces[0] if len(namespaces) == 1 else ""

    async def ask() -> Any:
        async with connect.api() as client:
            return await deciding(client), await recent_flows(client, seconds, only)

    objects, (records, lost) = connect.wait_for(ask())
    world = World.of(objects)
    learnt = propose(world, records, namespaces, staged=staged)
    for namespace in namespaces:
        if not any(e.metadata.namespace == namespace for e in world.endpoints):
            output.warn(f"there is no endpoint in namespace {namespace}")
    if as_json:
        output.json_out(
            {
                "kind": "List",
                "items": learnt.policies,
                "flows": learnt.flows,
                "silent": learnt.silent,
                "passedOver": learnt.passed_over,
                "lost": lost,
            }
        )
        return
    if learnt.policies:
        output.say(yaml_text(learnt.policies))
    _notes(learnt, lost)


def _notes(learnt: Learnt, lost: int) -> None:
    """What to know before applying them; on standard error, for the rest goes into a file."""
    from plait.cli import output

    output.say(
        f"{_count(len(learnt.policies), 'policy', 'policies')} out of "
        f"{_count(learnt.flows, 'flow', 'flows')}",
        err=True,
    )
    if learnt.silent:
        names = ", ".join(learnt.silent[:SHOWN])
        more = f" and {len(learnt.silent) - SHOWN} more" if len(learnt.silent) > SHOWN else ""
        output.warn(f"no flow was seen of {output.clean(names)}{more}: they would be closed")
    if learnt.passed_over:
        output.warn(f"{learnt.passed_over} records of endpoints that are gone were passed over")
    if lost:
        output.warn(f"{lost} records were lost; what they told is not in it")
    if learnt.policies:
        output.say("  see what they change: plait policy preview -f FILE", err=True)


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
