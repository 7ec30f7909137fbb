"""From what people call a receiver to the backends of a Service, if it is one.

What names and addresses mean is as everywhere: a Service's name comes before an endpoint's
(names.md), and its addresses are nobody else's. Which backends a host prefers is left aside;
whom it must not use, and who may not call, is not.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from plait.model.errors import PlaitError
from plait.model.objects import Endpoint, Node, Service
from plait.model.services import ServicePort
from plait.policy.find_parties import Who
from plait.policy.flow import Flow
from plait.policy.local_names import local_name
from plait.policy.questions import PortAsked
from plait.policy.world import Party, World, canonical, parse_cidr

MAX_ALIASES: Final = 8
"""Names that stand for each other and are followed."""
OPENED: Final = ("NodePort", "LoadBalancer")
"""Types of Services that have node ports."""


class Backend(NamedTuple):
    """One address that answers."""

    party: Party
    port: int
    ready: bool
    draining: bool
    """It terminates, and serves until then."""
    host: str
    """The host that it is on, as Services see it: slices say so themselves; empty: none of ours, or
    nobody said."""


class Call(NamedTuple):
    """A port of a Service, and who answers there."""

    service: Service
    port: ServicePort
    known: tuple[Backend, ...]
    """All that have the port, ready or not."""
    node: Node | None = None
    """The host whose node port is called; None: an address of the Service's own is."""
    address: str = ""
    """The address of the Service's that is called, canonical; empty: it was named otherwise."""

    @property
    def name(self) -> str:
        """Namespace and name."""
        return f"{self.service.metadata.namespace}/{self.service.metadata.name}"

    @property
    def backends(self) -> tuple[Backend, ...]:
        """Those that flows go to: the ready ones or, without any, those that still serve."""
        return _usable(self.known)

    def met_by(self, sender: Party) -> tuple[Backend, ...]:
        """Those of a sender's family that its flows may go to."""
        if self._keeps_out(sender):
            return ()
        host = self._kept_to(sender)
        return _usable([b for b in self._alike(sender) if not host or b.host == host])

    def refusal(self, sender: Party) -> str:
        """Why a sender meets none, though others would; empty if it is not so."""
        if self.met_by(sender) or not _usable(self._alike(sender)):
            return ""
        if self._keeps_out(sender):
            ranges = ", ".join(self.service.spec.source_ranges)
            return f"{self.address} takes none but {ranges}: dropped"
        host, outside = self._kept_to(sender), self.node is not None
        where = "outside" if outside else "the network"
        return (
            f"node {host} has no backend of its own, and the Service leads traffic from {where} "
            f"to no other: {'dropped' if outside else 'refused'}"
        )

    def flows(self, world: World, sender: Who) -> Iterator[Flow]:
        """What comes of a sender's flows: one to each backend that it may meet; before them, where
        an endpoint calls another host, the one to that host."""
        for here in sender.parties:
            found = self.met_by(here)
            if found and self._leaves(here):
                there = _alike(world, self.node, here)
                if there is here:
                    continue  # The host has no address of this family.
                yield Flow(here, there, self.port.protocol, self.port.node_port)
            for backend in found:
                seen = self._seen_as(world, here, backend.party)
                outside = here.endpoint is None
                yield Flow(seen, backend.party, self.port.protocol, backend.port, published=outside)

    def _alike(self, sender: Party) -> list[Backend]:
        """Those of the sender's family, if the address that is called is of it."""
        if self.address and not _same_family(sender.address, self.address):
            return []
        return [one for one in self.known if _same_family(sender.address, one.party.address)]

    def _keeps_out(self, sender: Party) -> bool:
        """Source ranges: they are of load-balancer addresses, and let hosts of ours in."""
        spec = self.service.spec
        if not spec.source_ranges or sender.node is not None:
            return False
        if self.address not in map(canonical, spec.load_balancer_addresses):
            return False
        address = ipaddress.ip_address(sender.address)
        return not any(
            cidr is not None and address in cidr for cidr in map(parse_cidr, spec.source_ranges)
        )

    def _kept_to(self, sender: Party) -> str:
        """The host whose backends alone serve a sender; empty: all do. Which host a load-balancer
        address leads to is not known here."""
        spec = self.service.spec
        if self.node is not None:
            own = _host(sender) == self.node.metadata.name
            local = spec.external_traffic == "Local" and not own
            return self.node.metadata.name if local else ""
        if self.address and self.address not in map(canonical, spec.addresses):
            return ""
        return _host(sender) if spec.internal_traffic == "Local" else ""

    def _leaves(self, sender: Party) -> bool:
        """An endpoint calls a node port of another host than its own."""
        if self.node is None or sender.endpoint is None:
            return False
        return _host(sender) != self.node.metadata.name

    def _seen_as(self, world: World, sender: Party, backend: Party) -> Party:
        """Whom a backend sees: a host that sends on what came to it, unless the backend is on it;
        and then the host that an endpoint left with the address of."""
        if self.node is None:
            return sender
        if sender.endpoint is not None and not self._leaves(sender):
            return sender
        if _host(backend) != self.node.metadata.name:
            return _alike(world, self.node, sender)
        return _alike(world, world.nodes.get(_host(sender)), sender)


