"""Choice and conflict of pools. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal, NamedTuple, cast

import msgspec

from plait.model import marks
from plait.model.errors import PlaitError
from plait.model.objects import Cluster, Network, NetworkStatus, Node
from plait.model.syntax import Cidr, cidr
from plait.server.state import State, with_revision
from plait.wire.api import PoolUse

CUT: Final[dict[int, int]] = {4: 20, 6: 64}
"""Prefix length of the pool that a Network without pools gets, a family."""

MOST_NAMED: Final = 5
"""Hosts that a network's message names."""

LONGEST: Final[dict[int, int]] = {4: 30, 6: 126}
"""Prefix length of the smallest pool: a gateway and an endpoint must fit."""

FORBIDDEN: Final[tuple[tuple[str, str], ...]] = (
    ("0.0.0.0/8", "this network (RFC 1122)"),
    ("127.0.0.0/8", "loopback (RFC 1122)"),
    ("169.254.0.0/16", "link-local (RFC 3927); Plait's gateway is there"),
    ("224.0.0.0/3", "multicast and reserved (RFC 5771, RFC 1112)"),
    ("::/8", "reserved, loopback and IPv4-mapped (RFC 4291)"),
    (f"{marks.RESOLVER6}/128", "Plait's resolver"),
    ("fe80::/10", "link-local (RFC 4291)"),
    ("ff00::/8", "multicast (RFC 4291)"),
)
_FORBIDDEN: Final = tuple((ipaddress.ip_network(net), why) for net, why in FORBIDDEN)


class Use(NamedTuple):
    """A range that is taken, and by whom."""

    cidr: Cidr
    owner: str


def network_uses(state: State, but: str = "") -> list[Use]:
    """Pools of all networks but one."""
    return [
        Use(ipaddress.ip_network(pool), f"network {network.metadata.name}")
        for network in state.networks()
        if network.metadata.name != but
        for pool in network.spec.pools
    ]


def in_use(state: State) -> Iterator[PoolUse]:
    """Pools of the cluster and of its networks, as a joining host is told them."""
    for cluster in state.all(Cluster):
        spec = cluster.spec
        yield from (PoolUse(cidr=pool) for pool in (*spec.pools, *spec.service_pools))
    for network in state.networks():
        for pool in network.spec.pools:
            yield PoolUse(
                cidr=pool,
                network=network.metadata.name,
                external_ipam=network.spec.external_ipam,
            )


def node_uses(state: State) -> list[Use]:
    """What the nodes said is in use on their hosts."""
    return [use for node in state.nodes() for use in _uses_of(node)]


def _uses_of(node: Node) -> Iterable[Use]:
    name = f"node {node.metadata.name}"
    for prefix in node.status.prefixes:
        net = ipaddress.ip_network(prefix)
        # A default route, whole or in halves (as VPNs write it), uses no range of its own.
        if net.prefixlen >= 4:
            yield Use(net, name)
    for addr in node.spec.addresses:
        yield Use(ipaddress.ip_interface(addr).network, name)


def overlapped(state: State, old: Node | None, new: Node) -> tuple[Network, ...]:
    """Networks whose message changes when a node says what it uses now.

    A pool is free when its network is made; a host may begin to use it for something else later
    (a VPN, another Docker network). A network with a message is looked at with every write of
    any node, so what a forgotten node said goes, too.
    """
    quiet = old is not None and list(_uses_of(old)) == list(_uses_of(new))
    mine = [] if quiet else list(_uses_of(new))
    found: list[Network] = []
    for network in state.networks():
        pools = [ipaddress.ip_network(pool) for pool in network.spec.pools]
        if not network.status.message and not any(overlap(pool, mine) for pool in pools):
            continue
        nodes = [node for node in state.nodes() if node.metadata.name != new.metadata.name]
        message = _overlap_message(pools, (*nodes, new))
        if message != network.status.message:
            status = NetworkStatus(message=message)
            changed = msgspec.structs.replace(network, status=status)
            found.append(cast(Network, with_revision(changed, 0)))
    return tuple(found)


def _overlap_message(pools: Sequence[Cidr], nodes: Iterable[Node]) -> str:
    """Which hosts use addresses of these pools for something else; empty when none does."""
    clashes = sorted(
        f"{use.owner} uses {use.cidr}"
        for node in nodes
        for pool in pools
        if (use := overlap(pool, _uses_of(node))) is not None
    )
    if not clashes:
        return ""
    more = f" and {len(clashes) - MOST_NAMED} more" if len(clashes) > MOST_NAMED else ""
    return f"overlaps other networks: {', '.join(clashes[:MOST_NAMED])}{more}"


