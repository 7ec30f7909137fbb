"""The objects that decide about flows, indexed: what an answer without a kernel is made of.

A world is a value: it is made of objects once and not changed. Everything that is computed of
it is remembered in it, so that many questions to one world are cheap.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from plait.model.marks import GATEWAY4, GATEWAY6, RESOLVER6
from plait.model.objects import (
    Cluster,
    ClusterSpec,
    Endpoint,
    EndpointSlice,
    Namespace,
    Network,
    Node,
    Pod,
    Service,
)
from plait.model.pods import PodSpec
from plait.model.policies import (
    DIRECTIONS,
    TIERS,
    Direction,
    Group,
    Peer,
    Policy,
    Rule,
    Subject,
    TierName,
)
from plait.model.selectors import (
    ENDPOINT_NAME,
    ENDPOINT_NETWORK,
    ENDPOINT_NODE,
    NAMESPACE_NAME,
)

Cidr = ipaddress.IPv4Network | ipaddress.IPv6Network
HOST_ADDRESSES: Final = frozenset({GATEWAY4, GATEWAY6, RESOLVER6})
"""Addresses that are the own host's, whichever host an endpoint is on."""

Applicable = tuple[tuple[TierName, tuple[Policy, ...]], ...]
"""The tiers that have policies for an endpoint in a direction, with those, in order."""


class Party(NamedTuple):
    """One side of a flow: an endpoint, a node, or an address that is neither's."""

    address: str
    """Canonical, without prefix length; empty when only `domain` is known."""
    endpoint: Endpoint | None = None
    node: Node | None = None
    domain: str = ""
    """A name outside the network, of a receiver."""

    def __str__(self) -> str:
        if self.endpoint is not None:
            return endpoint_text(self.endpoint)
        return f"node {self.node.metadata.name}" if self.node else self.domain or self.address


