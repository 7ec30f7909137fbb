"""Kinds that rule traffic: Policy and Group.

How policies decide about a new flow, seen from an endpoint, for each direction by itself (a flow
passes when the sender's egress and the receiver's ingress both accept it; replies are implicit):

1. tier `admin`, 2. tier `application`, 3. tier `baseline`, 4. accept, inside of what the networks
allow. In a tier the policies whose subject selects the endpoint come by priority, lowest first,
then by name, and their rules in the order in which they stand. The first rule that matches
decides: `Accept` and `Deny` at once, `Pass` leaves the tier. When none matched in tier
`application` and one of its policies isolates the endpoint in this direction, the flow is denied.

Kubernetes' NetworkPolicy is a policy of the application tier that isolates, ClusterNetworkPolicy
one of the two others: see `plait.policy.kubernetes`.
"""

from __future__ import annotations

from typing import ClassVar, Final, Literal

import msgspec

from plait.model.meta import Base, Object
from plait.model.selectors import Selector

TierName = Literal["admin", "application", "baseline"]
Action = Literal["Accept", "Deny", "Pass"]
Direction = Literal["ingress", "egress"]

TIERS: Final[tuple[TierName, ...]] = ("admin", "application", "baseline")
"""In the order in which they decide."""
DIRECTIONS: Final[tuple[Direction, ...]] = ("ingress", "egress")
PRIORITY: Final = 500
"""Of a policy that names none."""
MAX_PRIORITY: Final = 1000


class Subject(Base, frozen=True, kw_only=True):
    """The endpoints that a policy rules: those that both selectors select; None selects all."""

    namespaces: Selector | None = None
    endpoints: Selector | None = None


class ServiceRef(Base, frozen=True, kw_only=True):
    """Who answers for the Service of that name, ready or not; where there is no such Service, the
    endpoints of that name."""

    name: str
    namespace: str


class Peer(Base, frozen=True, kw_only=True):
    """The other side of a flow. Exactly one way to say it is used."""

    namespaces: Selector | None = None
    """With `endpoints`: both must select the peer. Alone: every endpoint of these namespaces."""
    endpoints: Selector | None = None
    """Alone: in whatever namespace."""
    group: str = ""
    """Name of a Group."""
    network: str = ""
    """Every endpoint of this Network."""
    cidr: str = ""
    """Endpoints too, if their address is inside."""
    excepted: tuple[str, ...] = msgspec.field(default=(), name="except")
    """CIDRs inside `cidr` that do not count as this peer; others may still name them."""
    nodes: Selector | None = None
    """Hosts, by the labels of their Node."""
    service: ServiceRef | None = None
    domains: tuple[str, ...] = ()
    """Of egress rules that accept only: names outside the network (`example.com`), or all names
    below one (`*.example.com`, any number of labels); the addresses that our resolver finds."""


Protocol = Literal["TCP", "UDP", "SCTP", "ICMP", "ICMPv6"]


class Port(Base, frozen=True, kw_only=True):
    """A destination port, or a kind of ICMP message."""

    protocol: Protocol | None = None
    """None only with a port's name: then of whatever protocol that port has."""
    port: int | str | None = None
    """1 to 65535, or the name of a port of the destination; None: all of the protocol."""
    end_port: int | None = None
    """Last port of a range that begins at `port`, inclusive."""
    icmp_type: int | None = None
    """0 to 255; None: every type."""
    icmp_code: int | None = None
    """0 to 255, with a type only."""


class Rule(Base, frozen=True, kw_only=True):
    """What it matches: any of the peers by any of the ports."""

    action: Action = "Accept"
    name: str = ""
    """For people: logs and explanations show it."""
    peers: tuple[Peer, ...] | None = None
    """Senders in ingress, receivers in egress; None: anyone, also outside the network."""
    ports: tuple[Port, ...] | None = None
    """None: every protocol and port."""
    reject: bool = False
    """With `Deny`: answer (TCP reset, ICMP administratively prohibited) instead of silence."""


class Origin(Base, frozen=True, kw_only=True):
    """The object of somebody else's that a policy was made of."""

    kind: str
    name: str
    namespace: str = ""


class PolicySpec(Base, frozen=True, kw_only=True):
    """See the module's docstring."""

    tier: TierName = "application"
    priority: int = PRIORITY
    """0 to 1000; lower decides first."""
    subject: Subject = Subject()
    isolate: tuple[Direction, ...] | None = None
    """Directions in which the subjects are closed but for what is accepted; of tier
    `application` only. None: those that have a rule that accepts."""
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    staged: bool = False
    """Evaluate and count, but do not enforce."""
    origin: Origin | None = None
    description: str = ""

    def rules(self, direction: Direction) -> tuple[Rule, ...]:
        """The rules of a direction."""
        return self.ingress if direction == "ingress" else self.egress

    def isolates(self, direction: Direction) -> bool:
        """Whether the subjects are closed in this direction but for what is accepted."""
        if self.tier != "application":
            return False
        if self.isolate is not None:
            return direction in self.isolate
        return any(rule.action == "Accept" for rule in self.rules(direction))


class PolicyStatus(Base, frozen=True, kw_only=True):
    """Kept by the server."""

    message: str = ""


class Policy(Object, frozen=True, kw_only=True, tag=True):
    """Who may talk to whom."""

    plural: ClassVar[str] = "policies"
    spec: PolicySpec = PolicySpec()
    status: PolicyStatus = PolicyStatus()


class GroupSpec(Base, frozen=True, kw_only=True):
    """Endpoints by selectors, or addresses; not both."""

    namespaces: Selector | None = None
    endpoints: Selector | None = None
    cidrs: tuple[str, ...] = ()


class Group(Object, frozen=True, kw_only=True, tag=True):
    """A named peer."""

    plural: ClassVar[str] = "groups"
    spec: GroupSpec = GroupSpec()
