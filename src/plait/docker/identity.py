"""Whose an endpoint is, and how it is: what Docker tells after the fact.

Docker's plugin calls name neither the container nor its labels (moby 24902). The event
`network connect` does, and comes after Join; so an endpoint starts without identity, and without
traffic, and gets both within milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

import structlog

from plait.client.agent import Agent, EndpointIdentity
from plait.docker.condition import condition, ends, grace
from plait.docker.directory import Directory
from plait.docker.engine import Engine, EngineRefused, EngineUnavailable
from plait.docker.names import dns_alias, dns_label, is_dns_label, valid_labels
from plait.docker.options import NAMESPACE
from plait.model import portnames
from plait.model.errors import PlaitError
from plait.model.objects import NamedPort, Workload
from plait.wire.docker import Container, ContainerDetail, DockerNetwork

COMPOSE_SERVICE: Final = "com.docker.compose.service"
"""Label of compose: the service's name, by which its containers know each other."""
ORIGINAL_NAME: Final = "plait.docker-name"
"""Label that keeps a container's name where DNS needs another spelling."""
UNJOINED: Final = "ep-"
"""dockerd lists an endpoint that is in no container yet under this prefix and its id."""

PORT_NAME: Final = "plait.port."
"""Prefix of labels that name ports for policies: `plait.port.http=80/tcp`; several with commas."""

NO_ENDPOINT: Final = "PLAIT-AGENT-003"

log: Final = structlog.get_logger("plait.docker")


def container_name(container: Container) -> str:
    """The container's own name; names with a second slash are links of others."""
    names = [n.lstrip("/") for n in container.names or () if n.count("/") == 1]
    return names[0] if names else container.id[:12]


def identity(
    container: Container,
    aliases: Iterable[str],
    network_namespace: str,
    *,
    stopping: bool = False,
) -> EndpointIdentity:
    """Identity of a container's endpoint in one network; `stopping`: it was told to end. Pure.

    Aliases are those of `--network-alias`, the name of the compose service, and the container's
    name as Docker has it if that is another (`shop_web_1`). A namespace that is no DNS label is
    an error (PLAIT-NAME-001), and so is a named port that is none (PLAIT-API-002), for rules
    that deny could miss it: the endpoint then stays closed.
    """
    labels = container.labels or {}
    original = container_name(container)
    name = dns_label(original) or container.id[:12]
    namespace = labels.get(NAMESPACE) or network_namespace or "default"
    if not is_dns_label(namespace):
        raise PlaitError(
            "PLAIT-NAME-001",
            f"{namespace!r}, the label {NAMESPACE} of the container {original}, is not a DNS label",
            fix=(f"run the container with another --label {NAMESPACE}=…",),
        )
    kept = valid_labels({**labels, ORIGINAL_NAME: original} if name != original else labels)
    known_as = [dns_alias(a) for a in (*aliases, labels.get(COMPOSE_SERVICE, ""), original)]
    return EndpointIdentity(
        name=name,
        aliases=tuple(dict.fromkeys(a for a in known_as if a and a != name)),
        labels=kept,
        namespace=namespace,
        workload=Workload(runtime="docker", id=container.id),
        named_ports=named_ports(original, labels),
        condition=condition(container) or ("stopping" if stopping else ""),
    )


def named_ports(container: str, labels: Mapping[str, str]) -> tuple[NamedPort, ...]:
    """The ports that labels name, in the order of their names."""
    return tuple(
        port
        for key, text in sorted(labels.items())
        if key.startswith(PORT_NAME)
        for port in portnames.parse(
            key.removeprefix(PORT_NAME), text, f"the label {key} of the container {container}"
        )
    )


def endpoints_of(network: DockerNetwork) -> dict[str, str]:
    """Endpoint ids of a network in Docker, each with its container's id (empty: not joined)."""
    found = {}
    for key, entry in (network.containers or {}).items():
        unjoined = key.startswith(UNJOINED)
        endpoint = entry.endpoint_id or key.removeprefix(UNJOINED)
        found[endpoint] = "" if unjoined else key
    return found


def aliases_of(detail: ContainerDetail) -> dict[str, tuple[str, ...]]:
    """Aliases of a container by endpoint id."""
    networks = (detail.network_settings.networks or {}).values()
    return {n.endpoint_id: n.aliases or () for n in networks if n.endpoint_id}


