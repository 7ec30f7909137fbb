"""`plait service`: one address for many backends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from plait.cli import complete
from plait.cli.frame import Group
from plait.cli.options import (
    dry_run_option,
    json_option,
    namespace_option,
    parse_labels,
)
from plait.cli.service_options import check_type, service_options, spec_of

if TYPE_CHECKING:
    from plait.model.objects import Service
    from plait.services.engine import Engine


@click.group(
    cls=Group,
    examples=[
        "plait service create web --selector app=web --port 80",
        "plait service ls",
        "plait service show web",
    ],
)
def service() -> None:
    """Services: one address and one name for many backends.

    What is sent to a Service goes to one of its backends, on whichever host it is.
    """


@service.command(
    examples=[
        "plait service create web --selector app=web --port 80",
        "plait service create dns --selector app=dns --port 53:5353/udp --port 53:5353/tcp",
        "plait service create shop --endpoint shop --port 80:8080 --type node",
        "plait service create db --backend 192.0.2.7:5432 --port 5432 --affinity 3h",
        "plait service create peers --selector app=db --port 5432 --headless",
        "plait service create search --alias search.example.com",
    ]
)
@click.argument("name")
@service_options
@namespace_option
@dry_run_option
@json_option
def create(
    name: str,
    namespace: str,
    labels: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Create the Service NAME on all hosts."""
    from plait.cli import connect, output
    from plait.cli.columns import addresses_text
    from plait.model.objects import Metadata, Service
    from plait.model.services import ServiceSpec

    said = spec_of(**options)
    if said.get("type") != "ExternalName":
        if not said.get("ports") and not said.get("headless"):
            raise click.UsageError("say which port it has: --port 80")
        if "selector" not in said:
            raise click.UsageError(
                "say who its backends are: --selector app=web, --endpoint web or --backend IP:PORT"
            )
    check_type(said)
    wanted = Service(
        metadata=Metadata(name=name, namespace=namespace, labels=parse_labels(labels)),
        spec=ServiceSpec(**said),
    )

    async def work() -> Service:
        async with connect.api() as client:
            return await client.create(wanted, dry_run=dry_run)

    made = connect.wait_for(work())
    if as_json:
        output.json_out(made)
        return
    where = addresses_text(made.spec)
    done = "would be created" if dry_run else "created"
    output.good(f"service {name} {done}" + (f": {where}" if where else ""))
    _tell(made)


def _whose(service: Service) -> None:
    """Whoever made it makes it so again."""
    from plait.cli import output
    from plait.model.meta import ORIGIN

    origin, meta = service.metadata.annotations.get(ORIGIN), service.metadata
    if origin:
        output.warn(
            f"service {meta.name} comes from {origin}, which will make it again as it was; change"
            f" it there: kubectl -n {meta.namespace} edit service {meta.name}"
        )


def _tell(made: Service) -> None:
    """What people look for next: what the server chose, and what it could not give."""
    from plait.cli import output

    for port in made.spec.ports:
        if port.node_port:
            output.say(f"  port {port.port} is {port.node_port} on every host")
    if made.status.message:
        output.warn(output.clean(made.status.message))


