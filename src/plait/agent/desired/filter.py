"""The filter: who may send and receive, and which ports of the host lead where."""

from __future__ import annotations

from collections.abc import Iterator

from plait.agent.desired.inputs import Attachment, Host, View, bare, is6, network_id
from plait.agent.desired.paths import peers
from plait.model.hoststate import Filter, FilterEndpoint, FilterNetwork, PortMap
from plait.model.objects import Network


def surroundings(view: View, host: Host) -> Filter:
    """All that the nft table says but of single endpoints (`endpoint`, `port_maps`)."""
    return Filter(
        networks={network_id(network): _network(network) for network in view.networks.values()},
        pools=tuple(
            sorted(pool for network in view.networks.values() for pool in network.spec.pools)
        ),
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


def endpoint(item: Attachment, network: Network) -> FilterEndpoint:
    """An endpoint that may send and receive: unknown ones are dropped (P5)."""
    return FilterEndpoint(
        network=network_id(network),
        addresses=item.addresses,
        mac=item.mac,
        to_host=item.to_host and not network.spec.internal,
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
