"""Random networks and policies of every kind, for hypothesis.

Everything is drawn from few names, labels and addresses, so that selectors select, policies
overlap and changes matter. `scenes` draws a whole network; `steps` a history of changes to one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple, get_args

from hypothesis import strategies as st

from plait.model.objects import (
    AnyObject,
    Endpoint,
    EndpointSlice,
    EndpointSpec,
    Group,
    Metadata,
    NamedPort,
    Namespace,
    Network,
    NetworkSpec,
    Node,
    NodeSpec,
    Policy,
    Service,
)
from plait.model.policies import (
    Action,
    Direction,
    GroupSpec,
    Peer,
    PolicySpec,
    Port,
    Protocol,
    Rule,
    ServiceRef,
    Subject,
    TierName,
)
from plait.model.selectors import (
    ENDPOINT_NAME,
    ENDPOINT_NODE,
    NAMESPACE_NAME,
    Requirement,
    Selector,
)
from plait.model.services import (
    EndpointSliceSpec,
    FixedBackend,
    ServiceSpec,
    SliceEndpoint,
)
from plait.selection.parties import LocalParty

NETWORK: Final = "net"
POOLS: Final = ("10.66.0.0/24", "fd66::/64")
NODES: Final = ("h1", "h2")
NAMESPACES: Final = ("x", "y", "z")
NAMES: Final = ("web", "api", "db")
SLOTS: Final = range(6)
"""Endpoints that may be there, each with addresses of its own."""
OUTSIDE: Final = ("192.0.2.200", "198.51.100.7", "2001:db8:5::7")
"""Addresses that are nobody's."""
FOUND: Final = {"198.51.100.7": ("example.com",), "2001:db8:5::7": ("www.example.com",)}
"""Names that the resolver found at addresses outside."""
UNKNOWN: Final = ("10.66.0.99", "fd66::99")
"""Addresses in the pools that are nobody's."""
PORT_NAMES: Final = ("http", "dns")
PORTS: Final = (53, 80, 81, 443)
CIDRS: Final = (
    "0.0.0.0/0",
    "::/0",
    "10.66.0.0/24",
    "10.66.0.8/29",
    "10.66.0.10/32",
    "10.66.0.12/30",
    "192.0.2.0/24",
    "198.51.100.0/24",
    "fd66::/64",
    "fd66::8/125",
    "fd66::a/128",
    "2001:db8::/32",
)
EXCEPTED: Final = {
    "0.0.0.0/0": ("10.66.0.0/25", "10.66.0.10/31", "192.0.2.0/24"),
    "10.66.0.0/24": ("10.66.0.10/31", "10.66.0.12/32", "10.66.0.14/31"),
    "::/0": ("fd66::/125", "fd66::a/127", "2001:db8:5::/48"),
    "fd66::/64": ("fd66::a/127", "fd66::e/128"),
}
_KEYS: Final = ("app", "env")
_VALUES: Final = ("a", "b")

_labels = st.dictionaries(st.sampled_from(_KEYS), st.sampled_from(_VALUES), max_size=2)


def address(slot: int, family: Literal[4, 6] = 4) -> str:
    """The address of an endpoint."""
    return f"10.66.0.{10 + slot}" if family == 4 else f"fd66::{10 + slot:x}"


# Selectors


@st.composite
def _requirements(draw: st.DrawFn, keys: tuple[str, ...], values: tuple[str, ...]) -> Requirement:
    key = draw(st.sampled_from(keys))
    operator = draw(st.sampled_from(("In", "NotIn", "Exists", "DoesNotExist")))
    if operator in {"Exists", "DoesNotExist"}:
        return Requirement(key=key, operator=operator)
    some = st.lists(st.sampled_from(values), min_size=1, max_size=2)
    return Requirement(key=key, operator=operator, values=tuple(draw(some)))


