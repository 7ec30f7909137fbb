"""THE WAIST: everything that the agent wants of its host's kernel, as one comparable value.

`desired(snapshot, host) -> HostState` is pure; programmers make the kernel equal to it. Upper
layers never ask for a single route: they change the snapshot.

Every part is a mapping from the object's identity (what makes it the same kernel object) to its
value, so that a plan is three set operations. Addresses and CIDRs are canonical strings of
`ipaddress`; MACs are lower-case with colons.
"""

from __future__ import annotations

from typing import Literal

from plait.model.ruleset import Ruleset
from plait.model.service_table import NOTHING, ServiceTable
from plait.model.waist import Part as Part


class PeerRoute(Part, frozen=True, kw_only=True):
    """A route inside an endpoint's namespace, through the endpoint's interface."""

    dst: str
    """CIDR; `0.0.0.0/0` and `::/0` for the default routes."""
    via: str = ""
    """Gateway, reached on-link; empty for a route of scope link."""


class Peer(Part, frozen=True, kw_only=True):
    """The container side of an endpoint's veth."""

    name: str
    """Interface name inside the namespace (`eth0`), or, with no netns, in the host's."""
    mac: str
    netns: str = ""
    """Path of the namespace (`/proc/7/ns/net`, `/run/netns/x`); empty: the peer stays in the
    host's namespace and a runtime (dockerd) moves it and configures it."""
    netns_inode: int = 0
    """Inode of the namespace when it was attached: a path that leads elsewhere now is another
    namespace, and is not touched. 0: not checked."""
    addresses: tuple[str, ...] = ()
    """With prefix length."""
    routes: tuple[PeerRoute, ...] = ()
    neighbours: tuple[tuple[str, str], ...] = ()
    """Permanent (address, MAC) entries: a gateway that needs no ARP or ND."""


class Link(Part, frozen=True, kw_only=True):
    """Host side of an endpoint; identity: its name. Carries `marks.LINK_GROUP`."""

    endpoint: str
    """Endpoint id; the alias is `plait:<id>`."""
    mtu: int
    peer: Peer
    addresses: tuple[str, ...] = ()
    """IPv6 gateway addresses on the host side, with prefix length (`fe80::1/64`)."""
    sysctls: tuple[tuple[str, str], ...] = ()
    """(key below `net/`, value), such as (`ipv4/conf/{name}/route_localnet`, `1`); `{name}` is
    the link's name."""


class Shaper(Part, frozen=True, kw_only=True):
    """How fast an endpoint may receive and send; identity: its link's name. 0: as it likes."""

    to_rate: int = 0
    """Bits a second towards the endpoint (CNI's ingressRate)."""
    to_burst: int = 0
    """Bits."""
    from_rate: int = 0
    """Bits a second from the endpoint (CNI's egressRate)."""
    from_burst: int = 0
    """Bits."""


class Vxlan(Part, frozen=True, kw_only=True):
    """A VXLAN device without learning (RFC 7348); identity: its name."""

    vni: int
    port: int
    local: str
    """Underlay address of this host."""
    mac: str
    mtu: int
    addresses: tuple[str, ...] = ()
    """With prefix length; the link-local next hop that peers use."""


class Address(Part, frozen=True, kw_only=True):
    """An address on a link that is not an endpoint's; identity: (link, address)."""

    link: str
    address: str
    """With prefix length."""


class Route(Part, frozen=True, kw_only=True):
    """A route of protocol `marks.PROTOCOL`; identity: (table, dst, metric)."""

    dst: str
    kind: Literal["unicast", "unreachable", "blackhole", "local"] = "unicast"
    link: str = ""
    via: str = ""
    """Next hop; may be of the other family (RTA_VIA)."""
    onlink: bool = False
    table: int = 254
    metric: int = 0
    src: str = ""
    mtu: int = 0


class Rule(Part, frozen=True, kw_only=True):
    """A routing-policy rule of our protocol; identity: all of it."""

    family: Literal[4, 6]
    priority: int
    table: int
    mark: int
    mask: int


class Neighbour(Part, frozen=True, kw_only=True):
    """A permanent neighbour entry on a tunnel; identity: (link, address)."""

    link: str
    address: str
    mac: str


class FdbEntry(Part, frozen=True, kw_only=True):
    """Where a VTEP's MAC lives; identity: (link, mac)."""

    link: str
    mac: str
    dst: str
    """Underlay address of the peer."""


class FilterNetwork(Part, frozen=True, kw_only=True):
    """What the nft programmer needs to know of a network; identity: an opaque id."""

    pools: tuple[str, ...]
    internal: bool = False


class FilterEndpoint(Part, frozen=True, kw_only=True):
    """A local endpoint that may send and receive; identity: its host-side link name.

    An endpoint that is not here is unknown, and unknown endpoints are dropped.
    """

    network: str
    """Identity of its FilterNetwork."""
    addresses: tuple[str, ...]
    """The only source addresses it may use."""
    mac: str = ""
    to_host: bool = False
    """It may call this host where no policy denies it."""


class PortMap(Part, frozen=True, kw_only=True):
    """A published port; identity: (family, host_ip, protocol, host_port)."""

    family: Literal[4, 6]
    protocol: Literal["tcp", "udp", "sctp"]
    host_ip: str
    """Empty: every local address of the family."""
    host_port: int
    address: str
    port: int


class Filter(Part, frozen=True, kw_only=True):
    """All that the nft table says; see `agent/programmers/filter.py` for the rules made of it."""

    networks: dict[str, FilterNetwork] = {}
    endpoints: dict[str, FilterEndpoint] = {}
    pools: tuple[str, ...] = ()
    """Every pool of every network: traffic between them is never masqueraded."""
    ports: frozenset[PortMap] = frozenset()
    vteps: tuple[str, ...] = ()
    """Underlay addresses of the other nodes: nobody else may send us VXLAN."""
    vxlan_port: int = 4789
    vni: int = 0x706C
    dns: bool = True
    """Lead DNS packets of endpoints to the resolver."""
    service_pools: tuple[str, ...] = ()
    """Whatever is sent to an address in one of them and to no Service is refused."""
    own: tuple[str, ...] = ()
    """Underlay addresses of this host, at most one a family: as whom other nodes know it."""


class HostState(Part, frozen=True, kw_only=True):
    """The whole. `==` compares, msgspec serialises, `agent/plan.py` prints the difference."""

    links: dict[str, Link] = {}
    tunnels: dict[str, Vxlan] = {}
    addresses: frozenset[Address] = frozenset()
    routes: frozenset[Route] = frozenset()
    rules: frozenset[Rule] = frozenset()
    neighbours: frozenset[Neighbour] = frozenset()
    fdb: frozenset[FdbEntry] = frozenset()
    filter: Filter = Filter()
    policy: Ruleset = Ruleset()
    services: ServiceTable = NOTHING
    shapers: dict[str, Shaper] = {}
    """By the name of an endpoint's link."""
    sysctls: dict[str, str] = {}
    """Key below `/proc/sys/`, with slashes."""
    forward_accept: bool = False
    """Docker filters forwarding: accept ours in DOCKER-USER."""
