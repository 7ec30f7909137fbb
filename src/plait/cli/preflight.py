"""What stands in the way of Plait on this host: facts in, findings out; nothing is read here.

A pool of ours must not overlap anything that the host already reaches: our route would shadow
it (facts of this kind are why Docker networks break VPNs). So a pool is compared with every
route, address, resolver and Docker pool, and when none was asked for, the first candidate that
overlaps nothing is taken.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from plait.model.errors import PlaitError
from plait.model.marks import VXLAN_PORT

if TYPE_CHECKING:
    from plait.wire.api import PoolUse

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

CANDIDATES: Final = (
    "10.112.0.0/12",
    "10.80.0.0/12",
    "10.176.0.0/12",
    "10.208.0.0/12",
    "10.32.0.0/12",
    "10.144.0.0/12",
    "172.24.0.0/14",
    # Shared address space (RFC 6598) and the benchmarking range (RFC 2544) last: some networks
    # use them, but few have all of 10.0.0.0/8 as well.
    "100.80.0.0/12",
    "198.18.0.0/15",
)
"""IPv4 pools that are tried in turn."""

DOCKER_DEFAULT_POOLS: Final = ("172.16.0.0/12", "192.168.0.0/16")
"""Out of which dockerd makes networks when nothing is configured (libnetwork ipamutils)."""

MIN_PREFIX: Final = {4: 22, 6: 64}
"""The longest prefix of a pool that still holds a few networks."""


class Use(msgspec.Struct, frozen=True):
    """A piece of address space that the host uses."""

    cidr: str
    what: str
    """In words: `the route 10.0.0.0/8 dev tun0`."""
    proposed: bool = False
    """Nothing is there yet: Docker may make networks out of it."""


class Feature(msgspec.Struct, frozen=True):
    """A kernel feature, and whether a probe found it."""

    name: str
    present: bool
    needed_for: str
    fix: str
    required: bool = True


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What was read of the host."""

    root: bool
    missing_programs: tuple[tuple[str, str], ...] = ()
    """(program, Debian package)."""
    features: tuple[Feature, ...] = ()
    uses: tuple[Use, ...] = ()
    addresses: tuple[str, ...] = ()
    """Global addresses of the host with prefix length, that of the default route first."""
    interfaces: tuple[str, ...] = ()
    busy_ports: tuple[tuple[str, int], ...] = ()
    """(protocol, port) that somebody else holds on every address."""
    resolvers: tuple[str, ...] = ()
    """Name servers of the host's resolv.conf, those behind systemd-resolved's stub included."""
    docker: bool = False
    """dockerd is installed."""
    docker_dns: bool = False
    """daemon.json names the resolvers of containers."""
    foreign_vxlan_port: bool = False
    """Somebody holds the VXLAN port, and no VXLAN device does."""
    version: str = ""


class Finding(NamedTuple):
    """A problem; `fatal` ones stop `plait up`."""

    error: PlaitError
    fatal: bool = True


class Pools(NamedTuple):
    """Chosen pools, and the findings about them."""

    cidrs: tuple[str, ...]
    findings: tuple[Finding, ...] = ()


def parse_cidr(text: str) -> IPNetwork:
    """A range of addresses in canonical form; PLAIT-NET-004 says what is wrong with it."""
    try:
        pool = ipaddress.ip_network(text)
    except ValueError as error:
        fix: tuple[str, ...] = ()
        with contextlib.suppress(ValueError):
            fix = (f"write {ipaddress.ip_network(text, strict=False)}",)
        raise PlaitError("PLAIT-NET-004", f"`{text}` is no pool", why=str(error), fix=fix) from None
    if pool.is_multicast or pool.is_loopback or pool.is_link_local or pool.prefixlen == 0:
        raise PlaitError("PLAIT-NET-004", f"the pool {pool} is not for hosts")
    return pool


def parse_pool(text: str) -> IPNetwork:
    """A pool of the cluster in canonical form; PLAIT-NET-004 says what is wrong with it."""
    pool = parse_cidr(text)
    limit = MIN_PREFIX[pool.version]
    if pool.prefixlen > limit:
        raise PlaitError(
            "PLAIT-NET-004",
            f"the pool {pool} is too small",
            why=f"networks are cut from it; /{limit} is the smallest",
        )
    return pool


