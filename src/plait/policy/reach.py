"""How a flow would travel before any policy is asked: what the networks allow.

Endpoints of one network reach each other, and the outside unless the network is internal. From
outside only published ports and Services are reached. Hosts reach all endpoints; those reach their
own host for DNS and echo, and for what a policy accepts. All that is so on a network whose object
is known; where it is not, as in manifests of Kubernetes, hosts and the outside are reached as
policies say.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from plait.model.objects import Endpoint
from plait.policy.flow import Flow
from plait.policy.world import Party, World, endpoint_text

Kind = Literal[
    "own network",
    "outside",
    "published",
    "own host",
    "other host",
    "to host",
    "resolver",
    "itself",
    "not ours",
    "no common family",
    "another network",
    "internal",
    "from outside",
]
"""The last four refuse. `own host`: a host to its own endpoint, which no policy rules;
`other host`: to another's; `to host`: an endpoint to its own host; `resolver`: a question that the
host's resolver takes."""

REFUSALS: Final[frozenset[Kind]] = frozenset(
    {"no common family", "another network", "internal", "from outside"}
)
DNS_PORT: Final = 53


class Way(NamedTuple):
    """How a flow would travel."""

    kind: Kind
    text: str
    """For people."""
    egress: Flow | None = None
    """What the sender's policies see of it; None: they are not asked."""
    ingress: Flow | None = None
    """What the receiver's policies see of it; None: they are not asked."""

    @property
    def allowed(self) -> bool:
        """Whether the networks let it through."""
        return self.kind not in REFUSALS


def way(world: World, flow: Flow) -> Way:
    """How a flow would travel, published ports followed to the endpoints behind them."""
    src, dst = flow.src, flow.dst
    if src.address == dst.address and src.address:
        return Way("itself", "it does not leave the endpoint")
    if src.address and dst.address and (":" in src.address) != (":" in dst.address):
        return Way("no common family", "one address is IPv4 and the other IPv6")
    target = None if dst.endpoint else _behind(world, flow)
    if target is not None:
        return _published(world, flow, *target)
    if src.endpoint is not None:
        return _from_endpoint(world, flow, src.endpoint)
    if dst.endpoint is not None:
        return _to_endpoint(world, flow, dst.endpoint)
    return Way("not ours", "neither side is an endpoint, so Plait does not rule it")


def _from_endpoint(world: World, flow: Flow, sender: Endpoint) -> Way:
    dst = flow.dst
    if dst.endpoint is not None:
        if dst.endpoint.spec.network == sender.spec.network:
            text = f"both are on network {sender.spec.network}" if sender.spec.network else ""
            return Way("own network", text or "both are on one network", flow, flow)
        return Way(
            "another network",
            f"{flow.src} is on network {sender.spec.network} and {dst} on "
            f"{dst.endpoint.spec.network}: networks do not reach each other",
            flow,
            flow,
        )
    told = sender.spec.network in world.networks
    if told and dst.address and world.is_host_of(dst.address, sender):
        return Way("to host", f"{dst.address} is the host that {flow.src} is on", flow)
    pool = world.network_at(dst.address) if dst.address else None
    if pool is not None and pool.metadata.name == sender.spec.network:
        return Way("own network", f"{dst.address} is in network {sender.spec.network}", flow)
    if told and pool is None and is_dns(flow):
        text = (
            f"the host's resolver takes DNS to {dst}: it answers names of the network itself, and "
            f"asks {dst} where policies let the client, or the host itself asks there"
        )
        return Way("resolver", text, flow)
    if _internal(world, sender):
        return Way("internal", _no_way_out(sender), flow)
    if pool is not None:
        text = f"{dst.address} is in network {pool.metadata.name}, {flow.src} in "
        return Way("another network", text + sender.spec.network, flow)
    return Way("outside", f"{dst} is outside the networks", flow)


