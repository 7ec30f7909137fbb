"""The chains that every host has, before there is any endpoint; `ruleset` tells the whole."""

from __future__ import annotations

import ipaddress
from typing import Final, Literal

from plait.agent.desired.filter_logs import DENIED, log
from plait.agent.desired.filter_sets import (
    FAMILIES,
    FROM,
    HOSTPORTS,
    KNOWN,
    POOLS,
    PORTS,
    SRC,
    TO,
    TO_HOST,
    VTEPS,
)
from plait.agent.desired.policy_base import by_policy, policy_base, policy_hooks
from plait.agent.desired.service_base import (
    answered,
    answers,
    service_chains,
    source,
    sticky,
    strangers,
    to_frontends,
    to_host_ports,
)
from plait.model import marks
from plait.wire import nft_expr as e
from plait.wire.nft import Chain, Hook, Rule
from plait.wire.nft_expr import ACCEPT, DROP, RETURN, Counter, InSet, Match
from plait.wire.nft_rewrite import DnatByMap, Masquerade, NoTrack, SetMark, Snat, Tproxy

_GROUP: Final = e.host32(marks.LINK_GROUP)
_FROM_ENDPOINT: Final = Match(e.IIFGROUP, _GROUP)
_TO_ENDPOINT: Final = Match(e.OIFGROUP, _GROUP)
_ESTABLISHED: Final = e.Masked(e.CT_STATE, e.CT_ESTABLISHED | e.CT_RELATED)
_INVALID: Final = e.Masked(e.CT_STATE, e.CT_INVALID)
_GOES_ON: Final = e.Masked(e.CT_STATE, e.CT_ESTABLISHED)
_RELATED: Final = e.Masked(e.CT_STATE, e.CT_RELATED)
_PUBLISHED: Final = e.Masked(e.CT_STATUS, e.CT_STATUS_DNAT)
_IS_KNOWN: Final = InSet((e.IIFNAME,), KNOWN.name)
_COUNT: Final = Counter()
_LOOPBACK4: Final = "127.0.0.0/8"
_ROUTER_SOLICIT, _LISTENER_REPORT = 133, 143
"""RFC 4861 section 4.1, RFC 3810 section 5.2."""
_ND_SOLICIT, _ND_ADVERT = 135, 136
_REDIRECT: Final = 137
"""The last message of neighbour discovery; a router solicitation is the first (RFC 4861 4)."""
_ECHO: Final = {4: 8, 6: 128}
_ICMP: Final = {4: "icmp", 6: "icmpv6"}
_OWN_ADDRESS: Final = {4: marks.GATEWAY4, 6: marks.RESOLVER6}
"""An address of the host, on every host, that each endpoint has a route to."""


