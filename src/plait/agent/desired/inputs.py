"""What the desired state is made of besides the snapshot: this host and its endpoints."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping
from typing import Final

import msgspec

from plait.model.hoststate import Shaper
from plait.model.objects import AddressBlock, Cluster, Network, Node, PublishedPort
from plait.model.ruleset import Ruleset
from plait.model.service_table import NOTHING, ServiceTable

V4_ANY: Final = "0.0.0.0/0"
V6_ANY: Final = "::/0"


class Underlay(msgspec.Struct, frozen=True, kw_only=True):
    """The network between the hosts, as this host is connected to it."""

    interface: str
    addresses: tuple[str, ...]
    """With prefix length, at most one a family."""
    link_local: str = ""
    mtu: int = 1500
    gateways: tuple[str, ...] = ()
    """Next hops of the default routes through the interface, at most one a family."""

    def address(self, family: int) -> str:
        """Address of a family with prefix length, or the empty string."""
        return next((a for a in self.addresses if (":" in a) == (family == 6)), "")

    def gateway(self, family: int) -> str:
        """Default next hop of a family, or the empty string."""
        return next((a for a in self.gateways if (":" in a) == (family == 6)), "")

    @property
    def tunnel_family(self) -> int:
        """Outer family of the tunnels: IPv4 where the host has it."""
        return 4 if self.address(4) else 6


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """A local endpoint, reduced to what the kernel needs to know of it."""

    id: str
    interface: str
    """Host side."""
    network: str
    addresses: tuple[str, ...]
    mac: str
    netns: str = ""
    """Empty: a runtime takes the peer and configures it."""
    netns_inode: int = 0
    ifname: str = "eth0"
    ports: tuple[PublishedPort, ...] = ()
    identified: bool = True
    to_host: bool = False
    """It may call its own host where no policy denies it."""
    default_route: bool = True
    shaper: Shaper | None = None
    """Rates and bursts as they were asked for."""


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """This host."""

    node: str
    uid: str
    underlay: Underlay
    attachments: Mapping[str, Attachment] = {}
    """By endpoint id."""
    fenced: frozenset[str] = frozenset()
    """Endpoints whose address another node owns now: they get no traffic (P2)."""
    forward_accept: bool = False
    """Docker filters forwarding on this host."""
    dns: bool = True
    """A resolver listens on this host."""
    accept_ra: bool = False
    """The underlay interface takes routes from router advertisements."""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of the snapshot that the kernel's state depends on, and what policies and
    services make of the rest."""

    cluster: Cluster
    nodes: Mapping[str, Node] = {}
    networks: Mapping[str, Network] = {}
    blocks: Mapping[str, AddressBlock] = {}
    policy: Ruleset = Ruleset()
    services: ServiceTable = NOTHING


def is6(address: str) -> bool:
    """The address or CIDR is IPv6."""
    return ":" in address


def host_cidr(address: str) -> str:
    """The address as a CIDR of itself."""
    return f"{address}/{128 if is6(address) else 32}"


def bare(address: str) -> str:
    """The address without its prefix length."""
    return address.partition("/")[0]


def same_subnet(ours: str, theirs: str) -> bool:
    """Their address lies on our subnet; both with prefix length, either may be empty."""
    if not ours or not theirs or is6(ours) != is6(theirs):
        return False
    return ipaddress.ip_address(bare(theirs)) in ipaddress.ip_interface(ours).network


def gateways(network: Network) -> tuple[str, ...]:
    """A network's gateways, one a pool in the order of the pools."""
    named = {is6(gateway): gateway for gateway in network.spec.gateways}
    return tuple(
        named.get(is6(pool)) or str(ipaddress.ip_network(pool).network_address + 1)
        for pool in network.spec.pools
    )


def network_id(network: Network) -> str:
    """Opaque identity of a network for the kernel: no text of a user reaches a ruleset."""
    ident = network.metadata.uid or network.metadata.name
    return "n" + hashlib.sha256(ident.encode()).hexdigest()[:10]
