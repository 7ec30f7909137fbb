"""The filter: who may send and receive, and which ports of the host lead where."""

from __future__ import annotations

from collections.abc import Iterator

from plait.agent.desired.inputs import Attachment, Host, Memo, View, bare, is6, network_id
from plait.agent.desired.paths import peers
from plait.model.hoststate import Filter, FilterEndpoint, FilterNetwork, PortMap
from plait.model.objects import Network


def filter_(view: View, host: Host, memo: Memo) -> Filter:
    """All that the nft table says.

    An endpoint without a known identity, or whose address is fenced, is left out: unknown
    endpoints are dropped (P5).
    """
    endpoints: dict[str, FilterEndpoint] = {}
    ports: set[PortMap] = set()
    for item in host.attachments.values():
        network = view.networks.get(item.network)
        if network is None or not item.identified or item.id in host.fenced:
            continue
        endpoints[item.interface] = memo.get(
            ("filter", item.id),
            (item, network),
            lambda item=item, network=network: FilterEndpoint(  # type: ignore[misc]
                network=network_id(network), addresses=item.addresses, mac=item.mac
            ),
        )
        if item.ports and not network.spec.internal:
            ports.update(port_maps(item))
    return Filter(
        networks={
            ident: value
            for network in view.networks.values()
            for ident, value in (
                memo.get(
                    ("network", network.metadata.name),
                    (network,),
                    lambda network=network: (network_id(network), _network(network)),  # type: ignore[misc]
                ),
            )
        },
        endpoints=endpoints,
        pools=tuple(
            sorted(pool for network in view.networks.values() for pool in network.spec.pools)
        ),
        ports=frozenset(ports),
        vteps=tuple(
            sorted(bare(address) for peer in peers(view, host) for address in peer.spec.addresses)
        ),
        vxlan_port=view.cluster.spec.vxlan_port,
        vni=view.cluster.spec.vni,
        dns=host.dns,
        service_pools=tuple(
            sorted((*view.cluster.spec.service_pools, *view.cluster.spec.load_balancer_pools))
        ),
        own=tuple(bare(address) for address in host.underlay.addresses),
    )


def _network(network: Network) -> FilterNetwork:
    return FilterNetwork(pools=network.spec.pools, internal=network.spec.internal)


def port_maps(item: Attachment) -> Iterator[PortMap]:
    """An endpoint's published ports, one a family that both sides have."""
    for port in item.ports:
        wildcard = port.host_ip in ("", "0.0.0.0", "::")
        for address in item.addresses:
            v6 = is6(address)
            if port.host_ip and is6(port.host_ip) != v6:
                continue
            yield PortMap(
                family=6 if v6 else 4,
                protocol=port.protocol,
                host_ip="" if wildcard else port.host_ip,
                host_port=port.host_port,
                address=address,
                port=port.port,
            )
