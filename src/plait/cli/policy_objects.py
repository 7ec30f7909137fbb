"""`plait policy ls`, `show` and `rm`: the policies themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from plait.cli import complete
from plait.cli.frame import Command
from plait.cli.options import dry_run_option, json_option

if TYPE_CHECKING:
    from plait.client.base import Api
    from plait.model.flows import RuleCount
    from plait.model.policies import Policy
    from plait.policy.world import World

SHOWN_ENDPOINTS = 8
"""Names of endpoints that `show` writes out."""


@click.command(
    "ls",
    cls=Command,
    short_help="List policies in the order in which they decide.",
    examples=["plait policy ls", "plait policy ls -n shop", "plait policy ls --json"],
)
@click.option(
    "-n",
    "--namespace",
    default="",
    shell_complete=complete.namespaces,
    help="Those that rule endpoints of it.",
)
@json_option
def list_(namespace: str, as_json: bool) -> None:
    """List the policies in the order in which they decide."""
    from plait.cli import output
    from plait.cli.offline import world_of

    world = world_of(())
    found = [p for p in world.policies if not namespace or _rules_in(world, p, namespace)]
    if as_json:
        output.json_out({"kind": "List", "items": found})
        return
    output.table(
        ["tier", "prio", "name", "state", "rules", "closes", "endpoints", "subject", "made of"],
        [_row(world, policy) for policy in found],
        empty="there is no policy" + (f" for namespace {namespace}" if namespace else ""),
    )
    for policy in found:
        for problem in problems(world, policy):
            output.warn(f"policy {policy.metadata.name}: {output.clean(problem)}")


def _rules_in(world: World, policy: Policy, namespace: str) -> bool:
    selector = policy.spec.subject.namespaces
    return selector is None or selector.matches(world.namespace_labels(namespace))


def _row(world: World, policy: Policy) -> list[str]:
    from plait.policy.verb_effects import selected
    from plait.policy.words import isolation_words, origin_words, subject_words

    spec = policy.spec
    return [
        spec.tier,
        str(spec.priority),
        policy.metadata.name,
        "staged" if spec.staged else "enforced",
        f"{len(spec.ingress)} in, {len(spec.egress)} out",
        isolation_words(policy),
        str(len(selected(world, policy))),
        subject_words(spec.subject),
        origin_words(spec.origin) if spec.origin else "",
    ]


def problems(world: World, policy: Policy) -> list[str]:
    """What is wrong with a policy: as the server says, and rules that cannot be understood."""
    from plait.model.policies import DIRECTIONS
    from plait.policy.evaluate_rule import broken

    found = [policy.status.message] if policy.status.message else []
    for direction in DIRECTIONS:
        for index, rule in enumerate(policy.spec.rules(direction)):
            why = broken(world, rule, direction)
            if why and why.replace("`", "") not in policy.status.message:
                found.append(f"{direction} rule {index + 1}: {why}")
    return found


@click.command(
    cls=Command,
    examples=[
        "plait policy show isolate.shop",
        "plait policy show networkpolicy/shop/web -o yaml",
        "plait policy show shop/web --json",
    ],
)
@click.argument("name", shell_complete=complete.policies)
@click.option(
    "-o", "--output", "form", type=click.Choice(["text", "yaml"]), default="text", help="Form."
)
@json_option
def show(name: str, form: str, as_json: bool) -> None:
    """Show the policy NAME in words, and how often each of its rules decided.

    NAME may also be the object that it was made of: networkpolicy/NAMESPACE/NAME. For a staged
    policy the numbers are what it would have decided.
    """
    from plait.cli import connect, output
    from plait.cli.offline import world_of
    from plait.cli.printing import yaml_text
    from plait.policy.find_policy import find_policy

    async def ask() -> Any:
        async with connect.api() as client:
            return await connect.attempt(client.counters())

    world = world_of(())
    policy = find_policy(world.policies, name)
    if form == "yaml":
        output.say(yaml_text([policy]))
        return
    counted = connect.wait_for(ask())
    known = isinstance(counted, tuple)
    counts = counts_of(policy, counted) if known else {}
    if as_json:
        output.json_out(
            {
                "object": policy,
                "endpoints": [_named(e) for e in _selected(world, policy)],
                "problems": problems(world, policy),
                "counts": list(counts.values()) if known else None,
            }
        )
        return
    _show(world, policy, counts)
    if not known:
        output.warn(f"the counts cannot be had: {counted.detail}")


def _selected(world: World, policy: Policy) -> Sequence[Any]:
    from plait.policy.verb_effects import selected

    return selected(world, policy)


def _named(endpoint: Any) -> str:
    from plait.policy.world import endpoint_text

    return endpoint_text(endpoint)


def _show(world: World, policy: Policy, counts: dict[tuple[str, int], RuleCount]) -> None:
    from plait.cli import output
    from plait.policy.words import origin_words, subject_words

    spec = policy.spec
    names = [_named(endpoint) for endpoint in _selected(world, policy)]
    more = f" and {len(names) - SHOWN_ENDPOINTS} more" if len(names) > SHOWN_ENDPOINTS else ""
    pairs = [
        ("name", policy.metadata.name),
        ("tier", f"{spec.tier}, priority {spec.priority}"),
        ("state", "staged: it counts and decides nothing" if spec.staged else "enforced"),
        ("subject", subject_words(spec.subject)),
        (
            "endpoints",
            f"{len(names)}" + (f": {', '.join(names[:SHOWN_ENDPOINTS])}{more}" if names else ""),
        ),
    ]
    if spec.origin:
        pairs.append(("made of", origin_words(spec.origin)))
    if spec.description:
        pairs.append(("description", spec.description))
    output.facts(pairs)
    output.say()
    headings = ["direction", "rule", "action", "peers", "ports", "packets", "bytes"]
    output.table(headings, list(_rules(policy, counts)), empty="it has no rule")
    for problem in problems(world, policy):
        output.warn(output.clean(problem))
    if spec.staged:
        output.say(f"\n  enforce it: plait policy enforce {policy.metadata.name}")


def _rules(policy: Policy, counts: dict[tuple[str, int], RuleCount]) -> Iterable[list[str]]:
    from plait.model.policies import DIRECTIONS
    from plait.policy.words import peers_words, ports_words

    def numbers(direction: str, index: int) -> list[str]:
        found = counts.get((direction, index))
        return [str(found.packets), str(found.bytes)] if found else ["", ""]

    would = "would be " if policy.spec.staged else ""
    for direction in DIRECTIONS:
        for index, rule in enumerate(policy.spec.rules(direction)):
            yield [
                direction,
                rule.name or str(index + 1),
                rule.action + (", answered" if rule.reject else ""),
                peers_words(rule.peers),
                ports_words(rule.ports),
                *numbers(direction, index),
            ]
        if policy.spec.isolates(direction):
            end = f"{would}denied, unless another policy accepts"
            yield [direction, "rest", end, "anyone", "any port", *numbers(direction, -1)]


def counts_of(policy: Policy, counted: Iterable[RuleCount]) -> dict[tuple[str, int], RuleCount]:
    """The counts of a policy by direction and place of the rule (-1: isolation), all hosts'."""
    import msgspec

    found: dict[tuple[str, int], RuleCount] = {}
    name = policy.metadata.name
    for count in counted:
        if name != count.policy and name not in count.isolating:
            continue
        key = (count.direction, count.index)
        old = found.get(key)
        found[key] = (
            count
            if old is None
            else msgspec.structs.replace(
                old, packets=old.packets + count.packets, bytes=old.bytes + count.bytes
            )
        )
    return found


