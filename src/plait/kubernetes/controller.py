"""The connector: what Kubernetes says goes to Plait's server, what Plait knows back to Kubernetes.

It holds no state of its own: after a restart it compares what both sides have, and marks on the
objects (`marks`) tell it which are its own. `tasks` has everything that must run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import structlog

from plait import __version__
from plait.client.base import Api, WatchEvent
from plait.kubernetes.api import KubernetesApi
from plait.kubernetes.due import ORDER
from plait.kubernetes.election import EVERY, Election
from plait.kubernetes.feedback import Feedback
from plait.kubernetes.held import Held
from plait.kubernetes.kinds import NODES, SERVICES
from plait.kubernetes.reflector import Reflector, Timing
from plait.kubernetes.replica import Change
from plait.kubernetes.report import shown
from plait.kubernetes.token_end import TokenEnd
from plait.kubernetes.translate import ROWS, SOURCES
from plait.kubernetes.wanted import Source, Wanted
from plait.kubernetes.writes import Writes
from plait.model.errors import PlaitError
from plait.model.objects import PLURALS, Cluster, ClusterSpec, Node, Object, Service
from plait.model.services import ServiceSpec
from plait.wire.connector import Followed, Report

FOLLOWED: Final[tuple[type[Object], ...]] = (Cluster, *ORDER)
"""Kinds of ours that are watched."""
DEFAULT_NETWORK: Final = ServiceSpec().network
AGAIN: Final = 2.0
"""Seconds before Plait's server is asked again after it refused this connector as a whole."""

log: Final = structlog.get_logger("plait.kubernetes")


