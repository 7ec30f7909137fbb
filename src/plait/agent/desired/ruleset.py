"""The nftables ruleset that a `Filter` asks for: pure, and in nft's terms.

The path of a packet that concerns an endpoint (link group 112); others meet no rule of ours:

- `source` (raw): the interface must be known and the source address its own.
- `dns` (mangle): DNS, to whatever server, is handed to our resolver; when that does not listen
  the packet goes on as it is.
- `nat`: published ports, for packets to a local address only.
- `egress`, then the network's `e-…` chain: where the sender may reach.
- `ingress`, then the network's `i-…` chain: who may reach the receiver. Both must agree.
  Each is found by one lookup of the address's pool, however many networks there are.
- `host-in`, `host-out`: between the host itself and its endpoints.
- `srcnat`: what leaves our networks is masqueraded.

An unknown interface matches no element, and each path ends in a drop. Networks are named by a
hash of their id, so that no user's text is ever a part of the ruleset.
"""

from __future__ import annotations

import hashlib
import ipaddress
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from plait.model import marks
from plait.model.hoststate import Filter, FilterEndpoint, FilterNetwork, PortMap
from plait.wire import nft, nft_read
from plait.wire import nft_expr as e
from plait.wire.nft import Chain, Hook, Rule, Set
from plait.wire.nft_expr import ACCEPT, DROP, RETURN, Counter, InSet, Match

SRC: Final = {
    4: Set("src4", (nft.IFNAME, nft.IPV4)),
    6: Set("src6", (nft.IFNAME, nft.IPV6)),
}
"""Host-side link and address of every known endpoint."""
KNOWN: Final = Set("known", (nft.IFNAME,))
FROM: Final = {
    4: Set("from4", (nft.IPV4,), verdicts=True, interval=True),
    6: Set("from6", (nft.IPV6,), verdicts=True, interval=True),
}
"""Pool of the sender to the network's egress chain."""
TO: Final = {
    4: Set("to4", (nft.IPV4,), verdicts=True, interval=True),
    6: Set("to6", (nft.IPV6,), verdicts=True, interval=True),
}
"""Pool of the receiver to the network's ingress chain. Dispatch is by pool and not by link: for
each element that is added to a verdict map the kernel validates all chains that the map leads to,
so the sets that change with every endpoint hold no verdicts."""
POOLS: Final = {
    4: Set("pools4", (nft.IPV4,), interval=True),
    6: Set("pools6", (nft.IPV6,), interval=True),
}
VTEPS: Final = {4: Set("vteps4", (nft.IPV4,)), 6: Set("vteps6", (nft.IPV6,))}
PORTS: Final = {
    4: Set("ports4", (nft.PROTO, nft.SERVICE), (nft.IPV4, nft.SERVICE)),
    6: Set("ports6", (nft.PROTO, nft.SERVICE), (nft.IPV6, nft.SERVICE)),
}
"""Ports published on every local address."""
HOSTPORTS: Final = {
    4: Set("hostports4", (nft.IPV4, nft.PROTO, nft.SERVICE), (nft.IPV4, nft.SERVICE)),
    6: Set("hostports6", (nft.IPV6, nft.PROTO, nft.SERVICE), (nft.IPV6, nft.SERVICE)),
}
"""Ports published on one local address."""
ENDPOINT_SETS: Final = (SRC[4], SRC[6], KNOWN)
NETWORK_SETS: Final = (FROM[4], FROM[6], TO[4], TO[6])
PORT_SETS: Final = (PORTS[4], PORTS[6], HOSTPORTS[4], HOSTPORTS[6])
BASE_SETS: Final = (POOLS[4], POOLS[6], VTEPS[4], VTEPS[6])
SETS: Final = {s.name: s for s in (*ENDPOINT_SETS, *NETWORK_SETS, *PORT_SETS, *BASE_SETS)}

FAMILIES: Final[tuple[Literal[4, 6], ...]] = (4, 6)
EGRESS_PREFIX: Final = "e-"
INGRESS_PREFIX: Final = "i-"