def overlap(pool: Cidr, uses: Iterable[Use]) -> Use | None:
    """The first use that shares an address with the pool."""
    for use in uses:
        if use.cidr.version == pool.version and pool.overlaps(use.cidr):
            return use
    return None


def check_range(pool: Cidr, where: str) -> None:
    """Refuse ranges that no pool may have."""
    if pool.prefixlen > LONGEST[pool.version]:
        raise PlaitError(
            "PLAIT-NET-004",
            f"the pool {pool} is too small",
            where=where,
            why=f"the smallest pool of its family is a /{LONGEST[pool.version]}",
        )
    check_reserved(pool, where)


def check_reserved(pool: Cidr, where: str) -> None:
    """Refuse ranges whose meaning is fixed."""
    for net, why in _FORBIDDEN:
        if net.version == pool.version and pool.overlaps(net):
            raise PlaitError(
                "PLAIT-NET-004",
                f"the pool {pool} overlaps {net}",
                where=where,
                why=f"{net} is {why}",
            )


def check_free(state: State, pool: Cidr, name: str, where: str) -> None:
    """Refuse a pool that overlaps another network's (NET-001) or a host's use (NET-002)."""
    other = overlap(pool, network_uses(state, but=name))
    if other is not None:
        raise PlaitError(
            "PLAIT-NET-001",
            f"the pool {pool} overlaps {other.cidr} of {other.owner}",
            where=where,
            why="endpoints of different networks never share addresses",
            fix=(f"plait network create {name}   (chooses a free pool)",),
        )
    host = overlap(pool, node_uses(state))
    if host is not None:
        raise PlaitError(
            "PLAIT-NET-002",
            f"the pool {pool} overlaps {host.cidr}, which {host.owner} uses",
            where=where,
            why=f"{host.owner} reported {host.cidr} as a route, an address, a resolver or a pool "
            "of another program",
            fix=(f"plait network create {name}   (chooses a free pool)",),
        )


def cut(pools: Sequence[Cidr], length: int, uses: Iterable[Use]) -> Cidr | None:
    """The lowest free range of a prefix length, out of pools of one family; None if used up."""
    for pool in pools:
        size = 1 << (pool.max_prefixlen - max(length, pool.prefixlen))
        first, end = int(pool.network_address), int(pool.broadcast_address) + 1
        taken = sorted(
            (int(use.cidr.network_address), int(use.cidr.broadcast_address))
            for use in uses
            if use.cidr.version == pool.version and use.cidr.overlaps(pool)
        )
        at = first
        for low, high in taken:
            if at + size <= low:
                break
            at = max(at, -(-(high + 1 - first) // size) * size + first)
        if at + size <= end:
            return ipaddress.ip_network(
                (pool.network_address + (at - first), max(length, pool.prefixlen))
            )
    return None


def choose(
    state: State,
    cluster_pools: Sequence[str],
    family: Literal[4, 6],
    name: str,
    taken: Iterable[Use] = (),
) -> Cidr:
    """A pool for a network that names none, apart from what others use and from what is `taken`.
    PLAIT-NET-003 when the cluster's are used up."""
    pools = [net for net in map(ipaddress.ip_network, cluster_pools) if net.version == family]
    uses = network_uses(state, but=name) + node_uses(state)
    uses += [*taken, *(Use(net, why) for net, why in _FORBIDDEN)]
    found = cut(pools, CUT[family], uses)
    if found is None:
        names = ", ".join(str(pool) for pool in pools) or "none"
        count = state.count(Network)
        raise PlaitError(
            "PLAIT-NET-003",
            f"no free /{CUT[family]} of IPv{family} is left for network {name}",
            where=f"networks/{name}",
            why=f"the cluster's pools are {names}; {count} networks and the hosts use them",
            fix=(
                f"plait network create {name} --pool CIDR",
                "plait network ls",
            ),
        )
    return found


def canonical(pools: Sequence[str], where: str) -> tuple[Cidr, ...]:
    """Valid pools, at most one a family, IPv4 first."""
    parsed = sorted(
        (cidr(pool, f"{where}[{i}]") for i, pool in enumerate(pools)), key=lambda net: net.version
    )
    if len({net.version for net in parsed}) != len(parsed):
        raise PlaitError(
            "PLAIT-NET-004",
            "a network has at most one pool a family",
            where=where,
            why="it names " + ", ".join(str(net) for net in parsed),
        )
    return tuple(parsed)
