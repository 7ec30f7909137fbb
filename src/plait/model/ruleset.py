"""The policy part of the waist: the rules of one host, in no program's words.

    dispatch: local address -> class of its egress, class of its ingress
    class:    tiers, each a list of chains and what happens at its end
    chain:    the rules of one policy in one direction
    sets:     addresses that rules name; only these change when endpoints come and go

A new flow from or to a local address goes through its class: tier by tier, chain by chain, rule
by rule. The first rule that matches decides: `accept` and `deny` end it, `pass` leaves the tier.
At the end of a tier: `deny` if that is set, else the next tier; after the last one the flow is
accepted. Rules that are staged count and decide nothing.

`plait.policy.walk` walks it so; the agent's programmer makes the kernel do the same.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from plait.model.members import Members
from plait.model.policies import Direction
from plait.model.waist import Part

Decision = Literal["accept", "deny", "pass"]


class Socket(NamedTuple):
    """A port of an endpoint."""

    address: str
    protocol: str
    port: int


class PortMatch(Part, frozen=True, kw_only=True):
    """One alternative of what a rule says of protocol and port."""

    protocol: Literal["", "tcp", "udp", "sctp", "icmp", "icmpv6"] = ""
    """Empty: any, with `named` only."""
    first: int = 0
    """Destination ports `first` to `last`; 0: all of the protocol."""
    last: int = 0
    named: str = ""
    """Name of a set of `Ruleset.sockets`: destination address, protocol and port are in it."""
    icmp_type: int = -1
    """-1: every type."""
    icmp_code: int = -1


class ChainRule(Part, frozen=True, kw_only=True):
    """A rule. It matches when the peer does, and one of the ports."""

    id: str
    """Opaque, at most 16 of a-z and 0-9; counters and log records carry it. Neighbours with the
    same id are alternatives of one rule: they differ in whom they match only."""
    decision: Decision
    anyone: bool = False
    """No condition on the peer; else it is in `peers`, in one of `ranges` or in `domains`."""
    peers: str = ""
    """Name of a set of `Ruleset.sets`."""
    ranges: tuple[str, ...] = ()
    """`first-last` of one family each, canonical addresses, disjoint and sorted by family and
    address."""
    domains: str = ""
    """Name of a set of `Ruleset.domains`."""
    ports: tuple[PortMatch, ...] = ()
    """Empty: every protocol and port."""
    reject: bool = False
    staged: bool = False
    """Count, and go on as if it had not matched; the rest of its chain is skipped."""


class PolicyChain(Part, frozen=True, kw_only=True):
    """The rules of one policy in one direction."""

    direction: Direction
    rules: tuple[ChainRule, ...]


class Tier(Part, frozen=True, kw_only=True):
    """One tier of a class."""

    chains: tuple[str, ...]
    """Names of chains, in order."""
    deny: str = ""
    """Id under which to deny what no rule matched; empty: on to the next tier."""
    staged_deny: str = ""
    """Likewise, but count only."""


class PolicyClass(Part, frozen=True, kw_only=True):
    """What all endpoints to which the same policies apply have in common, in one direction."""

    direction: Direction
    tiers: tuple[Tier, ...]
    guard: bool = False
    """A rule that denies or passes names endpoints: an address of our pools that is no known
    endpoint's is dropped before all tiers, for it could be one of them."""


class Classes(NamedTuple):
    """Classes of one local address; empty: no policy applies in that direction."""

    egress: str
    ingress: str


class Ruleset(Part, frozen=True, kw_only=True):
    """See the module's docstring. All names are opaque: at most 16 of a-z and 0-9."""

    serial: int = 0
    """Grows with every change, also of what a set holds."""
    chains: dict[str, PolicyChain] = {}
    classes: dict[str, PolicyClass] = {}
    dispatch: dict[str, Classes] = {}
    """By local address; an address that is not here has no policies."""
    sets: dict[str, Members[str]] = {}
    """Canonical addresses."""
    sockets: dict[str, Members[Socket]] = {}
    domains: dict[str, tuple[str, ...]] = {}
    """Patterns, sorted; the resolver fills the set in the kernel."""
    known: Members[str] | None = None
    """Addresses of all known endpoints; None where no class guards."""
