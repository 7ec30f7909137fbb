"""The flow log's nouns: what was decided about a flow, and how often a rule matched.

A record is one decision of one end: a flow between two endpoints has an egress record, made on the
sender's host, and, if it got that far, an ingress record made on the receiver's. Each names the
policy and the rule that decided there.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec

from plait.model.meta import Base
from plait.model.policies import Direction

FlowDecision = Literal["accept", "deny", "staged"]
"""`staged`: would be denied, by a policy that is staged or one of its rules; it passed."""
DECISIONS: Final[tuple[FlowDecision, ...]] = ("accept", "deny", "staged")

REASONS: Final = {
    "none": "no policy decided",
    "guard": "an address of our pools that is no known endpoint's",
    "ended": "an answer in a flow that a policy ended a moment ago",
    "pickup": "in the middle of a TCP connection that is not known",
    "network": "another network",
    "internal": "the network is internal",
    "host": "endpoints may not talk to hosts",
    "source": "a source address that is not the endpoint's",
}
"""Why something was decided where no policy did it, by the fixed words of log prefixes."""
ISOLATED: Final = "isolated, and no rule accepts it"
CROWDED: Final = "too many flows of this sender to list each"

Word = Annotated[str, msgspec.Meta(max_length=253)]
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
PortNumber = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class FlowEnd(Base, frozen=True, kw_only=True):
    """One side of a flow. Neither name nor node: outside the network."""

    address: Word
    namespace: Word = ""
    name: Word = ""
    """Of the endpoint."""
    id: Word = ""
    """Of the endpoint."""
    node: Word = ""
    """Of the endpoint, or the host that this is."""

    @property
    def text(self) -> str:
        """As people read it: `shop/web`, `host h1`, or the address."""
        if self.id or self.name:
            return f"{self.namespace}/{self.name or self.id}"
        return f"host {self.node}" if self.node else self.address


class FlowRecord(Base, frozen=True, kw_only=True):
    """A decision, and how many packets it stands for."""

    seq: Count = 0
    """Place in the log of whoever was asked; it grows."""
    time: Moment
    """Of the first of its packets, UTC."""
    node: Word
    """The host that decided."""
    decision: FlowDecision
    direction: Direction
    protocol: Word
    """`tcp`, `udp`, `sctp`, `icmp`, `icmpv6`, or the number of another one (IANA)."""
    src: FlowEnd
    dst: FlowEnd
    src_port: PortNumber = 0
    """0 for protocols without."""
    dst_port: PortNumber = 0
    icmp_type: int = -1
    """-1: not ICMP."""
    icmp_code: int = -1
    policy: Word = ""
    """That decided; empty when none did. Of several that isolate, the first."""
    isolating: tuple[Word, ...] = ()
    """The policies that close the endpoint, where it was denied because none accepts it."""
    rule: Word = ""
    """Name of the rule; empty when it has none or none decided."""
    index: int = -1
    """Place of the rule in its direction's list, from 0; -1 when none decided."""
    reason: Word = ""
    """In words, where it was no rule."""
    id: Word = ""
    """Of the rule in the kernel."""
    count: Count = 1
    """Packets: of a flow that goes on, those since its last record."""


class RuleCount(Base, frozen=True, kw_only=True):
    """How often a rule matched: the first packet of each accepted flow, each denied packet."""

    id: Word
    policy: Word = ""
    """Empty where no policy is behind it; `id` then is one of the words of `REASONS`. Of several
    that isolate, the first."""
    isolating: tuple[Word, ...] = ()
    """Policies that refused together what none of them accepts."""
    rule: Word = ""
    index: int = -1
    """-1: not a rule, but what an isolating policy refused."""
    direction: Direction
    action: Literal["Accept", "Deny", "Pass"]
    staged: bool = False
    # Without defaults, so that none at all is said as 0 too.
    packets: Count
    bytes: Count


def rule_text(direction: Direction, index: int, name: str) -> str:
    """A rule as people count: `ingress rule 2 "no front"`; its direction alone without a rule."""
    if index < 0:
        return direction
    return f"{direction} rule {index + 1}" + (f' "{name}"' if name else "")


class FlowFilter(Base, frozen=True, kw_only=True):
    """Which records somebody wants to see."""

    denied: bool = False
    """Only those that were denied, or would be."""
    namespace: Word = ""
    """One of the ends is in it."""
    endpoint: Word = ""
    """One of the ends has it as name, `namespace/name`, id, address, or, a host, as node."""

    def matches(self, record: FlowRecord) -> bool:
        """Whether to show it."""
        if self.denied and record.decision == "accept":
            return False
        if not self.namespace and not self.endpoint:
            return True
        return self._is(record.src) or self._is(record.dst)

    def _is(self, end: FlowEnd) -> bool:
        if self.namespace and end.namespace != self.namespace:
            return False
        if not self.endpoint:
            return True
        names = {end.address, end.id, end.name, f"{end.namespace}/{end.name}"}
        if not end.namespace:
            names.add(end.node)
        return self.endpoint in names


EVERY_FLOW: Final = FlowFilter()
PAGE: Final = 1_000
"""Records in one answer, at most."""
MAX_WAIT: Final = 10.0
"""Seconds for which an answer may wait for a first record."""


class FlowQuery(FlowFilter, frozen=True, kw_only=True):
    """A question to a flow log."""

    after: Count = 0
    """Only records with a number above this one: `FlowPage.cursor` of the last answer."""
    within: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Only records of the last so many seconds; 0: all."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=PAGE)] = PAGE
    wait: Annotated[float, msgspec.Meta(ge=0, le=MAX_WAIT)] = 0.0
    """Seconds to wait for a first record when there is none."""
    latest: bool = False
    """No records: only the cursor behind the last one."""


class FlowPage(Base, frozen=True, kw_only=True):
    """A piece of a flow log, oldest record first."""

    items: tuple[FlowRecord, ...] = ()
    cursor: Count = 0
    """Where to go on: `after` of the next question."""
    more: bool = False
    """The page was full; the next one is there already."""
    lost: Count = 0
    """Logged packets and records that should be in this piece and are not: the kernel's buffer or
    the log was full."""


class FlowBatch(Base, frozen=True, kw_only=True):
    """What a node tells the server, in the order of its log."""

    items: Annotated[tuple[FlowRecord, ...], msgspec.Meta(max_length=PAGE)] = ()
    """With the node's own numbers, so that what is sent again is known."""
    log: Count = 0
    """Which log of the node's the numbers are of: an agent that starts has another one."""
    to: Count = 0
    """The server's log that took the last batch, 0 for the first one. Another one takes nothing:
    the node begins anew, with what it still has."""
    lost: Count = 0
    counts: Annotated[tuple[RuleCount, ...], msgspec.Meta(max_length=2 * PAGE)] = ()
    """Those that changed since the last batch."""
    gone: Annotated[tuple[Word, ...], msgspec.Meta(max_length=2 * PAGE)] = ()
    """Ids of rules that are not in the kernel any more."""
    first: bool = False
    """The first batch of an agent that started: counts that are not in it are to be forgotten."""


class FlowReceipt(Base, frozen=True, kw_only=True):
    """What the server answers to a batch."""

    log: Count
    """The server's log: a server that starts has another one, which knows of nothing before."""


class CountList(Base, frozen=True, kw_only=True):
    """Counts of a host, or of all hosts together."""

    items: tuple[RuleCount, ...] = ()
