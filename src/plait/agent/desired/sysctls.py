"""Sysctls of the host as a whole; those of an endpoint's link are in its Link."""

from __future__ import annotations

from plait.agent.desired.inputs import Host
from plait.model.hoststate import Vxlan
from plait.model.marks import VXLAN_LINK


def sysctls(host: Host, tunnels: dict[str, Vxlan]) -> dict[str, str]:
    """Values by key below `/proc/sys/`."""
    values = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}
    if host.accept_ra:
        # A host that forwards ignores router advertisements unless told otherwise, and would
        # lose its own default route (Documentation/networking/ip-sysctl.rst, accept_ra).
        values[f"net/ipv6/conf/{host.underlay.interface}/accept_ra"] = "2"
    if VXLAN_LINK in tunnels:
        values[f"net/ipv4/conf/{VXLAN_LINK}/rp_filter"] = "2"
    return values
