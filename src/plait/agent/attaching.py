"""How an endpoint comes, changes and goes: each verb all or nothing, one at a time for each id.

An attach goes: addresses, ports, journal, kernel, journal. Until the second record the endpoint
is unfinished; a crash in between leaves something that the next start takes away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from errno import EEXIST
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from plait.agent import ledger as record
from plait.agent import refusals
from plait.agent.allocating import Allocating
from plait.agent.checks import check_identity, check_request
from plait.agent.desired.inputs import gateways
from plait.agent.desired.paths import endpoint_mtu
from plait.agent.failpoints import failpoint
from plait.agent.loop import Loop
from plait.agent.ports import Ports, holds_ports
from plait.agent.programmers.base import Failure
from plait.agent.report import words
from plait.agent.state import State
from plait.client.agent import AttachRequest, AttachResult, EndpointIdentity, LocalEndpoint
from plait.client.locks import Locks
from plait.client.places import stands
from plait.model import portnames
from plait.model.errors import PlaitError
from plait.model.marks import endpoint_mac, host_ifname, peer_ifname
from plait.model.objects import PublishedPort

log: Final = structlog.get_logger("plait.agent.attaching")


class Attaching:
    """See the module's docstring. The verbs are those of client.agent.Agent."""

    def __init__(
        self,
        state: State,
        loop: Loop,
        ports: Ports,
        allocating: Allocating,
        *,
        kick: Callable[[], None],
        pod: Callable[[LocalEndpoint], None],
    ) -> None:
        """`kick` is called when an endpoint is other than before; `pod` is given every endpoint
        that was attached for one."""
        self._state = state
        self._loop = loop
        self._ports = ports
        self._allocating = allocating
        self._kick = kick
        self._pod = pod
        self._locks = Locks()
        self._background: set[asyncio.Task[Any]] = set()

    async def attach(self, request: AttachRequest) -> AttachResult:
        """See client.agent.Agent."""
        check_request(request)
        async with self._locks.hold(request.id):
            known = self._ledger.endpoints.get(request.id)
            if known is not None and self._same_place(known, request):
                return self._result(known)
            if known is not None:
                # The same id in another namespace: the former one is gone (a runtime's retry).
                await self._undo(known)
            failpoint("attach.begin")
            network = await self._allocating.network(request.network)
            inode = self._place(request)
            granted = await self._allocating.for_attach(request)
            failpoint("attach.allocated")
            try:
                ports = self._ports.set(request.id, request.ports, hold=holds_ports(request))
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
                self._allocating.give_back(network.metadata.name, granted.addresses, used=False)
                raise
            failpoint("attach.journaled")
            try:
                self._state.put(endpoint)
                await self._loop.settle()
                self._raise_failures(endpoint)
                result = self._result(endpoint)
                failpoint("attach.programmed")
                self._state.records.write(record.attached(endpoint, done=True))
            except BaseException:
                # Also when the caller went away: nobody would ever detach it.
                await asyncio.shield(self._undo(endpoint))
                raise
            failpoint("attach.done")
            self._kick()
            if request.pod:
                self._pod(endpoint)
            return result

    async def detach(self, endpoint: str) -> bool:
        """See client.agent.Agent."""
        return await self._detach(endpoint, lambda _known: True)

    async def _detach(self, endpoint: str, meant: Callable[[LocalEndpoint], bool]) -> bool:
        async with self._locks.hold(endpoint):
            known = self._ledger.endpoints.get(endpoint)
            if known is None or not meant(known):
                return False
            failpoint("detach.begin")
            await self._undo(known)
            return True

    async def _undo(self, endpoint: LocalEndpoint) -> None:
        """Take an endpoint out of everything. Closing traffic comes first (the loop's order)."""
        ident = endpoint.request.id
        self._state.records.forget(record.gone(ident, self._state.wall()))
        failpoint("detach.journaled")
        self._state.remove(ident)
        self._allocating.give_back(endpoint.request.network, endpoint.addresses, used=True)
        try:
            await self._loop.settle()
        finally:
            failpoint("detach.programmed")
            self._ports.set(ident, ())
            self._kick()

    def vanished(self, ident: str) -> None:
        """The endpoint's namespace is no more: nobody will detach it, so we do."""
        endpoint = self._ledger.endpoints.get(ident)
        if endpoint is None or ident in self._ledger.unfinished:
            return
        log.info("the namespace has gone; detaching", endpoint=ident, netns=endpoint.request.netns)
        # By the time it has its turn the id may have been attached elsewhere.
        life = _life(endpoint)
        self._spawn(self._detach(ident, lambda known: _life(known) == life))

    async def identify(self, endpoint: str, identity: EndpointIdentity) -> None:
        """See client.agent.Agent."""
        check_identity(identity.name, identity.aliases, identity.namespace)
        portnames.check(identity.named_ports, "namedPorts")
        async with self._locks.hold(endpoint):
            known = self._known(endpoint)
            request = msgspec.structs.replace(
                known.request, identified=True, **msgspec.structs.asdict(identity)
            )
            if request == known.request:
                return
            changed = msgspec.structs.replace(known, request=request, phase="ready")
            await self._change("identify", known, changed)

    async def joined(self, endpoint: str, sandbox: str) -> None:
        """See client.agent.Agent."""
        async with self._locks.hold(endpoint):
            known = self._known(endpoint)
            if known.sandbox != sandbox:
                changed = msgspec.structs.replace(known, sandbox=sandbox)
                self._state.records.write(record.attached(changed, done=True))

    async def publish(
        self, endpoint: str, ports: tuple[PublishedPort, ...]
    ) -> tuple[PublishedPort, ...]:
        """See client.agent.Agent."""
        async with self._locks.hold(endpoint):
            known = self._known(endpoint)
            before = known.request.ports
            hold = holds_ports(known.request)
            chosen = self._ports.set(endpoint, ports, hold=hold)
            try:
                request = msgspec.structs.replace(known.request, ports=chosen)
                changed = msgspec.structs.replace(known, request=request)
                await self._change("publish", known, changed)
            except BaseException:
                self._ports.set(endpoint, before, hold=hold)
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
        self._kick()

    async def drain(self) -> None:
        """Wait for work that was begun in the background."""
        while self._background:
            await asyncio.gather(*self._background, return_exceptions=True)

    # Steps.

    @property
    def _ledger(self) -> record.Ledger:
        return self._state.records.ledger

    def _same_place(self, known: LocalEndpoint, request: AttachRequest) -> bool:
        if known.request.network != request.network or known.request.netns != request.netns:
            return False
        return known.netns_inode == _inode(request)

    def _place(self, request: AttachRequest) -> int:
        """Inode of the namespace; refuses a name in it that another endpoint has."""
        inode = _inode(request)
        holder = self._ledger.places.get((inode, request.ifname))
        if holder is not None and stands(self._ledger.endpoints[holder]):
            raise refusals.name_taken(request, f"endpoint {holder} has it")
        return inode

    def _raise_failures(self, endpoint: LocalEndpoint) -> None:
        failures = self._loop.failures_of(words(endpoint))
        if not failures:
            return
        first = failures[0]
        if first.gone:
            raise refusals.no_namespace(endpoint.request, first.error)
        if first.errno == EEXIST and first.op.part == "links":
            raise refusals.name_taken(endpoint.request, first.error)
        raise PlaitError(
            "PLAIT-KERNEL-001",
            f"the kernel refused to attach endpoint {endpoint.request.id}",
            where=f"endpoint/{endpoint.request.id}",
            why="; ".join(map(_refusal, failures)),
            fix=("plait agent plan", "plait status"),
        )

    def _known(self, ident: str) -> LocalEndpoint:
        endpoint = self._ledger.endpoints.get(ident)
        if endpoint is None:
            raise refusals.no_endpoint(ident)
        return endpoint

    def _result(self, endpoint: LocalEndpoint) -> AttachResult:
        request = endpoint.request
        network = self._state.snapshot.networks.get(request.network)
        if network is None:
            raise refusals.no_network(request.network)
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


def _refusal(failure: Failure) -> str:
    """What the kernel refused. A link is made of many commands; its error names the one."""
    command = str(failure.op)
    return failure.error if "\n" in command else f"{command}: {failure.error}"


def _life(endpoint: LocalEndpoint) -> tuple[str, int, float]:
    """What one life of an id has and its next one has not."""
    return endpoint.request.netns, endpoint.netns_inode, endpoint.created


def _inode(request: AttachRequest) -> int:
    """Inode of the request's namespace, 0 without one; PLAIT-AGENT-004 when it is not there."""
    if not request.netns:
        return 0
    try:
        return Path(request.netns).stat().st_ino
    except OSError as error:
        raise refusals.no_namespace(request, error.strerror or "") from error
