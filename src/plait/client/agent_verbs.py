"""The agent's verbs on the wire: `POST /v1/<verb>`, arguments and result in JSON.

One table for both ends of `/run/plait/agent.sock`. Errors are RFC 9457 problems.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NamedTuple

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
from plait.model.flows import FlowPage, FlowQuery, RuleCount
from plait.model.objects import Pod, PublishedPort
from plait.model.traces import Trace, TraceQuery

SOCKET: Final = "/run/plait/agent.sock"
MAX_BODY: Final = 1 << 20
"""Bytes of a request."""


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of a verb."""


class Attach(Arguments, frozen=True, kw_only=True):
    """Of `attach`."""

    request: AttachRequest


class OfEndpoint(Arguments, frozen=True, kw_only=True):
    """Of `detach`."""

    endpoint: str


class Identify(Arguments, frozen=True, kw_only=True):
    """Of `identify`."""

    endpoint: str
    identity: EndpointIdentity


class Joined(Arguments, frozen=True, kw_only=True):
    """Of `joined`."""

    endpoint: str
    sandbox: str


class Publish(Arguments, frozen=True, kw_only=True):
    """Of `publish`."""

    endpoint: str
    ports: tuple[PublishedPort, ...]


class Reserve(Arguments, frozen=True, kw_only=True):
    """Of `reserve`."""

    network: str
    family: Literal[4, 6]
    address: str = ""


class Release(Arguments, frozen=True, kw_only=True):
    """Of `release`."""

    network: str
    address: str


class Flows(Arguments, frozen=True, kw_only=True):
    """Of `flows`."""

    query: FlowQuery = FlowQuery()


class OfTrace(Arguments, frozen=True, kw_only=True):
    """Of `trace`."""

    query: TraceQuery


class OfPod(Arguments, frozen=True, kw_only=True):
    """Of `pod`."""

    namespace: str
    name: str
    uid: str = ""
    wait: Annotated[float, msgspec.Meta(ge=0, le=3600)]


class Nothing(Arguments, frozen=True, kw_only=True):
    """Of verbs without arguments."""


class Verb(NamedTuple):
    """A verb: what it takes and what it gives."""

    arguments: type[Arguments]
    result: Any
    positional: tuple[str, ...] = ()
    """Arguments that the method of client.agent.Agent takes by position; others by keyword."""


VERBS: Final[dict[str, Verb]] = {
    "attach": Verb(Attach, AttachResult, ("request",)),
    "detach": Verb(OfEndpoint, bool, ("endpoint",)),
    "identify": Verb(Identify, None, ("endpoint", "identity")),
    "joined": Verb(Joined, None, ("endpoint", "sandbox")),
    "publish": Verb(Publish, tuple[PublishedPort, ...], ("endpoint", "ports")),
    "reserve": Verb(Reserve, Reservation, ("network", "family", "address")),
    "release": Verb(Release, None, ("network", "address")),
    "endpoints": Verb(Nothing, tuple[LocalEndpoint, ...]),
    "status": Verb(Nothing, AgentStatus),
    "peers": Verb(Nothing, tuple[PeerStatus, ...]),
    "flows": Verb(Flows, FlowPage, ("query",)),
    "counters": Verb(Nothing, tuple[RuleCount, ...]),
    "trace": Verb(OfTrace, Trace, ("query",)),
    "pod": Verb(OfPod, Pod, ("namespace", "name", "uid")),
    "check": Verb(OfEndpoint, tuple[str, ...], ("endpoint",)),
    "plan": Verb(Nothing, str),
}
