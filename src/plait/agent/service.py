"""The agent's verbs (client.agent.Agent): each idempotent by the endpoint's id, all or nothing.

An attach goes: addresses, ports, journal, kernel, journal. Until the second record the endpoint
is unfinished; a crash in between leaves something that the next start takes away.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
import structlog

from plait.agent import ledger as record
from plait.agent.blocks import Blocks
from plait.agent.checks import check_identity, check_request
from plait.agent.desired.inputs import gateways, host_cidr
from plait.agent.desired.paths import endpoint_mtu
from plait.agent.failpoints import failpoint
from plait.agent.flows import Flows
from plait.agent.loop import Loop
from plait.agent.ports import Ports
from plait.agent.report import one_line, peer_statuses
from plait.agent.state import State
from plait.agent.sync import Sync
from plait.agent.tracing import Tracer
from plait.client.agent import (
    AgentStatus,
    AttachRequest,
    AttachResult,
    LocalEndpoint,
    PeerStatus,
    Reservation,
)
from plait.ipam.allocate import HELD, Granted, Request
from plait.ipam.pool import parse, text
from plait.model import portnames
from plait.model.errors import PlaitError
from plait.model.flows import FlowPage, FlowQuery, RuleCount
from plait.model.marks import endpoint_mac, host_ifname, peer_ifname
from plait.model.objects import NamedPort, Network, PublishedPort, Workload
from plait.model.traces import Trace, TraceQuery

ROUNDS: Final = 8
"""Times an allocation is tried again after blocks were claimed for it: others may be quicker."""

log: Final = structlog.get_logger("plait.agent.service")


class Service:
    """See the module's docstring. Made and started by `agent.Agent`."""

    def __init__(
        self,
        state: State,
        loop: Loop,
        blocks: Blocks,
        sync: Sync,
        ports: Ports,
        *,
        flows: Flows,
        tracer: Tracer,
        fetch_network: Callable[[str], Awaitable[bool]],
        version: str,
        server: str,
        problems: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """`fetch_network` asks the server for a network that the snapshot lacks; `problems` are
        those of the agent's other parts."""
        self._state = state
        self._loop = loop
        self._blocks = blocks
        self._sync = sync
        self._ports = ports
        self._flows = flows
        self._tracer = tracer
        self._fetch_network = fetch_network
        self._version = version
        self._server = server
        self._problems = problems
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        self._background: set[asyncio.Task[Any]] = set()

    # Attach and detach.

    async def attach(self, request: AttachRequest) -> AttachResult:
        """See client.agent.Agent."""
        check_request(request)
        async with self._alone(request.id):
            known = self._ledger.endpoints.get(request.id)
            if known is not None and self._same_place(known, request):
                return self._result(known)
            if known is not None:
                # The same id in another namespace: the former one is gone (a runtime's retry).
                await self._detach(request.id)
            self._check_enrolled()
            failpoint("attach.begin")
            network = await self._network(request.network)
            inode = self._place(request)
            granted = await self._allocate(network.metadata.name, request)
            failpoint("attach.allocated")
            try:
                ports = self._ports.set(request.id, request.ports)
                endpoint = LocalEndpoint(
                    request=msgspec.structs.replace(request, ports=ports),
                    addresses=granted.addresses,
                    mac=request.mac or endpoint_mac(request.id),
                    interface=host_ifname(request.id),
                    phase="ready" if request.identified else "pending",
                    netns_inode=inode,
                    created=self._state.wall(),
                )
                self._state.records.write(record.attached(endpoint, done=False))
            except BaseException:
                self._ports.set(request.id, ())
                self._state.book.release(network.metadata.name, granted.addresses, rest=False)
                raise
            failpoint("attach.journaled")
            try:
                self._state.put(endpoint)
                await self._loop.settle()
                self._raise_failures(endpoint)
                failpoint("attach.programmed")
                self._state.records.write(record.attached(endpoint, done=True))
            except BaseException:
                # Also when the caller went away: nobody would ever detach it.
                await asyncio.shield(self._undo(endpoint))
                raise
            failpoint("attach.done")
            self._sync.kick()
            return self._result(endpoint)

    async def detach(self, endpoint: str) -> bool:
        """See client.agent.Agent."""
        async with self._alone(endpoint):
            return await self._detach(endpoint)

    async def _detach(self, ident: str) -> bool:
        endpoint = self._ledger.endpoints.get(ident)
        if endpoint is None:
            return False
        failpoint("detach.begin")
        await self._undo(endpoint)
        return True

    async def _undo(self, endpoint: LocalEndpoint) -> None:
        """Take an endpoint out of everything. Closing traffic comes first (the loop's order)."""
        ident = endpoint.request.id
        self._state.records.forget(record.gone(ident, self._state.wall()))
        failpoint("detach.journaled")
        self._state.remove(ident)
        self._state.book.release(endpoint.request.network, endpoint.addresses)
        try:
            await self._loop.settle()
        finally:
            failpoint("detach.programmed")
            self._ports.set(ident, ())
            self._sync.kick()

    def vanished(self, ident: str) -> None:
        """The endpoint's namespace is no more: nobody will detach it, so we do."""
        endpoint = self._ledger.endpoints.get(ident)
        if endpoint is None or ident in self._ledger.unfinished:
            return
        log.info("the namespace has gone; detaching", endpoint=ident, netns=endpoint.request.netns)
        self._spawn(self.detach(ident))

    # Identity, ports, reservations.

    async def identify(
        self,
        endpoint: str,
        *,
        name: str,
        aliases: tuple[str, ...],
        labels: dict[str, str],
        namespace: str,
        workload: Workload,
        named_ports: tuple[NamedPort, ...] = (),
    ) -> None:
        """See client.agent.Agent."""
        check_identity(name, aliases, namespace)
        portnames.check(named_ports, "namedPorts")
        async with self._alone(endpoint):
            known = self._known(endpoint)
            request = msgspec.structs.replace(
                known.request,
                name=name,
                aliases=aliases,
                labels=labels,
                namespace=namespace,
                workload=workload,
                named_ports=named_ports,
                identified=True,
            )
            if request == known.request:
                return
            changed = msgspec.structs.replace(known, request=request, phase="ready")
            await self._change("identify", known, changed)

    async def joined(self, endpoint: str, sandbox: str) -> None:
        """See client.agent.Agent."""
        async with self._alone(endpoint):
            known = self._known(endpoint)
            if known.sandbox != sandbox:
                changed = msgspec.structs.replace(known, sandbox=sandbox)
                self._state.records.write(record.attached(changed, done=True))

    async def publish(
        self, endpoint: str, ports: tuple[PublishedPort, ...]
    ) -> tuple[PublishedPort, ...]:
        """See client.agent.Agent."""
        async with self._alone(endpoint):
            known = self._known(endpoint)
            before = known.request.ports
            chosen = self._ports.set(endpoint, ports)
            try:
                request = msgspec.structs.replace(known.request, ports=chosen)
                changed = msgspec.structs.replace(known, request=request)
                await self._change("publish", known, changed)
            except BaseException:
                self._ports.set(endpoint, before)
                raise
            return chosen

    async def _change(self, verb: str, known: LocalEndpoint, changed: LocalEndpoint) -> None:
        """Put the changed endpoint in the place of the known one, or leave all as it was."""
        self._state.records.write(record.attached(changed, done=True))
        failpoint(f"{verb}.journaled")
        try:
            self._state.put(changed)
            await self._loop.settle()
            self._raise_failures(changed)
        except BaseException:
            self._state.records.write(record.attached(known, done=True))
            self._state.put(known)
            self._loop.soon()
            raise
        self._sync.kick()

    async def reserve(self, network: str, family: Literal[4, 6], address: str = "") -> Reservation:
        """See client.agent.Agent."""
        self._check_enrolled()
        await self._network(network)
        if address:
            address = _canonical(address)
        if address and self._state.book.holder_of(network, address) == HELD:
            # A hold is taken over by the attach that it is for, not by another hold.
            raise PlaitError(
                "PLAIT-IPAM-010",
                f"{address} is in use",
                where=f"network/{network}",
                why="it is held for an endpoint that is being made",
                fix=("plait ps", "choose another address, or none"),
            )
        wanted = (address,) if address else ()
        granted = await self._grant(network, Request(owner=HELD, wanted=wanted), family)
        found = granted.addresses[0]
        try:
            self._state.records.write(record.held(network, found, self._state.wall()))
        except BaseException:
            self._state.book.release(network, (found,), rest=False)
            raise
        failpoint("reserve.journaled")
        return Reservation(address=found, network=network)

    async def release(self, network: str, address: str) -> None:
        """See client.agent.Agent."""
        address = _canonical(address)
        if (network, address) in self._ledger.held:
            self._state.records.forget(record.resting(network, address, self._state.wall()))
            self._state.book.release(network, (address,))

    # Answers.

    async def endpoints(self) -> tuple[LocalEndpoint, ...]:
        """See client.agent.Agent."""
        return tuple(self.present())

    def present(self) -> list[LocalEndpoint]:
        """Finished endpoints, with the phase that they are in now."""
        fenced, troubled = self._state.fenced, bool(self._loop.failures)
        result = []
        for ident, endpoint in self._ledger.endpoints.items():
            if ident in self._ledger.unfinished:
                continue
            if self._state.forgotten:
                endpoint = msgspec.structs.replace(
                    endpoint, phase="degraded", message="the server has forgotten this node"
                )
            elif ident in fenced:
                endpoint = msgspec.structs.replace(
                    endpoint, phase="degraded", message="another node owns its address now"
                )
            elif troubled and (failures := self._loop.failures_of(_words(endpoint))):
                endpoint = msgspec.structs.replace(
                    endpoint,
                    phase="degraded",
                    message=one_line(f"{failures[0].op}: {failures[0].error}"),
                )
            result.append(endpoint)
        return result

    async def status(self) -> AgentStatus:
        """See client.agent.Agent."""
        snapshot = self._state.snapshot
        return AgentStatus(
            node=self._state.identity.name,
            version=self._version,
            ready=snapshot.ready and self._loop.observed,
            server=self._server,
            server_connected=self._sync.connected,
            revision=snapshot.revision,
            applied=self._state.applied if self._sync.listing else self._state.in_force,
            endpoints=len(self._ledger.endpoints),
            networks=len(snapshot.networks),
            docker=self._state.docker,
            repairs=sum(self._loop.repairs.values()),
            problems=self.problems(),
        )

    def problems(self) -> tuple[str, ...]:
        """What is wrong now, a sentence each."""
        found = [f"{one_line(str(f.op))}: {f.error}" for f in self._loop.failures]
        if self._state.forgotten:
            found.append(
                "the server has forgotten this node, so its endpoints have no traffic:"
                f" `{self._join()}` enrols it again, `plait down --purge` leaves for good"
            )
        found += [f"{key}: {why}" for key, why in self._sync.problems.items()]
        found += [
            f"endpoint {ident}: another node owns its address" for ident in self._state.fenced
        ]
        if self._state.records.damaged:
            found.append(f"{self._state.records.damaged} records of the journal were damaged")
        return (*found, *self._problems())

    async def peers(self) -> tuple[PeerStatus, ...]:
        """See client.agent.Agent."""
        host = self._state.host()
        if host is None:
            return ()
        return peer_statuses(self._state.view(), host, self._state.snapshot.endpoints.values())

    async def flows(self, query: FlowQuery) -> FlowPage:
        """See client.agent.Agent."""
        return await self._flows.page(query)

    async def counters(self) -> tuple[RuleCount, ...]:
        """See client.agent.Agent."""
        return await self._flows.counters()

    async def trace(self, query: TraceQuery) -> Trace:
        """See client.agent.Agent."""
        src, dst = _canonical(query.src), _canonical(query.dst)
        if (":" in src) != (":" in dst):
            raise PlaitError("PLAIT-API-002", f"{src} and {dst} are of different families")
        return await self._tracer.trace(msgspec.structs.replace(query, src=src, dst=dst))

    async def plan(self) -> str:
        """See client.agent.Agent."""
        want = self._state.compute()
        if want is None:
            raise _not_ready()
        return "\n".join(str(op) for op in self._loop.preview(want))

    # Steps.

    @property
    def _ledger(self) -> record.Ledger:
        return self._state.records.ledger

    @contextlib.asynccontextmanager
    async def _alone(self, ident: str) -> AsyncIterator[None]:
        """One verb at a time for an endpoint."""
        lock, users = self._locks.get(ident, (None, 0))
        lock = lock or asyncio.Lock()
        self._locks[ident] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            users = self._locks[ident][1] - 1
            if users:
                self._locks[ident] = (lock, users)
            else:
                del self._locks[ident]

    def _join(self) -> str:
        where = urlsplit(self._server).netloc or "SERVER"
        # The server's own host reaches it by loopback, and is enrolled by `plait up`.
        return "plait up" if where.startswith("127.") else f"plait join {where} --token TOKEN"

    def _check_enrolled(self) -> None:
        if self._state.forgotten:
            raise PlaitError(
                "PLAIT-AUTH-007",
                "the server has forgotten this node",
                where=f"node/{self._state.identity.name}",
                why="its addresses may have been given to others",
                fix=(self._join(), "plait down --purge"),
            )

    async def _network(self, name: str) -> Network:
        snapshot = self._state.snapshot
        if not snapshot.ready or self._state.host() is None:
            raise _not_ready()
        if name not in snapshot.networks:
            await self._fetch_network(name)
        self._state.book.spaces(name)  # Raises PLAIT-NET-006.
        return snapshot.networks[name]

    def _same_place(self, known: LocalEndpoint, request: AttachRequest) -> bool:
        if known.request.network != request.network or known.request.netns != request.netns:
            return False
        return known.netns_inode == _inode(request)

    def _place(self, request: AttachRequest) -> int:
        """Inode of the namespace; refuses a name in it that another endpoint has."""
        inode = _inode(request)
        for ident, other in self._ledger.endpoints.items():
            if inode and (other.netns_inode, other.request.ifname) == (inode, request.ifname):
                raise _name_taken(request, f"endpoint {ident} has it")
        return inode

    async def _allocate(self, network: str, request: AttachRequest) -> Granted:
        wanted = tuple(_canonical(address) for address in request.addresses)
        return await self._grant(network, Request(owner=request.id, wanted=wanted), 0)

    async def _grant(self, network: str, request: Request, family: int) -> Granted:
        for _ in range(ROUNDS):
            outcome = self._state.book.allocate(network, request, family)
            if isinstance(outcome, Granted):
                return outcome
            await self._blocks.obtain(network, outcome)
        raise PlaitError(
            "PLAIT-IPAM-012",
            f"network {network!r} gave no address",
            where=f"network/{network}",
            why=f"{ROUNDS} blocks in a row were used up by others before this request",
            fix=("try again",),
        )

    def _raise_failures(self, endpoint: LocalEndpoint) -> None:
        failures = self._loop.failures_of(_words(endpoint))
        if not failures:
            return
        first = failures[0]
        if first.gone:
            raise _no_namespace(endpoint.request, first.error)
        if first.errno == 17 and first.op.part == "links":  # EEXIST
            raise _name_taken(endpoint.request, first.error)
        raise PlaitError(
            "PLAIT-KERNEL-001",
            f"the kernel refused to attach endpoint {endpoint.request.id}",
            where=f"endpoint/{endpoint.request.id}",
            why="; ".join(f"{failure.op}: {failure.error}" for failure in failures),
            fix=("plait agent plan", "plait status"),
        )

    def _known(self, ident: str) -> LocalEndpoint:
        endpoint = self._ledger.endpoints.get(ident)
        if endpoint is None:
            raise PlaitError(
                "PLAIT-AGENT-003",
                f"there is no endpoint {ident} on this host",
                where=f"endpoint/{ident}",
                fix=("plait ps",),
            )
        return endpoint

    def _result(self, endpoint: LocalEndpoint) -> AttachResult:
        request = endpoint.request
        network = self._state.snapshot.networks[request.network]
        host = self._state.host()
        return AttachResult(
            id=request.id,
            interface=endpoint.interface,
            peer_name=request.ifname if request.netns else peer_ifname(request.id),
            mac=endpoint.mac,
            mtu=endpoint_mtu(self._state.view(), host) if host is not None else 0,
            addresses=endpoint.addresses,
            gateways=gateways(network),
            pools=network.spec.pools,
            internal=network.spec.internal,
        )

    def _spawn(self, work: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("background work failed", error=repr(task.exception()))

    async def drain(self) -> None:
        """Wait for work that was begun in the background."""
        while self._background:
            await asyncio.gather(*self._background, return_exceptions=True)


def _words(endpoint: LocalEndpoint) -> tuple[str, ...]:
    """What the kernel's objects of an endpoint are called."""
    own = endpoint.addresses
    return (endpoint.interface, *own, *(host_cidr(address) for address in own))


def _inode(request: AttachRequest) -> int:
    """Inode of the request's namespace, 0 without one; PLAIT-AGENT-004 when it is not there."""
    if not request.netns:
        return 0
    try:
        return Path(request.netns).stat().st_ino
    except OSError as error:
        raise _no_namespace(request, error.strerror or "") from error


def _canonical(address: str) -> str:
    """The address in its canonical text; PLAIT-IPAM-011 when it is none."""
    try:
        return text(*parse(address.partition("/")[0]))
    except ValueError as error:
        raise PlaitError("PLAIT-IPAM-011", f"{address!r} is not an IP address") from error


def _not_ready() -> PlaitError:
    return PlaitError(
        "PLAIT-AGENT-008",
        "the agent has not yet heard from the server, and has no copy of an earlier time",
        fix=("plait status", "try again when the server is reachable"),
    )


def _no_namespace(request: AttachRequest, why: str) -> PlaitError:
    return PlaitError(
        "PLAIT-AGENT-004",
        f"there is no network namespace at {request.netns}",
        where=f"endpoint/{request.id}",
        why=why,
        fix=("ip netns list", "check that the process or container still runs"),
    )


def _name_taken(request: AttachRequest, why: str) -> PlaitError:
    return PlaitError(
        "PLAIT-AGENT-005",
        f"{request.netns} has an interface {request.ifname} already",
        where=f"endpoint/{request.id}",
        why=why,
        fix=("plait attach … --ifname eth1   # another name",),
    )