class World:
    """See the module's docstring. Make one with `World.of`."""

    def __init__(self) -> None:
        self.endpoints: list[Endpoint] = []
        """By namespace, name and id."""
        self.policies: list[Policy] = []
        """In the order in which they decide: tier, priority, name."""
        self.namespaces: dict[str, Namespace] = {}
        self.nodes: dict[str, Node] = {}
        self.networks: dict[str, Network] = {}
        self.groups: dict[str, Group] = {}
        self.services: dict[tuple[str, str], Service] = {}
        """By namespace and name."""
        self.domain, self.kubernetes_domain = ClusterSpec().domain, ClusterSpec().kubernetes_domain
        """Of our names, and of those of Kubernetes' schema."""
        self.service_pools: tuple[Cidr, ...] = ()
        """Where Services have their addresses, those for load balancers too."""
        self.slices: dict[tuple[str, str], list[EndpointSlice]] = {}
        """By namespace and name of their Service."""
        self.pods: dict[tuple[str, str], PodSpec] = {}
        """By namespace and uid; empty where nobody said any."""
        self.peers: tuple[Peer, ...] = ()
        """Every peer that a policy names, each once."""
        self.at: dict[str, tuple[Endpoint, ...]] = {}
        """Endpoints by address; more than one only while one of them leaves."""
        self.published: dict[tuple[str, str, int], tuple[Endpoint, ...]] = {}
        """Endpoints by node, protocol (upper case) and host port that they publish."""
        self._nodes_at: dict[str, Node] = {}
        self._gateways: set[str] = set()
        self._pools: list[tuple[Cidr, Network]] = []
        self._network_at: dict[str, Network | None] = {}
        self._labels: dict[tuple[str, str], Mapping[str, str]] = {}
        self._namespace_labels: dict[str, Mapping[str, str]] = {}
        self._applicable: dict[tuple[str, str, Direction], Applicable] = {}
        self._spaces: dict[tuple[str, Direction], list[Policy]] = {}
        self._led: dict[tuple[str, str], frozenset[str]] = {}
        self.memo: dict[tuple[int, str], bool | None] = {}
        """Whether a peer, by its identity, is the party of an address; `evaluate_rule` fills it."""
        self.broken: dict[tuple[int, Direction], tuple[Rule, str]] = {}
        """What is wrong with a rule, by its identity, and the rule, which with its peers lives as
        long as what is remembered of them; `evaluate_rule` fills it."""

    @classmethod
    def of(cls, objects: Iterable[object]) -> World:
        """The world of these objects; kinds that decide nothing are passed over.

        Addresses that are no addresses are passed over too: nobody can have them.
        """
        world = cls()
        for obj in objects:
            match obj:
                case Endpoint():
                    world.endpoints.append(obj)
                case Policy():
                    world.policies.append(obj)
                case Namespace():
                    world.namespaces[obj.metadata.name] = obj
                case Node():
                    world.nodes[obj.metadata.name] = obj
                case Network():
                    world.networks[obj.metadata.name] = obj
                case Group():
                    world.groups[obj.metadata.name] = obj
                case Cluster():
                    world.domain = obj.spec.domain
                    world.kubernetes_domain = obj.spec.kubernetes_domain
                    pools = (*obj.spec.service_pools, *obj.spec.load_balancer_pools)
                    world.service_pools = tuple(filter(None, map(parse_cidr, pools)))
                case Service():
                    world.services[obj.metadata.namespace, obj.metadata.name] = obj
                case EndpointSlice():
                    key = (obj.metadata.namespace, obj.spec.service)
                    world.slices.setdefault(key, []).append(obj)
                case Pod():
                    world.pods[obj.metadata.namespace, obj.spec.uid] = obj.spec
                case _:
                    pass
        world._index()
        return world

    def _index(self) -> None:
        self.endpoints.sort(key=_place)
        self.policies.sort(
            key=lambda p: (TIERS.index(p.spec.tier), p.spec.priority, p.metadata.name)
        )
        every = {
            _said(peer): peer
            for policy in self.policies
            for direction in DIRECTIONS
            for rule in policy.spec.rules(direction)
            for peer in rule.peers or ()
        }
        self.peers = tuple(every.values())
        for endpoint in self.endpoints:
            for text in endpoint.spec.addresses:
                address = canonical(text)
                if address:
                    self.at[address] = (*self.at.get(address, ()), endpoint)
            for port in endpoint.spec.ports:
                key = (endpoint.spec.node, port.protocol.upper(), port.host_port)
                self.published[key] = (*self.published.get(key, ()), endpoint)
        for node in self.nodes.values():
            for text in node.spec.addresses:
                address = canonical(text.partition("/")[0])
                if address:
                    self._nodes_at.setdefault(address, node)
        for network in self.networks.values():
            self._gateways.update(map(canonical, network.spec.gateways))
            for text in network.spec.pools:
                pool = parse_cidr(text)
                if pool is not None:
                    self._pools.append((pool, network))

    # Parties

    def party(self, address: str) -> Party:
        """Whoever has this address. ValueError if it is none."""
        text = str(ipaddress.ip_address(address))
        holders = self.at.get(text, ())
        return Party(text, holders[0] if holders else None, self._nodes_at.get(text))

    def parties(self, of: Endpoint | Node) -> tuple[Party, ...]:
        """One for each address of an endpoint or a node."""
        node = of if isinstance(of, Node) else None
        endpoint = of if isinstance(of, Endpoint) else None
        found = (canonical(text.partition("/")[0]) for text in of.spec.addresses)
        return tuple(Party(address, endpoint, node) for address in found if address)

    def is_host_of(self, address: str, endpoint: Endpoint) -> bool:
        """Whether the host that an endpoint is on has this address."""
        if address in HOST_ADDRESSES or address in self._gateways:
            return True
        node = self._nodes_at.get(address)
        return node is not None and node.metadata.name == endpoint.spec.node

    def network_at(self, address: str) -> Network | None:
        """The network whose pool an address is in."""
        if address not in self._network_at:
            ip = ipaddress.ip_address(address)
            self._network_at[address] = next(
                (network for pool, network in self._pools if ip in pool), None
            )
        return self._network_at[address]

    # Labels and selection

    def labels(self, endpoint: Endpoint) -> Mapping[str, str]:
        """Labels of an endpoint with the implicit ones, which nobody can give himself."""
        key = (endpoint.metadata.namespace, endpoint.metadata.name)
        found = self._labels.get(key)
        if found is None:
            spec = endpoint.spec
            names = {f"{ENDPOINT_NAME}{name}": "" for name in (spec.name, *spec.aliases) if name}
            own = endpoint.metadata.labels.items()
            found = self._labels[key] = {
                **{k: v for k, v in own if not k.startswith(ENDPOINT_NAME)},
                **names,
                ENDPOINT_NETWORK: spec.network,
                ENDPOINT_NODE: spec.node,
            }
        return found

    def namespace_labels(self, name: str) -> Mapping[str, str]:
        """Labels of a namespace, which is there even if nobody made its object."""
        found = self._namespace_labels.get(name)
        if found is None:
            made = self.namespaces.get(name)
            labels = made.metadata.labels if made is not None else {}
            found = self._namespace_labels[name] = {**labels, NAMESPACE_NAME: name}
        return found

    def node_labels(self, node: Node) -> Mapping[str, str]:
        """Labels of a node with the implicit one."""
        return {**node.metadata.labels, ENDPOINT_NODE: node.metadata.name}

    def rules_over(self, subject: Subject, endpoint: Endpoint) -> bool:
        """Whether a policy of this subject rules the endpoint."""
        return (
            subject.namespaces is None
            or subject.namespaces.matches(self.namespace_labels(endpoint.metadata.namespace))
        ) and (subject.endpoints is None or subject.endpoints.matches(self.labels(endpoint)))

    def answers_for(self, service: Service, party: Party) -> bool:
        """Whether a party is one of those to whom a Service leads, ready or not."""
        spec, space = service.spec, service.metadata.namespace
        if spec.selector is not None:
            return any(
                (endpoint.metadata.namespace, endpoint.spec.network) == (space, spec.network)
                and spec.selector.matches(self.labels(endpoint))
                for endpoint in self.at.get(party.address, ())
            )
        key = (space, service.metadata.name)
        found = self._led.get(key)
        if found is None:
            found = self._led[key] = frozenset(self.backends_of(service))
        return party.address in found

    def backends_of(self, service: Service) -> tuple[str, ...]:
        """The addresses to which a Service leads, ready or not."""
        spec, key = service.spec, (service.metadata.namespace, service.metadata.name)
        if spec.selector is not None:
            found = (
                party.address
                for endpoint in self.endpoints
                for party in self.parties(endpoint)
                if self.answers_for(service, party)
            )
        elif spec.backends:
            found = (canonical(backend.address) for backend in spec.backends)
        else:
            found = (
                canonical(address)
                for one in self.slices.get(key, ())
                for endpoint in one.spec.endpoints
                for address in endpoint.addresses
            )
        return tuple(dict.fromkeys(filter(None, found)))

    def applicable(self, endpoint: Endpoint, direction: Direction) -> Applicable:
        """The policies that have a say about an endpoint's flows in a direction, by tier."""
        space = endpoint.metadata.namespace
        key = (space, endpoint.metadata.name, direction)
        found = self._applicable.get(key)
        if found is None:
            labels = self.labels(endpoint)
            having = [
                policy
                for policy in self._over(space, direction)
                if policy.spec.subject.endpoints is None
                or policy.spec.subject.endpoints.matches(labels)
            ]
            tiers = ((tier, tuple(p for p in having if p.spec.tier == tier)) for tier in TIERS)
            found = self._applicable[key] = tuple(entry for entry in tiers if entry[1])
        return found

    def _over(self, space: str, direction: Direction) -> list[Policy]:
        """The policies with a say in a direction that may rule endpoints of a namespace."""
        key = (space, direction)
        if key not in self._spaces:
            labels = self.namespace_labels(space)
            self._spaces[key] = [
                policy
                for policy in self.policies
                if (policy.spec.rules(direction) or policy.spec.isolates(direction))
                and (
                    policy.spec.subject.namespaces is None
                    or policy.spec.subject.namespaces.matches(labels)
                )
            ]
        return self._spaces[key]


def _place(endpoint: Endpoint) -> tuple[str, str, str]:
    return (endpoint.metadata.namespace, endpoint.spec.name, endpoint.metadata.name)


def _said(peer: Peer) -> bytes:
    """What a peer says, to know the same again."""
    return msgspec.json.encode(peer)


def endpoint_text(endpoint: Endpoint) -> str:
    """`shop/web`: namespace, and the name that people use."""
    return f"{endpoint.metadata.namespace}/{endpoint.spec.name or endpoint.metadata.name}"


def canonical(text: str) -> str:
    """An address in canonical form, or the empty string if it is none."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""


def parse_cidr(text: str) -> Cidr | None:
    """A CIDR, or None if it is none."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None