_GROUP: Final = e.host32(marks.LINK_GROUP)
_FROM_ENDPOINT: Final = Match(e.IIFGROUP, _GROUP)
_TO_ENDPOINT: Final = Match(e.OIFGROUP, _GROUP)
_ESTABLISHED: Final = e.Masked(e.CT_STATE, e.CT_ESTABLISHED | e.CT_RELATED)
_PUBLISHED: Final = e.Masked(e.CT_STATUS, e.CT_STATUS_DNAT)
_IS_KNOWN: Final = InSet((e.IIFNAME,), KNOWN.name)
_COUNT: Final = Counter()
_LOOPBACK4: Final = "127.0.0.0/8"
_ND_SOLICIT, _ND_ADVERT = 135, 136
_ECHO: Final = {4: 8, 6: 128}
_ICMP: Final = {4: "icmp", 6: "icmpv6"}
_OWN_ADDRESS: Final = {4: marks.GATEWAY4, 6: marks.RESOLVER6}
"""An address of the host, on every host, that each endpoint has a route to."""


class ChainRules(NamedTuple):
    """A chain, and how the kernel describes it."""

    chain: Chain
    state: nft_read.ChainState


class NetworkRules(NamedTuple):
    """All that the ruleset holds for a network."""

    chains: tuple[ChainRules, ...]
    elements: tuple[Element, ...]
    """That lead to the chains."""


class Element(NamedTuple):
    """An element and the name of its set."""

    set: str
    key: bytes
    data: nft.Data


# The base: what is there before any endpoint


@lru_cache(maxsize=8)
def base_rules(vxlan_port: int, vni: int, dns: bool) -> tuple[ChainRules, ...]:
    """See `base_chains`."""
    return tuple(_described(chain) for chain in base_chains(vxlan_port, vni, dns))


def _described(chain: Chain) -> ChainRules:
    return ChainRules(chain, nft_read.describe_chain(chain))


def base_chains(vxlan_port: int, vni: int, dns: bool) -> tuple[Chain, ...]:
    """The chains that every host has, each after those that it leads to.

    `dns` is false where the resolver is off or the kernel cannot proxy transparently.
    """
    return (
        _source(),
        _dns(),
        _ports(),
        _foreign(),
        _ingress(),
        _deliver(),
        _leave(vxlan_port),
        _egress(),
        _host_in(),
        _host_out(),
        _srcnat_endpoint(),
        Chain(
            "raw-prerouting",
            (Rule("from endpoint", (_FROM_ENDPOINT, e.goto("source"))),),
            Hook("filter", "prerouting", 0, -300),
        ),
        Chain(
            "mangle-prerouting",
            (Rule("dns", (_FROM_ENDPOINT, Match(e.DPORT, e.port(53)), e.goto("dns"))),)
            if dns
            else (),
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
                Rule("published ports", (Match(e.DADDR_TYPE, _LOCAL), e.goto("ports"))),
            ),
            Hook("nat", "prerouting", 0, -100),
        ),
        Chain(
            "nat-output",
            (
                # ::1 cannot leave the host: refused at once is better than lost.
                Rule("no way from ::1", (e.family(6), Match(e.DADDR[6], _LOOPBACK6), RETURN)),
                Rule("published ports", (Match(e.DADDR_TYPE, _LOCAL), e.goto("ports"))),
            ),
            Hook("nat", "output", 3, -100),
        ),
        Chain(
            "filter-forward",
            (
                Rule("from endpoint", (_FROM_ENDPOINT, e.goto("egress"))),
                Rule("to endpoint", (_TO_ENDPOINT, e.goto("ingress"))),
            ),
            Hook("filter", "forward", 2, -1),
        ),
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
                Rule("to endpoint", (_TO_ENDPOINT, e.goto("srcnat-endpoint"))),
                *[
                    Rule(
                        "leaves our networks",
                        (
                            e.family(family),
                            InSet((e.SADDR[family],), POOLS[family].name),
                            InSet((e.DADDR[family],), POOLS[family].name, negate=True),
                            _COUNT,
                            e.Masquerade(),
                        ),
                    )
                    for family in FAMILIES
                ],
            ),
            Hook("nat", "postrouting", 4, 100),
        ),
    )


_LOCAL: Final = e.host32(e.RTN_LOCAL)
_LOOPBACK6: Final = ipaddress.IPv6Address("::1").packed


def _dns_marked() -> e.Masked:
    return e.Masked(e.MARK, marks.DNS_MARK_MASK, marks.DNS_MARK)


def _source() -> Chain:
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
    return Chain("source", (*own, discovery, detection, Rule("unknown source", (_COUNT, DROP))))