def _selectors(labels: tuple[tuple[str, str], ...]) -> st.SearchStrategy[Selector]:
    keys = tuple(sorted({key for key, _ in labels}))
    values = tuple(sorted({value for _, value in labels}))
    return st.builds(
        Selector,
        match_labels=st.lists(st.sampled_from(labels), max_size=1).map(dict),
        match_expressions=st.one_of(
            st.just(()), st.just(()), _requirements(keys, values).map(lambda one: (one,))
        ),
    )


_OWN: Final = tuple((key, value) for key in _KEYS for value in _VALUES)
endpoint_selectors = _selectors((*_OWN, *((f"{ENDPOINT_NAME}{name}", "") for name in NAMES)))
namespace_selectors = _selectors((*_OWN, *((NAMESPACE_NAME, name) for name in NAMESPACES)))
node_selectors = _selectors((*_OWN, *((ENDPOINT_NODE, name) for name in NODES)))


# Objects

NETWORK_OBJECT: Final = Network(metadata=Metadata(name=NETWORK), spec=NetworkSpec(pools=POOLS))

_named_ports = st.lists(
    st.builds(
        NamedPort,
        name=st.sampled_from(PORT_NAMES),
        protocol=st.sampled_from(("tcp", "udp", "sctp")),
        port=st.sampled_from(PORTS),
    ),
    max_size=2,
    unique_by=lambda port: (port.name, port.protocol),
).map(tuple)


def namespaces(name: str) -> st.SearchStrategy[Namespace]:
    """A namespace of this name."""
    return _labels.map(lambda labels: Namespace(metadata=Metadata(name=name, labels=labels)))


def nodes(name: str) -> st.SearchStrategy[Node]:
    """A node of this name, with its own addresses."""
    number = 1 + NODES.index(name)
    spec = NodeSpec(addresses=(f"192.0.2.{number}/24", f"2001:db8::{number}/64"))
    return _labels.map(lambda labels: Node(metadata=Metadata(name=name, labels=labels), spec=spec))


@st.composite
def endpoints(
    draw: st.DrawFn, slot: int, namespace: str | None = None, node: str | None = None
) -> Endpoint:
    """The endpoint of a slot."""
    name, *aliases = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True))
    return Endpoint(
        metadata=Metadata(
            name=f"e{slot}",
            namespace=namespace or draw(st.sampled_from(NAMESPACES)),
            labels=draw(_labels),
        ),
        spec=EndpointSpec(
            node=node or draw(st.sampled_from(NODES)),
            network=NETWORK,
            name=name,
            aliases=tuple(aliases),
            addresses=(address(slot), address(slot, 6)),
            named_ports=draw(_named_ports),
        ),
    )


GROUPS: Final = ("friends", "offices")


def groups(name: str) -> st.SearchStrategy[Group]:
    """A group of this name, of selectors or of CIDRs."""
    spec = st.one_of(
        st.builds(GroupSpec, endpoints=endpoint_selectors),
        st.builds(GroupSpec, namespaces=namespace_selectors, endpoints=endpoint_selectors),
        st.builds(
            GroupSpec, cidrs=st.lists(st.sampled_from(CIDRS), min_size=1, max_size=3).map(tuple)
        ),
    )
    return spec.map(lambda spec: Group(metadata=Metadata(name=name), spec=spec))


SERVED: Final = tuple((namespace, name) for namespace in NAMESPACES[:2] for name in NAMES[:2])
"""Services that there may be: namespace and name."""
_served: Final = (address(0), address(2), address(3, 6), *UNKNOWN, "192.0.2.1", "198.51.100.7")


def services(key: tuple[str, str]) -> st.SearchStrategy[Service]:
    """A service of this namespace and name, whose backends are said in one of three ways."""
    networks = st.sampled_from((NETWORK, NETWORK, "other"))
    fixed = st.lists(st.sampled_from(_served), min_size=1, max_size=2, unique=True)
    spec = st.one_of(
        st.builds(ServiceSpec, network=networks, selector=endpoint_selectors),
        fixed.map(lambda told: ServiceSpec(backends=tuple(FixedBackend(address=a) for a in told))),
        st.just(ServiceSpec()),
    )
    meta = Metadata(namespace=key[0], name=key[1])
    return spec.map(lambda spec: Service(metadata=meta, spec=spec))


