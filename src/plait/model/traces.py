"""What a host's kernel would do with a flow, as its own rules say: `plait why --live`."""

from __future__ import annotations

from typing import Literal

from plait.model.meta import Base
from plait.model.policies import Direction


class TraceQuery(Base, frozen=True, kw_only=True):
    """The first packet of a flow. Addresses are canonical and of one family."""

    src: str
    dst: str
    protocol: Literal["tcp", "udp", "sctp", "icmp", "icmpv6"]
    port: int = 0
    """Destination port; 0 for ICMP."""
    icmp_type: int = 0
    icmp_code: int = 0


class TracedSide(Base, frozen=True, kw_only=True):
    """The endpoint of this host that sends (egress) or receives (ingress)."""

    direction: Direction
    allowed: bool
    policy: str = ""
    """That decided in the kernel; empty: none did."""
    rule: int = -1
    """The rule's place in its direction, from 0; -1: not a rule."""
    rule_name: str = ""
    reason: str = ""
    """What decided where it was not a policy's rule, in words."""
    reject: bool = False
    agrees: bool = True
    """The agent's own model of the policies says the same."""
    expected: str = ""
    """What that says instead, where it does not agree."""
    path: tuple[str, ...] = ()
    """Rules that the packet matches in the kernel, `chain: comment -> verdict`, in order."""


class Trace(Base, frozen=True, kw_only=True):
    """Of one host."""

    node: str
    sides: tuple[TracedSide, ...] = ()
    """Of endpoints of this host; none: both ends are elsewhere."""
    applied: int = 0
    """Store revision that the kernel follows."""
