"""Which interface and addresses carry the underlay, and which prefixes others use on this host.

Pure decisions over the facts that `kernel.hostfacts` reads.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Final

from plait.agent.desired.inputs import Underlay, bare, is6
from plait.kernel.hostfacts import AddressFact, HostFacts
from plait.model.errors import PlaitError
from plait.model.marks import PROTOCOL, VXLAN_LINK
from plait.model.objects import Network

DEFAULTS: Final = ("0.0.0.0/0", "::/0")
PREFIXES: Final = 1000
"""Prefixes that a Node names; the server takes a few more."""
OURS: Final = frozenset((VXLAN_LINK, "lo"))
"""Links that belong to us or to nobody; the facts leave endpoints' links out already."""


def decide(facts: HostFacts, *, address: str = "", interface: str = "") -> Underlay:
    """The underlay: by the address that was named, else the interface that was named, else the
    interface of the default route (IPv4's first, lowest metric).

    `address` may carry a prefix length, which then stands in place of the interface's own: it
    says which peers are on the same subnet. Raises PLAIT-HOST-006.
    """
    candidates = [a for a in facts.addresses if _can_be_underlay(a)]
    if address:
        found = next((a for a in candidates if bare(a.address) == bare(address)), None)
        if found is None:
            raise _unknown(facts, f"no interface has the address {bare(address)}")
        link = found.link
    elif interface:
        link = interface
        if link not in {fact.name for fact in facts.links}:
            raise _unknown(facts, f"there is no interface {interface}")
    else:
        link = _default_link(facts) or (candidates[0].link if candidates else "")
        if not link:
            raise _unknown(facts, "the host has no default route and no global address")
    chosen = tuple(
        chosen
        for family in (4, 6)
        if (chosen := _of_family(candidates, link, family, address)) != ""
    )
    if not chosen:
        raise _unknown(facts, f"the interface {link} has no global address")
    return Underlay(
        interface=link,
        addresses=chosen,
        link_local=next(
            (
                bare(a.address)
                for a in facts.addresses
                if a.link == link and a.address.startswith("fe80:")
            ),
            "",
        ),
        mtu=next(fact.mtu for fact in facts.links if fact.name == link),
        gateways=tuple(
            gateway for v6 in (False, True) if (gateway := _gateway(facts, link, v6)) != ""
        ),
    )


def prefixes(facts: HostFacts) -> tuple[str, ...]:
    """CIDRs in use on this host that are not ours: a pool must not overlap them."""
    found = {
        str(ipaddress.ip_interface(fact.address).network)
        for fact in facts.addresses
        if fact.link not in OURS and fact.protocol != PROTOCOL
    }
    found |= {
        route.dst for route in facts.routes if route.dst not in DEFAULTS and route.link not in OURS
    }
    for resolver in facts.resolvers:
        try:
            ip = ipaddress.ip_address(bare(resolver.partition("%")[0]))
        except ValueError:
            continue
        found.add(f"{ip}/{ip.max_prefixlen}")
    networks = (ipaddress.ip_network(cidr) for cidr in found)
    kept = (n for n in networks if not (n.is_link_local or n.is_loopback or n.is_multicast))
    # A router with a full table names its widest prefixes.
    widest = sorted(kept, key=lambda n: (n.prefixlen, n.version, n))[:PREFIXES]
    return tuple(str(net) for net in sorted(widest, key=lambda n: (n.version, n)))


class Overlaps:
    """Pools of networks and Services that a host came to use for something else later.

    Asked often and answered from memory while nothing has changed.
    """

    def __init__(self) -> None:
        self._asked: tuple[tuple[str, ...], dict[str, tuple[str, ...]]] = ((), {})
        self._found: tuple[str, ...] = ()

    def __call__(
        self,
        prefixes: tuple[str, ...],
        networks: Mapping[str, Network],
        service_pools: tuple[str, ...] = (),
    ) -> tuple[str, ...]:
        """A sentence each."""
        named = {f"network {name}": network.spec.pools for name, network in networks.items()}
        asked = prefixes, named | {"service pool": service_pools}
        if asked != self._asked:
            self._asked, self._found = asked, tuple(_overlaps(*asked))
        return self._found


def _overlaps(prefixes: tuple[str, ...], pools: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    # Default routes, whole or in halves (as VPNs write them), are in nobody's way.
    used = [net for net in map(ipaddress.ip_network, prefixes) if net.prefixlen >= 4]
    for name, cidrs in sorted(pools.items()):
        for pool in map(ipaddress.ip_network, cidrs):
            for net in used:
                if net.version == pool.version and net.overlaps(pool):
                    yield (
                        f"the {name} ({pool}) overlaps {net}, which this host uses for "
                        "something else: containers here cannot reach what is there"
                    )


def accepts_ra(facts: HostFacts, link: str) -> bool:
    """The interface takes routes from router advertisements: 1, or 2 if it did so before us."""
    return facts.accept_ra.get(link, "") in ("1", "2")


def _can_be_underlay(fact: AddressFact) -> bool:
    ip = ipaddress.ip_interface(fact.address)
    return (
        fact.usable
        and fact.link not in OURS
        and fact.protocol != PROTOCOL
        and not (ip.is_link_local or ip.is_loopback or ip.is_multicast)
    )


def _default_link(facts: HostFacts) -> str:
    defaults = [r for r in facts.routes if r.dst in DEFAULTS and r.link]
    defaults.sort(key=lambda route: (is6(route.dst), route.metric))
    return defaults[0].link if defaults else ""


def _of_family(candidates: list[AddressFact], link: str, family: int, named: str) -> str:
    """The named address if it is of the family, else the first of the interface."""
    mine = [a.address for a in candidates if a.link == link and is6(a.address) == (family == 6)]
    if named and is6(named) == (family == 6):
        own = next(a for a in mine if bare(a) == bare(named))
        return named if "/" in named else own
    return mine[0] if mine else ""


def _gateway(facts: HostFacts, link: str, v6: bool) -> str:
    routes = [
        r
        for r in facts.routes
        if r.dst in DEFAULTS and is6(r.dst) == v6 and r.link == link and r.via
    ]
    return min(routes, key=lambda r: r.metric).via if routes else ""


def _unknown(facts: HostFacts, why: str) -> PlaitError:
    known = ", ".join(
        f"{fact.address} on {fact.link}" for fact in facts.addresses if _can_be_underlay(fact)
    )
    return PlaitError(
        "PLAIT-HOST-006",
        "the address by which the other hosts reach this one cannot be determined",
        why=why + (f"; it has {known}" if known else ""),
        fix=("plait up --address IP[/LENGTH]   # or: plait join … --address IP",),
    )
