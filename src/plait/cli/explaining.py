"""`plait why`: what becomes of a flow, what decided, and what would have to change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from plait.cli import complete
from plait.cli.frame import Command
from plait.cli.offline import files_option
from plait.cli.options import json_option

if TYPE_CHECKING:
    from plait.policy.evaluate import Verdict
    from plait.policy.find_services import Call
    from plait.policy.world import Party, World

SHOWN = 40
"""Answers that are listed when names mean many; `--json` has all."""


@click.command(
    cls=Command,
    examples=[
        "plait why front shop/api 80/tcp",
        "plait why shop/web 192.0.2.7 443",
        "plait why front api http -f manifests/ --json",
        "plait why front api 80/tcp --live",
    ],
)
@click.argument("src", shell_complete=complete.endpoints)
@click.argument("dst", shell_complete=complete.endpoints)
@click.argument("port")
@click.option(
    "-n",
    "--namespace",
    default="",
    shell_complete=complete.namespaces,
    help="Of names that say none. Default: whichever has the name.",
)
@click.option("--all", "whole", is_flag=True, help="Every rule that was asked, not only some.")
@click.option(
    "--live", is_flag=True, help="Ask this host's kernel too; exit with 1 where it says otherwise."
)
@files_option
@json_option
def why(
    src: str,
    dst: str,
    port: str,
    namespace: str,
    whole: bool,
    live: bool,
    files: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say whether SRC reaches DST by PORT, and which network, policy and rule decided.

    SRC and DST are a name (web, shop/web, web.shop), an address, a host (node:h1) or, as DST, a
    Service (by name or address: the answer is about its backends) or a name outside. PORT is 80,
    80/tcp, 53/udp, a port's name such as http, icmp or icmp/TYPE.
    The answer comes from the objects alone; with -f from manifests, with no server.
    """
    from plait.cli import output, why_live, why_pods
    from plait.cli.offline import world_of
    from plait.model.errors import PlaitError
    from plait.policy.explain import as_data
    from plait.policy.find_services import find_call, followed
    from plait.policy.questions import parse_asked

    if live and files:
        raise click.UsageError("--live asks the kernel, which knows nothing of -f's manifests")
    world = world_of(files)
    alias, dst = dst, followed(world, dst, namespace)
    call = find_call(world, dst, parse_asked(port), namespace)
    try:
        found = answers(world, src, dst, port, namespace, call)
    except PlaitError as error:
        raise error if files else why_pods.instead(error, (src, dst), namespace) from None
    refused = refusals(world, src, namespace, call)
    kernel = why_live.ask(found) if live else None
    if as_json:
        output.json_out(
            {
                "allowed": bool(found)
                and not refused
                and all(verdict.allowed for verdict in found),
                "answers": [as_data(world, verdict) for verdict in found],
                **({"service": call.name, "backends": len(call.backends)} if call else {}),
                **({"refused": refused} if refused else {}),
                **({"live": why_live.as_data(kernel)} if kernel is not None else {}),
            }
        )
    else:
        if alias != dst:
            output.say(output.clean(f"{alias} stands for {dst}"))
        if call is not None:
            output.say(output.clean(_led(call)))
        for sender, reason in refused.items():
            output.say(output.clean(f"{sender} reaches none of them: {reason}"))
        if found:
            show(world, found, whole=whole)
        if kernel is not None:
            why_live.show(kernel)
    if kernel is not None and not kernel.agrees:
        raise click.exceptions.Exit(1)


def answers(
    world: World,
    src: str,
    dst: str,
    port: str,
    namespace: str = "",
    call: Call | None = None,
) -> list[Verdict]:
    """One for each pair of addresses that the two sides mean; `call` says which Service the
    receiver is, and then it is one for each of its backends, none where it has none.

    PLAIT-API-004 when the receiver has no port of that name.
    """
    from plait.model.errors import PlaitError
    from plait.policy.evaluate import evaluate
    from plait.policy.find_parties import find, meetings
    from plait.policy.questions import parse_asked

    asked = parse_asked(port)
    senders = find(world, src, namespace)
    if call is not None:
        return [evaluate(world, flow) for one in senders for flow in call.flows(world, one)]
    receivers = find(world, dst, namespace)
    many = len(senders) > 1 or len(receivers) > 1
    found = [
        evaluate(world, flow)
        for one in senders
        for other in receivers
        if one != other or not many
        for here, there in meetings(one, other)
        for flow in asked.flows(world, here, there)
    ]
    if found:
        return found
    having = sorted(
        {
            f"{named.name} ({named.port}/{named.protocol})"
            for who in receivers
            for party in who.parties
            for endpoint in world.at.get(party.address, ())
            for named in endpoint.spec.named_ports
        }
    )
    raise PlaitError(
        "PLAIT-API-004",
        f"`{dst}` has no port `{asked.text}`",
        why=f"its ports are called {', '.join(having)}"
        if having
        else "none of its ports has a name",
        fix=("name the port by its number, such as 80/tcp",),
    )


def refusals(world: World, src: str, namespace: str, call: Call | None) -> dict[str, str]:
    """Why senders reach no backend of the Service that is called, by their addresses."""
    from plait.policy.find_parties import find

    if call is None:
        return {}
    told = {
        party.address: call.refusal(party)
        for who in find(world, src, namespace)
        for party in who.parties
    }
    return {address: reason for address, reason in told.items() if reason}


def _led(call: Call) -> str:
    """`service shop/web 80/tcp leads to 2 addresses of backends`."""
    port = f"{call.port.port}/{call.port.protocol.lower()}"
    if not call.backends:
        return f"service {call.name} {port}: refused, for it has no backend that is ready"
    several = "" if len(call.backends) == 1 else "es"
    return f"service {call.name} {port} leads to {len(call.backends)} address{several} of backends"


def show(world: World, found: list[Verdict], *, whole: bool = False) -> None:
    """One answer in full; of several those that differ, or a line each when there are many."""
    from plait.cli import output
    from plait.policy.explain import headline, text

    shapes = {_shape(verdict): verdict for verdict in reversed(found)}
    distinct = list(reversed(shapes.values()))
    pairs = {(str(v.flow.src), str(v.flow.dst)) for v in found}
    if len(pairs) > 1:
        for verdict in found[:SHOWN]:
            output.say(output.clean(headline(verdict)))
        if len(found) > SHOWN:
            output.say(f"… and {len(found) - SHOWN} more; --json has all", err=True)
        first = found[0].flow
        output.say(
            f"  name one, for all that decided: plait why {_one(first.src)} {_one(first.dst)} …",
            err=True,
        )
        return
    for number, verdict in enumerate(distinct):
        if number:
            output.say("\n")
        head, *lines = text(world, verdict, whole=whole).splitlines()
        output.say(click.style(output.clean(head), bold=True))
        for line in lines:
            output.say(output.clean(line))
    for verdict in found:
        if verdict not in distinct:
            src, dst = (party.address or str(party) for party in verdict.flow[:2])
            output.say(f"\n{output.clean(f'the same from {src} to {dst}')}")


def _one(party: Party) -> str:
    """What means just this one of those that share a name."""
    return f"{party}@{party.address}" if party.endpoint is not None else party.address or str(party)


def _shape(verdict: Verdict) -> tuple[object, ...]:
    """What two answers share that are told once."""
    sides = tuple(
        (
            side.allowed,
            side.decided,
            side.by.policy.metadata.name if side.by else "",
            side.rule.position if side.rule else -1,
        )
        for side in (verdict.egress, verdict.ingress)
    )
    return (verdict.way.kind, verdict.depends, sides)
