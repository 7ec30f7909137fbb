"""A new flow: what a policy is asked about. Replies are a part of it."""

from __future__ import annotations

from typing import NamedTuple

from plait.policy.world import Party


class Flow(NamedTuple):
    """The first packet of a flow."""

    src: Party
    dst: Party
    protocol: str = "TCP"
    """`TCP`, `UDP`, `SCTP`, `ICMP`, `ICMPv6`, or the name of another one, which only rules
    without ports match."""
    port: int = 0
    """Destination port, 1 to 65535; 0 for protocols without."""
    icmp_type: int = -1
    icmp_code: int = -1
    published: bool = False
    """It was sent to a published port or to a Service, and its receiver found by that."""

    def __str__(self) -> str:
        return f"{self.src} -> {self.dst} {port_text(self)}"


def port_text(flow: Flow) -> str:
    """`80/tcp`, `icmp type 8`, `gre`."""
    protocol = flow.protocol.lower()
    if flow.protocol in {"ICMP", "ICMPv6"}:
        kind = "" if flow.icmp_type < 0 else f" type {flow.icmp_type}"
        return protocol + kind + ("" if flow.icmp_code < 0 else f" code {flow.icmp_code}")
    return f"{flow.port}/{protocol}" if flow.port else protocol
