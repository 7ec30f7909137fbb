"""Tunnels: the one VXLAN device, unless every path is direct by order."""

from __future__ import annotations

from plait.agent.desired.inputs import Host, View, bare
from plait.agent.desired.paths import endpoint_mtu
from plait.model.hoststate import Vxlan
from plait.model.marks import GATEWAY4, VXLAN_LINK, link_local, vtep_mac


def tunnels(view: View, host: Host) -> dict[str, Vxlan]:
    """Tunnel devices by name."""
    spec = view.cluster.spec
    if spec.encap == "direct":
        return {}
    mac = vtep_mac(host.uid)
    return {
        VXLAN_LINK: Vxlan(
            vni=spec.vni,
            port=spec.vxlan_port,
            local=bare(host.underlay.address(host.underlay.tunnel_family)),
            mac=mac,
            mtu=endpoint_mtu(view, host),
            # With no IPv4 address on a link every source fails the kernel's reverse-path check
            # (fib_validate_source), and other hosts' Services come with an underlay address.
            addresses=(f"{GATEWAY4}/32", f"{link_local(mac)}/64"),
        )
    }
