"""What each local endpoint adds to the parts: its link, routes, place in the filter, shaper.

A part is the union of its pieces. It is kept, and with an attachment only that one's piece is
taken out and put in: the result is that of making all of it anew. Parts are replaced and never
changed in place, for a former state may still be compared with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Set
from typing import TypeVar

import msgspec

from plait.agent.desired.filter import endpoint, port_maps
from plait.agent.desired.inputs import Attachment, Host, View
from plait.agent.desired.links import link
from plait.agent.desired.paths import endpoint_mtu
from plait.agent.desired.routes import own_routes
from plait.agent.desired.shapers import shaper
from plait.model.hoststate import FilterEndpoint, Link, PortMap, Route, Shaper
from plait.model.objects import Network

T = TypeVar("T")
NO_ROUTES: frozenset[Route] = frozenset()
NO_PORTS: frozenset[PortMap] = frozenset()


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """Of one attachment, whose network is known."""

    interface: str
    runtime: str
    """Network in which a runtime configures the peer; empty: we do."""
    link: Link
    routes: frozenset[Route]
    endpoint: FilterEndpoint | None
    """None: closed. It is not known who it is, or its address is another node's."""
    ports: frozenset[PortMap]
    shaper: Shaper | None


class Changed(msgspec.Struct, frozen=True):
    """What an update took out of the routes, and what it put in."""

    gone: frozenset[Route] = NO_ROUTES
    new: frozenset[Route] = NO_ROUTES


def piece(item: Attachment, network: Network, mtu: int, *, fenced: bool) -> Piece:
    """All that an attachment adds."""
    is_open = item.identified and not fenced
    return Piece(
        interface=item.interface,
        runtime="" if item.netns else item.network,
        link=link(item, network, mtu),
        routes=own_routes(item),
        endpoint=endpoint(item, network) if is_open else None,
        ports=frozenset(port_maps(item)) if is_open and not network.spec.internal else NO_PORTS,
        shaper=shaper(item.shaper) if item.shaper is not None else None,
    )


class Pieces:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[object, ...], Piece]] = {}
        self._mtu = 0
        self._runtimes: Counter[str] = Counter()
        self.links: dict[str, Link] = {}
        self.routes: frozenset[Route] = NO_ROUTES
        self.endpoints: dict[str, FilterEndpoint] = {}
        self.ports: frozenset[PortMap] = NO_PORTS
        self.shapers: dict[str, Shaper] = {}

    @property
    def taken_by_runtime(self) -> Set[str]:
        """Networks in which a runtime configures an endpoint's interface."""
        return {name for name, count in self._runtimes.items() if name and count}

    def update(self, view: View, host: Host, touched: Collection[str] | None) -> Changed:
        """Bring the parts up to date; `touched` are the ids of the attachments that may be other
        than last time, None: all, and what else they depend on may be other too."""
        if touched is None:
            touched = self._known.keys() | host.attachments.keys()
            self._mtu = endpoint_mtu(view, host)
        out: list[Piece] = []
        put: list[Piece] = []
        for ident in touched:
            self._renew(ident, view, host, out, put)
        if not out and not put:
            return Changed()
        self._runtimes.subtract(p.runtime for p in out)
        self._runtimes.update(p.runtime for p in put)
        self.links = _exchanged(self.links, out, {p.interface: p.link for p in put})
        opened = {p.interface: p.endpoint for p in put if p.endpoint is not None}
        self.endpoints = _exchanged(self.endpoints, out, opened)
        shaped = {p.interface: p.shaper for p in put if p.shaper is not None}
        self.shapers = _exchanged(self.shapers, out, shaped)
        changed = Changed(
            NO_ROUTES.union(*(p.routes for p in out)), NO_ROUTES.union(*(p.routes for p in put))
        )
        self.routes = exchanged(self.routes, changed.gone, changed.new)
        closed, open_ = NO_PORTS.union(*(p.ports for p in out)), [p.ports for p in put]
        if closed or any(open_):
            self.ports = (self.ports - closed).union(*open_)
        return changed

    def _renew(
        self, ident: str, view: View, host: Host, out: list[Piece], put: list[Piece]
    ) -> None:
        item = host.attachments.get(ident)
        network = view.networks.get(item.network) if item is not None else None
        known = self._known.get(ident)
        if item is None or network is None:
            if known is not None:
                out.append(known[1])
                del self._known[ident]
            return
        inputs = (item, network, self._mtu, ident in host.fenced)
        # Tuples compare identity first, so equal inputs are mostly found equal at once.
        if known is not None and known[0] == inputs:
            return
        if known is not None:
            out.append(known[1])
        made = piece(item, network, self._mtu, fenced=ident in host.fenced)
        put.append(made)
        self._known[ident] = (inputs, made)


def exchanged(part: frozenset[T], out: frozenset[T], put: frozenset[T]) -> frozenset[T]:
    """The part without some and with others: each step that has none would be a copy of it all."""
    left = part - out if out else part
    return left | put if put else left


def _exchanged(part: dict[str, T], out: list[Piece], put: dict[str, T]) -> dict[str, T]:
    """The part with other entries; itself when they are the same."""
    stale = [p.interface for p in out if p.interface in part and p.interface not in put]
    if not stale and not put:
        return part
    part = {**part, **put}
    for name in stale:
        del part[name]
    return part
