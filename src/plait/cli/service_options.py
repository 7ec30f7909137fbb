"""What `plait service create` and `set` take, and the spec of a Service that it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import click

from plait.cli import complete
from plait.cli.options import Duration

_POLICY: Final = click.Choice(["cluster", "local"])
_TRAFFIC: Final = "local: only backends of the host that a flow comes to."


def service_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What `create` and `set` say of a Service."""
    for option in reversed(
        (
            click.option(
                "--selector",
                "selector",
                multiple=True,
                metavar="KEY=VALUE[,…]",
                help="Backends: endpoints with these labels.",
            ),
            click.option(
                "--endpoint",
                "endpoints",
                multiple=True,
                metavar="NAME",
                shell_complete=complete.endpoints,
                help="Backends: endpoints of this name or alias.",
            ),
            click.option(
                "--backend",
                "backends",
                multiple=True,
                metavar="IP[:PORT]",
                help="A backend, in the network or outside.",
            ),
            click.option(
                "--port",
                "ports",
                multiple=True,
                metavar="[NAME=]PORT[:TARGET][/udp][@NODE]",
                help="Port, the backends' port or its name, and the port on every host.",
            ),
            click.option(
                "--type",
                "kind",
                type=click.Choice(["cluster", "node", "balancer"]),
                help="cluster: inside; node: also a port on every host; balancer: also an"
                " address of its own outside.",
            ),
            click.option("--alias", metavar="NAME", help="Only a name in DNS for another name."),
            click.option(
                "--headless/--no-headless",
                default=None,
                help="No address of its own: its name means the backends.",
            ),
            click.option(
                "--network",
                shell_complete=complete.networks,
                help="Whose endpoints it selects; who finds its name.",
            ),
            click.option(
                "--address", "addresses", multiple=True, metavar="IP", help="Default: a free one."
            ),
            click.option(
                "--family",
                "families",
                multiple=True,
                type=click.Choice(["4", "6"]),
                help="Default: those in which somebody can answer.",
            ),
            click.option(
                "--external-address",
                "external",
                multiple=True,
                metavar="IP",
                help="Called there too; it is yours to lead it to a host.",
            ),
            click.option(
                "--load-balancer-address",
                "balancers",
                multiple=True,
                metavar="IP",
                help="Of type balancer. Default: out of the load-balancer pool.",
            ),
            click.option(
                "--source",
                "sources",
                multiple=True,
                metavar="CIDR",
                help="Who may call the load-balancer addresses.",
            ),
            click.option(
                "--affinity",
                type=Duration(),
                metavar="TIME",
                help="A client stays with its backend until it was silent so long, as 3h.",
            ),
            click.option(
                "--no-affinity", is_flag=True, help="Each flow may go to another backend."
            ),
            click.option("--internal-traffic", "internal", type=_POLICY, help=_TRAFFIC),
            click.option("--external-traffic", "external_traffic", type=_POLICY, help=_TRAFFIC),
            click.option(
                "--prefer",
                type=click.Choice(["node", "site", "any"]),
                help="Backends of the same node, or site, first.",
            ),
            click.option(
                "--publish-not-ready/--no-publish-not-ready",
                "publish",
                default=None,
                help="A headless name means backends that are not ready too.",
            ),
            click.option("--label", "labels", multiple=True, metavar="KEY=VALUE"),
        )
    ):
        function = option(function)
    return function


def spec_of(
    selector: tuple[str, ...],
    endpoints: tuple[str, ...],
    backends: tuple[str, ...],
    ports: tuple[str, ...],
    kind: str | None,
    alias: str | None,
    headless: bool | None,
    network: str | None,
    addresses: tuple[str, ...],
    families: tuple[Literal["4", "6"], ...],
    external: tuple[str, ...],
    balancers: tuple[str, ...],
    sources: tuple[str, ...],
    affinity: float | None,
    no_affinity: bool,
    internal: str | None,
    external_traffic: str | None,
    prefer: str | None,
    publish: bool | None,
    **_others: object,
) -> dict[str, Any]:
    """The fields of the spec that the options say. Usage errors name the option."""
    from plait.cli import service_words as words

    if (selector or endpoints) and backends:
        raise click.UsageError("backends are selected or written down, not both")
    if alias and (selector or endpoints or backends or ports or kind or headless or addresses):
        raise click.UsageError(
            "--alias is a name for another name: it has no ports and no backends"
        )
    if affinity and no_affinity:
        raise click.UsageError("--affinity and --no-affinity contradict each other")
    said: dict[str, Any] = {
        "ports": _parsed("--port", words.parse_ports, ports),
        "backends": tuple(_parsed("--backend", words.parse_backend, word) for word in backends),
        "type": "ExternalName" if alias else words.TYPES[kind] if kind else None,
        "external_name": alias,
        "headless": headless,
        "network": network,
        "addresses": addresses,
        "families": tuple(map(int, families)),
        "external_addresses": external,
        "load_balancer_addresses": balancers,
        "source_ranges": sources,
        "affinity_seconds": 0 if no_affinity else int(affinity) if affinity else None,
        "internal_traffic": internal.capitalize() if internal else None,
        "external_traffic": external_traffic.capitalize() if external_traffic else None,
        "prefer": ("" if prefer == "any" else prefer) if prefer else None,
        "publish_not_ready": publish,
    }
    said = {name: value for name, value in said.items() if value is not None and value != ()}
    chosen = _parsed("--selector", words.parse_selector, selector, endpoints)
    if chosen is not None:
        said |= {"selector": chosen, "backends": ()}
    elif backends:
        said["selector"] = None
    return said


def check_type(said: dict[str, Any]) -> None:
    """A usage error for what only other types of Services have."""
    kind = said.get("type", "ClusterIP")
    if kind == "ClusterIP" and any(port.node_port for port in said.get("ports", ())):
        raise click.UsageError("a port on every host needs --type node or --type balancer")
    if kind != "LoadBalancer":
        for field, option in (
            ("source_ranges", "--source"),
            ("load_balancer_addresses", "--load-balancer-address"),
        ):
            if field in said:
                raise click.UsageError(f"{option} needs --type balancer")


def _parsed(option: str, parse: Callable[..., Any], *words: object) -> Any:
    try:
        return parse(*words)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None