@service.command(
    "set",
    examples=[
        "plait service set web --port 80:8081",
        "plait service set web --type node",
        "plait service set web --no-affinity --dry-run",
    ],
)
@click.argument("name", shell_complete=complete.services)
@service_options
@namespace_option
@dry_run_option
@json_option
def set_(
    name: str,
    namespace: str,
    labels: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Change the Service NAME: what is said replaces what was, the rest stays."""
    import msgspec

    from plait.cli import connect, output
    from plait.cli.resources import find
    from plait.model.errors import PlaitError
    from plait.model.objects import Service

    said = spec_of(**options)
    added = parse_labels(labels)
    if not said and not added:
        raise click.UsageError("say what to change")

    async def work() -> tuple[Service, Service]:
        async with connect.api() as client:
            while True:
                stored: Service = await find(client, Service, name, namespace)
                wanted = msgspec.structs.replace(
                    stored,
                    metadata=msgspec.structs.replace(
                        stored.metadata, labels=stored.metadata.labels | added
                    ),
                    spec=msgspec.structs.replace(stored.spec, **said),
                )
                try:
                    return stored, await client.update(wanted, dry_run=dry_run)
                except PlaitError as error:
                    if error.code != "PLAIT-API-006":
                        raise
                    # Somebody else was quicker: what they changed stays.

    before, after = connect.wait_for(work())
    if as_json:
        output.json_out(after)
        return
    same = (before.spec, before.metadata.labels) == (after.spec, after.metadata.labels)
    done = "unchanged" if same else "would be changed" if dry_run else "changed"
    output.good(f"service {name} {done}")
    _whose(after)
    _tell(after)


@service.command(
    "ls", examples=["plait service ls", "plait service ls -n shop", "plait service ls --json"]
)
@click.option("-n", "--namespace", default="", shell_complete=complete.namespaces)
@json_option
def list_(namespace: str, as_json: bool) -> None:
    """List the Services, and how many of their backends are ready."""
    from plait.cli import columns, output
    from plait.cli import service_words as words

    found, engine = _look(namespace)
    if as_json:
        output.json_out({"kind": "List", "items": found})
        return
    rows = []
    for one in found:
        meta, spec = one.metadata, one.spec
        ready, there = words.tally(engine.backends(meta.namespace, meta.name))
        alias = spec.type == "ExternalName"
        rows.append(
            [
                meta.name,
                meta.namespace,
                columns.type_text(spec),
                columns.addresses_text(spec),
                columns.service_ports_text(spec),
                "" if alias else f"{ready}/{there}",
                spec.network,
            ]
        )
    output.table(
        ["name", "namespace", "type", "addresses", "ports", "ready", "network"],
        rows,
        empty="there is no service" + (f" in namespace {namespace}" if namespace else ""),
    )
    for one in found:
        if one.status.message:
            name = f"{one.metadata.namespace}/{one.metadata.name}"
            output.warn(f"service {name}: {output.clean(one.status.message)}")


def _look(namespace: str, name: str = "") -> tuple[list[Service], Engine]:
    """The Services of a namespace (empty: of all), and who answers for them."""
    from plait.cli import connect
    from plait.cli.resources import find
    from plait.cli.service_words import engine_of
    from plait.model.objects import Endpoint, EndpointSlice, Node, Pod, Service

    async def ask() -> tuple[list[Service], Engine]:
        async with connect.api() as client:
            if name:
                found = [await find(client, Service, name, namespace)]
            else:
                found = list(await client.list(Service, namespace))
            objects: list[Any] = [*found, *await client.list(Node)]
            for kind in (Endpoint, EndpointSlice, Pod):
                objects += await client.list(kind, namespace)
            return found, engine_of(objects)

    found, engine = connect.wait_for(ask())
    return sorted(found, key=lambda one: (one.metadata.namespace, one.metadata.name)), engine


@service.command(examples=["plait service show web", "plait service show web -n shop --json"])
@click.argument("name", shell_complete=complete.services)
@namespace_option
@json_option
def show(name: str, namespace: str, as_json: bool) -> None:
    """Show the Service NAME and its backends."""
    from plait.cli import output
    from plait.cli import service_words as words
    from plait.cli.describe import sheet

    (found,), engine = _look(namespace, name)
    backends = engine.backends(namespace, name)
    if as_json:
        listed = [backend._asdict() for backend in backends]
        output.json_out({"object": found, "backends": listed})
        return
    output.facts(sheet(found))
    if found.spec.type != "ExternalName":
        ready, there = words.tally(backends)
        output.say(f"\nBackends ({ready} of {there} ready)")
        output.table(
            ["address", "ports", "name", "node", "site", "state"],
            words.backend_rows(found.spec, backends),
            empty="nobody answers for it: flows to it are refused",
        )
        for port in words.unserved(found.spec, backends):
            output.warn(
                f"no backend that is ready has a port `{port.target_port}`:"
                f" flows to port {port.port} are refused"
            )


@service.command(examples=["plait service rm web", "plait service rm web api -n shop --dry-run"])
@click.argument("names", nargs=-1, required=True, shell_complete=complete.services)
@namespace_option
@dry_run_option
def rm(names: tuple[str, ...], namespace: str, dry_run: bool) -> None:
    """Delete Services on all hosts. Their backends stay."""
    from plait.cli import connect, output
    from plait.cli.resources import find
    from plait.model.objects import Service

    async def work() -> None:
        async with connect.api() as client:
            for name in names:
                _whose(await find(client, Service, name, namespace))
                await client.delete(Service, name, namespace, dry_run=dry_run)
                output.good(f"service {name} {'would be deleted' if dry_run else 'deleted'}")

    connect.wait_for(work())