class Identifier:
    """Tells the agent who its endpoints are, as soon as Docker knows and whenever it changes."""

    def __init__(
        self, agent: Agent, engine: Engine, directory: Directory, *, clock: Callable[[], float]
    ) -> None:
        """`clock` gives seconds."""
        self._agent = agent
        self._engine = engine
        self._directory = directory
        self._clock = clock
        self._told: dict[str, EndpointIdentity] = {}
        self._aliases: dict[str, tuple[str, ...]] = {}
        self._inspected: set[str] = set()
        self._stopping: dict[str, float] = {}
        """Endpoints whose container was told to end, and when that is over, for it lives on."""
        self._locks: dict[str, asyncio.Lock] = {}
        self._work: dict[str, asyncio.Task[None]] = {}
        self._problems: dict[str, str] = {}

    @property
    def problems(self) -> tuple[str, ...]:
        """Containers that stay without traffic, and why, for people."""
        return tuple(self._problems.values())

    async def connected(self, network_id: str, container_id: str) -> None:
        """A container was connected to a network: identify its endpoint there."""
        if not container_id or network_id not in self._directory.records:
            return
        network = await self._engine.network(network_id)
        if network is not None:
            ours = {e for e, c in endpoints_of(network).items() if c == container_id}
            await self.attempt(container_id, dict.fromkeys(ours, network_id))

    async def changed(self, container_id: str) -> None:
        """A container has another name, or is in another state."""
        if self._of(container_id):
            # dockerd tells of a pause before it lists it, but holds the lock that this waits for.
            await self._engine.inspect(container_id)
            await self._tell_anew(container_id)

    async def signalled(self, container_id: str, signal: str) -> None:
        """A container got a signal, by its number. Nothing else tells that it is being stopped."""
        if not self._of(container_id):
            return
        detail = await self._engine.inspect(container_id)
        if detail is None or not ends(signal, detail.config.stop_signal):
            return
        until = self._clock() + grace(detail.config.stop_timeout)
        self._stopping.update(dict.fromkeys(self._of(container_id), until))
        await self._tell_anew(container_id)

    def _of(self, container_id: str) -> list[str]:
        """A container's endpoints that are identified."""
        return [e for e, told in self._told.items() if told.workload.id == container_id]

    async def _tell_anew(self, container_id: str) -> None:
        """Tell what is other than before of its endpoints, unless they are gone by now."""
        mine = self._of(container_id)
        places = {e.request.id: e.request.network for e in await self._agent.endpoints()}
        ids = {r.network: i for i, r in self._directory.records.items()}
        try:
            await self.container(
                container_id, {e: ids[places[e]] for e in mine if places.get(e) in ids}
            )
        except PlaitError as error:
            if error.code != NO_ENDPOINT:
                raise

    async def container(self, container_id: str, endpoints: Mapping[str, str]) -> None:
        """Identify endpoints (id to Docker network id) of one container.

        Twice when needed: at once with what the listing says, and with the aliases when the
        full description is to be had, which waits until the container has started.
        """
        if not endpoints:
            return
        if not endpoints.keys() <= self._aliases.keys():
            await self._recall(endpoints)
        lock = self._locks.setdefault(container_id, asyncio.Lock())
        async with lock:
            await self._tell(container_id, endpoints)
        if not set(endpoints) <= self._inspected:
            detail = await self._engine.inspect(container_id)
            if detail is not None:
                self._aliases.update(aliases_of(detail))
                self._inspected.update(aliases_of(detail).keys() & endpoints.keys())
                async with lock:
                    await self._tell(container_id, endpoints)

    async def _recall(self, endpoints: Mapping[str, str]) -> None:
        """After a restart, what the agent's journal says holds until Docker says otherwise, so
        that no alias disappears for a moment."""
        for known in await self._agent.endpoints():
            if known.request.id in endpoints:
                self._aliases.setdefault(known.request.id, known.request.aliases)

    async def _tell(self, container_id: str, endpoints: Mapping[str, str]) -> None:
        for container in await self._engine.containers(container_id):
            for endpoint, network_id in endpoints.items():
                record = self._directory.records.get(network_id)
                namespace = record.namespace if record else ""
                stopping = self._clock() < self._stopping.get(endpoint, float("-inf"))
                aliases = self._aliases.get(endpoint, ())
                who = identity(container, aliases, namespace, stopping=stopping)
                if self._told.get(endpoint) == who:
                    continue
                await self._agent.identify(endpoint, who)
                self._told[endpoint] = who

    async def resync(self, networks: Iterable[DockerNetwork]) -> None:
        """Begin to identify every endpoint that Docker lists; forget those that it doesn't.

        The work goes on behind this call, for a container that hangs while it starts would
        hold it up; `settle` waits for it.
        """
        by_container: dict[str, dict[str, str]] = {}
        present: set[str] = set()
        for network in networks:
            for endpoint, container_id in endpoints_of(network).items():
                present.add(endpoint)
                if container_id:
                    by_container.setdefault(container_id, {})[endpoint] = network.id
        self._forget(present, set(by_container))
        for container_id, endpoints in by_container.items():
            if container_id not in self._work:
                task = asyncio.create_task(self.attempt(container_id, endpoints))
                self._work[container_id] = task
                task.add_done_callback(partial(self._done, container_id))

    def _done(self, container_id: str, _: asyncio.Task[None]) -> None:
        self._work.pop(container_id, None)

    async def settle(self) -> None:
        """Wait until what `resync` began is done."""
        await asyncio.gather(*self._work.values())

    async def close(self) -> None:
        """Give up what `resync` began."""
        tasks = tuple(self._work.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, endpoints: set[str], containers: set[str]) -> None:
        self._told = {e: told for e, told in self._told.items() if e in endpoints}
        self._aliases = {e: a for e, a in self._aliases.items() if e in endpoints}
        self._inspected &= endpoints
        self._stopping = {e: until for e, until in self._stopping.items() if e in endpoints}
        self._problems = {c: p for c, p in self._problems.items() if c in containers}
        self._locks = {
            c: lock for c, lock in self._locks.items() if c in containers or lock.locked()
        }

    async def attempt(self, container_id: str, endpoints: Mapping[str, str]) -> None:
        """As `container`; a failure is told, and the next resync tries again."""
        try:
            await self.container(container_id, endpoints)
        except (PlaitError, EngineRefused, EngineUnavailable) as error:
            problem = f"the container {container_id[:12]} is not identified: {error}"
            if self._problems.get(container_id) != problem:
                log.warning("container not identified", problem=problem)
            self._problems[container_id] = problem
        else:
            self._problems.pop(container_id, None)
