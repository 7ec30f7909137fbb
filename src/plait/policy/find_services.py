"""From what people call a receiver to the backends of a Service, if it is one.

What names and addresses mean is as everywhere: a Service's name comes before an endpoint's
(names.md), and its addresses are nobody else's. Answers are those of the rules alone: which
backends a host prefers, and which of them are on it, is left aside.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from plait.model.errors import PlaitError
from plait.model.objects import Endpoint, Node, Service
from plait.model.services import ServicePort
from plait.policy.find_parties import Who, meetings
from plait.policy.flow import Flow
from plait.policy.local_names import local_name
from plait.policy.questions import PortAsked, endpoint_names
from plait.policy.world import Party, World, canonical

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


class Call(NamedTuple):
    """A port of a Service, and who answers there."""

    service: Service
    port: ServicePort
    backends: tuple[Backend, ...]
    """Those that flows go to, the ready ones or, without any, those that still serve."""
    node: Node | None = None
    """The host whose node port is called; None: an address of the Service's own is."""

    @property
    def name(self) -> str:
        """Namespace and name."""
        return f"{self.service.metadata.namespace}/{self.service.metadata.name}"

    def whos(self, world: World) -> tuple[tuple[Who, int], ...]:
        """Each backend, and its port."""
        called = endpoint_names(world.endpoints)
        return tuple((_who(called, backend), backend.port) for backend in self.backends)

    def flows(self, world: World, sender: Who) -> Iterator[Flow]:
        """What comes of a sender's flows: one to each backend of a family that it has."""
        for backend, number in self.whos(world):
            for here, there in meetings(sender, backend):
                if (":" in here.address) == (":" in there.address):
                    seen = self._seen_as(world, here, there)
                    yield Flow(
                        seen, there, self.port.protocol, number, published=here.endpoint is None
                    )

    def _seen_as(self, world: World, sender: Party, backend: Party) -> Party:
        """Whom a backend sees: a sender outside as the host that it came to, unless it is there."""
        if sender.endpoint is not None or self.node is None:
            return sender
        if backend.endpoint is not None and backend.endpoint.spec.node == self.node.metadata.name:
            return sender
        hosts = world.parties(self.node)
        same = (h for h in hosts if (":" in h.address) == (":" in backend.address))
        return next(same, sender)


def find_call(world: World, text: str, asked: PortAsked, namespace: str = "") -> Call | None:
    """What a receiver and a port mean, if they mean a Service.

    A host and a node port mean one too. None when there is no such Service, or when it has not this
    port but an endpoint of this name may. PLAIT-API-004 when nobody else has the address or the
    name, or several namespaces do.
    """
    service = _service(world, text, namespace)
    if service is None:
        return _at_node(world, text, asked)
    if service.spec.type == "ExternalName":
        return None
    found = [port for port in service.spec.ports if _is_asked(port, asked)]
    if found:
        return _call(world, service, found[0])
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


def _call(world: World, service: Service, port: ServicePort) -> Call:
    return Call(service, port, _usable(tuple(_backends(world, service, port))))


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
            ready = endpoint.status.phase != "pending"
            for party in world.parties(endpoint):
                if world.answers_for(service, party):
                    yield Backend(party, _target(port, endpoint), ready, False)
    elif spec.backends:
        for fixed in spec.backends:
            address = canonical(fixed.address)
            if address:
                party = world.party(address)
                yield Backend(party, fixed.port or _target(port, party.endpoint), True, False)
    else:
        for one in world.slices.get(key, ()):
            numbers = [
                told.port
                for told in one.spec.ports
                if (told.name, told.protocol) == (port.name, port.protocol)
            ]
            for told in one.spec.endpoints if numbers else ():
                draining = told.serving and told.terminating
                for address in filter(None, map(canonical, told.addresses)):
                    yield Backend(world.party(address), numbers[0], told.ready, draining)


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


def _usable(backends: tuple[Backend, ...]) -> tuple[Backend, ...]:
    having = [backend for backend in backends if backend.port]
    found = [one for one in having if one.ready] or [one for one in having if one.draining]
    # An endpoint may stand in two slices while it is moved from one to the other.
    unique = {(one.party.address, one.port): one for one in found}
    return tuple(unique.values())


def _who(called: dict[tuple[str, str], str], backend: Backend) -> Who:
    party = backend.party
    if party.endpoint is not None:
        meta = party.endpoint.metadata
        return Who(called[meta.namespace, meta.name], (party,))
    return Who(str(party), (party,))
