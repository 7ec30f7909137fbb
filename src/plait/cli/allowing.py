"""`plait allow`, `deny` and `isolate`: one ordinary policy each, in words of everyday."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from plait.cli import complete
from plait.cli.frame import Command, nearest
from plait.cli.options import dry_run_option, json_option

if TYPE_CHECKING:
    from plait.client.base import Api, BatchOp
    from plait.model.policies import Policy
    from plait.policy.reference import Reference
    from plait.policy.verb_effects import Effect
    from plait.policy.world import World

    Build = Callable[[World, tuple[str, ...]], list[Policy]]

F = TypeVar("F", bound=Callable[..., Any])


def _side_options(function: F) -> F:
    """What `allow` and `deny` have in common."""
    for decorate in (
        json_option,
        dry_run_option,
        click.option("--staged", is_flag=True, help="Count what it would do; do nothing."),
        click.option(
            "-n",
            "--namespace",
            default="default",
            show_default=True,
            shell_complete=complete.namespaces,
            help="Of names and labels that say none.",
        ),
        click.option(
            "--port",
            "ports",
            multiple=True,
            metavar="PORT",
            help="80/tcp, 8000-8080/udp, a port's name, tcp, icmp. Default: all.",
        ),
        click.option(
            "--from", "src", required=True, metavar="SRC", shell_complete=complete.endpoints
        ),
        click.argument("dst", shell_complete=complete.endpoints),
    ):
        function = decorate(function)
    return function


@click.command(
    cls=Command,
    examples=[
        "plait allow web --from front --port 80/tcp",
        "plait allow shop/app=db --from ns:ops --both-sides",
        "plait allow node:h1 --from shop/front --port 22/tcp --egress",
        "plait allow '*.example.com' --from web --port 443 --dry-run",
    ],
)
@_side_options
@click.option("--both-sides", is_flag=True, help="Open the egress of SRC too, where it is closed.")
@click.option("--egress", is_flag=True, help="Open the egress of SRC alone; close nobody.")
def allow(
    dst: str,
    src: str,
    ports: tuple[str, ...],
    namespace: str,
    staged: bool,
    dry_run: bool,
    as_json: bool,
    both_sides: bool,
    egress: bool,
) -> None:
    """Let SRC talk to DST, and close DST for whoever is not allowed.

    DST and SRC are a name (web, shop/web), labels (app=web), a namespace (ns:shop), a CIDR, a
    group (group:office), a name outside (domain:example.com), world or anyone.
    """
    from plait.policy.portspec import parse_ports
    from plait.policy.reference import parse
    from plait.policy.verb_effects import isolated, selected
    from plait.policy.verbs import rule_policy, side

    to, by = parse(dst, namespace), parse(src, namespace)
    asked = parse_ports(ports)
    way = side(to, by)

    if egress and both_sides:
        raise click.UsageError("give --both-sides or --egress, not both")

    def build(world: World, pools: tuple[str, ...]) -> list[Policy]:
        if egress:
            opened = rule_policy(
                "allow",
                to,
                by,
                asked,
                direction="egress",
                isolate=False,
                pools=pools,
                staged=staged,
            )
            return [opened]
        made = [rule_policy("allow", to, by, asked, pools=pools, staged=staged)]
        # The sender is the other side: a receiver that is endpoints is always ruled itself.
        if both_sides and way == "ingress" and by.is_subject:
            opening = rule_policy(
                "allow", to, by, asked, direction="egress", isolate=False, staged=staged
            )
            if any(isolated(world, e, "egress") for e in selected(world, opening)):
                made.append(opening)
        return made

    words = ["plait", "allow", str(to), "--from", str(by)]
    words += [word for port in ports for word in ("--port", port)]
    both = shlex.join([*words, "--both-sides"])
    _write(build, dry_run=dry_run, as_json=as_json, both=both)


@click.command(
    cls=Command,
    examples=[
        "plait deny web --from ns:guests",
        "plait deny db --from world --dry-run",
        "plait deny 10.9.0.0/16 --from app=front --port 22/tcp --reject",
    ],
)
@_side_options
@click.option("--reject", is_flag=True, help="Answer with a refusal instead of silence.")
def deny(
    dst: str,
    src: str,
    ports: tuple[str, ...],
    namespace: str,
    staged: bool,
    dry_run: bool,
    as_json: bool,
    reject: bool,
) -> None:
    """Keep SRC from talking to DST, whatever is allowed elsewhere.

    DST and SRC as for `plait allow`.
    """
    from plait.policy.portspec import parse_ports
    from plait.policy.reference import parse
    from plait.policy.verbs import rule_policy

    to, by = parse(dst, namespace), parse(src, namespace)
    asked = parse_ports(ports)

    def build(world: World, pools: tuple[str, ...]) -> list[Policy]:
        _check_groups(world, (to, by))
        return [rule_policy("deny", to, by, asked, pools=pools, reject=reject, staged=staged)]

    _write(build, dry_run=dry_run, as_json=as_json)


@click.command(
    cls=Command,
    examples=["plait isolate shop", "plait isolate shop --egress", "plait isolate shop --dry-run"],
)
@click.argument("namespace", shell_complete=complete.namespaces)
@click.option("--egress", is_flag=True, help="Its endpoints also send to it only.")
@click.option("--staged", is_flag=True, help="Count what it would do; do nothing.")
@dry_run_option
@json_option
def isolate(namespace: str, egress: bool, staged: bool, dry_run: bool, as_json: bool) -> None:
    """Make the endpoints of NAMESPACE accept from that namespace only.

    `plait allow` opens what others need. Names are found and hosts check their own endpoints
    in any case.
    """
    from plait.policy.reference import parse
    from plait.policy.verbs import isolate_policy

    name = parse(namespace if namespace.startswith("ns:") else f"ns:{namespace}", "").name

    def build(_world: World, _pools: tuple[str, ...]) -> list[Policy]:
        return [isolate_policy(name, egress=egress, staged=staged)]

    _write(build, dry_run=dry_run, as_json=as_json)


def _check_groups(world: World, sides: Iterable[Reference]) -> None:
    """PLAIT-API-004 for a group that is not there: what denies it denies everything."""
    from plait.model.errors import PlaitError

    for side in sides:
        if side.kind == "group" and side.name not in world.groups:
            near = nearest(side.name, list(world.groups))
            raise PlaitError(
                "PLAIT-API-004",
                f"there is no group `{side.name}`",
                why="a rule that denies a group which is not there denies everything",
                fix=(*(f"write group:{name}" for name in near), "plait get groups"),
            )


def _write(build: Build, *, dry_run: bool, as_json: bool, both: str = "") -> None:
    """Store what `build` makes of the world as it is, and say what follows.

    `both` is the command that opens the other side as well.
    """
    from plait.cli import connect, output

    outcome, told = connect.wait_for(_work(build, dry_run=dry_run))
    if as_json:
        output.json_out(
            {
                "policies": [{"object": policy, "result": result} for policy, result in outcome],
                "effects": [
                    {"text": effect.text, "warns": effect.warns, "fix": effect.fix}
                    for effect in told
                ],
            }
        )
        return
    if dry_run:
        from plait.cli.printing import yaml_text

        output.say(yaml_text(policy for policy, _ in outcome))
    for policy, result in outcome:
        _say_done(policy, result, dry_run=dry_run)
    for effect in told:
        _say_effect(effect, both)


async def _work(build: Build, *, dry_run: bool) -> tuple[list[tuple[Policy, str]], list[Effect]]:
    from plait.cli import connect
    from plait.cli.offline import deciding
    from plait.client.base import BatchOp
    from plait.model.objects import Policy
    from plait.policy.verb_effects import Effect, effects
    from plait.policy.verbs import combined
    from plait.policy.world import World

    async with connect.api() as client:
        objects = await deciding(client)
        before = World.of(objects)
        wanted = build(before, await _pools(client, objects))
        stored = {o.metadata.name: o for o in objects if isinstance(o, Policy)}
        outcome: list[tuple[Policy, str]] = []
        ops: list[BatchOp] = []
        for policy in wanted:
            old = stored.get(policy.metadata.name)
            new = policy if old is None else combined(old, policy)
            result = "created" if old is None else "unchanged" if new == old else "changed"
            outcome.append((new, result))
            if result != "unchanged":
                ops.append(BatchOp(verb="update" if old else "create", object=new))
        written = await _written(client, ops, dry_run=dry_run)
    outcome = [(written.get(policy.key, policy), result) for policy, result in outcome]
    names = {policy.metadata.name for policy in wanted}
    rest = [o for o in objects if not (isinstance(o, Policy) and o.metadata.name in names)]
    after = World.of([*rest, *(policy for policy, _ in outcome)])
    told = [e for policy, _ in outcome for e in effects(before, after, policy)]
    # What the server says of it: that a group which it names is not there, for example.
    told += [Effect(p.status.message, warns=True) for p, _ in outcome if p.status.message]
    return outcome, list(dict.fromkeys(told))


async def _written(client: Api, ops: Sequence[BatchOp], *, dry_run: bool) -> dict[str, Any]:
    """The objects as the server stores them, or would."""
    if not dry_run:
        return {obj.key: obj for obj in await client.batch(ops)} if ops else {}
    checked = [
        await (client.create if op.verb == "create" else client.update)(op.object, dry_run=True)
        for op in ops
    ]
    return {obj.key: obj for obj in checked}


async def _pools(client: Api, objects: Sequence[Any]) -> tuple[str, ...]:
    """Every CIDR that is ours: what `world` leaves out."""
    from plait.model.objects import Cluster, Network

    clusters = await client.list(Cluster)
    pools = [pool for cluster in clusters for pool in cluster.spec.pools]
    pools += [pool for obj in objects if isinstance(obj, Network) for pool in obj.spec.pools]
    return tuple(pools)


def _say_done(policy: Policy, result: str, *, dry_run: bool) -> None:
    from plait.cli import output
    from plait.policy.words import policy_words

    name = policy.metadata.name
    done = result if not dry_run or result == "unchanged" else f"would be {result}"
    # A dry run prints the policy for a pipe; what it says about it is for people.
    output.say(f"{'' if dry_run else '✓ '}policy {name} {done}", err=dry_run)
    for line in policy_words(policy):
        output.say(f"  {output.clean(line)}", err=dry_run)
    if result != "unchanged" and not dry_run:
        undo = "undo" if result == "created" else "undo all of it"
        output.say(f"  {undo}: plait policy rm {name}")


def _say_effect(effect: Effect, both: str) -> None:
    from plait.cli import output

    if effect.warns:
        output.warn(output.clean(effect.text))
    else:
        output.say(f"  {output.clean(effect.text)}", err=True)
    for fix in (both,) if effect.other_side and both else effect.fix:
        output.say(f"    fix: {fix}", err=True)
