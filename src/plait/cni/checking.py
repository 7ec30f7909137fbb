"""CHECK: what the result of the ADD promised against what the agent holds. Pure.

Plugins later in the list may have changed what they like of our interface, or added more; what
they said of it in the result counts as promised by them. What the kernel has is not asked here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from plait.client.agent import LocalEndpoint
from plait.wire.cni.call import Call
from plait.wire.cni.result import Result


def differences(call: Call, endpoint: LocalEndpoint, inode: int) -> Iterator[str]:
    """A sentence for each; `inode` is that of the namespace that the call names."""
    if endpoint.phase != "ready":
        yield f"the endpoint is {endpoint.phase}: {endpoint.message or 'it has no identity yet'}"
    if endpoint.netns_inode != inode:
        yield f"it is attached to another namespace than {call.netns}"
    if call.previous is not None:
        yield from _promised(call, call.previous, endpoint)


def _promised(call: Call, previous: Result, endpoint: LocalEndpoint) -> Iterator[str]:
    ours = [
        index
        for index, interface in enumerate(previous.interfaces)
        if interface.name == call.ifname and interface.sandbox
    ]
    if not ours:
        yield f"prevResult has no interface {call.ifname} in a sandbox"
        return
    if not any(interface.name == endpoint.interface for interface in previous.interfaces):
        yield f"prevResult has no interface {endpoint.interface} of the host"
    promised = {
        str(ipaddress.ip_interface(ip.address).ip)
        for ip in previous.ips
        if ip.interface in ours or ip.interface is None
    }
    for address in endpoint.addresses:
        if address not in promised:
            yield f"the endpoint has the address {address}, prevResult does not give it"
    for ip in previous.ips:
        address = str(ipaddress.ip_interface(ip.address).ip)
        if ip.interface in ours and address not in endpoint.addresses:
            yield f"prevResult gives {address} to {call.ifname}, the endpoint has it not"
