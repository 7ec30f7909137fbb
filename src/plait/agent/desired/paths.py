"""How each other node is reached, family by family: the decision that routes and tunnels share."""

from __future__ import annotations

from typing import Literal

import msgspec

from plait.agent.desired.inputs import Host, View, bare, is6, same_subnet
from plait.model.marks import VXLAN_OVERHEAD4, VXLAN_OVERHEAD6
from plait.model.objects import Node


class Path(msgspec.Struct, frozen=True, kw_only=True):
    """The way to a node for one family of inner addresses."""

    encap: Literal["direct", "vxlan", "unreachable"]
    via: str = ""
    """Next hop on the underlay (direct), or the peer's underlay address (vxlan)."""
    reason: str = ""


def underlay_address(node: Node, family: int) -> str:
    """A node's underlay address of a family with prefix length, or the empty string."""
    return next((a for a in node.spec.addresses if is6(a) == (family == 6)), "")


def path(view: View, host: Host, peer: Node, family: int) -> Path:
    """How packets of `family` reach `peer`."""
    encap = view.cluster.spec.encap
    if encap != "vxlan":
        hop = _on_link(host, peer, family)
        if hop:
            return Path(encap="direct", via=hop)
        if encap == "direct":
            # Forced: the underlay's router is expected to know the blocks.
            gateway = host.underlay.gateway(family)
            if gateway and peer.spec.addresses:
                return Path(encap="direct", via=gateway)
            return Path(encap="unreachable", reason=f"no next hop for IPv{family} on the underlay")
    outer = host.underlay.tunnel_family
    theirs = bare(underlay_address(peer, outer))
    if not theirs:
        return Path(encap="unreachable", reason=f"the node has no IPv{outer} underlay address")
    return Path(encap="vxlan", via=theirs)


def _on_link(host: Host, peer: Node, family: int) -> str:
    """Next hop if the peer is on our own subnet, or the empty string."""
    theirs = underlay_address(peer, family)
    if same_subnet(host.underlay.address(family), theirs):
        return bare(theirs)
    # One link, so the link-local address answers even where the underlay is IPv4 only.
    link_local = family == 6 and peer.spec.link_local and host.underlay.link_local
    one_link = same_subnet(host.underlay.address(4), underlay_address(peer, 4))
    return peer.spec.link_local if link_local and one_link else ""


def peers(view: View, host: Host) -> list[Node]:
    """The other nodes, in the order of their names."""
    return [view.nodes[name] for name in sorted(view.nodes) if name != host.node]


def endpoint_mtu(view: View, host: Host) -> int:
    """MTU of endpoints, bytes: what fits into the underlay with the tunnel's headers."""
    if view.cluster.spec.encap == "direct":
        return host.underlay.mtu
    overhead = VXLAN_OVERHEAD4 if host.underlay.tunnel_family == 4 else VXLAN_OVERHEAD6
    return host.underlay.mtu - overhead
