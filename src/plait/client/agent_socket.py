"""The agent over its unix socket: what the CLI and the CNI shim speak.

Standard library only (http.client over AF_UNIX), for a command must start at once. The methods
are coroutines that never suspend: `run` drives one without an event loop. Inside an event loop
they block it for the length of a call, so long-lived programs give them a thread of their own.
"""

from __future__ import annotations

import http.client
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from plait.client.agent import (
    AgentStatus,
    AttachRequest,
    AttachResult,
    EndpointIdentity,
    LocalEndpoint,
    PeerStatus,
    Reservation,
)
from plait.client.agent_verbs import SOCKET, VERBS, Arguments
from plait.client.agent_verbs import Attach as AttachArguments
from plait.client.agent_verbs import Flows as FlowsArguments
from plait.client.agent_verbs import Identify as IdentifyArguments
from plait.client.agent_verbs import Joined as JoinedArguments
from plait.client.agent_verbs import Nothing as NoArguments
from plait.client.agent_verbs import OfEndpoint as EndpointArguments
from plait.client.agent_verbs import OfPod as PodArguments
from plait.client.agent_verbs import OfTrace as TraceArguments
from plait.client.agent_verbs import Publish as PublishArguments
from plait.client.agent_verbs import Release as ReleaseArguments
from plait.client.agent_verbs import Reserve as ReserveArguments
from plait.client.unix_http import UnixConnection
from plait.model.errors import PlaitError, Problem
from plait.model.flows import FlowPage, FlowQuery, RuleCount
from plait.model.objects import Pod, PublishedPort
from plait.model.traces import Trace, TraceQuery

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of one call, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise RuntimeError("the coroutine waits for an event loop")


class AgentClient:
    """Implements client.agent.Agent. PLAIT-AGENT-001 when the agent does not answer."""

    def __init__(self, path: str | Path = SOCKET, *, timeout: float = 30.0) -> None:
        """`timeout` in seconds, for a whole answer."""
        self._path = str(path)
        self._timeout = timeout

    def call(self, verb: str, arguments: Arguments, *, wait: float = 0.0) -> Any:
        """One verb, synchronously. The agent may take `wait` seconds longer than it needs."""
        status, body = self._post(f"/v1/{verb}", msgspec.json.encode(arguments), wait)
        if status == 200:
            return msgspec.json.decode(body, type=VERBS[verb].result)
        try:
            problem = msgspec.json.decode(body, type=Problem)
        except msgspec.DecodeError as error:
            raise self._silent(f"it answered {status} without saying why") from error
        raise PlaitError.from_problem(problem)

    def _post(self, path: str, body: bytes, wait: float = 0.0) -> tuple[int, bytes]:
        connection = UnixConnection(self._path, self._timeout + wait)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise self._silent(why) from error
        finally:
            connection.close()

    def _silent(self, why: str) -> PlaitError:
        return PlaitError(
            "PLAIT-AGENT-001",
            "the agent of this host does not answer",
            where=self._path,
            why=why,
            fix=("plait up   # or: plait join HOST --token T", "plait status"),
        )

    async def attach(self, request: AttachRequest) -> AttachResult:
        """See client.agent.Agent."""
        return self.call("attach", AttachArguments(request=request))  # type: ignore[no-any-return]

    async def detach(self, endpoint: str) -> bool:
        """See client.agent.Agent."""
        return self.call("detach", EndpointArguments(endpoint=endpoint))  # type: ignore[no-any-return]

    async def identify(self, endpoint: str, identity: EndpointIdentity) -> None:
        """See client.agent.Agent."""
        self.call("identify", IdentifyArguments(endpoint=endpoint, identity=identity))

    async def joined(self, endpoint: str, sandbox: str) -> None:
        """See client.agent.Agent."""
        self.call("joined", JoinedArguments(endpoint=endpoint, sandbox=sandbox))

    async def publish(
        self, endpoint: str, ports: tuple[PublishedPort, ...]
    ) -> tuple[PublishedPort, ...]:
        """See client.agent.Agent."""
        return self.call("publish", PublishArguments(endpoint=endpoint, ports=ports))  # type: ignore[no-any-return]

    async def reserve(self, network: str, family: Literal[4, 6], address: str = "") -> Reservation:
        """See client.agent.Agent."""
        return self.call(  # type: ignore[no-any-return]
            "reserve", ReserveArguments(network=network, family=family, address=address)
        )

    async def release(self, network: str, address: str) -> None:
        """See client.agent.Agent."""
        self.call("release", ReleaseArguments(network=network, address=address))

    async def endpoints(self) -> tuple[LocalEndpoint, ...]:
        """See client.agent.Agent."""
        return self.call("endpoints", NoArguments())  # type: ignore[no-any-return]

    async def status(self) -> AgentStatus:
        """See client.agent.Agent."""
        return self.call("status", NoArguments())  # type: ignore[no-any-return]

    async def peers(self) -> tuple[PeerStatus, ...]:
        """See client.agent.Agent."""
        return self.call("peers", NoArguments())  # type: ignore[no-any-return]

    async def flows(self, query: FlowQuery) -> FlowPage:
        """See client.agent.Agent."""
        return self.call("flows", FlowsArguments(query=query))  # type: ignore[no-any-return]

    async def counters(self) -> tuple[RuleCount, ...]:
        """See client.agent.Agent."""
        return self.call("counters", NoArguments())  # type: ignore[no-any-return]

    async def trace(self, query: TraceQuery) -> Trace:
        """See client.agent.Agent."""
        return self.call("trace", TraceArguments(query=query))  # type: ignore[no-any-return]

    async def pod(self, namespace: str, name: str, uid: str, *, wait: float) -> Pod:
        """See client.agent.Agent."""
        arguments = PodArguments(namespace=namespace, name=name, uid=uid, wait=wait)
        return self.call("pod", arguments, wait=wait)  # type: ignore[no-any-return]

    async def check(self, endpoint: str) -> tuple[str, ...]:
        """See client.agent.Agent."""
        return self.call("check", EndpointArguments(endpoint=endpoint))  # type: ignore[no-any-return]

    async def plan(self) -> str:
        """See client.agent.Agent."""
        return self.call("plan", NoArguments())  # type: ignore[no-any-return]