def base_chains(
    vxlan_port: int, vni: int, dns: bool, logs: bool = True, own: tuple[str, ...] = ()
) -> tuple[Chain, ...]:
    """The chains that every host has, each after those that it leads to.

    `dns` is false where the resolver is off or the kernel cannot proxy transparently, `logs` where
    the kernel cannot hand packets to a listener; `own` are the addresses of `Filter.own`.
    """
    return (
        *service_chains(),
        _source(logs),
        _dns(),
        Chain("mangle", (*([_DNS] if dns else []), *answers())),
        _ports(),
        *[_to_host(hook) for hook in ("in", "out")],
        _errors(logs),
        _foreign(logs),
        _ingress(logs),
        _deliver(),
        _leave(vxlan_port),
        _egress(),
        *policy_base(logs),
        _host_in(vxlan_port, logs),
        _host_out(),
        _srcnat_endpoint(),
        Chain(
            "raw-prerouting",
            (
                Rule("from endpoint", (_FROM_ENDPOINT, e.goto("source"))),
                _tunnel(vxlan_port, vni),
            ),
            Hook("filter", "prerouting", 0, -300),
        ),
        Chain(
            "raw-output",
            (_tunnel(vxlan_port, vni),),
            Hook("filter", "output", 3, -300),
        ),
        Chain(
            "mangle-prerouting",
            (Rule("from endpoint", (_FROM_ENDPOINT, e.goto("mangle"))),),
            Hook("filter", "prerouting", 0, -150),
        ),
        Chain(
            "nat-prerouting",
            (
                Rule("for resolver", (_dns_marked(), RETURN)),
                # With route_localnet a packet from a wire could reach what is published on
                # 127.0.0.1 only.
                Rule(
                    "loopback from a wire",
                    (e.family(4), e.InPrefix(e.DADDR[4], _LOOPBACK4), RETURN),
                ),
                *to_frontends("in"),
                Rule("to this host", (_TO_THIS_HOST, e.goto("ports-in"))),
            ),
            Hook("nat", "prerouting", 0, -100),
        ),
        Chain(
            "nat-output",
            (
                # ::1 cannot leave the host: refused at once is better than lost.
                Rule("no way from ::1", (e.family(6), Match(e.DADDR[6], _LOOPBACK6), RETURN)),
                *to_frontends("out"),
                Rule("to this host", (_TO_THIS_HOST, e.goto("ports-out"))),
            ),
            Hook("nat", "output", 3, -100),
        ),
        Chain("nat-input", (sticky(),), Hook("nat", "input", 1, 100)),
        Chain(
            "filter-forward",
            (
                answered(),
                Rule("from endpoint", (_FROM_ENDPOINT, e.goto("egress"))),
                Rule("to endpoint", (_TO_ENDPOINT, e.goto("ingress"))),
                *strangers(vxlan_port),
            ),
            Hook("filter", "forward", 2, -3),
        ),
        *policy_hooks(),
        Chain(
            "filter-input",
            (
                Rule("from endpoint", (_FROM_ENDPOINT, e.goto("host-in"))),
                *[_stranger(family, vxlan_port, vni) for family in FAMILIES],
            ),
            Hook("filter", "input", 1, -1),
        ),
        Chain(
            "filter-output",
            (Rule("to endpoint", (_TO_ENDPOINT, e.goto("host-out"))),),
            Hook("filter", "output", 3, -1),
        ),
        Chain(
            "nat-postrouting",
            (
                sticky(),
                Rule("to endpoint", (_TO_ENDPOINT, e.goto("srcnat-endpoint"))),
                *source(own),
                *[
                    Rule(
                        "leaves our networks",
                        (
                            e.family(family),
                            InSet((e.SADDR[family],), POOLS[family].name),
                            InSet((e.DADDR[family],), POOLS[family].name, negate=True),
                            _COUNT,
                            Masquerade(),
                        ),
                    )
                    for family in FAMILIES
                ],
            ),
            Hook("nat", "postrouting", 4, 100),
        ),
    )


_LOCAL: Final = e.host32(e.RTN_LOCAL)
_TO_THIS_HOST: Final = Match(e.DADDR_TYPE, _LOCAL)
_LOOPBACK6: Final = ipaddress.IPv6Address("::1").packed


_STANDING: Final = (
    Rule("established", (_GOES_ON, _COUNT, ACCEPT)),
    Rule("related", (_RELATED, e.goto("errors"))),
)
"""What an endpoint sends in flows that stand."""
_DNS: Final = Rule("dns", (Match(e.DPORT, e.port(53)), e.goto("dns")))


def _dns_marked() -> e.Masked:
    return e.Masked(e.MARK, marks.DNS_MARK_MASK, marks.DNS_MARK)


def _source(logs: bool) -> Chain:
    own = [
        Rule(
            "own source",
            (e.family(f), InSet((e.IIFNAME, e.SADDR[f]), SRC[f].name), _COUNT, ACCEPT),
        )
        for f in FAMILIES
    ]
    # Neighbour discovery comes from link-local addresses and, for duplicate address detection,
    # from none (RFC 4861 section 4.3). Router advertisements and redirects are not an endpoint's
    # business, and are dropped.
    icmp = (_IS_KNOWN, e.family(6), e.protocol("icmpv6"))
    discovery = Rule(
        "neighbour discovery",
        (
            *icmp,
            e.InPrefix(e.SADDR[6], "fe80::/10"),
            e.Between(e.ICMP_TYPE[6], e.byte(_ND_SOLICIT), e.byte(_ND_ADVERT)),
            _COUNT,
            ACCEPT,
        ),
    )
    detection = Rule(
        "duplicate address detection",
        (
            *icmp,
            Match(e.SADDR[6], bytes(16)),
            Match(e.ICMP_TYPE[6], e.byte(_ND_SOLICIT)),
            _COUNT,
            ACCEPT,
        ),
    )
    # Every endpoint asks for routers and tells its groups: in vain, but that is no spoofing.
    chatter = [
        Rule(
            "unknown source",
            (e.family(6), e.protocol("icmpv6"), Match(e.ICMP_TYPE[6], e.byte(kind)), _COUNT, DROP),
        )
        for kind in (_ROUTER_SOLICIT, _LISTENER_REPORT)
    ]
    unknown = Rule("unknown source", (_COUNT, *log(logs, "source", "egress", DENIED), DROP))
    return Chain("source", (*own, discovery, detection, *chatter, unknown))