def slices(key: tuple[str, str]) -> st.SearchStrategy[EndpointSlice]:
    """The slice of a service."""
    told = st.lists(st.sampled_from(_served), max_size=3, unique=True)
    return told.map(
        lambda addresses: EndpointSlice(
            metadata=Metadata(namespace=key[0], name=f"{key[1]}-1"),
            spec=EndpointSliceSpec(
                service=key[1],
                endpoints=tuple(SliceEndpoint(addresses=(a,), ready=False) for a in addresses),
            ),
        )
    )


# Policies


@st.composite
def _cidr_peers(draw: st.DrawFn) -> Peer:
    cidr = draw(st.sampled_from(CIDRS))
    holes = EXCEPTED.get(cidr, ())
    some = st.lists(st.sampled_from(holes), max_size=2, unique=True) if holes else st.just([])
    return Peer(cidr=cidr, excepted=tuple(draw(some)))


_peers = st.one_of(
    st.builds(Peer, endpoints=endpoint_selectors),
    st.builds(Peer, namespaces=namespace_selectors),
    st.builds(Peer, namespaces=namespace_selectors, endpoints=endpoint_selectors),
    st.builds(Peer, group=st.sampled_from((*GROUPS, "missing"))),
    st.builds(Peer, network=st.sampled_from((NETWORK, "other"))),
    _cidr_peers(),
    st.builds(Peer, nodes=node_selectors),
    st.builds(
        Peer,
        service=st.builds(
            ServiceRef, name=st.sampled_from(NAMES), namespace=st.sampled_from(NAMESPACES)
        ),
    ),
)
_domain_peers = st.builds(
    Peer,
    domains=st.lists(
        st.sampled_from(("example.com", "*.example.com", "nowhere.test")), min_size=1, max_size=2
    ).map(tuple),
)


@st.composite
def _port(draw: st.DrawFn) -> Port:
    protocol: Protocol = draw(st.sampled_from(get_args(Protocol)))
    if protocol in {"ICMP", "ICMPv6"}:
        kind = draw(st.sampled_from((None, 8, 128)))
        return Port(
            protocol=protocol,
            icmp_type=kind,
            icmp_code=None if kind is None else draw(st.sampled_from((None, 0))),
        )
    match draw(st.sampled_from(("all", "one", "range", "name", "any"))):
        case "one":
            return Port(protocol=protocol, port=draw(st.sampled_from(PORTS)))
        case "range":
            return Port(protocol=protocol, port=draw(st.sampled_from((1, 53, 80))), end_port=81)
        case "name":
            return Port(protocol=protocol, port=draw(st.sampled_from(PORT_NAMES)))
        case "any":
            return Port(port=draw(st.sampled_from(PORT_NAMES)))
        case _:
            return Port(protocol=protocol)


@st.composite
def _rules(draw: st.DrawFn, direction: Direction) -> Rule:
    action: Action = draw(st.sampled_from(get_args(Action)))
    peers = (
        st.one_of(_peers, _domain_peers)
        if (direction, action) == ("egress", "Accept")
        else (_peers)
    )
    some = st.lists(peers, min_size=1, max_size=2).map(tuple)
    ports = st.lists(_port(), min_size=1, max_size=2).map(tuple)
    return Rule(
        action=action,
        peers=draw(st.one_of(st.none(), some)),
        ports=draw(st.one_of(st.none(), ports)),
        reject=action == "Deny" and draw(st.booleans()),
    )


POLICIES: Final = ("one", "two", "three", "four")


