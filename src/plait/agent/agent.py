"""The agent: its parts put together from the doors that it is given.

`wiring` makes the doors and calls `start` and `stop`. Stopping removes nothing: the data path
goes on without the agent (P4). `purge` removes every kernel object of ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

import structlog

from plait.agent import cache
from plait.agent import ledger as record
from plait.agent.api import AgentApi, Route
from plait.agent.blocks import Blocks
from plait.agent.desired import Input, Underlay
from plait.agent.doors import Config as Config
from plait.agent.doors import Doors as Doors
from plait.agent.flows import Flows
from plait.agent.health_ports import Condition, Health, HealthPorts
from plait.agent.loop import Loop
from plait.agent.metrics import counter, gauge, render
from plait.agent.pods import Pods
from plait.agent.policing import Policing
from plait.agent.ports import Ports, holds_ports
from plait.agent.report import one_line
from plait.agent.restore import Previous
from plait.agent.service import Service
from plait.agent.state import State
from plait.agent.sync import Sync
from plait.agent.underlay import Overlaps, accepts_ra, decide, prefixes
from plait.agent.watchers import Watcher
from plait.client.base import WatchEvent
from plait.kernel.hostfacts import HostFacts
from plait.model.errors import PlaitError
from plait.model.objects import Metadata, Network, NodeSpec, NodeStatus

SAVE_EVERY: Final = 30.0
"""Seconds between copies of the snapshot to the disk, when it changed."""
FACTS_EVERY: Final = 15.0
"""Seconds between looks at the host's interfaces, routes and resolvers."""

SNAPSHOT: Final = "snapshot.json"
"""File with the last copy of the snapshot."""
FORGOTTEN: Final = "forgotten"
"""File that outlives the process while the server does not know this node."""
CONDITIONS: Final = 64
CONDITION_LENGTH: Final = 512
"""Most conditions of a Node, and characters of one: the server refuses more."""

log: Final = structlog.get_logger("plait.agent")