def find_call(world: World, text: str, asked: PortAsked, namespace: str = "") -> Call | None:
    """What a receiver and a port mean, if they mean a Service.

    A host and a node port mean one too. None when there is no such Service, or when it has not this
    port but an endpoint of this name may. PLAIT-API-004 when nobody else has the address or the
    name, or several namespaces do.
    """
    service = _service(world, text, namespace)
    if service is None:
        _check_taken(world, canonical(text))
        return _at_node(world, text, asked)
    if service.spec.type == "ExternalName":
        return None
    found = [port for port in service.spec.ports if _is_asked(port, asked)]
    if found:
        return _call(world, service, found[0])._replace(address=canonical(text))
    if service.spec.headless or (not canonical(text) and _is_endpoint(world, service)):
        return None
    having = ", ".join(f"{port.port}/{port.protocol.lower()}" for port in service.spec.ports)
    name = f"{service.metadata.namespace}/{service.metadata.name}"
    raise PlaitError(
        "PLAIT-API-004",
        f"service `{name}` has no port `{asked.text}`: such flows are refused",
        why=f"it has {having}" if having else "it has no ports",
    )


def followed(world: World, text: str, namespace: str = "") -> str:
    """What a receiver stands for: the other name of an alias (ExternalName), else itself.

    PLAIT-API-004 when several namespaces have the name.
    """
    for _ in range(MAX_ALIASES):
        service = _service(world, text, namespace)
        if service is None or service.spec.type != "ExternalName":
            break
        text, namespace = service.spec.external_name, ""
    return text


def _at_node(world: World, text: str, asked: PortAsked) -> Call | None:
    """The Service of a node port, unless an endpoint publishes that port on the host."""
    address = canonical(text)
    node = world.party(address).node if address else world.nodes.get(text.removeprefix("node:"))
    protocol = asked.protocol or "TCP"
    if node is None or (node.metadata.name, protocol, asked.port) in world.published:
        return None
    for service in world.services.values():
        for port in service.spec.ports if service.spec.type in OPENED else ():
            if port.node_port and (port.node_port, port.protocol) == (asked.port, protocol):
                return _call(world, service, port)._replace(node=node)
    return None


def _check_taken(world: World, address: str) -> None:
    """PLAIT-API-004 for an address that is kept for Services, and is none's: hosts refuse it."""
    if not address or world.party(address).node is not None:
        return
    number = ipaddress.ip_address(address)
    if any(number in pool for pool in world.service_pools):
        raise PlaitError(
            "PLAIT-API-004",
            f"no Service has the address {address}: flows to it are refused",
            why="it is out of the pools for Services",
            fix=("plait service ls",),
        )


def _call(world: World, service: Service, port: ServicePort) -> Call:
    found = _backends(world, service, port)
    if service.spec.selector is not None or service.spec.backends:
        found = _heard(world, found)
    return Call(service, port, tuple(backend for backend in found if backend.port))


def _service(world: World, text: str, namespace: str) -> Service | None:
    address = canonical(text)
    if address:
        return next((one for one in world.services.values() if address in _addresses(one)), None)
    space, slash, name = text.rpartition("/")
    local = local_name(world, text)
    if local is not None:
        known = world.services.get((local.namespace, local.name))
        return None if local.is_endpoint else known
    if slash or namespace:
        return world.services.get((space or namespace, name))
    found = [one for (_, known), one in world.services.items() if known == name]
    if len(found) > 1:
        raise PlaitError(
            "PLAIT-API-004",
            f"`{name}` is in {len(found)} namespaces",
            fix=tuple(f"write {one.metadata.namespace}/{name}" for one in found[:5]),
        )
    return found[0] if found else None