def conflict(pool: IPNetwork, uses: Iterable[Use]) -> Use | None:
    """The first use that overlaps the pool."""
    for use in uses:
        other = ipaddress.ip_network(use.cidr, strict=False)
        # Default routes, whole or in halves (as VPNs write them), are in nobody's way.
        if other.prefixlen < 4 or other.version != pool.version:
            continue
        if pool.overlaps(other):
            return use
    return None


def free_pool(uses: Sequence[Use]) -> str:
    """The first IPv4 candidate that overlaps nothing, or empty."""
    for candidate in CANDIDATES:
        if conflict(ipaddress.ip_network(candidate), uses) is None:
            return candidate
    return ""


def unique_local(random: bytes) -> str:
    """A /48 of unique local addresses out of 40 random bits (RFC 4193 section 3.2)."""
    if len(random) != 5:
        raise ValueError("a global id has 40 bits")
    return str(ipaddress.ip_network((b"\xfd" + random + bytes(10), 48)))


def choose_pools(asked: Sequence[str], uses: Sequence[Use], random: bytes) -> Pools:
    """The pools of the cluster: those asked for, checked, or free ones of both families."""
    chosen: list[str] = []
    findings: list[Finding] = []
    for text in asked:
        pool = parse_pool(text)
        clash = conflict(pool, uses)
        if clash is not None:
            findings.append(Finding(overlap_error(str(pool), clash, uses)))
        findings += [
            Finding(PlaitError("PLAIT-NET-001", f"the pools {other} and {pool} overlap"))
            for other in chosen
            if conflict(pool, (Use(other, other),))
        ]
        chosen.append(str(pool))
    families = {ipaddress.ip_network(cidr).version for cidr in chosen}
    if 4 not in families and not asked:
        pool4 = free_pool(uses)
        if pool4:
            chosen.append(pool4)
        else:
            clash = conflict(ipaddress.ip_network(CANDIDATES[0]), uses)
            assert clash is not None
            findings.append(Finding(overlap_error(CANDIDATES[0], clash, uses)))
    if 6 not in families:
        chosen.append(unique_local(random))
    return Pools(tuple(chosen), tuple(findings))


def overlap_error(pool: str, clash: Use, uses: Sequence[Use]) -> PlaitError:
    """PLAIT-HOST-003: names the conflict and proposes a pool that is free."""
    free = free_pool(uses)
    return PlaitError(
        "PLAIT-HOST-003",
        f"the pool {pool} overlaps {clash.what}",
        where=f"pool {pool}",
        why=f"containers would hide {clash.cidr} from this host and from each other",
        fix=(f"plait up --pool {free}",) if free else ("plait up --pool A.B.C.D/16",),
    )


def check_join(pools: Iterable[PoolUse], uses: Sequence[Use]) -> tuple[Finding, ...]:
    """PLAIT-HOST-003 for each pool of the network that overlaps something on this host.

    A pool that Docker chose elsewhere comes from the same proposals as this host's own; Plait
    keeps the Docker of this host off it once the host has joined.
    """
    findings = []
    for pool in pools:
        matter = [use for use in uses if not (use.proposed and pool.external_ipam)]
        clash = conflict(ipaddress.ip_network(pool.cidr), matter)
        if clash is not None:
            findings.append(Finding(_join_error(pool, clash)))
    return tuple(findings)


def _join_error(pool: PoolUse, clash: Use) -> PlaitError:
    whose = f"of the network {pool.network}" if pool.network else "of the cluster"
    fix: tuple[str, ...]
    if clash.proposed:
        fix = ("set `default-address-pools` in /etc/docker/daemon.json to other ranges",)
    else:
        fix = (f"remove {clash.what} from this host, or give it other addresses",)
    if pool.network:
        fix += (f"plait network rm {pool.network}   # on the server",)
    return PlaitError(
        "PLAIT-HOST-003",
        f"the pool {pool.cidr} {whose} overlaps {clash.what}",
        where=f"pool {pool.cidr}",
        why=f"containers would hide {clash.cidr} from this host, and it would hide them",
        fix=fix,
    )


