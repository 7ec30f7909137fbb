"""The chains through which every packet comes to the Services, and what those need of others.

A first packet to a frontend is told from others by one look-up (`services…`). In the `nat` hooks it
is led on by who sends it: a sender inside, one outside (who may have another choice of backends),
or this host; then the shape of the frontend (`service_shapes`, `service_chains`) chooses a backend.
What finds none is refused there, wherever it would have gone: a Service without backends, and an
address of Services that is no frontend. Of a flow that is refused conntrack keeps nothing, so each
of its packets is a first one; packets of known flows never come here.
"""

from __future__ import annotations

from typing import Final, Literal

from plait.agent.desired.filter_sets import (
    DOORS,
    FAMILIES,
    OUTSIDE,
    POOLS,
    SERVICES,
    VIP_POOLS,
    VIPS,
    VTEPS,
    Door,
)
from plait.agent.desired.policy_sets import Family
from plait.agent.desired.service_shapes import SCOPES, Scope
from plait.model import marks
from plait.wire import nft_expr as e
from plait.wire.nft import Chain, Rule
from plait.wire.nft_choice import CT_DIRECTION, REPLY
from plait.wire.nft_effects import RejectPort, Reset
from plait.wire.nft_expr import ACCEPT, DROP, RETURN, Counter, InSet, Masked, Match
from plait.wire.nft_rewrite import Masquerade, SetMark, Snat

STICKY: Final = "services-sticky"
UNSERVED: Final = "unserved"
_COUNT: Final = Counter()
_FIELD: Final = marks.DNS_MARK_MASK
_SERVICE: Final = Masked(e.MARK, marks.SERVICE_MARK)
_NOT_HERE: Final = Masked(e.MARK, marks.OUTSIDE_MARK | marks.OWN_MARK)
_STICKY_MARK: Final = marks.SERVICE_MARK | marks.STICKY_MARK
_NOT_LOCAL: Final = Match(e.DADDR_TYPE, e.host32(e.RTN_LOCAL), "!=")
_NOT_LOOPBACK: Final[dict[int, e.Statement]] = {
    4: e.InPrefix(e.DADDR[4], "127.0.0.0/8", "!="),
    6: e.InPrefix(e.DADDR[6], "::1/128", "!="),
}
_NEW: Final = Masked(e.CT_STATE, e.CT_NEW)
_NO_FLOW: Final = Masked(e.CT_STATE, e.CT_NEW | e.CT_ESTABLISHED | e.CT_RELATED, 0)
_BEGINS: Final = Masked(e.CT_STATE, e.CT_ESTABLISHED | e.CT_RELATED, 0)
_ENDPOINT: Final = e.host32(marks.LINK_GROUP)


def called(family: Family, door: Door) -> tuple[e.Field, ...]:
    """Key of a frontend, from a packet to it."""
    at = (e.L4PROTO, e.DPORT)
    return at if door == "port" else (e.DADDR[family], *at)


def dispatch_chain(family: Family, door: Door, scope: Scope) -> str:
    """Name of the chain that leads frontends to their shapes."""
    return f"services-{scope}-{door}{family}"


DISPATCH: Final = (
    *[dispatch_chain(f, door, scope) for f in FAMILIES for door in DOORS for scope in SCOPES],
    STICKY,
)
"""Chains that are always there, and whose rules depend on the Services that there are."""


def _is_service(family: Family, door: Door) -> tuple[e.Statement, ...]:
    # A packet of 127.0.0.1 cannot leave the host, so it would find local backends only.
    wide = (_NOT_LOOPBACK[family],) if door == "port" else ()
    return (e.family(family), *wide, InSet(called(family, door), SERVICES[door, family].name))


def service_chains() -> tuple[Chain, ...]:
    """Chains that the base chains lead to, each after those that it leads to."""
    made = [
        Chain(
            UNSERVED,
            (
                Rule("no backend", (e.protocol("tcp"), _COUNT, Reset())),
                Rule("no backend", (_COUNT, RejectPort())),
            ),
        ),
        *[Chain(name) for name in DISPATCH],
    ]
    for f in FAMILIES:
        for door in DOORS:
            made += [_from_wire(f, door), _from_host(f, door)]
    return tuple(made)


def _from_wire(family: Family, door: Door) -> Chain:
    inside, outside = (dispatch_chain(family, door, scope) for scope in ("inside", "outside"))
    return Chain(
        f"services-in-{door}{family}",
        (
            Rule(
                "inside",
                (
                    e.family(family),
                    InSet((e.SADDR[family],), POOLS[family].name),
                    SetMark(_FIELD, marks.SERVICE_MARK),
                    e.goto(inside),
                ),
            ),
            Rule("outside", (SetMark(_FIELD, marks.SERVICE_MARK | marks.OUTSIDE_MARK),)),
            Rule(
                "outside",
                (
                    e.family(family),
                    InSet(called(family, door), OUTSIDE[door, family].name),
                    e.goto(outside),
                ),
            ),
            Rule("outside", (e.goto(inside),)),
        ),
    )


def _from_host(family: Family, door: Door) -> Chain:
    mark = SetMark(_FIELD, marks.SERVICE_MARK | marks.OWN_MARK)
    inside = dispatch_chain(family, door, "inside")
    return Chain(f"services-out-{door}{family}", (Rule("own", (mark, e.goto(inside))),))


