"""The agent's verbs (client.agent.Agent), put together: each is a call of the part that does it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Literal

import msgspec

from plait.agent import refusals
from plait.agent.allocating import Allocating
from plait.agent.answers import Answers
from plait.agent.attaching import Attaching
from plait.agent.blocks import Blocks
from plait.agent.checking import Checking
from plait.agent.checks import canonical
from plait.agent.flows import Flows
from plait.agent.loop import Loop
from plait.agent.pods import Pods
from plait.agent.ports import Ports
from plait.agent.state import State
from plait.agent.sync import Sync
from plait.agent.tracing import Tracer
from plait.client.agent import (
    AgentStatus,
    AttachRequest,
    AttachResult,
    EndpointIdentity,
    LocalEndpoint,
    PeerStatus,
    Reservation,
)
from plait.model.errors import PlaitError
from plait.model.flows import FlowPage, FlowQuery, RuleCount
from plait.model.objects import Network, Pod, PublishedPort
from plait.model.traces import Trace, TraceQuery


class Service:
    """See the module's docstring. Made and started by `agent.Agent`."""

    def __init__(
        self,
        state: State,
        loop: Loop,
        blocks: Blocks,
        sync: Sync,
        ports: Ports,
        pods: Pods,
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
        self._flows = flows
        self._tracer = tracer
        self._allocating = Allocating(state, blocks, fetch_network=fetch_network, server=server)
        self._pods = pods
        self._attaching = Attaching(
            state, loop, ports, self._allocating, kick=sync.kick, pod=pods.attached
        )
        self._checking = Checking(state, loop)
        self._answers = Answers(
            state,
            loop,
            sync,
            self._allocating,
            version=version,
            server=server,
            problems=problems,
        )

    # Endpoints.

    async def attach(self, request: AttachRequest) -> AttachResult:
        """See client.agent.Agent."""
        return await self._attaching.attach(request)

    async def detach(self, endpoint: str) -> bool:
        """See client.agent.Agent."""
        return await self._attaching.detach(endpoint)

    def vanished(self, ident: str) -> None:
        """The endpoint's namespace is no more: nobody will detach it, so we do."""
        self._attaching.vanished(ident)

    async def identify(self, endpoint: str, identity: EndpointIdentity) -> None:
        """See client.agent.Agent."""
        await self._attaching.identify(endpoint, identity)

    async def joined(self, endpoint: str, sandbox: str) -> None:
        """See client.agent.Agent."""
        await self._attaching.joined(endpoint, sandbox)

    async def publish(
        self, endpoint: str, ports: tuple[PublishedPort, ...]
    ) -> tuple[PublishedPort, ...]:
        """See client.agent.Agent."""
        return await self._attaching.publish(endpoint, ports)

    async def pod(self, namespace: str, name: str, uid: str, *, wait: float) -> Pod:
        """See client.agent.Agent."""
        return await self._pods.wait(namespace, name, uid, wait)

    async def check(self, endpoint: str) -> tuple[str, ...]:
        """See client.agent.Agent."""
        return self._checking.check(endpoint)

    async def drain(self) -> None:
        """Wait for work that was begun in the background."""
        await self._attaching.drain()

    # Addresses.

    async def network(self, name: str) -> Network:
        """The network, if endpoints can join it: PLAIT-AUTH-007, PLAIT-AGENT-008 or PLAIT-NET-006
        otherwise."""
        return await self._allocating.network(name)

    async def reserve(self, network: str, family: Literal[4, 6], address: str = "") -> Reservation:
        """See client.agent.Agent."""
        return await self._allocating.reserve(network, family, address)

    async def release(self, network: str, address: str) -> None:
        """See client.agent.Agent."""
        await self._allocating.release(network, address)

    # Answers.

    async def endpoints(self) -> tuple[LocalEndpoint, ...]:
        """See client.agent.Agent."""
        return tuple(self._answers.present())

    def present(self) -> list[LocalEndpoint]:
        """Finished endpoints, with the phase that they are in now."""
        return self._answers.present()

    async def status(self) -> AgentStatus:
        """See client.agent.Agent."""
        return self._answers.status()

    def problems(self) -> tuple[str, ...]:
        """What is wrong now, a sentence each."""
        return self._answers.problems()

    async def peers(self) -> tuple[PeerStatus, ...]:
        """See client.agent.Agent."""
        return self._answers.peers()

    async def flows(self, query: FlowQuery) -> FlowPage:
        """See client.agent.Agent."""
        return await self._flows.page(query)

    async def counters(self) -> tuple[RuleCount, ...]:
        """See client.agent.Agent."""
        return await self._flows.counters()

    async def trace(self, query: TraceQuery) -> Trace:
        """See client.agent.Agent."""
        src, dst = canonical(query.src), canonical(query.dst)
        if (":" in src) != (":" in dst):
            raise PlaitError("PLAIT-API-002", f"{src} and {dst} are of different families")
        return await self._tracer.trace(msgspec.structs.replace(query, src=src, dst=dst))

    async def plan(self) -> str:
        """See client.agent.Agent."""
        want = self._state.compute()
        if want is None:
            raise refusals.not_ready()
        return "\n".join(str(op) for op in self._loop.preview(want))