def _dns() -> Chain:
    return Chain(
        "dns",
        tuple(
            Rule(
                "to resolver",
                (
                    e.family(family),
                    e.protocol(proto),
                    e.Tproxy(_OWN_ADDRESS[family], marks.DNS_PORT),
                    e.SetMark(marks.DNS_MARK_MASK, marks.DNS_MARK),
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
            Rule("published", (e.family(f), e.DnatByMap(f, on_one, HOSTPORTS[f].name))),
            Rule("published", (e.family(f), e.DnatByMap(f, on_all, PORTS[f].name))),
        ]
    return Chain("ports", tuple(rules))


def _egress() -> Chain:
    return Chain(
        "egress",
        (
            Rule("established", (_ESTABLISHED, _COUNT, ACCEPT)),
            # The source was checked against the link before.
            *[
                Rule("network", (e.family(f), e.Vmap((e.SADDR[f],), FROM[f].name)))
                for f in FAMILIES
            ],
            Rule("unknown sender", (_COUNT, DROP)),
        ),
    )


def _ingress() -> Chain:
    return Chain(
        "ingress",
        (
            Rule("established", (_ESTABLISHED, _COUNT, ACCEPT)),
            Rule("unknown receiver", (InSet((e.OIFNAME,), KNOWN.name, negate=True), _COUNT, DROP)),
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


def _foreign() -> Chain:
    """To an address of another network: only what was sent to a published port."""
    return Chain(
        "foreign",
        (
            Rule("published port", (_PUBLISHED, _COUNT, e.goto("deliver"))),
            Rule("another network", (_COUNT, DROP)),
        ),
    )


def _leave(vxlan_port: int) -> Chain:
    """To an address of no network of ours."""
    encapsulated = (e.protocol("udp"), Match(e.DPORT, e.port(vxlan_port)), _COUNT, DROP)
    # What conntrack cannot place would leave with the endpoint's address as its source.
    invalid = (e.Masked(e.CT_STATE, e.CT_INVALID), _COUNT, DROP)
    return Chain(
        "leave",
        (
            Rule("vxlan from endpoint", encapsulated),
            Rule("invalid", invalid),
            Rule("leaves our networks", (_COUNT, e.goto("deliver"))),
        ),
    )


def _host_in() -> Chain:
    rules = [
        Rule("established", (_ESTABLISHED, _COUNT, ACCEPT)),
        Rule("unknown sender", (InSet((e.IIFNAME,), KNOWN.name, negate=True), _COUNT, DROP)),
        Rule("loopback", (e.family(4), e.InPrefix(e.DADDR[4], _LOOPBACK4), _COUNT, DROP)),
    ]
    dns = Match(e.DPORT, e.port(53))
    rules += [Rule("dns", (e.protocol(p), dns, _COUNT, ACCEPT)) for p in ("udp", "tcp")]
    rules += [
        Rule(
            "echo",
            (e.protocol(_ICMP[f]), Match(e.ICMP_TYPE[f], e.byte(_ECHO[f])), _COUNT, ACCEPT),
        )
        for f in FAMILIES
    ]
    discovery = e.Between(e.ICMP_TYPE[6], e.byte(_ND_SOLICIT), e.byte(_ND_ADVERT))
    rules += [
        Rule("neighbour discovery", (e.protocol("icmpv6"), discovery, _COUNT, ACCEPT)),
        Rule("to host", (_COUNT, DROP)),
    ]
    return Chain("host-in", tuple(rules))


def _host_out() -> Chain:
    return Chain(
        "host-out",
        (
            Rule("from host", (InSet((e.OIFNAME,), KNOWN.name), _COUNT, ACCEPT)),
            Rule("unknown receiver", (_COUNT, DROP)),
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
    rules = [Rule("from 127.0.0.0/8", (*loopback, _COUNT, e.Snat(_OWN_ADDRESS[4])))]
    rules += [
        # An endpoint that reaches itself through its published port.
        Rule(
            "hairpin",
            (
                e.family(f),
                InSet((e.OIFNAME, e.SADDR[f]), SRC[f].name),
                _COUNT,
                e.Snat(_OWN_ADDRESS[f]),
            ),
        )
        for f in FAMILIES
    ]
    return Chain("srcnat-endpoint", tuple(rules))


def base_elements(desired: Filter) -> dict[str, dict[bytes, nft.Data]]:
    """Elements of the base sets: every pool, and every other node's underlay address."""
    pools = {p for n in desired.networks.values() for p in n.pools}
    return _base_elements(frozenset(pools.union(desired.pools)), desired.vteps)


@lru_cache(maxsize=8)
def _base_elements(
    pools: frozenset[str], vteps: tuple[str, ...]
) -> dict[str, dict[bytes, nft.Data]]:
    found: dict[str, dict[bytes, nft.Data]] = {s.name: {} for s in BASE_SETS}
    ranges = {(4 if "." in p else 6, nft.cidr_range(p)) for p in pools}
    for family in FAMILIES:
        # Ranges of an interval set must not overlap; a pool inside another adds nothing. Of
        # pools that begin alike, the largest comes first.
        half = 4 if family == 4 else 16
        own = [key for version, key in ranges if version == family]
        own.sort(key=lambda key: (key[:half], -int.from_bytes(key[half:], "big")))
        last = b""
        for key in own:
            if key[half:] > last:
                found[POOLS[family].name][key] = None
                last = key[half:]
    for vtep in vteps:
        ip = ipaddress.ip_address(vtep)
        found[VTEPS[ip.version].name][ip.packed] = None
    return found


# What comes and goes


@lru_cache(maxsize=65536)
def chain_suffix(network: str) -> str:
    """Opaque name of a network in the ruleset: 12 hex digits of a hash of its id."""
    return hashlib.sha256(network.encode()).hexdigest()[:12]


@lru_cache(maxsize=65536)
def network_rules(network: str, wanted: FilterNetwork) -> NetworkRules:
    """The chains of a network and the elements that lead to them."""
    egress, ingress = network_chains(network, wanted)
    elements = [
        Element(dispatch[4 if "." in pool else 6].name, nft.cidr_range(pool), e.goto(chain.name))
        for dispatch, chain in ((FROM, egress), (TO, ingress))
        for pool in wanted.pools
    ]
    return NetworkRules((_described(egress), _described(ingress)), tuple(elements))


def network_chains(network: str, wanted: FilterNetwork) -> tuple[Chain, Chain]:
    """The chains of a network: where its endpoints may reach, and who may reach them."""
    pools = [ipaddress.ip_network(p) for p in wanted.pools]
    suffix = chain_suffix(network)
    egress = [
        Rule(
            "own network",
            (
                e.family(p.version),
                e.InPrefix(e.DADDR[p.version], str(p)),
                _COUNT,
                e.goto("deliver"),
            ),
        )
        for p in pools
    ]
    ingress = [
        Rule(
            "own network",
            (e.family(p.version), e.InPrefix(e.SADDR[p.version], str(p)), _COUNT, ACCEPT),
        )
        for p in pools
    ]
    if wanted.internal:
        egress.append(Rule("internal network", (_COUNT, DROP)))
    else:
        egress += [
            Rule(
                "another network",
                (e.family(f), InSet((e.DADDR[f],), POOLS[f].name), e.goto("foreign")),
            )
            for f in FAMILIES
        ]
        egress.append(Rule("leaves our networks", (e.goto("leave"),)))
        ingress.append(Rule("published port", (_PUBLISHED, _COUNT, ACCEPT)))
    ingress.append(Rule("not from own network", (_COUNT, DROP)))
    return (
        Chain(EGRESS_PREFIX + suffix, tuple(egress)),
        Chain(INGRESS_PREFIX + suffix, tuple(ingress)),
    )


@lru_cache(maxsize=65536)
def endpoint_elements(link: str, wanted: FilterEndpoint) -> frozenset[Element]:
    """All elements of an endpoint; every key begins with its link's name."""
    name = e.ifname(link)
    found = [Element(KNOWN.name, name, None)]
    for address in wanted.addresses:
        ip = ipaddress.ip_address(address)
        found.append(Element(SRC[ip.version].name, nft.concat(name, ip.packed), None))
    return frozenset(found)


@lru_cache(maxsize=65536)
def port_element(wanted: PortMap) -> Element:
    """The element of a published port."""
    address = ipaddress.ip_address(wanted.address).packed
    data = nft.concat(address, e.port(wanted.port))
    key = nft.concat(e.byte(e.PROTOCOLS[wanted.protocol]), e.port(wanted.host_port))
    if not wanted.host_ip:
        return Element(PORTS[wanted.family].name, key, data)
    host = ipaddress.ip_address(wanted.host_ip).packed
    return Element(HOSTPORTS[wanted.family].name, host + key, data)


def link_of(key: bytes) -> str:
    """The link's name at the beginning of an endpoint element's key."""
    return key[:16].rstrip(b"\0").decode(errors="replace")
