"""`plait flows`: what was accepted and what was denied, by which policy and rule."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import click

from plait.cli import complete
from plait.cli.frame import Command
from plait.cli.options import Duration

if TYPE_CHECKING:
    from plait.model.errors import PlaitError
    from plait.model.flows import FlowEnd, FlowPage, FlowQuery, FlowRecord

    Ask = Callable[[FlowQuery], Awaitable[FlowPage]]

SINCE = 600.0
"""Seconds of the past that are shown."""
RETRY = 1.0
"""Seconds before a log that went away while it was followed is asked again."""
LOCAL_WAIT = 0.5
"""Seconds for which this host's agent may wait for a record."""

VERDICTS = {
    "accept": ("accepted", "green"),
    "deny": ("denied", "red"),
    "staged": ("staged", "yellow"),
}
"""Word and colour of each decision."""


@click.command(
    cls=Command,
    examples=[
        "plait flows --denied",
        "plait flows -f --namespace shop",
        "plait flows --since 1h --endpoint shop/db --json",
    ],
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens; Ctrl-C ends it.")
@click.option("--denied", is_flag=True, help="Only flows that were denied, or would be (staged).")
@click.option(
    "--since",
    type=Duration(),
    default=None,
    help="How far back: 90s, 10m, 1h; default 10m, with -f from now on.",
)
@click.option(
    "-n",
    "--namespace",
    default="",
    shell_complete=complete.namespaces,
    help="Only flows with an end in this namespace.",
)
@click.option(
    "--endpoint",
    default="",
    metavar="NAME",
    help="Only flows with this end: NAME, NAMESPACE/NAME, an id, an address, or a host.",
)
@click.option("--local", is_flag=True, help="Only what this host decided, asked of its agent.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one record a line.")
def flows(
    follow: bool,
    denied: bool,
    since: float | None,
    namespace: str,
    endpoint: str,
    local: bool,
    as_json: bool,
) -> None:
    """Show which flows were accepted and denied, and by which rule.

    A flow has a line for each end that decided: egress on the sender's host, ingress on the
    receiver's. The network's last hour is kept. A flow that goes on trying has one line, and
    another one every few seconds that says how often.
    """
    from plait.cli import output
    from plait.model.flows import FlowQuery

    query = FlowQuery(
        denied=denied,
        namespace=namespace,
        endpoint=endpoint,
        within=since if since is not None else SINCE,
    )
    show = _as_json if as_json else _as_line
    missing = shown = 0

    async def work() -> None:
        nonlocal missing, shown
        async with _log(local) as ask:
            pages = _follow(ask, query, new=since is None) if follow else _all(ask, query)
            async for page in pages:
                missing += page.lost
                # Hosts tell of their flows in turn, each of its own in order.
                for record in sorted(page.items, key=attrgetter("time")):
                    show(record)
                    shown += 1

    try:
        asyncio.run(work())
    except KeyboardInterrupt:
        output.say(err=True)
    if not shown and not follow and not as_json:
        output.say("no such flow was seen; --since says how far back to look", err=True)
    if missing:
        output.warn(f"{missing:,} more packets were seen, but the log had no room for them")


@contextlib.asynccontextmanager
async def _log(local: bool) -> AsyncIterator[Ask]:
    """The log of the whole network, or of this host when the server is away."""
    from plait.cli import connect, output
    from plait.model.errors import PlaitError
    from plait.model.flows import FlowQuery

    if local:
        yield _agent()
        return
    async with connect.api() as client:
        try:
            await client.flows(FlowQuery(latest=True))
        except PlaitError as error:
            here = _agent_of(error)
            if here is None:
                raise
            output.warn("the server does not answer: these are this host's flows only")
            yield here
        else:
            yield client.flows


def _agent_of(error: PlaitError) -> Ask | None:
    """This host's agent, when the server is away and there is one."""
    import os

    from plait.cli import connect

    if error.code != "PLAIT-API-012" or connect.remote(os.environ) is not None:
        return None
    if connect.agent_config(connect.paths()) is None:
        return None
    return _agent()


def _agent() -> Ask:
    """This host's agent. Its client blocks, so it waits for moments only: Ctrl-C must be heard."""
    import msgspec

    from plait.cli import connect

    client = connect.agent()

    def ask(query: FlowQuery) -> Awaitable[FlowPage]:
        return client.flows(msgspec.structs.replace(query, wait=min(query.wait, LOCAL_WAIT)))

    return ask


async def _all(ask: Ask, query: FlowQuery) -> AsyncIterator[FlowPage]:
    """What there is."""
    import msgspec

    while True:
        page = await ask(query)
        yield page
        if not page.more:
            return
        query = msgspec.structs.replace(query, after=page.cursor)


async def _follow(ask: Ask, query: FlowQuery, *, new: bool) -> AsyncIterator[FlowPage]:
    """What there is (`new`: what comes from now on), and what follows, for ever."""
    import msgspec

    from plait.cli import output
    from plait.model.errors import PlaitError
    from plait.model.flows import MAX_WAIT

    if new:
        after = (await ask(msgspec.structs.replace(query, latest=True))).cursor
        query = msgspec.structs.replace(query, after=after, within=0.0)
    query = msgspec.structs.replace(query, wait=MAX_WAIT)
    silent = False
    while True:
        try:
            page = await ask(query)
        except PlaitError as error:
            if error.code not in ("PLAIT-API-012", "PLAIT-AGENT-001"):
                raise
            if not silent:
                output.warn(f"{error.detail}; trying again")
            silent = True
            await asyncio.sleep(RETRY)
            continue
        silent = False
        yield page
        query = msgspec.structs.replace(query, after=page.cursor, within=0.0)


def _as_json(record: FlowRecord) -> None:
    import msgspec

    click.echo(msgspec.json.encode(record).decode())


def _as_line(record: FlowRecord) -> None:
    from plait.cli import output

    output.say(line(record))


def line(record: FlowRecord, zone: Any = None) -> str:
    """A record on one line; times are of `zone`, the machine's own when None."""
    from plait.cli.output import clean

    moment = record.time.astimezone(zone).strftime("%H:%M:%S.%f")[:-3]
    word, colour = VERDICTS[record.decision]
    verdict = click.style(word.ljust(8), fg=colour)
    ends = f"{_end(record.src, record.src_port)} -> {_end(record.dst, record.dst_port)}"
    times = f"  ({record.count:,} packets)" if record.count > 1 else ""
    family = ", IPv6" if ":" in record.dst.address else ""
    said = f"{ends}{_protocol(record)}{family}  {decided_by(record)}{times}"
    return f"{moment}  {verdict}  {record.direction:<7}  {clean(said)}"


def _end(end: FlowEnd, port: int) -> str:
    from plait.cli.connect import host_port

    if end.text == end.address:
        return host_port(end.address, port) if port else end.address
    return f"{end.text}:{port}" if port else end.text


def _protocol(record: FlowRecord) -> str:
    if record.icmp_type >= 0:
        return f" {record.protocol} type {record.icmp_type} code {record.icmp_code}"
    return f"/{record.protocol}" if record.dst_port else f" {record.protocol}"


def decided_by(record: FlowRecord) -> str:
    """What decided: `policy web, ingress rule 2 "no front"`, or the reason in words."""
    from plait.model.flows import rule_text

    if record.isolating:
        return f"{record.reason}: policy {', '.join(record.isolating)}"
    words = []
    if record.policy:
        rule = rule_text(record.direction, record.index, record.rule)
        words.append(f"policy {record.policy}, {rule}")
    if record.reason or not record.policy:
        words.append(record.reason or f"a rule that is gone ({record.id})")
    return "; ".join(words)
