"""Small networks for questions: objects by few words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plait.model.objects import (
    Endpoint,
    EndpointSpec,
    Metadata,
    NamedPort,
    Namespace,
    Network,
    NetworkSpec,
    Node,
    NodeSpec,
    PublishedPort,
)
from plait.model.policies import Group, GroupSpec, Peer, Policy, PolicySpec, Port, Rule, Subject
from plait.model.selectors import Requirement, Selector
from plait.policy.flow import Flow
from plait.policy.world import World


def labelled(**labels: str) -> Selector:
    """Selects what has these labels; all, without any."""
    return Selector(match_labels=labels)


def where(key: str, operator: Any, *values: str) -> Selector:
    """Selects by one condition."""
    return Selector(match_expressions=(Requirement(key=key, operator=operator, values=values),))


def endpoint(
    name: str,
    *addresses: str,
    network: str = "net",
    node: str = "h1",
    labels: Mapping[str, str] | None = None,
    named: tuple[str, ...] = (),
    published: tuple[tuple[int, int], ...] = (),
    aliases: tuple[str, ...] = (),
    ident: str = "",
) -> Endpoint:
    """`shop/web`; ports named as `http=80/tcp`, published as (host port, port), TCP."""
    namespace, _, short = name.rpartition("/")
    ports = []
    for text in named:
        called, _, rest = text.partition("=")
        number, _, protocol = rest.partition("/")
        ports.append(NamedPort(name=called, protocol=protocol, port=int(number)))  # type: ignore[arg-type]
    return Endpoint(
        metadata=Metadata(
            name=ident or f"id-{short}", namespace=namespace or "default", labels=dict(labels or {})
        ),
        spec=EndpointSpec(
            node=node,
            network=network,
            name=short,
            aliases=aliases,
            addresses=addresses,
            named_ports=tuple(ports),
            ports=tuple(
                PublishedPort(protocol="tcp", host_port=outer, port=inner)
                for outer, inner in published
            ),
        ),
    )


def namespace(name: str, **labels: str) -> Namespace:
    return Namespace(metadata=Metadata(name=name, labels=labels))


def network(name: str, *pools: str, internal: bool = False) -> Network:
    return Network(metadata=Metadata(name=name), spec=NetworkSpec(pools=pools, internal=internal))


def node(name: str, *addresses: str, **labels: str) -> Node:
    return Node(metadata=Metadata(name=name, labels=labels), spec=NodeSpec(addresses=addresses))


def group(name: str, *cidrs: str, endpoints: Selector | None = None) -> Group:
    return Group(metadata=Metadata(name=name), spec=GroupSpec(cidrs=cidrs, endpoints=endpoints))


def policy(name: str, *, over: Subject | Selector | None = None, **spec: Any) -> Policy:
    """Of these endpoints, or of all."""
    subject = Subject(endpoints=over) if isinstance(over, Selector) else over or Subject()
    return Policy(metadata=Metadata(name=name), spec=PolicySpec(subject=subject, **spec))


def accept(*peers: Peer, ports: tuple[Port, ...] | None = None, **more: Any) -> Rule:
    return Rule(peers=peers or None, ports=ports, **more)


def deny(*peers: Peer, ports: tuple[Port, ...] | None = None, **more: Any) -> Rule:
    return Rule(action="Deny", peers=peers or None, ports=ports, **more)


def passing(*peers: Peer, ports: tuple[Port, ...] | None = None, **more: Any) -> Rule:
    return Rule(action="Pass", peers=peers or None, ports=ports, **more)


def tcp(port: int | str | None = None, last: int | None = None) -> Port:
    return Port(protocol="TCP", port=port, end_port=last)


def flow(world: World, src: str, dst: str, port: int = 80, protocol: str = "TCP") -> Flow:
    """Between two addresses."""
    return Flow(world.party(src), world.party(dst), protocol, port)