@click.command(
    cls=Command,
    short_help="Delete policies.",
    examples=[
        "plait policy rm isolate.shop",
        "plait policy rm networkpolicy/shop/web --dry-run",
    ],
)
@click.argument("names", nargs=-1, required=True, metavar="NAME…", shell_complete=complete.policies)
@dry_run_option
def rm(names: tuple[str, ...], dry_run: bool) -> None:
    """Delete policies, by name or by the object that each was made of.

    NAME may be a pattern ('learned.shop*'). All of them or none. `plait policy preview --delete
    NAME` says before what opens.
    """
    from plait.cli import connect, output
    from plait.client.base import BatchOp

    async def work() -> list[Policy]:
        async with connect.api() as client:
            found = await _found(client, names)
            if dry_run:
                for policy in found:
                    await client.delete(type(policy), policy.metadata.name, dry_run=True)
            else:
                await client.batch([BatchOp(verb="delete", object=policy) for policy in found])
            return found

    for policy in connect.wait_for(work()):
        done = "would be deleted" if dry_run else "deleted"
        output.good(f"policy {policy.metadata.name} {done}")


async def _found(client: Api, names: Iterable[str]) -> list[Policy]:
    from plait.model.policies import Policy
    from plait.policy.find_policy import find_policies

    return find_policies(await client.list(Policy), names)