def _dns() -> Chain:
    # An endpoint that serves DNS is asked itself: from the resolver, with the host's address, the
    # question would not be let in on another host.
    endpoints = tuple(
        Rule(
            "to an endpoint",
            (
                e.family(family),
                InSet((e.DADDR[family],), POOLS[family].name),
                Match(e.DADDR_TYPE, _LOCAL, "!="),
                RETURN,
            ),
        )
        for family in FAMILIES
    )
    return Chain(
        "dns",
        endpoints
        + tuple(
            Rule(
                "to resolver",
                (
                    e.family(family),
                    e.protocol(proto),
                    Tproxy(_OWN_ADDRESS[family], marks.DNS_PORT),
                    SetMark(marks.DNS_MARK_MASK, marks.DNS_MARK),
                    _COUNT,
                    ACCEPT,
                ),
            )
            for family in FAMILIES
            for proto in ("udp", "tcp")
        ),
    )


def _ports() -> Chain:
    rules = []
    for f in FAMILIES:
        on_one = (e.DADDR[f], e.L4PROTO, e.DPORT)
        on_all = (e.L4PROTO, e.DPORT)
        rules += [
            Rule("published", (e.family(f), DnatByMap(f, on_one, HOSTPORTS[f].name))),
            Rule("published", (e.family(f), DnatByMap(f, on_all, PORTS[f].name))),
        ]
    return Chain("ports", tuple(rules))


def _to_host(hook: Literal["in", "out"]) -> Chain:
    """What a user published comes before what Services open on every host."""
    return Chain(f"ports-{hook}", (Rule("published", (e.jump("ports"),)), *to_host_ports(hook)))


def _errors(logs: bool) -> Chain:
    """What an endpoint tells of flows that stand.

    Related is what an ICMP error quotes, whoever sends it: an endpoint may tell of flows that it
    began or that it answers in, and no other's.
    """
    own = [
        Rule(
            "error",
            (e.family(f), InSet((e.IIFNAME, end[f]), SRC[f].name), _COUNT, ACCEPT),
        )
        for f in FAMILIES
        for end in (e.CT_STARTER, e.CT_ANSWERER)
    ]
    denied: tuple[e.Statement, ...] = (_COUNT, *log(logs, "source", "egress", DENIED), DROP)
    return Chain("errors", (*own, Rule("error of others", denied)))


def _egress() -> Chain:
    discovery = e.Between(e.ICMP_TYPE[6], e.byte(_ROUTER_SOLICIT), e.byte(_REDIRECT))
    return Chain(
        "egress",
        (
            *_STANDING,
            # A router would send on what has a global source, though it is for one link only.
            Rule("neighbour discovery", (e.protocol("icmpv6"), discovery, _COUNT, DROP)),
            # The source was checked against the link before.
            *[
                Rule("network", (e.family(f), e.Vmap((e.SADDR[f],), FROM[f].name)))
                for f in FAMILIES
            ],
            Rule("unknown sender", (_COUNT, DROP)),
        ),
    )


def _ingress(logs: bool) -> Chain:
    return Chain(
        "ingress",
        (
            Rule("established", (_ESTABLISHED, _COUNT, ACCEPT)),
            # What a backend sends out of turn is not translated back: the caller, who knows the
            # Service only, would end the flow.
            Rule("invalid", (_INVALID, e.protocol("tcp"), _COUNT, DROP)),
            Rule("unknown receiver", (InSet((e.OIFNAME,), KNOWN.name, negate=True), _COUNT, DROP)),
            # What comes from another host says by its source which network it is in. It must have
            # come the way that the source's block is reached: through the tunnel if that is one.
            *[
                Rule(
                    "source by a wrong way",
                    (
                        e.family(f),
                        Match(e.IIFGROUP, _GROUP, "!="),
                        InSet((e.SADDR[f],), POOLS[f].name),
                        Match(e.SOURCE_LINK, bytes(4)),
                        _COUNT,
                        *log(logs, "source", "ingress", DENIED),
                        DROP,
                    ),
                )
                for f in FAMILIES
            ],
            *[Rule("network", (e.family(f), e.Vmap((e.DADDR[f],), TO[f].name))) for f in FAMILIES],
            Rule("unknown receiver", (_COUNT, DROP)),
        ),
    )


def _deliver() -> Chain:
    """After egress agreed: to a local endpoint, or on to another host."""
    return Chain(
        "deliver",
        (
            Rule("to endpoint", (_TO_ENDPOINT, e.goto("ingress"))),
            Rule("to another host", (_COUNT, ACCEPT)),
        ),
    )


def _foreign(logs: bool) -> Chain:
    """To an address of another network: only what was sent to a published port, no Service's."""
    no_service = e.Masked(e.MARK, marks.SERVICE_MARK, 0)
    return Chain(
        "foreign",
        (
            Rule("published port", (_PUBLISHED, no_service, _COUNT, e.goto("deliver"))),
            Rule("another network", (_COUNT, *log(logs, "network", "egress", DENIED), DROP)),
        ),
    )