def _addresses(service: Service) -> set[str]:
    spec = service.spec
    return set(
        map(
            canonical,
            (*spec.addresses, *spec.external_addresses, *spec.load_balancer_addresses),
        )
    )


def _is_endpoint(world: World, service: Service) -> bool:
    meta = service.metadata
    return any(
        endpoint.metadata.namespace == meta.namespace
        and meta.name in (endpoint.spec.name, *endpoint.spec.aliases)
        for endpoint in world.endpoints
    )


def _is_asked(port: ServicePort, asked: PortAsked) -> bool:
    if asked.protocol not in ("", port.protocol):
        return False
    return asked.name == port.name if asked.name else asked.port == port.port


def _backends(world: World, service: Service, port: ServicePort) -> Iterator[Backend]:
    spec, key = service.spec, (service.metadata.namespace, service.metadata.name)
    if spec.selector is not None:
        for endpoint in world.endpoints:
            ready, draining = _standing(world, endpoint)
            for party in world.parties(endpoint):
                if world.answers_for(service, party):
                    target = _target(port, endpoint)
                    yield Backend(party, target, ready, draining, _host(party))
    elif spec.backends:
        for fixed in spec.backends:
            address = canonical(fixed.address)
            if address:
                party = world.party(address)
                target = fixed.port or _target(port, party.endpoint)
                yield Backend(party, target, True, False, _host(party))
    else:
        for one in world.slices.get(key, ()):
            numbers = [
                told.port
                for told in one.spec.ports
                if (told.name, told.protocol) == (port.name, port.protocol)
            ]
            for told in one.spec.endpoints if numbers else ():
                draining = told.serving and told.terminating
                for address in _firsts(told.addresses):
                    party = world.party(address)
                    yield Backend(party, numbers[0], told.ready, draining, told.node)


def _firsts(addresses: Iterable[str]) -> Iterable[str]:
    """The first one of each family: the others mean the same endpoint (discovery/v1)."""
    known = [*filter(None, map(canonical, addresses))]
    return {":" in address: address for address in reversed(known)}.values()


def _standing(world: World, endpoint: Endpoint) -> tuple[bool, bool]:
    """Whether it is ready, and whether it drains: as its agent says, and then as its orchestrator
    (`services.standing`)."""
    status, uid = endpoint.status, endpoint.spec.workload.pod
    if status.phase == "pending":
        return False, False
    if status.condition:
        return False, status.condition == "stopping"
    if not uid or not world.pods:
        return True, False
    pod = world.pods.get((endpoint.metadata.namespace, uid))
    if pod is None or pod.finished or not pod.ready:
        return False, False
    return not pod.terminating, pod.terminating


def _heard(world: World, backends: Iterable[Backend]) -> Iterator[Backend]:
    """The same, where nobody is ready on a host of which nothing is heard while somebody is
    elsewhere (`services.backends.heard`)."""
    silent = {name for name, node in world.nodes.items() if node.status.silent}
    found = list(backends)
    elsewhere = any(one.ready and one.host not in silent for one in found)
    for one in found:
        lost = elsewhere and one.host in silent
        yield one._replace(ready=False, draining=False) if lost else one


def _target(port: ServicePort, endpoint: Endpoint | None) -> int:
    """The port of one backend; 0: it has none of that name."""
    target = port.target_port
    if not isinstance(target, str):
        return target or port.port
    numbers = (
        named.port
        for named in (endpoint.spec.named_ports if endpoint is not None else ())
        if named.name == target and named.protocol.upper() == port.protocol
    )
    return next(numbers, 0)


def _usable(backends: Sequence[Backend]) -> tuple[Backend, ...]:
    found = [one for one in backends if one.ready] or [one for one in backends if one.draining]
    # An endpoint may stand in two slices while it is moved from one to the other.
    unique = {(one.party.address, one.port): one for one in found}
    return tuple(unique.values())


def _host(party: Party) -> str:
    """Name of the host that a party is on, or is; empty for others."""
    if party.endpoint is not None:
        return party.endpoint.spec.node
    return party.node.metadata.name if party.node is not None else ""


def _alike(world: World, node: Node | None, party: Party) -> Party:
    """A host's address of a party's family; the party where it has none."""
    found = world.parties(node) if node is not None else ()
    return next((one for one in found if _same_family(one.address, party.address)), party)


def _same_family(one: str, other: str) -> bool:
    return (":" in one) == (":" in other)
