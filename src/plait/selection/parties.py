"""Who takes part: endpoints of this host and of others, and nodes, with all their labels."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Final

from plait.model.objects import Endpoint, EndpointSlice, NamedPort, Node
from plait.model.selectors import ENDPOINT_NAME, ENDPOINT_NETWORK, ENDPOINT_NODE, NAMESPACE_NAME
from plait.model.waist import Part
from plait.selection.terms import SLICE_SERVICE


class LocalParty(Part, frozen=True, kw_only=True):
    """An endpoint of this host, as its agent knows it."""

    namespace: str
    names: tuple[str, ...] = ()
    """Its name and its aliases."""
    labels: dict[str, str] = {}
    network: str = ""
    addresses: tuple[str, ...] = ()
    """Without prefix length."""
    named_ports: tuple[NamedPort, ...] = ()
    pod: str = ""
    """Uid of the Pod that it is; empty: none."""


class Party:
    """What selectors and sets need to know of an endpoint or a node. Equality is identity."""

    __slots__ = ("addresses", "labels", "pod", "ports", "space")

    def __init__(
        self,
        space: str,
        labels: Mapping[str, str],
        addresses: Iterable[str],
        ports: tuple[NamedPort, ...] = (),
        pod: str = "",
    ) -> None:
        self.space = space
        """Namespace of an endpoint; nodes are all in one space, without a name."""
        self.labels = labels
        """With the implicit ones."""
        self.addresses = canonical(addresses)
        self.ports = ports
        self.pod = pod
        """Uid of the Pod that an endpoint is; empty: none."""

    def says(self, other: Party | None) -> bool:
        """Whether the other one has the same content."""
        return other is not None and all(
            getattr(self, name) == getattr(other, name) for name in self.__slots__
        )


def endpoint_party(endpoint: Endpoint) -> Party:
    """An endpoint, as its object tells."""
    spec = endpoint.spec
    labels = _labels(endpoint.metadata.labels, (spec.name, *spec.aliases), spec.network, spec.node)
    space, pod = endpoint.metadata.namespace, spec.workload.pod
    return Party(space, labels, spec.addresses, spec.named_ports, pod)


def local_party(local: LocalParty, node: str) -> Party:
    """An endpoint, as the agent of its node tells."""
    labels = _labels(local.labels, local.names, local.network, node)
    return Party(local.namespace, labels, local.addresses, local.named_ports, local.pod)


def node_party(node: Node) -> Party:
    """A node with its underlay addresses."""
    labels = {**node.metadata.labels, ENDPOINT_NODE: node.metadata.name}
    return Party("", labels, (text.partition("/")[0] for text in node.spec.addresses))


def slice_party(one: EndpointSlice) -> Party:
    """An EndpointSlice with the addresses of all of its endpoints."""
    addresses = (address for endpoint in one.spec.endpoints for address in endpoint.addresses)
    return Party(one.metadata.namespace, {SLICE_SERVICE: one.spec.service}, addresses)


def namespace_labels(name: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Labels of a namespace with the implicit one."""
    return {**labels, NAMESPACE_NAME: name}


_OCTET: Final = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4: Final = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}").fullmatch
"""Whether an IPv4 address is in canonical form."""


def canonical(addresses: Iterable[str]) -> tuple[str, ...]:
    """Addresses in canonical form, each once; what is none is left out: nobody can have it."""
    found: dict[str, None] = {}
    for text in addresses:
        # Most are, and this tells it ten times sooner than to take an address apart.
        if _IPV4(text):
            found[text] = None
            continue
        try:
            # The same object where the text is canonical: there may be very many.
            address = str(ipaddress.ip_address(text))
        except ValueError:
            continue
        found[text if text == address else address] = None
    return tuple(found)


def _labels(
    own: Mapping[str, str], names: Iterable[str], network: str, node: str
) -> dict[str, str]:
    """Nobody gives himself an implicit label: a service is not whoever says so."""
    labels = {key: value for key, value in own.items() if not key.startswith(ENDPOINT_NAME)}
    labels.update((f"{ENDPOINT_NAME}{name}", "") for name in names if name)
    labels[ENDPOINT_NETWORK] = network
    labels[ENDPOINT_NODE] = node
    return labels