@st.composite
def policies(draw: st.DrawFn, name: str) -> Policy:
    """A policy of this name."""
    tier: TierName = draw(st.sampled_from(get_args(TierName)))
    directions: tuple[Direction, ...] = ("ingress", "egress")
    closed = st.lists(st.sampled_from(directions), unique=True).map(tuple)
    return Policy(
        metadata=Metadata(name=name),
        spec=PolicySpec(
            tier=tier,
            priority=draw(st.sampled_from((10, 500))),
            subject=draw(
                st.builds(
                    Subject,
                    namespaces=st.one_of(st.none(), namespace_selectors),
                    endpoints=st.one_of(st.none(), endpoint_selectors),
                )
            ),
            isolate=draw(st.one_of(st.none(), closed)) if tier == "application" else None,
            ingress=tuple(draw(st.lists(_rules("ingress"), max_size=2))),
            egress=tuple(draw(st.lists(_rules("egress"), max_size=2))),
            staged=draw(st.sampled_from((False, False, False, True))),
        ),
    )


# Whole networks, and how they change


@st.composite
def scenes(draw: st.DrawFn) -> list[AnyObject]:
    """A network: all slots and nodes, some namespaces, groups and policies."""
    found: list[AnyObject] = [NETWORK_OBJECT]
    found += [draw(endpoints(slot)) for slot in SLOTS]
    found += [draw(nodes(name)) for name in NODES]
    for names, make in ((NAMESPACES, namespaces), (GROUPS, groups), (POLICIES, policies)):
        chosen = draw(st.lists(st.sampled_from(names), unique=True, min_size=len(names) // 2))
        found += [draw(make(name)) for name in chosen]
    for key in draw(st.lists(st.sampled_from(SERVED), unique=True)):
        found.append(draw(services(key)))
        found.append(draw(slices(key)))
    return found


class Step(NamedTuple):
    """One change."""

    kind: Literal["put", "delete", "local", "settle"]
    obj: AnyObject | None = None
    ident: str = ""
    party: LocalParty | None = None
    """Of `local`; None: it goes."""


_objects = st.one_of(
    *(endpoints(slot) for slot in SLOTS),
    *map(nodes, NODES),
    *map(namespaces, NAMESPACES),
    *map(groups, GROUPS),
    *map(services, SERVED),
    *map(slices, SERVED),
    *map(policies, POLICIES),
    *map(policies, POLICIES),
)


@st.composite
def _local_steps(draw: st.DrawFn) -> Step:
    slot = draw(st.sampled_from(SLOTS))
    if not draw(st.integers(0, 3)):
        return Step("local", ident=f"e{slot}")
    party = local(draw(endpoints(slot)))
    if not draw(st.integers(0, 4)):
        # For a moment two have one address.
        party = LocalParty(
            namespace=party.namespace, names=party.names, addresses=(address(0), address(slot, 6))
        )
    return Step("local", ident=f"e{slot}", party=party)


def steps() -> st.SearchStrategy[list[Step]]:
    """A history, from nothing."""
    put = _objects.map(lambda obj: Step("put", obj))
    delete = _objects.map(lambda obj: Step("delete", obj))
    settle = st.just(Step("settle"))
    return st.lists(st.one_of(put, put, put, delete, _local_steps(), settle), max_size=25)


def local(endpoint: Endpoint) -> LocalParty:
    """The view that an endpoint's own agent has of it."""
    spec = endpoint.spec
    return LocalParty(
        namespace=endpoint.metadata.namespace,
        names=(spec.name, *spec.aliases),
        labels=endpoint.metadata.labels,
        network=spec.network,
        addresses=spec.addresses,
        named_ports=spec.named_ports,
    )


class Asked(NamedTuple):
    """A kind of packet."""

    protocol: str
    port: int = 0
    icmp_type: int = -1
    icmp_code: int = -1


def packets(family: Literal[4, 6]) -> Iterator[Asked]:
    """Kinds of packets that tell policies apart."""
    for protocol, ports in (("tcp", (53, 80, 443, 8080)), ("udp", (53, 80)), ("sctp", (80,))):
        for port in ports:
            yield Asked(protocol, port)
    echo = 8 if family == 4 else 128
    name = "icmp" if family == 4 else "icmpv6"
    yield Asked(name, 0, echo, 0)
    yield Asked(name, 0, 3, 1)
    yield Asked("gre")
