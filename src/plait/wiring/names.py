"""Feeds the resolver's zone and the Docker directory from what the agent knows.

From the server: every event of the agent's watch. From this host: the agent's own endpoints,
which it knows before the server does and while the server is away. Who answers for a Service the
zone asks the agent's services engine, which tells it when that may have changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from plait.agent.agent import Agent
from plait.agent.sync import Objects
from plait.client.agent import LocalEndpoint
from plait.client.base import WatchEvent
from plait.dns.zone import Zone
from plait.docker.directory import Directory
from plait.model.objects import AnyObject, Cluster, Endpoint, Network, Pod, Service
from plait.services.engine import Engine

BURST: Final = 0.02
"""Seconds for which changes of this host's endpoints are gathered."""


class Names:
    """Two inputs, `observe` and `local_changed`, and one task, `follow`; who cannot wait for its
    turn calls `catch_up`."""

    def __init__(self, zone: Zone, directory: Directory, node: str) -> None:
        self._zone = zone
        self._directory = directory
        self._local = Objects(node)
        self._networks: dict[str, Network] = {}
        self._listing: dict[str, Endpoint | Service | Pod] | None = None
        self._changed = asyncio.Event()
        self._present: Callable[[], Iterable[LocalEndpoint]] = tuple

    def begin(self, objects: Iterable[object]) -> None:
        """What the agent's snapshot on disk says, before the server has answered."""
        found = tuple(objects)
        self._networks = {o.metadata.name: o for o in found if isinstance(o, Network)}
        clusters = [o for o in found if isinstance(o, Cluster)]
        for cluster in clusters:
            self._zone.set_domain(cluster.spec.domain, cluster.spec.kubernetes_domain)
        self._replace([o for o in found if isinstance(o, Endpoint | Service | Pod)])
        if clusters:
            self._directory.replace_networks(self._networks.values())

    def observe(self, event: WatchEvent) -> None:
        """One event of the agent's watch.

        During a listing names change as they come; what it did not name goes at its end.
        """
        obj = event.object
        match event.type:
            case "begin":
                self._listing = {}
                self._networks = {}
            case "put" if isinstance(obj, Endpoint | Service | Pod):
                self._put(obj)
                if self._listing is not None:
                    self._listing[obj.key] = obj
            case "delete" if isinstance(obj, Endpoint | Service | Pod):
                self._delete(obj)
            case "put" if isinstance(obj, Network):
                self._networks[obj.metadata.name] = obj
                self._zone.put_network(obj)
                self._networks_changed()
            case "delete" if isinstance(obj, Network):
                self._networks.pop(obj.metadata.name, None)
                self._zone.delete_network(obj.metadata.name)
                self._networks_changed()
            case "put" if isinstance(obj, Cluster):
                self._zone.set_domain(obj.spec.domain, obj.spec.kubernetes_domain)
            case "synced":
                if self._listing is not None:
                    self._replace(list(self._listing.values()))
                self._listing = None
                self._networks_changed()

    def _put(self, obj: Endpoint | Service | Pod) -> None:
        match obj:
            case Endpoint():
                self._zone.put(obj)
            case Service():
                self._zone.services.put(obj)
            case Pod():
                self._zone.services.put_pod(obj)

    def _delete(self, obj: Endpoint | Service | Pod) -> None:
        namespace, name = obj.metadata.namespace, obj.metadata.name
        match obj:
            case Endpoint():
                self._zone.delete(namespace, name)
            case Service():
                self._zone.services.delete(namespace, name)
            case Pod():
                self._zone.services.delete_pod(namespace, name)

    def _replace(self, objects: Sequence[AnyObject]) -> None:
        """There are these and no others."""
        self._zone.replace(
            [o for o in objects if isinstance(o, Endpoint)],
            self._networks.values(),
            [o for o in objects if isinstance(o, Service)],
            [o for o in objects if isinstance(o, Pod)],
        )

    def local_changed(self) -> None:
        """Endpoints of this host may have changed."""
        self._changed.set()

    def ask(self, services: Engine) -> None:
        """Ask this engine who answers for a Service, and hear from it when that changes."""
        self._zone.services.backends = services.backends
        services.moved = self._zone.services.moved

    async def follow(self, agent: Agent) -> None:
        """Keep the names of this host's endpoints; ends when cancelled."""
        self._present = agent.service.present
        self._changed.set()
        while True:
            self.catch_up()
            await self._changed.wait()
            # A burst of attaches costs one pass over the endpoints, not one each.
            await asyncio.sleep(BURST)

    def catch_up(self) -> None:
        """Tell the zone now what has changed of this host's endpoints: who was attached may ask,
        and be asked for, at once."""
        if not self._changed.is_set():
            return
        self._changed.clear()
        # An object that is the same one as last time costs the zone nothing.
        self._zone.replace_local(map(self._local.get, self._present()))
        self._local.turn()

    def _networks_changed(self) -> None:
        # Half a listing must not look as if the other half were deleted.
        if self._listing is None:
            self._directory.replace_networks(self._networks.values())