class Controller:
    """`network` is Plait's network that pods are in; `identity` names this connector among others;
    its Lease stands in `lease_namespace` and is renewed every `renew` seconds. `clock` gives
    monotonic seconds, `wall` Unix time; `token_ends` is as for `TokenEnd`."""

    def __init__(
        self,
        kubernetes: KubernetesApi,
        plait: Api,
        *,
        identity: str,
        lease_namespace: str,
        network: str = DEFAULT_NETWORK,
        timing: Timing = Timing(),  # noqa: B008 (frozen)
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        renew: float = EVERY,
        token_ends: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._kubernetes = kubernetes
        self._plait = plait
        self._identity = identity
        self._clock = clock
        self._wanted = Wanted(network=network, domain=ClusterSpec().domain)
        self._held = Held()
        self._following = False
        self._refusal = ""
        self._token_end = TokenEnd(token_ends, wall)
        self.reflectors: Mapping[str, Reflector[Any]] = {
            row.source.name: Reflector(
                kubernetes, row.source, self._told(row.source.name), timing=timing, clock=clock
            )
            for row in ROWS
        }
        self._election = Election(
            kubernetes,
            namespace=lease_namespace,
            identity=identity,
            changed=self._leads,
            status=lambda: self.report().summary,
            clock=clock,
            wall=wall,
            every=renew,
        )
        self._writes = Writes(
            plait,
            self._wanted,
            self._held,
            known=self._known,
            may=self._may,
            changed=self._changed,
            clock=clock,
        )
        self._feedback = Feedback(
            kubernetes, self._wanted, self._held, may=self._may, clock=clock, wall=wall
        )

    def tasks(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """What must run at the same time, each for ever, by name."""
        for kind, reflector in self.reflectors.items():
            yield f"follow {kind} of Kubernetes", self._follow_kind(reflector)
        yield "follow Plait's server", self._follow()
        yield "write to Plait's server", self._writes.run()
        yield "write into Kubernetes", self._feedback.run()
        yield "election", self._election.run()
        yield "look at the token's end", self._token_end.run()

    # What is heard.

    def _told(self, kind: str) -> Callable[[Sequence[Change[Any]]], None]:
        """The handler of a kind of Kubernetes."""

        def take(changes: Sequence[Change[Any]]) -> None:
            self._writes.touch(self._wanted.take(kind, changes))
            self._feedback.touch(kind, (change.key for change in changes))

        return take

    async def _follow_kind(self, reflector: Reflector[Any]) -> None:
        await asyncio.gather(reflector.run(), self._first_list(reflector))

    async def _first_list(self, reflector: Reflector[Any]) -> None:
        """Once all of a kind is known, what is ours and not wanted can go."""
        await reflector.synced.wait()
        self._writes.touch_all()

    async def _follow(self) -> None:
        while True:
            try:
                async for event in self._plait.watch(FOLLOWED):
                    self._take(event)
            except PlaitError as error:
                self._refusal = str(error)
                log.error("Plait's server refuses the connector", error=str(error))
            self._following = False
            await asyncio.sleep(AGAIN)

    def _take(self, event: WatchEvent) -> None:
        """A word of Plait's server."""
        self._following = event.type != "disconnected"
        self._refusal = "" if self._following else f"Plait's server: {event.reason}"
        self._changed(self._held.take(event))
        if event.type == "synced":
            self._writes.touch_all()
            self._feedback.touch_all()

    def _changed(self, keys: Iterable[str]) -> None:
        """These are other than before at Plait's server, as far as is known."""
        for key in keys:
            obj = self._held.objects.get(key)
            _, plural, *scope, name = key.split("/")
            kind = PLURALS[plural]
            if kind is Cluster:
                spec = obj.spec if isinstance(obj, Cluster) else ClusterSpec()
                self._writes.touch(self._wanted.set_cluster(spec))
                self._feedback.touch_all()
                continue
            if kind is Node:
                found = obj if isinstance(obj, Node) else None
                self._writes.touch(self._wanted.take_host(name, found))
                theirs = self._wanted.hosts.theirs(name)
                self._feedback.touch(NODES.name, [("", theirs)] if theirs else ())
            elif kind is Service:
                self._feedback.touch(SERVICES.name, [(scope[0], name)])
            self._writes.touch((key,))

    def _leads(self, leads: bool) -> None:
        """This connector begins or ends to write."""
        if leads:
            self._writes.touch_all()
            self._feedback.touch_all()

    def _known(self, kind: type[Object]) -> bool:
        """Whether everything that Kubernetes has of a kind of ours was heard."""
        return all(self.reflectors[source.name].synced.is_set() for source in SOURCES[kind])

    def _may(self) -> bool:
        return self._election.leads

    # What is said.

    @property
    def ready(self) -> bool:
        """Both sides were heard of wholly."""
        return self._held.synced and all(map(self._known, ORDER))

    def report(self) -> Report:
        """How it is now."""
        health = [reflector.health for reflector in self.reflectors.values()]
        count, problems = shown(self._problems())
        error = any(h.error for h in health)
        return Report(
            version=__version__,
            identity=self._identity,
            leads=self._election.leads,
            leader=self._election.leader,
            api_server=self._kubernetes.access.server,
            connected=all(h.synced for h in health) and not error,
            server_connected=self._following,
            synced=self.ready and not self._writes.due,
            age=min(h.age for h in health),
            due=self._writes.due,
            written=self._writes.written,
            told=self._feedback.written,
            kinds=tuple(
                Followed(
                    kind=h.kind,
                    resource=h.resource,
                    phase=h.phase,
                    synced=h.synced,
                    objects=h.objects,
                    age=h.age,
                    error=h.error,
                )
                for h in health
            ),
            problem_count=count,
            problems=problems,
        )

    def _problems(self) -> Iterator[str]:
        told = (self._refusal, self._writes.error, self._election.error, self._token_end.problem)
        for text in told:
            if text:
                yield text
        for source, text in {**self._wanted.problems, **self._feedback.problems}.items():
            yield f"{_shown(source)}: {text}"
        for key, text in {**self._writes.clashes, **self._writes.refused}.items():
            found = self._wanted.source(key)
            yield f"{_shown(found) if found else key}: {text}"
        for kind, reflector in self.reflectors.items():
            for name, text in reflector.health.quarantined.items():
                yield f"{_shown((kind, *name))}: {text}"


def _shown(source: Source) -> str:
    """An object of Kubernetes as a person names it."""
    kind, namespace, name = source
    return f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"