def _leave(vxlan_port: int) -> Chain:
    """To an address of no network of ours."""
    encapsulated = (e.protocol("udp"), Match(e.DPORT, e.port(vxlan_port)), _COUNT, DROP)
    # What conntrack cannot place would leave with the endpoint's address as its source.
    return Chain(
        "leave",
        (
            Rule("vxlan from endpoint", encapsulated),
            Rule("invalid", (_INVALID, _COUNT, DROP)),
            Rule("leaves our networks", (_COUNT, e.goto("deliver"))),
        ),
    )


def _host_in(vxlan_port: int, logs: bool) -> Chain:
    denied: tuple[e.Statement, ...] = (_COUNT, *log(logs, "host", "egress", DENIED), DROP)
    rules = [
        # What comes out of our tunnel is from whom it says: no policy opens it to an endpoint.
        Rule(
            "vxlan from endpoint", (e.protocol("udp"), Match(e.DPORT, e.port(vxlan_port)), *denied)
        ),
        *_STANDING,
        Rule("unknown sender", (InSet((e.IIFNAME,), KNOWN.name, negate=True), _COUNT, DROP)),
        Rule("loopback", (e.family(4), e.InPrefix(e.DADDR[4], _LOOPBACK4), *denied)),
    ]
    dns = Match(e.DPORT, e.port(53))
    rules += [Rule("dns", (e.protocol(p), dns, _COUNT, ACCEPT)) for p in ("udp", "tcp")]
    discovery = e.Between(e.ICMP_TYPE[6], e.byte(_ND_SOLICIT), e.byte(_ND_ADVERT))
    rules.append(Rule("neighbour discovery", (e.protocol("icmpv6"), discovery, _COUNT, ACCEPT)))
    # What a policy accepts is open, what it denies closed; of the rest the host decides.
    rules += by_policy("egress")
    rules += [
        Rule(
            "echo",
            (e.protocol(_ICMP[f]), Match(e.ICMP_TYPE[f], e.byte(_ECHO[f])), _COUNT, ACCEPT),
        )
        for f in FAMILIES
    ]
    rules.append(Rule("may call host", (InSet((e.IIFNAME,), TO_HOST.name), _COUNT, ACCEPT)))
    rules.append(Rule("to host", denied))
    return Chain("host-in", tuple(rules))


def _host_out() -> Chain:
    return Chain(
        "host-out",
        (
            Rule("from host", (InSet((e.OIFNAME,), KNOWN.name), _COUNT, ACCEPT)),
            Rule("unknown receiver", (_COUNT, DROP)),
        ),
    )


def _tunnel(vxlan_port: int, vni: int) -> Rule:
    """Our own tunnel is not tracked: what is in it is, and its sender is known by its address.

    Every inner flow has an outer source port of its own (RFC 7348 section 5), so tracking would
    cost an entry a flow and a look-up a packet, twice.
    """
    return Rule(
        "tunnel",
        (
            e.protocol("udp"),
            Match(e.DPORT, e.port(vxlan_port)),
            Match(e.VXLAN_VNI, vni.to_bytes(3, "big")),
            NoTrack(),
        ),
    )


def _stranger(family: Literal[4, 6], vxlan_port: int, vni: int) -> Rule:
    """Only other nodes may send us VXLAN of our identifier; other identifiers are not ours."""
    return Rule(
        "vxlan from a stranger",
        (
            e.family(family),
            e.protocol("udp"),
            Match(e.DPORT, e.port(vxlan_port)),
            Match(e.VXLAN_VNI, vni.to_bytes(3, "big")),
            InSet((e.SADDR[family],), VTEPS[family].name, negate=True),
            _COUNT,
            DROP,
        ),
    )


def _srcnat_endpoint() -> Chain:
    """Towards an endpoint addresses stay, unless the answer could not find its way back."""
    loopback = (e.family(4), e.InPrefix(e.SADDR[4], _LOOPBACK4))
    rules = [Rule("from 127.0.0.0/8", (*loopback, _COUNT, Snat(_OWN_ADDRESS[4])))]
    rules += [
        # An endpoint that reaches itself through its published port.
        Rule(
            "hairpin",
            (
                e.family(f),
                InSet((e.OIFNAME, e.SADDR[f]), SRC[f].name),
                _COUNT,
                Snat(_OWN_ADDRESS[f]),
            ),
        )
        for f in FAMILIES
    ]
    return Chain("srcnat-endpoint", tuple(rules))