class Agent:
    """See the module's docstring."""

    def __init__(
        self,
        config: Config,
        doors: Doors,
        *,
        observe: Callable[[WatchEvent], None] = lambda _event: None,
        local: Callable[[], None] = lambda: None,
    ) -> None:
        """`observe` is given every event of the watch (names, policies); `local` is called when
        endpoints of this host may have changed."""
        self._config = config
        self._doors = doors
        self._tasks: list[asyncio.Task[None]] = []
        self._facts: HostFacts | None = None
        self._prefixes: tuple[str, ...] = ()
        self._saved = float("-inf")
        self._saved_revision = -1
        self._saving: asyncio.Task[None] | None = None
        self._overlaps = Overlaps()
        self.problem_sources = [*doors.problems, self._overlapping]
        """Asked whenever somebody wants to know what is wrong; parts beside the agent add theirs.
        They answer at once, with a sentence a problem."""
        self.metric_sources = [*doors.metrics]
        """Asked by `/metrics`, likewise."""
        self._trail = cache.Trail(config.directory / SNAPSHOT)
        self.pods = Pods(
            config.identity.name,
            lambda: self.state.snapshot.pods,
            lambda: self.state.records.ledger.endpoints.values(),
            lambda endpoint, identity: self.service.identify(endpoint, identity),
        )
        self.state: State = State(
            config.identity,
            config.directory / "journal",
            clock=doors.clock,
            wall=doors.wall,
            cool_down=config.cool_down,
            followers=(self._trail, self.pods),
        )
        self.state.dns = config.dns
        self.previous = Previous(config.directory / "restore.json", doors.sysctl)
        """Values of sysctls before us: what `plait down --purge` puts back."""
        self.policing = Policing(
            self.state,
            doors.policy,
            addresses=lambda: (
                (fact.address for fact in self._facts.addresses) if self._facts else ()
            ),
            offload=doors.offload,
            clock=doors.clock,
        )
        self.problem_sources.append(lambda: self.policing.problems(self.loop.failures))
        self.health = HealthPorts(self._health, self._condition, wall=doors.wall)
        self.problem_sources.append(self.health.problems)
        self.metric_sources.append(self.policing.metrics)
        self.loop: Loop = Loop(
            doors.programmers,
            self._compute,
            clock=doors.clock,
            resync=config.resync,
            on_gone=lambda ident: self.service.vanished(ident),
            before_resync=self._housekeeping,
            offload=doors.offload,
            after=_both(self.policing.after, lambda *_: self.health.follow()),
        )
        self.flows = Flows(
            config.identity.name,
            present=lambda: self.state.records.ledger.endpoints.values(),
            meaning=self.state.engine.meaning,
            counters=doors.counters,
            wall=doors.wall,
            offload=doors.offload,
        )
        self.metric_sources.append(self.flows.metrics)
        self.ports = Ports()
        self.blocks = Blocks(
            doors.api,
            self.state.snapshot,
            self.state.records,
            self.state.book,
            node=config.identity.name,
            changed=self._blocks_changed,
            clock=doors.clock,
        )
        self.sync = Sync(
            doors.api,
            self.state.snapshot,
            lambda: self.service.present(),
            self.blocks,
            node=config.identity.name,
            describe=self._describe,
            changed=self._inputs_changed,
            observe=_both(self.flows.whois.observe, observe),
            clock=doors.clock,
            heartbeat=config.heartbeat,
            kicked=_both(self.flows.whois.changed, local),
            expelled=self._set_forgotten,
        )
        self.service: Service = Service(
            self.state,
            self.loop,
            self.blocks,
            self.sync,
            self.ports,
            self.pods,
            flows=self.flows,
            tracer=self.policing.tracer,
            fetch_network=self._fetch_network,
            version=config.version,
            server=config.server,
            problems=self._other_problems,
        )
        """The verbs: implements client.agent.Agent."""
        self.routes: dict[str, Route] = {}
        """Paths of the socket that parts beside the agent answer; add them before `start`."""
        self._api = (
            AgentApi(self.service, config.socket, self._metrics, self.routes)
            if config.socket is not None
            else None
        )

    @property
    def restore(self) -> dict[str, str]:
        """Sysctl keys and the values they had before Plait."""
        return dict(self.previous.values)

    def set_docker(self, present: bool) -> None:
        """A Docker daemon answers on this host, or no longer does."""
        if self.state.docker != present:
            self.state.docker = present
            self._inputs_changed(frozenset(("host",)), frozenset())
            self.sync.kick()

    async def start(self) -> None:
        """Begin. With a copy of the snapshot on disk the data path is put right at once, else
        when the server has answered. Raises PLAIT-HOST-006 when the underlay is unknown."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        self._config.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Known before the kernel is put right: the copy of the snapshot still speaks for us.
        self.state.forgotten = (self._config.directory / FORGOTTEN).exists()
        dead = self.state.open(self._doors.boot)
        if dead:
            log.info("endpoints did not survive", endpoints=len(dead))
        self._look(self._doors.facts())
        if self.state.underlay is None:
            self._decide(self._doors.facts())  # Raises, and says why.
        kept = cache.load(self._config.directory / SNAPSHOT)
        if kept is not None:
            self.state.snapshot.restore(kept.objects, kept.revision)
            self.flows.whois.begin(kept.objects)
            self._saved_revision = kept.revision
        self._trail.open()
        self._hold_ports()
        running = asyncio.get_running_loop()
        for watcher in self._doors.watchers:
            running.add_reader(watcher.fileno(), self._noticed, watcher)
        await self.loop.settle()
        self._tasks = [
            asyncio.create_task(self.loop.run(), name="agent: loop"),
            asyncio.create_task(self.sync.follow(), name="agent: server -> snapshot"),
            asyncio.create_task(self.sync.write(), name="agent: journal -> server"),
            asyncio.create_task(self._follow_host(), name="agent: host -> underlay"),
            asyncio.create_task(self.pods.run(), name="agent: pods -> endpoints"),
            asyncio.create_task(self.policing.run(), name="agent: policies -> conntrack"),
            asyncio.create_task(self.health.run(), name="agent: services -> health ports"),
        ]
        if self._api is not None:
            await self._api.start()

    async def failed(self) -> None:
        """Wait for a task to end, which only a defect makes it do, and raise what ended it: half
        an agent must not look like a whole one."""
        ended, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()

    async def stop(self) -> None:
        """End. The kernel, and so the traffic, stays as it is."""
        self.flows.close()
        if self._api is not None:
            await self._api.stop()
        for watcher in self._doors.watchers:
            asyncio.get_running_loop().remove_reader(watcher.fileno())
        for task in self._tasks:
            task.cancel()
        # One that failed was reported by `failed`; the rest is to be put away all the same.
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self.service.drain()
        if self._saving is not None:
            await self._saving
        await self._save(force=True)
        self.ports.close()
        self._trail.close()
        self.state.records.close()
        for watcher in self._doors.watchers:
            watcher.close()

    async def purge(self) -> tuple[str, ...]:
        """Remove every kernel object of ours and put the sysctls back; returns what failed.

        The agent must be stopped afterwards; it will not make anything again.
        """
        self.state.purging = True
        await self.loop.settle()
        for programmer in self._doors.programmers:
            reap = getattr(programmer, "reap", None)
            if reap is not None:
                await self._doors.offload(reap)
        failed = [f"{failure.op}: {failure.error}" for failure in self.loop.failures]
        for step in self._doors.purge:
            try:
                step()
            except (OSError, PlaitError) as error:
                failed.append(str(error))
        failed += self.previous.restore()
        return tuple(failed)

    # What the parts ask of each other.

    def _compute(self) -> Any:
        want = self.state.compute()
        self.state.bring()
        if want is not None and not self.state.purging:
            self.previous.remember(want.sysctls)
        return want

    def _health(self) -> Health:
        balancer, wanted = self.state.balancer, not self.state.purging
        return Health(
            checks=balancer.health() if wanted else {}, proxy=wanted and balancer.orchestrated
        )

    def _condition(self) -> Condition:
        return Condition(behind=self.state.behind, eligible=self.state.eligible)

    def _inputs_changed(
        self, inputs: frozenset[Input], networks: frozenset[str], *, foreign: bool = True
    ) -> None:
        self.state.book.refresh(networks)
        self.state.mark(inputs)
        if foreign and "blocks" in inputs:
            self._fence()
        if self._tasks:
            self.loop.soon()

    def _blocks_changed(self, network: str, foreign: bool) -> None:
        self._inputs_changed(frozenset(("blocks",)), frozenset((network,)), foreign=foreign)
        if foreign:  # The watch will find it known already, and somebody may wait for us.
            self.sync.kick()

    def _fence(self) -> None:
        fenced = self.blocks.survey()
        if fenced != self.state.fenced:
            for ident in fenced - self.state.fenced:
                log.error("another node owns the address; no more traffic", endpoint=ident)
            self.state.fence(fenced)

    def _set_forgotten(self, forgotten: bool) -> None:
        """All endpoints fall silent when the server forgot this node (P2), until it is enrolled
        again and the blocks are known."""
        if forgotten == self.state.forgotten:
            return
        self.state.forgotten = forgotten
        path = self._config.directory / FORGOTTEN
        try:
            if forgotten:
                log.error("the server has forgotten this node; its endpoints have no more traffic")
                path.touch(mode=0o600)
            else:
                log.info("the server knows this node again")
                path.unlink(missing_ok=True)
        except OSError as error:
            log.error("what the server said cannot be kept", error=str(error))
        self._inputs_changed(frozenset(("host",)), frozenset())

    async def _fetch_network(self, name: str) -> bool:
        """Ask the server for a network that was made this moment."""
        if not self.sync.connected:
            return False
        try:
            network = await self._doors.api.get(Network, name)
        except PlaitError:
            return False
        self.state.snapshot.put(network, answer=True)
        self._inputs_changed(frozenset(("networks",)), frozenset((name,)))
        return True

    def _describe(self) -> tuple[Metadata, NodeSpec, NodeStatus]:
        identity, underlay = self._config.identity, self.state.underlay
        return (
            Metadata(name=identity.name, uid=identity.uid),
            NodeSpec(
                addresses=underlay.addresses if underlay else (),
                link_local=underlay.link_local if underlay else "",
                mtu=underlay.mtu if underlay else 1500,
                site=self._config.site,
            ),
            NodeStatus(
                version=self._config.version,
                ready=self.loop.observed and self.state.snapshot.ready,
                docker=self.state.docker,
                prefixes=self._prefixes,
                conditions=tuple(
                    one_line(problem, CONDITION_LENGTH)
                    for problem in self.service.problems()[:CONDITIONS]
                ),
            ),
        )

    # The host and the clock.

    def _housekeeping(self) -> None:
        """What is due at every resync."""
        now = self._doors.wall()
        book, ledger = self.state.book, self.state.records.ledger
        due = [record.rested(*key) for key in book.expired()]
        for (network, address), at in tuple(ledger.held.items()):
            if now - at >= self._config.hold:
                due.append(record.resting(network, address, now))
                book.release(network, (address,))
        book.rest()
        if due:
            self.state.records.forget(*due)
            self.sync.kick()
        idle = self._saving is None or self._saving.done()
        if idle and self._doors.clock() - self._saved >= SAVE_EVERY:
            self._saving = asyncio.create_task(self._save(), name="agent: snapshot -> disk")

    async def _follow_host(self) -> None:
        """Look at the host's own network now and then, off the loop: dumps may be long."""
        while True:
            await asyncio.sleep(FACTS_EVERY)
            try:
                facts = await asyncio.to_thread(self._doors.facts)
            except OSError as error:
                log.warning("the host's network cannot be read", error=str(error))
                continue
            if self._look(facts):
                self.loop.soon()

    def _decide(self, facts: HostFacts) -> Underlay:
        return decide(facts, address=self._config.address, interface=self._config.interface)

    def _look(self, facts: HostFacts) -> bool:
        """Take in the host's own network: the underlay, and what others use. True when the
        kernel's state depends on what changed."""
        if facts == self._facts:
            return False
        self._facts = facts
        self.sync.kick()
        try:
            underlay = self._decide(facts)
        except PlaitError as error:
            # The interface may be down for a moment: go on with what was known.
            log.warning("the underlay cannot be determined", error=str(error))
            return False
        self._prefixes = prefixes(facts)
        accept_ra = self.state.accept_ra or accepts_ra(facts, underlay.interface)
        if (underlay, accept_ra) == (self.state.underlay, self.state.accept_ra):
            return False
        log.info("underlay", interface=underlay.interface, addresses=underlay.addresses)
        self.state.underlay, self.state.accept_ra = underlay, accept_ra
        self.state.mark(("host",))
        return True

    def _hold_ports(self) -> None:
        """Hold the published ports again: nobody may have taken one while we were away."""
        for ident, endpoint in self.state.records.ledger.endpoints.items():
            try:
                request = endpoint.request
                self.ports.set(ident, request.ports, hold=holds_ports(request))
            except PlaitError as error:
                log.error("a published port was taken meanwhile", endpoint=ident, error=str(error))

    def _noticed(self, watcher: Watcher) -> None:
        if watcher.drain():
            self.loop.nudge()

    async def _save(self, *, force: bool = False) -> None:
        """Copy the snapshot to the disk if it changed; the writing is done off the loop."""
        snapshot = self.state.snapshot
        if not snapshot.live:
            return  # The first copy is made as soon as there is something: a trail needs one.
        self._saved = self._doors.clock()
        if snapshot.revision == self._saved_revision and not force:
            return
        # All three belong to this moment: the snapshot goes on changing during the write.
        objects, revision, returned = tuple(snapshot), snapshot.revision, self.blocks.returned()
        learnt = self._trail.size
        path = self._config.directory / SNAPSHOT
        try:
            await self._doors.offload(lambda: cache.save(path, objects, revision))
        except OSError as error:
            log.warning("the snapshot cannot be saved", error=str(error))
        else:
            self._saved_revision = revision
            self._trail.drop(learnt)
            self.blocks.forget_returned(returned)

    def _overlapping(self) -> tuple[str, ...]:
        snapshot = self.state.snapshot
        pools = snapshot.cluster.spec.service_pools
        return self._overlaps(self._prefixes, snapshot.networks, pools)

    def _other_problems(self) -> Iterable[str]:
        return (problem for source in self.problem_sources for problem in source())

    def _metrics(self) -> bytes:
        """See `agent.metrics`."""
        own = [
            gauge("plait_agent_endpoints", len(self.state.records.ledger.endpoints)),
            counter("plait_agent_turns", self.loop.turns),
            gauge("plait_agent_refused", len(self.loop.failures)),
            gauge("plait_agent_problems", len(self.service.problems())),
            gauge("plait_agent_waiting_for_pods", self.pods.waiting),
            gauge("plait_agent_server_connected", self.sync.connected),
            gauge("plait_agent_revision", self.state.snapshot.revision),
            gauge("plait_services", len(self.state.snapshot.services)),
            gauge("plait_service_frontends", len(self.state.balancer.table().frontends)),
            *(
                counter("plait_agent_repairs", count, part=part)
                for part, count in sorted(self.loop.repairs.items())
            ),
        ]
        others = (metric for source in self.metric_sources for metric in source())
        return render((*own, *others))


def _both(first: Callable[..., None], second: Callable[..., None]) -> Callable[..., None]:
    def tell(*what: object) -> None:
        first(*what)
        second(*what)

    return tell
