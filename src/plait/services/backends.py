"""Who answers for a Service: selected endpoints, fixed backends, those of EndpointSlices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from typing import NamedTuple

from plait.model.objects import Condition
from plait.model.selectors import ENDPOINT_NAME, ENDPOINT_NODE
from plait.model.services import EndpointSliceSpec, FixedBackend, ServicePort
from plait.selection.parties import Party, canonical
from plait.services.frontends import PROTOCOLS
from plait.services.standing import Standing


class Backend(NamedTuple):
    """An address that answers for a Service."""

    address: str
    """Canonical."""
    ports: tuple[int, ...]
    """Its port for each port of the Service, in their order; 0: it has none."""
    node: str = ""
    """Empty: not one of ours, or unknown."""
    site: str = ""
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    for_nodes: tuple[str, ...] = ()
    for_sites: tuple[str, ...] = ()
    name: str = ""
    """DNS label of its own below a headless Service's name; an endpoint's is its name."""
    pod: str = ""
    """Name of its Pod, where an orchestrator says it."""
    silent: bool = False
    """Its host was not heard of for a while."""
    condition: Condition = ""
    """What its runtime says, where that is why it is not ready."""


def of_parties(
    ports: tuple[ServicePort, ...],
    parties: Iterable[tuple[Party, Standing]],
    site_of: Callable[[str], str],
) -> Iterator[Backend]:
    """Endpoints, each with how it stands."""
    fixed = tuple(map(_number, ports))
    named = any(isinstance(port.target_port, str) for port in ports)
    for party, standing in parties:
        mine = tuple(_named(party, port) for port in ports) if named else fixed
        node = party.labels[ENDPOINT_NODE]
        names = (key for key in party.labels if key.startswith(ENDPOINT_NAME))
        name = next(names, "").removeprefix(ENDPOINT_NAME)
        for address in party.addresses:
            yield Backend(
                address,
                mine,
                node,
                site_of(node),
                standing.ready,
                standing.serving,
                standing.terminating,
                name=name,
                condition=standing.condition,
            )


def of_fixed(
    ports: tuple[ServicePort, ...],
    backends: tuple[FixedBackend, ...],
    node_of: Callable[[str], str],
    site_of: Callable[[str], str],
) -> Iterator[Backend]:
    """What somebody wrote down."""
    numbers = tuple(map(_number, ports))
    for fixed in backends:
        mine = (fixed.port,) * len(ports) if fixed.port else numbers
        for address in canonical((fixed.address,)):
            node = node_of(address)
            yield Backend(address, mine, node, site_of(node))


def heard(backends: Iterable[Backend], silent: Set[str]) -> Iterable[Backend]:
    """The same, where nobody is ready on a host that is `silent` while somebody is elsewhere. An
    orchestrator sees that for itself, and says so in its slices."""
    if not silent:
        return backends
    found = list(backends)
    if not any(backend.ready and backend.node not in silent for backend in found):
        return found
    return [
        backend._replace(ready=False, serving=False, silent=True)
        if backend.node in silent
        else backend
        for backend in found
    ]


def of_slice(
    ports: tuple[ServicePort, ...],
    spec: EndpointSliceSpec,
    addresses: tuple[tuple[str, ...], ...],
    site_of: Callable[[str], str],
) -> Iterator[Backend]:
    """What an orchestrator says; `addresses` are `slice_addresses(spec)`."""
    told = {(port.name, port.protocol): port.port for port in spec.ports}
    mine = tuple(told.get((port.name, port.protocol), 0) for port in ports)
    for one, own in zip(spec.endpoints, addresses, strict=True):
        site = one.site or site_of(one.node)
        for address in own:
            yield Backend(
                address,
                mine,
                one.node,
                site,
                one.ready,
                one.serving,
                one.terminating,
                one.for_nodes,
                one.for_sites,
                one.hostname,
                one.pod,
            )


def slice_addresses(spec: EndpointSliceSpec) -> tuple[tuple[str, ...], ...]:
    """Of each endpoint of a slice the first address of each family: the others mean the same
    endpoint (discovery/v1)."""
    found = []
    for one in spec.endpoints:
        firsts: dict[bool, str] = {}
        for address in canonical(one.addresses):
            firsts.setdefault(":" in address, address)
        found.append(tuple(firsts.values()))
    return tuple(found)


def _number(port: ServicePort) -> int:
    """The backends' port; 0: each has its own, by a name."""
    target = port.target_port
    return 0 if isinstance(target, str) else target or port.port


def _named(party: Party, port: ServicePort) -> int:
    """The port of one backend; 0: it has none of that name."""
    protocol = PROTOCOLS[port.protocol]
    numbers = (
        named.port
        for named in party.ports
        if named.name == port.target_port and named.protocol == protocol
    )
    return _number(port) or next(numbers, 0)
