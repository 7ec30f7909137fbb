"""The nftables ruleset that a `Filter` asks for: pure, and in nft's terms.

The path of a packet that concerns an endpoint (link group 112); others meet no rule of ours:

- `source` (raw): the interface must be known and the source address its own.
- `dns` (mangle): DNS, to whatever server, is handed to our resolver; when that does not listen
  the packet goes on as it is.
- `nat`, for first packets only: Services (`service_base`), and ports, for packets to a local
  address. What is sent to a Service and is not translated is refused.
- `egress`, then the network's `e-…` chain: where the sender may reach.
- `ingress`, then the network's `i-…` chain: who may reach the receiver. Both must agree.
  Each is found by one lookup of the address's pool, however many networks there are.
- `policy-egress`, then `policy-ingress`: the policies of the sender and of the receiver; each
  finds the class of a local address by one lookup (`policy_rules`).
- `host-in`, `host-out`: between the host itself and its endpoints.
- `srcnat`: what leaves our networks is masqueraded.

An unknown interface matches no element, and each path ends in a drop. Networks are named by a
hash of their id, so that no user's text is ever a part of the ruleset.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from plait.agent.desired.filter_chains import base_chains
from plait.agent.desired.filter_logs import DENIED, log
from plait.agent.desired.filter_sets import (
    BASE_SETS,
    EGRESS_PREFIX,
    FAMILIES,
    FROM,
    HOSTPORTS,
    INGRESS_PREFIX,
    KNOWN,
    POOLS,
    PORTS,
    SRC,
    TO,
    TO_HOST,
    VIP_POOLS,
    VTEPS,
)
from plait.agent.desired.service_base import from_nodes
from plait.model.hoststate import Filter, FilterEndpoint, FilterNetwork, PortMap
from plait.wire import nft, nft_read
from plait.wire import nft_expr as e
from plait.wire import nft_keys as k
from plait.wire.nft import Chain, Rule
from plait.wire.nft_effects import RejectNoRoute
from plait.wire.nft_expr import ACCEPT, DROP, Counter, InSet

_COUNT: Final = Counter()
_PUBLISHED: Final = e.Masked(e.CT_STATUS, e.CT_STATUS_DNAT)


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
def base_rules(
    vxlan_port: int, vni: int, dns: bool, logs: bool = True, own: tuple[str, ...] = ()
) -> tuple[ChainRules, ...]:
    """See `base_chains`."""
    return tuple(described(chain) for chain in base_chains(vxlan_port, vni, dns, logs, own))


def described(chain: Chain) -> ChainRules:
    """A chain, and how the kernel describes it."""
    return ChainRules(chain, nft_read.describe_chain(chain))


def base_elements(desired: Filter) -> dict[str, dict[bytes, nft.Data]]:
    """Elements of the base sets: every pool, and every other node's underlay address."""
    pools = {p for n in desired.networks.values() for p in n.pools}
    return _base_elements(
        frozenset(pools.union(desired.pools)), desired.vteps, frozenset(desired.service_pools)
    )


@lru_cache(maxsize=8)
def _base_elements(
    pools: frozenset[str], vteps: tuple[str, ...], service_pools: frozenset[str]
) -> dict[str, dict[bytes, nft.Data]]:
    found: dict[str, dict[bytes, nft.Data]] = {s.name: {} for s in BASE_SETS}
    for family in FAMILIES:
        for of, cidrs in ((POOLS, pools), (VIP_POOLS, service_pools)):
            found[of[family].name] = dict.fromkeys(_ranges(cidrs, family))
    for vtep in vteps:
        ip = ipaddress.ip_address(vtep)
        found[VTEPS[ip.version].name][ip.packed] = None
    return found


def _ranges(cidrs: frozenset[str], family: int) -> Iterator[bytes]:
    """Keys of CIDRs of a family in an interval set.

    Its ranges must not overlap; a pool inside another adds nothing. Of pools that begin alike, the
    largest comes first.
    """
    half = 4 if family == 4 else 16
    own = [k.cidr_range(cidr) for cidr in cidrs if (":" in cidr) == (family == 6)]
    own.sort(key=lambda key: (key[:half], -int.from_bytes(key[half:], "big")))
    last = b""
    for key in own:
        if key[half:] > last:
            yield key
            last = key[half:]


# What comes and goes


@lru_cache(maxsize=4096)
def chain_suffix(network: str) -> str:
    """Opaque name of a network in the ruleset: 12 hex digits of a hash of its id."""
    return hashlib.sha256(network.encode()).hexdigest()[:12]


@lru_cache(maxsize=4096)
def network_rules(network: str, wanted: FilterNetwork, logs: bool = True) -> NetworkRules:
    """The chains of a network and the elements that lead to them."""
    egress, ingress = network_chains(network, wanted, logs)
    elements = [
        Element(dispatch[4 if "." in pool else 6].name, k.cidr_range(pool), e.goto(chain.name))
        for dispatch, chain in ((FROM, egress), (TO, ingress))
        for pool in wanted.pools
    ]
    return NetworkRules((described(egress), described(ingress)), tuple(elements))


def network_chains(network: str, wanted: FilterNetwork, logs: bool = True) -> tuple[Chain, Chain]:
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
        # As on a host without a default route: refused at once, not after a timeout.
        denied = log(logs, "internal", "egress", DENIED)
        egress.append(Rule("internal network", (_COUNT, *denied, RejectNoRoute())))
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
        ingress += from_nodes()
    denied = log(logs, "network", "ingress", DENIED)
    ingress.append(Rule("not from own network", (_COUNT, *denied, DROP)))
    return (
        Chain(EGRESS_PREFIX + suffix, tuple(egress)),
        Chain(INGRESS_PREFIX + suffix, tuple(ingress)),
    )


def endpoint_elements(link: str, wanted: FilterEndpoint) -> frozenset[Element]:
    """All elements of an endpoint; every key begins with its link's name.

    Not cached: an endpoint that has gone must leave nothing behind, and its programmer asks once.
    """
    name = e.ifname(link)
    found = [Element(KNOWN.name, name, None)]
    if wanted.to_host:
        found.append(Element(TO_HOST.name, name, None))
    for address in wanted.addresses:
        ip = ipaddress.ip_address(address)
        found.append(Element(SRC[ip.version].name, k.concat(name, ip.packed), None))
    return frozenset(found)


@lru_cache(maxsize=4096)
def port_element(wanted: PortMap) -> Element:
    """The element of a published port."""
    address = ipaddress.ip_address(wanted.address).packed
    data = k.concat(address, e.port(wanted.port))
    key = k.concat(e.byte(e.PROTOCOLS[wanted.protocol]), e.port(wanted.host_port))
    if not wanted.host_ip:
        return Element(PORTS[wanted.family].name, key, data)
    host = ipaddress.ip_address(wanted.host_ip).packed
    return Element(HOSTPORTS[wanted.family].name, host + key, data)


def link_of(key: bytes) -> str:
    """The link's name at the beginning of an endpoint element's key."""
    return key[:16].rstrip(b"\0").decode(errors="replace")
