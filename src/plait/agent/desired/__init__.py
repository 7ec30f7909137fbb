"""Pure: (snapshot, host) -> HostState, one module for each part.

A part is recomputed whole when one of its inputs changed; `INPUTS` says which those are.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Literal

import msgspec

from plait.agent.desired.addresses import addresses
from plait.agent.desired.filter import filter_
from plait.agent.desired.inputs import Attachment, Host, Memo, Underlay, View
from plait.agent.desired.links import links
from plait.agent.desired.neighbours import neighbours
from plait.agent.desired.routes import local_routes, remote_routes, routes, rules
from plait.agent.desired.shapers import shapers
from plait.agent.desired.sysctls import sysctls
from plait.agent.desired.tunnels import tunnels
from plait.model.hoststate import FdbEntry, Filter, HostState, Link, Neighbour, Route

__all__ = ["ALL", "INPUTS", "Attachment", "Desired", "Host", "Input", "Underlay", "View", "desired"]

Input = Literal[
    "cluster", "nodes", "networks", "blocks", "host", "attachments", "policy", "services"
]
"""What may change; `host` is all of the host but its attachments, `policy` the ruleset,
`services` their table."""

INPUTS: Final[dict[str, frozenset[Input]]] = {
    "links": frozenset(("cluster", "networks", "host", "attachments")),
    "addresses": frozenset(("networks", "attachments")),
    "remote_routes": frozenset(("cluster", "nodes", "networks", "blocks", "host")),
    "local_routes": frozenset(("networks", "attachments")),
    "neighbours": frozenset(("cluster", "nodes", "host")),
    "filter": frozenset(("cluster", "nodes", "networks", "host", "attachments")),
}
"""Part to the inputs it depends on. Parts that are not here cost nothing to recompute."""

ALL: Final[frozenset[Input]] = frozenset(
    ("cluster", "nodes", "networks", "blocks", "host", "attachments", "policy", "services")
)

RULES: Final[frozenset[Input]] = frozenset(("policy", "services"))
"""Where only these changed, all else is as it was: thousands of endpoints of others come and go."""


class Desired:
    """`desired` with a memory: recomputes the parts whose inputs changed, with equal result."""

    def __init__(self) -> None:
        self._memos = {part: Memo() for part in INPUTS}
        self._last: HostState | None = None
        self._links: dict[str, Link] = {}
        self._remote: frozenset[Route] = frozenset()
        self._local: frozenset[Route] = frozenset()
        self._hops: tuple[frozenset[Neighbour], frozenset[FdbEntry]] = (frozenset(), frozenset())
        self._filter = Filter()

    def compute(self, view: View, host: Host, changed: Collection[Input]) -> HostState:
        """The state now, given which inputs changed since the last call."""
        inputs = frozenset(changed) if self._last is not None else ALL
        if inputs <= RULES and self._last is not None:
            last = self._last
            if last.policy is not view.policy or last.services is not view.services:
                self._last = msgspec.structs.replace(
                    last, policy=view.policy, services=view.services
                )
            return self._last
        stale = {part for part, needs in INPUTS.items() if needs & inputs}
        if "links" in stale:
            self._links = links(view, host, self._memos["links"])
        if "remote_routes" in stale:
            self._remote = remote_routes(view, host)
        if "local_routes" in stale:
            self._local = local_routes(view, host, self._memos["local_routes"])
        if "neighbours" in stale:
            self._hops = neighbours(view, host)
        if "filter" in stale:
            self._filter = filter_(view, host, self._memos["filter"])
        for part in stale:
            self._memos[part].turn()
        devices = tunnels(view, host)
        self._last = HostState(
            links=self._links,
            tunnels=devices,
            addresses=addresses(view, host),
            routes=routes(self._remote, self._local),
            rules=rules(host),
            shapers=shapers(host, self._links),
            neighbours=self._hops[0],
            fdb=self._hops[1],
            filter=self._filter,
            policy=view.policy,
            services=view.services,
            sysctls=sysctls(host, devices),
            forward_accept=host.forward_accept,
        )
        return self._last


def desired(view: View, host: Host) -> HostState:
    """Everything that this host wants of its kernel."""
    return Desired().compute(view, host, ALL)
