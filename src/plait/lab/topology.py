"""The plan of a lab as data: sites, hosts, addresses. Pure.

    outside 100.64.99.2 ── router ─┬─ site1 100.64.1.0/24 fd64:1::/64 ─┬─ h1 .11
                                   │                                   └─ h3 .13
                                   └─ site2 100.64.2.0/24 fd64:2::/64 ─── h2 .12

The prefixes are out of RFC 6598 and RFC 4193 and clash with neither Docker's pools nor Plait's.
They exist inside the lab's namespaces only; the lab has no uplink.
"""

from __future__ import annotations

import re

import msgspec

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?")
"""Of a lab: it becomes part of paths and cgroups."""
ROUTER = "router"
OUTSIDE = "outside"
MAX_HOSTS = 200
MAX_SITES = 90
OUTSIDE_SITE = 99
LOAD_BALANCERS = ("100.64.98.0/24", "fd64:62::/64")
"""Addresses of load balancers; the router sends them to the first host, as an administrator's
static route would."""


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    """A host's only interface, `eth0`, and its other end on the router."""

    port: str
    """Interface name on the router, a port of the site's bridge."""
    address4: str
    address6: str
    """With prefix length."""
    gateway4: str
    gateway6: str
    mac: str
    """The same after every boot, as of a real machine: neighbours remember it."""


class HostPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One host."""

    name: str
    site: int
    interface: Interface


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The whole lab."""

    name: str
    sites: int
    mtu: int
    hosts: dict[str, HostPlan]

    @property
    def machines(self) -> list[str]:
        """The hosts that Plait runs on."""
        return [name for name in self.hosts if name != OUTSIDE]

    @property
    def bridges(self) -> dict[int, str]:
        """Bridge of each site, on the router."""
        return {site: f"site{site}" for site in (*range(1, self.sites + 1), OUTSIDE_SITE)}


def _mac(site: int, number: int) -> str:
    """A locally administered address (IEEE 802 8.4)."""
    return f"02:00:00:{site:02x}:{number >> 8:02x}:{number & 255:02x}"


def _interface(site: int, number: int, port: str) -> Interface:
    return Interface(
        port=port,
        address4=f"100.64.{site}.{number}/24",
        address6=f"fd64:{site:x}::{number:x}/64",
        gateway4=f"100.64.{site}.1",
        gateway6=f"fd64:{site:x}::1",
        mac=_mac(site, number),
    )


def plan(name: str, hosts: int, sites: int = 1, mtu: int = 1500) -> Plan:
    """Hosts `h1`…, dealt out to the sites in turn, and the client `outside`.

    Raises ValueError when a number is out of range or the name is none.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"a lab has a name of 1 to 30 of a-z, 0-9 and -, not {name[:40]!r}")
    if not 1 <= hosts <= MAX_HOSTS:
        raise ValueError(f"a lab has 1 to {MAX_HOSTS} hosts, not {hosts}")
    if not 1 <= sites <= MAX_SITES:
        raise ValueError(f"a lab has 1 to {MAX_SITES} sites, not {sites}")
    if sites > hosts:
        raise ValueError(f"a lab of {hosts} hosts has at most {hosts} sites, not {sites}")
    if not 1280 <= mtu <= 9000:
        raise ValueError(f"the MTU of a lab is 1280 to 9000 bytes, not {mtu}")
    made = {}
    for number in range(1, hosts + 1):
        site = (number - 1) % sites + 1
        host = f"h{number}"
        made[host] = HostPlan(
            name=host, site=site, interface=_interface(site, number + 10, f"p-{host}")
        )
    made[OUTSIDE] = HostPlan(
        name=OUTSIDE, site=OUTSIDE_SITE, interface=_interface(OUTSIDE_SITE, 2, "p-outside")
    )
    return Plan(name=name, sites=sites, mtu=mtu, hosts=made)


def router_commands(lab: Plan) -> list[str]:
    """`ip -batch` lines that make the router's bridges, inside its namespace."""
    lines = []
    for site, bridge in lab.bridges.items():
        lines += [
            f"link add {bridge} address {_mac(site, 1)} type bridge",
            f"link set {bridge} mtu {lab.mtu} up",
            f"address add 100.64.{site}.1/24 dev {bridge}",
            f"address add fd64:{site:x}::1/64 dev {bridge} nodad",
        ]
    first = lab.hosts[lab.machines[0]].interface
    for pool, gateway in zip(LOAD_BALANCERS, (first.address4, first.address6), strict=True):
        lines.append(f"route add {pool} via {gateway.partition('/')[0]}")
    return lines


def link_commands(lab: Plan, host: HostPlan, pid: int) -> list[str]:
    """`ip -batch` lines, run in the router's namespace, that plug a host in."""
    port, mac = host.interface.port, host.interface.mac
    return [
        f"link add {port} mtu {lab.mtu} type veth "
        f"peer name eth0 mtu {lab.mtu} address {mac} netns {pid}",
        f"link set {port} master {lab.bridges[host.site]} up",
    ]


def host_commands(host: HostPlan) -> list[str]:
    """`ip -batch` lines that configure a host, inside its namespace."""
    at = host.interface
    return [
        f"address add {at.address4} dev eth0",
        f"address add {at.address6} dev eth0 nodad",
        "link set eth0 up",
        f"route add default via {at.gateway4}",
        f"route add ::/0 via {at.gateway6} dev eth0",
    ]
