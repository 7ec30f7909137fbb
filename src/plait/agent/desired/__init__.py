"""Pure: (snapshot, host) -> HostState, one module for each part.

A part is recomputed whole when one of its inputs changed; `INPUTS` says which those are.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Literal

import msgspec

from plait.agent.desired.addresses import addresses
from plait.agent.desired.filter import surroundings
from plait.agent.desired.inputs import Attachment, Host, Underlay, View
from plait.agent.desired.neighbours import neighbours
from plait.agent.desired.pieces import Pieces, exchanged
from plait.agent.desired.routes import identity, remote_routes, routes, rules
from plait.agent.desired.sysctls import sysctls
from plait.agent.desired.tunnels import tunnels
from plait.model.hoststate import FdbEntry, Filter, HostState, Neighbour, Route

__all__ = ["ALL", "INPUTS", "Attachment", "Desired", "Host", "Input", "Underlay", "View", "desired"]

Input = Literal[
    "cluster", "nodes", "networks", "blocks", "host", "attachments", "policy", "services"
]
"""What may change; `host` is all of the host but its attachments, `policy` the ruleset,
`services` their table."""

INPUTS: Final[dict[str, frozenset[Input]]] = {
    "pieces": frozenset(("cluster", "networks", "host", "attachments")),
    "remote_routes": frozenset(("cluster", "nodes", "networks", "blocks", "host")),
    "neighbours": frozenset(("cluster", "nodes", "host")),
    "filter": frozenset(("cluster", "nodes", "networks", "host")),
}
"""Part to the inputs it depends on; `filter` is that without its endpoints. Parts that are not
here cost nothing to recompute."""

ALL: Final[frozenset[Input]] = frozenset(
    ("cluster", "nodes", "networks", "blocks", "host", "attachments", "policy", "services")
)

RULES: Final[frozenset[Input]] = frozenset(("policy", "services"))
"""Where only these changed, all else is as it was: thousands of endpoints of others come and go."""
LOCAL: Final[frozenset[Input]] = RULES | {"attachments"}
"""Where only these changed, all is as it was but the pieces of the endpoints that came or went."""


class Desired:
    """`desired` with a memory: recomputes the parts whose inputs changed, with equal result."""

    def __init__(self) -> None:
        self._last: HostState | None = None
        self._pieces = Pieces()
        self._remote: frozenset[Route] = frozenset()
        self._taken: frozenset[tuple[str, int, int]] = frozenset()
        """Identities of the remote routes."""
        self._routes: frozenset[Route] = frozenset()
        self._hops: tuple[frozenset[Neighbour], frozenset[FdbEntry]] = (frozenset(), frozenset())
        self._filter = Filter()

    def compute(
        self,
        view: View,
        host: Host,
        changed: Collection[Input],
        touched: Collection[str] | None = None,
    ) -> HostState:
        """The state now, given which inputs changed since the last call. `touched` are ids of
        attachments, where no other changed."""
        inputs = frozenset(changed) if self._last is not None else ALL
        if inputs <= LOCAL and self._last is not None:
            return self._compute_local(self._last, view, host, inputs, touched)
        stale = {part for part, needs in INPUTS.items() if needs & inputs}
        if "pieces" in stale:
            self._pieces.update(view, host, None)
        if "remote_routes" in stale:
            self._remote = remote_routes(view, host)
            self._taken = frozenset(map(identity, self._remote))
        if "neighbours" in stale:
            self._hops = neighbours(view, host)
        if "filter" in stale:
            self._filter = surroundings(view, host)
        self._routes = routes(self._remote, self._pieces.routes)
        devices = tunnels(view, host)
        self._last = HostState(
            links=self._pieces.links,
            tunnels=devices,
            addresses=addresses(view, self._pieces.taken_by_runtime),
            routes=self._routes,
            rules=rules(host),
            shapers=self._pieces.shapers,
            neighbours=self._hops[0],
            fdb=self._hops[1],
            filter=self._whole_filter(),
            policy=view.policy,
            services=view.services,
            sysctls=sysctls(host, devices),
            forward_accept=host.forward_accept,
        )
        return self._last

    def _compute_local(
        self,
        last: HostState,
        view: View,
        host: Host,
        inputs: frozenset[Input],
        touched: Collection[str] | None,
    ) -> HostState:
        if "attachments" in inputs:
            moved = self._pieces.update(view, host, touched)
            if self._taken.isdisjoint(map(identity, moved.gone | moved.new)):
                self._routes = exchanged(self._routes, moved.gone, moved.new)
            else:
                self._routes = routes(self._remote, self._pieces.routes)
            self._last = msgspec.structs.replace(
                last,
                links=self._pieces.links,
                addresses=addresses(view, self._pieces.taken_by_runtime),
                routes=self._routes,
                shapers=self._pieces.shapers,
                filter=self._whole_filter(),
                policy=view.policy,
                services=view.services,
            )
        elif last.policy is not view.policy or last.services is not view.services:
            self._last = msgspec.structs.replace(last, policy=view.policy, services=view.services)
        assert self._last is not None
        return self._last

    def _whole_filter(self) -> Filter:
        return msgspec.structs.replace(
            self._filter, endpoints=self._pieces.endpoints, ports=self._pieces.ports
        )


def desired(view: View, host: Host) -> HostState:
    """Everything that this host wants of its kernel."""
    return Desired().compute(view, host, ALL)
