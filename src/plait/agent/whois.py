"""Whose an address is: endpoints of the network and of this host, hosts, or nobody's of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from plait.client.agent import LocalEndpoint
from plait.client.base import WatchEvent
from plait.model.flows import FlowEnd
from plait.model.marks import GATEWAY4, GATEWAY6, RESOLVER6
from plait.model.objects import Endpoint, Network, Node

OWN: Final = (GATEWAY4, GATEWAY6, RESOLVER6)
"""Addresses that every host has for its own endpoints."""


class Whois:
    """Fed with the events of the agent's watch and with the endpoints of this host, which are
    known here before the server knows them."""

    def __init__(self, node: str, present: Callable[[], Iterable[LocalEndpoint]]) -> None:
        """`present` gives the endpoints of this host; `changed` says that they may be others."""
        self._node = node
        self._present = present
        self._stale = True
        self._host = FlowEnd(address="", node=node)
        self._ends: dict[str, FlowEnd] = {}
        self._held: dict[str, tuple[FlowEnd, ...]] = {}
        """By the key of the object that has the addresses."""
        self._listing: set[str] | None = None
        self._local: dict[str, FlowEnd] = {}
        self._interfaces: dict[str, FlowEnd] = {}

    def begin(self, objects: Iterable[object]) -> None:
        """What the snapshot on disk says, before the server has answered."""
        for obj in objects:
            self._put(obj)

    def observe(self, event: WatchEvent) -> None:
        """One event of the agent's watch; what a listing did not name goes at its end."""
        match event.type:
            case "begin":
                self._listing = set()
            case "put":
                key = self._put(event.object)
                if self._listing is not None:
                    self._listing.add(key)
            case "delete" if event.object is not None:
                self._drop(event.object.key)
            case "synced":
                if self._listing is not None:
                    for key in self._held.keys() - self._listing:
                        self._drop(key)
                self._listing = None

    def changed(self) -> None:
        """Endpoints of this host came, went, or are called otherwise."""
        self._stale = True

    def end(self, address: str) -> FlowEnd:
        """Whose the address is."""
        self._refresh()
        found = self._local.get(address) or self._ends.get(address)
        return found if found is not None else FlowEnd(address=address)

    def behind(self, interface: str) -> FlowEnd | None:
        """The endpoint of this host behind an interface; None when it is no endpoint's."""
        self._refresh()
        return self._interfaces.get(interface)

    def _refresh(self) -> None:
        if not self._stale:
            return
        self._stale = False
        self._local, self._interfaces = {}, {}
        for endpoint in self._present():
            request = endpoint.request
            for address in endpoint.addresses:
                end = FlowEnd(
                    address=address,
                    namespace=request.namespace,
                    name=request.name,
                    id=request.id,
                    node=self._node,
                )
                self._local[address] = self._interfaces[endpoint.interface] = end

    def _put(self, obj: object) -> str:
        match obj:
            case Endpoint(metadata=meta, spec=spec):
                addresses = spec.addresses
                owner = FlowEnd(
                    address="",
                    namespace=meta.namespace,
                    name=spec.name,
                    id=meta.name,
                    node=spec.node,
                )
            case Node(metadata=meta, spec=node):
                own = OWN if meta.name == self._node else ()
                addresses = (*(a.partition("/")[0] for a in node.addresses), node.link_local, *own)
                owner = FlowEnd(address="", node=meta.name)
            case Network(spec=network):
                # The host of an endpoint answers for the gateways of its networks.
                addresses, owner = network.gateways, self._host
            case _:
                return ""
        self._drop(obj.key)
        held = tuple(
            FlowEnd(
                address=address,
                namespace=owner.namespace,
                name=owner.name,
                id=owner.id,
                node=owner.node,
            )
            for address in addresses
            if address
        )
        self._held[obj.key] = held
        self._ends.update({end.address: end for end in held})
        return obj.key

    def _drop(self, key: str) -> None:
        for end in self._held.pop(key, ()):
            # The address may have another holder by now.
            if self._ends.get(end.address) is end:
                del self._ends[end.address]
