"""Neighbours and FDB entries of the tunnel: two permanent objects a peer, nothing learnt."""

from __future__ import annotations

from plait.agent.desired.inputs import Host, View, bare
from plait.agent.desired.paths import peers, underlay_address
from plait.model.hoststate import FdbEntry, Neighbour
from plait.model.marks import VXLAN_LINK, link_local, vtep_mac


def neighbours(view: View, host: Host) -> tuple[frozenset[Neighbour], frozenset[FdbEntry]]:
    """Where each peer's next hop and VTEP are.

    Every peer with an address of the tunnel's family has them, also one that is reached
    directly: a path may change from direct to VXLAN and back without a gap.
    """
    if view.cluster.spec.encap == "direct":
        return frozenset(), frozenset()
    hops: set[Neighbour] = set()
    entries: set[FdbEntry] = set()
    for peer in peers(view, host):
        address = bare(underlay_address(peer, host.underlay.tunnel_family))
        if not address or not peer.metadata.uid:
            continue
        mac = vtep_mac(peer.metadata.uid)
        hops.add(Neighbour(link=VXLAN_LINK, address=link_local(mac), mac=mac))
        entries.add(FdbEntry(link=VXLAN_LINK, mac=mac, dst=address))
    return frozenset(hops), frozenset(entries)
