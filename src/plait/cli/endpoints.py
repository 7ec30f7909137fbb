"""`plait attach` and `detach`: any process in a network namespace joins as an equal."""

from __future__ import annotations

from typing import Any

import click

from plait.cli import complete
from plait.cli.frame import Command
from plait.cli.options import dry_run_option, json_option, namespace_option, parse_labels


def parse_port(text: str) -> Any:
    """A published port as `docker run -p` takes it: `[IP:]HOST:PORT[/PROTOCOL]`."""
    import ipaddress

    from plait.model.objects import PublishedPort

    spec, _, protocol = text.partition("/")
    head, _, port = spec.rpartition(":")
    host_ip, _, host_port = head.rpartition(":")
    try:
        address = str(ipaddress.ip_address(host_ip.strip("[]"))) if host_ip else ""
        numbers = int(port), int(host_port)
    except ValueError:
        numbers = (0, 0)
        address = ""
    kind = protocol or "tcp"
    if kind not in {"tcp", "udp", "sctp"} or not all(0 < n < 65536 for n in numbers):
        raise click.BadParameter(
            f"`{text}` is not of the form [IP:]HOST:PORT[/tcp|udp|sctp]", param_hint="--publish"
        )
    return PublishedPort(protocol=kind, port=numbers[0], host_port=numbers[1], host_ip=address)  # type: ignore[arg-type]


def parse_port_names(texts: tuple[str, ...]) -> Any:
    """Named ports: `http=80/tcp`."""
    from plait.model import portnames
    from plait.model.errors import PlaitError

    found: tuple[Any, ...] = ()
    try:
        for text in texts:
            name, _, port = text.partition("=")
            found += portnames.parse(name, port, text)
        portnames.check(found, "namedPorts")
    except PlaitError as error:
        raise click.BadParameter(error.detail, param_hint="--port-name") from None
    return found


@click.command(
    cls=Command,
    examples=[
        "plait attach 4242 --name web --label app=web",
        "plait attach mynetns --network db --namespace shop",
        "plait attach /run/netns/blue --ip 10.112.0.50",
        "plait attach my-container --publish 8080:80",
        "plait attach 4242 --name web --port-name http=80/tcp",
    ],
)
@click.argument("target", metavar="PID|NETNS|CONTAINER")
@click.option("--name", default="", help="DNS name; default from the process or container.")
@click.option("--alias", "aliases", multiple=True, help="Another name.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE")
@click.option("--network", default="plait", show_default=True, shell_complete=complete.networks)
@namespace_option
@click.option(
    "--ip", "addresses", multiple=True, metavar="IP", help="Wanted address, one a family."
)
@click.option("--ifname", default="", help="Interface name inside; default the first free ethN.")
@click.option(
    "-p", "--publish", "ports", multiple=True, metavar="[IP:]HOST:PORT", help="As docker run -p."
)
@click.option(
    "--port-name",
    "port_names",
    multiple=True,
    metavar="NAME=PORT/PROTO",
    help="A port that policies may call by name.",
)
@click.option("--no-default-route", is_flag=True, help="Only the network's pools lead there.")
@dry_run_option
@json_option
def attach(
    target: str,
    name: str,
    aliases: tuple[str, ...],
    labels: tuple[str, ...],
    network: str,
    namespace: str,
    addresses: tuple[str, ...],
    ifname: str,
    ports: tuple[str, ...],
    port_names: tuple[str, ...],
    no_default_route: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Join a process, a network namespace or a container to a network.

    Attaching what is attached already shows the endpoint that is there.
    """
    import ipaddress
    import uuid

    from plait.cli import connect, output
    from plait.cli.targets import free_ifname, host_inode, resolve
    from plait.client.agent import AttachRequest
    from plait.model.errors import PlaitError

    try:
        wanted = tuple(str(ipaddress.ip_address(a)) for a in addresses)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--ip") from None
    published = tuple(parse_port(p) for p in ports)
    named = parse_port_names(port_names)
    parsed_labels = parse_labels(labels)
    client = connect.agent()
    place = resolve(target, connect.paths())
    if place.inode == host_inode():
        raise PlaitError(
            "PLAIT-AGENT-004",
            f"`{target}` lives in the host's own network namespace",
            why="an endpoint needs a namespace of its own",
            fix=("ip netns add NAME", "unshare --net COMMAND"),
        )

    async def work() -> tuple[Any, bool]:
        for endpoint in await client.endpoints():
            if endpoint.netns_inode == place.inode and endpoint.request.network == network:
                return await client.attach(endpoint.request), True
        request = AttachRequest(
            id=f"p-{uuid.uuid4().hex[:12]}",
            network=network,
            namespace=namespace,
            name=name or place.name,
            aliases=aliases,
            labels=parsed_labels,
            addresses=wanted,
            netns=place.netns,
            ifname=ifname or free_ifname(place),
            workload=place.workload,
            ports=published,
            named_ports=named,
            default_route=not no_default_route,
        )
        if dry_run:
            await _check_network(network)
            return request, False
        return await client.attach(request), False

    result, present = connect.wait_for(work())
    if as_json:
        output.json_out(result)
        return
    if dry_run and not present:
        output.good(f"{result.name or result.id} would be attached to network {network}")
        output.say(f"  interface {result.ifname} in {result.netns}")
        return
    verb = "is attached already" if present else "attached"
    output.good(f"{result.id} {verb}: {', '.join(result.addresses)}")


async def _check_network(name: str) -> None:
    """PLAIT-API-004 when there is no such network."""
    from plait.cli import connect
    from plait.cli.resources import find
    from plait.model.objects import Network

    async with connect.api() as client:
        await find(client, Network, name, "")


@click.command(
    cls=Command,
    examples=["plait detach web", "plait detach p-3f2a91c04d7e", "plait detach 4242 --dry-run"],
)
@click.argument("target", metavar="NAME|ID|PID|NETNS|CONTAINER", shell_complete=complete.endpoints)
@click.option("--network", default="", shell_complete=complete.networks, help="Only from this one.")
@click.option("-n", "--namespace", default="", shell_complete=complete.namespaces)
@dry_run_option
def detach(target: str, network: str, namespace: str, dry_run: bool) -> None:
    """Take an endpoint of this host off the network.

    Detaching what is not attached is no error.
    """
    from plait.cli import connect, output
    from plait.cli.targets import resolve
    from plait.model.errors import PlaitError

    client = connect.agent()

    async def work() -> list[Any]:
        here = [
            e
            for e in await client.endpoints()
            if (not network or e.request.network == network)
            and (not namespace or e.request.namespace == namespace)
        ]
        found = [e for e in here if e.request.id == target]
        found = found or [e for e in here if e.request.name == target]
        if not found:
            try:
                inode = resolve(target, connect.paths()).inode
            except PlaitError:
                return []
            found = [e for e in here if e.netns_inode == inode]
        for endpoint in found:
            request = endpoint.request
            if request.workload.runtime == "docker":
                raise PlaitError(
                    "PLAIT-API-011",
                    f"Docker attached {request.name or request.id}, so Docker must detach it",
                    fix=(
                        f"docker network disconnect {request.network} {request.workload.id[:12]}",
                    ),
                )
            if not dry_run:
                await client.detach(request.id)
        return found

    found = connect.wait_for(work())
    if not found:
        output.say(f"nothing of this host is attached as `{target}`", err=True)
    for endpoint in found:
        done = "would be detached" if dry_run else "detached"
        output.good(f"{endpoint.request.name or endpoint.request.id} {done}")