def _to_endpoint(world: World, flow: Flow, receiver: Endpoint) -> Way:
    src = flow.src
    if world.is_host_of(src.address, receiver):
        return Way("own host", f"{src} is the host that {flow.dst} is on")
    if src.node is not None and not _internal(world, receiver):
        text = f"{src} is another host of Plait's, as are its Services' callers from outside"
        return Way("other host", text, ingress=flow)
    name = receiver.spec.network
    network = world.networks.get(name)
    pool = world.network_at(src.address)
    if pool is not None and pool.metadata.name == name:
        return Way("own network", f"{src.address} is in network {name}", ingress=flow)
    if pool is not None:
        text = f"{src.address} is in network {pool.metadata.name}, {flow.dst} in {name}"
        return Way("another network", text, ingress=flow)
    if network is None:
        return Way("outside", f"{src} is outside the networks", ingress=flow)
    if network.spec.internal:
        text = f"network {name} is internal: there is no way in"
        return Way("internal", text, ingress=flow)
    if flow.published:
        return Way("published", f"a Service leads to {flow.dst}", ingress=flow)
    text = f"from outside only published ports of {flow.dst} are reached"
    return Way("from outside", text, ingress=flow)


# Published ports


def _behind(world: World, flow: Flow) -> tuple[Party, int] | None:
    """The endpoint, and its port, that a published port of a host leads to."""
    dst, own = flow.dst, flow.src.endpoint
    if dst.node is not None:
        host = dst.node.metadata.name
    elif own is not None and dst.address and world.is_host_of(dst.address, own):
        host = own.spec.node
    else:
        return None
    for endpoint in world.published.get((host, flow.protocol, flow.port), ()):
        if _internal(world, endpoint):
            continue
        for port in endpoint.spec.ports:
            if (port.protocol.upper(), port.host_port) != (flow.protocol, flow.port):
                continue
            if port.host_ip not in ("", "0.0.0.0", "::", dst.address):
                continue
            for party in world.parties(endpoint):
                if (":" in party.address) == (":" in dst.address):
                    return party, port.port
    return None


def _published(world: World, flow: Flow, target: Party, port: int) -> Way:
    sender, receiver = flow.src.endpoint, target.endpoint
    assert receiver is not None
    inner = flow._replace(dst=target, port=port, published=True)
    text = f"port {flow.port} of the host leads to {endpoint_text(receiver)} port {port}"
    if sender is None:
        if world.is_host_of(flow.src.address, receiver):
            return Way("own host", f"{flow.src} is the host that {target} is on")
        return Way("published", text, ingress=inner)
    if _internal(world, sender):
        return Way("internal", _no_way_out(sender), flow)
    if receiver.spec.node == sender.spec.node:
        # On one host the receiver is put in before the filter sees the packet.
        return Way("published", text, inner, inner)
    # It leaves its host with that host's address.
    hosts = world.parties(world.nodes[sender.spec.node]) if sender.spec.node in world.nodes else ()
    masked = [h for h in hosts if (":" in h.address) == (":" in target.address)]
    return Way("published", text, flow, inner._replace(src=masked[0]) if masked else inner)


def _internal(world: World, endpoint: Endpoint) -> bool:
    network = world.networks.get(endpoint.spec.network)
    return network is not None and network.spec.internal


def _no_way_out(sender: Endpoint) -> str:
    return f"network {sender.spec.network} is internal: there is no way out"


# Traffic to the host that is let in whatever policies say


def is_dns(flow: Flow) -> bool:
    """Whether it is a question to a resolver."""
    return flow.port == DNS_PORT and flow.protocol in {"TCP", "UDP"}


def is_discovery(flow: Flow) -> bool:
    """Whether it is neighbour solicitation or advertisement (RFC 4861)."""
    return flow.protocol == "ICMPv6" and flow.icmp_type in {135, 136}


def is_echo(flow: Flow) -> bool:
    """Whether it is an echo request (RFC 792, RFC 4443)."""
    return (flow.protocol, flow.icmp_type) in {("ICMP", 8), ("ICMPv6", 128)}