def check_host(facts: HostFacts) -> tuple[Finding, ...]:
    """What is missing on the host, pools aside."""
    if not facts.root:
        return (Finding(root_required("plait up")),)
    found = [
        Finding(
            PlaitError(
                "PLAIT-HOST-001",
                f"the program `{program}` is missing",
                fix=(f"apt-get install -y {package}",),
            )
        )
        for program, package in facts.missing_programs
    ]
    found += [
        Finding(
            PlaitError(
                "PLAIT-KERNEL-002",
                f"this kernel has no {feature.name}",
                why=f"it is needed for {feature.needed_for}",
                fix=(feature.fix,),
            ),
            feature.required,
        )
        for feature in facts.features
        if not feature.present
    ]
    if ("udp", 53) in facts.busy_ports:
        found.append(
            Finding(
                PlaitError(
                    "PLAIT-HOST-007",
                    "a name server holds port 53 on every address of this host",
                    why="Plait's resolver listens on 169.254.1.1:53, so names would not work",
                    fix=("ss -lnup sport = :53", "let it listen on chosen addresses only"),
                ),
                fatal=False,
            )
        )
    if facts.foreign_vxlan_port:
        found.append(
            Finding(
                PlaitError(
                    "PLAIT-HOST-007",
                    f"UDP port {VXLAN_PORT} is taken by something that is no VXLAN",
                    why="hosts on other subnets are reached by VXLAN on that port",
                    fix=(f"ss -lnup sport = :{VXLAN_PORT}", "plait up --encap direct"),
                ),
                fatal=False,
            )
        )
    if facts.docker and not facts.docker_dns and _only_loopback(facts.resolvers):
        found.append(
            Finding(
                PlaitError(
                    "PLAIT-HOST-010",
                    "this host's only resolvers are on its loopback, where containers reach none",
                    why=f"/etc/resolv.conf names {', '.join(facts.resolvers)}; "
                    "dockerd gives containers public resolvers (8.8.8.8) instead",
                    fix=(
                        'put {"dns": ["192.0.2.53"]}, with your resolver, '
                        "into /etc/docker/daemon.json and restart dockerd",
                    ),
                ),
                fatal=False,
            )
        )
    return tuple(found)


def _only_loopback(resolvers: Iterable[str]) -> bool:
    """There are resolvers, and all on loopback addresses."""
    found = []
    for text in resolvers:
        with contextlib.suppress(ValueError):
            found.append(ipaddress.ip_address(text.partition("%")[0]).is_loopback)
    return bool(found) and all(found)


def check_port(facts: HostFacts, port: int) -> tuple[Finding, ...]:
    """Whether the server can have its port."""
    if ("tcp", port) not in facts.busy_ports:
        return ()
    return (
        Finding(
            PlaitError(
                "PLAIT-HOST-007",
                f"TCP port {port} is taken",
                why="the server needs it",
                fix=(f"plait up --port {port + 1}", f"ss -lntp sport = :{port}"),
            )
        ),
    )


def root_required(command: str) -> PlaitError:
    """PLAIT-HOST-002."""
    return PlaitError("PLAIT-HOST-002", f"`{command}` needs root", fix=(f"sudo {command}",))


def choose_address(
    facts: HostFacts, address: str, interface: str
) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    """The underlay address: the one asked for, or that of the default route.

    PLAIT-HOST-006 when the host does not have it.
    """
    have = ", ".join(facts.addresses) or "none"
    if address:
        try:
            wanted = ipaddress.ip_interface(address)
        except ValueError as error:
            raise PlaitError("PLAIT-HOST-006", f"`{address}` is no address", why=str(error)) from (
                None
            )
        for text in facts.addresses:
            if ipaddress.ip_interface(text).ip == wanted.ip:
                return ipaddress.ip_interface(text)
        raise PlaitError(
            "PLAIT-HOST-006",
            f"this host does not have the address {wanted.ip}",
            why=f"its addresses are {have}",
            fix=tuple(f"plait up --address {a.split('/')[0]}" for a in facts.addresses[:2]),
        )
    if interface and interface not in facts.interfaces:
        raise PlaitError(
            "PLAIT-HOST-006",
            f"there is no interface `{interface}` with an address",
            why=f"there are {', '.join(facts.interfaces) or 'none'}",
        )
    if not facts.addresses:
        raise PlaitError(
            "PLAIT-HOST-006",
            "this host has no address that others could reach",
            why="no interface but loopback has one",
            fix=("ip address add 192.0.2.1/24 dev eth0", "plait up --address IP"),
        )
    return ipaddress.ip_interface(facts.addresses[0])