def to_frontends(hook: Literal["in", "out"]) -> tuple[Rule, ...]:
    """For a `nat` hook, what is sent to addresses of Services; `in` for what comes by a wire, `out`
    for what this host sends."""
    return (*_translation(hook, "address"), *_no_frontend())


def to_host_ports(hook: Literal["in", "out"]) -> tuple[Rule, ...]:
    """For a `nat` hook, of what is sent to an address of this host: ports that are everybody's."""
    return _translation(hook, "port")


def _translation(hook: str, door: Door) -> tuple[Rule, ...]:
    return tuple(
        Rule("service", (*_is_service(f, door), e.goto(f"services-{hook}-{door}{f}")))
        for f in FAMILIES
    )


def _no_frontend() -> tuple[Rule, ...]:
    return tuple(
        Rule(
            "no service",
            # What is a host's own stays so, also where a pool for balancers lies around it.
            (
                e.family(f),
                InSet((e.DADDR[f],), of.name),
                InSet((e.DADDR[f],), VTEPS[f].name, negate=True),
                _NOT_LOCAL,
                e.goto(UNSERVED),
            ),
        )
        for f in FAMILIES
        for of in (VIPS[f], VIP_POOLS[f])
    )


def sticky() -> Rule:
    """For the `nat` hooks in which a flow gets its last form: who is to stay is remembered."""
    mark = Masked(e.MARK, _STICKY_MARK, _STICKY_MARK)
    return Rule("client stays", (mark, e.jump(STICKY)))


def source(own: tuple[str, ...]) -> tuple[Rule, ...]:
    """For postrouting: the answer of a backend that is not on this host must come back here."""
    found = []
    for address in own:
        f: Family = 6 if ":" in address else 4
        to_us = (e.family(f), InSet((e.DADDR[f],), POOLS[f].name))
        found.append(
            Rule(
                "service on another host",
                (_SERVICE, _NOT_HERE, *to_us, SetMark(_FIELD, 0), _COUNT, Snat(address)),
            )
        )
    outside = Masked(e.MARK, marks.OUTSIDE_MARK)
    found.append(
        Rule("service elsewhere", (_SERVICE, outside, SetMark(_FIELD, 0), _COUNT, Masquerade()))
    )
    return tuple(found)


def answers() -> tuple[Rule, ...]:
    """For the mangle hook of endpoints' packets: what one answers to another host goes back as it
    came, through the tunnel where that is the way, and not with its own address over the
    underlay."""
    return tuple(
        Rule(
            "answer to another host",
            (
                Match(CT_DIRECTION, REPLY),
                e.family(f),
                InSet((e.DADDR[f],), VTEPS[f].name),
                SetMark(_FIELD, marks.NODE_MARK),
                RETURN,
            ),
        )
        for f in FAMILIES
    )


def answered() -> Rule:
    """For the forward hook: the mark of an answer has led it where it should go, and is taken off.
    What the tunnel puts around it inherits its mark, and would be led into the tunnel again."""
    mark = Masked(e.MARK, _FIELD, marks.NODE_MARK)
    return Rule("answer to another host", (mark, SetMark(_FIELD, 0)))


def from_nodes() -> tuple[Rule, ...]:
    """For networks that are not internal: another host's own packets, and those of its Services'
    callers. They must come the way of that host's address, or out of the tunnel."""
    by = (Match(e.IIFNAME, e.ifname(marks.VXLAN_LINK)), Match(e.SOURCE_LINK, bytes(4), "!="))
    return tuple(
        Rule(
            "another host",
            (
                Match(e.IIFGROUP, _ENDPOINT, "!="),
                e.family(f),
                InSet((e.SADDR[f],), VTEPS[f].name),
                way,
                _COUNT,
                ACCEPT,
            ),
        )
        for f in FAMILIES
        for way in by
    )


def strangers(vxlan_port: int) -> tuple[Rule, ...]:
    """For the forward hook, of what is neither from endpoints here nor to some: what this host
    sends on other hosts take for its own or, out of the tunnel, for what it says it is."""
    found = []
    for f in FAMILIES:
        to_ours = (e.family(f), InSet((e.DADDR[f],), POOLS[f].name))
        stranger = (*to_ours, InSet((e.SADDR[f],), POOLS[f].name, negate=True))
        found += [
            Rule(
                "source by a wrong way",
                (
                    _BEGINS,
                    *to_ours,
                    InSet((e.SADDR[f],), POOLS[f].name),
                    Match(e.SOURCE_LINK, bytes(4)),
                    _COUNT,
                    DROP,
                ),
            ),
            # It must be a Service's. What is not tracked has no status, and is none's.
            Rule("to an endpoint elsewhere", (_NO_FLOW, *stranger, _COUNT, DROP)),
            Rule(
                "to an endpoint elsewhere",
                # The mark is the first packet's alone; what is sent again has only its status.
                (_NEW, *stranger, Masked(e.CT_STATUS, e.CT_STATUS_DNAT, 0), _COUNT, DROP),
            ),
            Rule(
                "vxlan by a service",
                (
                    e.family(f),
                    e.protocol("udp"),
                    Match(e.DPORT, e.port(vxlan_port)),
                    InSet((e.DADDR[f],), VTEPS[f].name),
                    Masked(e.CT_STATUS, e.CT_STATUS_DNAT),
                    _COUNT,
                    DROP,
                ),
            ),
        ]
    return tuple(found)
