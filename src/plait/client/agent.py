"""What a shim may ask of this host's agent: the verbs, as one Protocol.

Two implementations: the agent's own service (in process: Docker's plug-in runs inside the
agent), and the client over `/run/plait/agent.sock` (CLI, CNI). Every verb is idempotent by the
endpoint's id; a detach of what is not there succeeds. Refusals are `PlaitError`.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from plait.model.flows import FlowPage, FlowQuery, RuleCount
from plait.model.objects import Condition, NamedPort, Pod, PublishedPort, Workload
from plait.model.traces import Trace, TraceQuery


class Bandwidth(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How fast an endpoint may receive and send; bits a second and bits, 0: as it likes.

    The names are those of CNI's bandwidth capability, seen from the workload.
    """

    ingress_rate: int = 0
    ingress_burst: int = 0
    egress_rate: int = 0
    egress_burst: int = 0


class AttachRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Make an endpoint.

    With `netns` the agent moves and configures the interface itself. Without, the peer stays in
    the host's namespace under `AttachResult.peer_name`, for a runtime (dockerd) to take.
    With `identified=False` no traffic passes until `identify` says who it is.
    """

    id: str
    """Chosen by the caller; attaching the same id twice returns the first result."""
    network: str
    namespace: str = "default"
    name: str = ""
    aliases: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    addresses: tuple[str, ...] = ()
    """Requested; a family that the network has and that is not named is allocated."""
    mac: str = ""
    netns: str = ""
    ifname: str = "eth0"
    workload: Workload = Workload()
    ports: tuple[PublishedPort, ...] = ()
    named_ports: tuple[NamedPort, ...] = ()
    """Ports that policies may call by name."""
    condition: Condition = ""
    identified: bool = True
    default_route: bool = True
    """The interface carries the default routes; otherwise only the network's pools lead to it."""
    ranges: tuple[str, ...] = ()
    """CIDRs inside the network's pools out of which an address that is not requested is taken."""
    bandwidth: Bandwidth | None = None
    pod: str = ""
    """Uid of the Pod that it belongs to; the agent identifies it anew whenever that Pod changes."""
    began: int = 0
    """When the caller was asked for it: nanoseconds since boot, sleep included; 0: it does not say.
    Only callers look at it, to know an outdated request to remove it."""


class EndpointIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Who an endpoint is, all of it, for names and rules; and how it is, for Services."""

    name: str
    namespace: str
    workload: Workload
    aliases: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    named_ports: tuple[NamedPort, ...] = ()
    condition: Condition = ""


class AttachResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An endpoint as it is in the kernel."""

    id: str
    interface: str
    """Host side."""
    peer_name: str
    mac: str
    mtu: int
    addresses: tuple[str, ...]
    """Without prefix length."""
    gateways: tuple[str, ...]
    """Of the network, a family each (Docker's next hop)."""
    pools: tuple[str, ...]
    internal: bool = False


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """An address held for a caller that will attach with it (Docker asks for addresses first)."""

    address: str
    network: str


class LocalEndpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An endpoint of this host, as the agent keeps it in its journal."""

    request: AttachRequest
    addresses: tuple[str, ...]
    mac: str
    interface: str
    phase: Literal["pending", "ready", "degraded"] = "pending"
    message: str = ""
    netns_inode: int = 0
    sandbox: str = ""
    """Namespace into which a runtime moved the peer, when it told us."""
    created: float = 0.0
    """Unix time, seconds."""


class PeerStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Another node as this host reaches it."""

    node: str
    address: str
    encap: Literal["direct", "vxlan", "unreachable"]
    mtu: int
    blocks: int
    endpoints: int
    ready: bool
    reason: str = ""


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The agent's view of itself."""

    node: str
    version: str
    ready: bool
    server: str
    """URL of the server."""
    server_connected: bool
    revision: int
    """Store revision of the snapshot."""
    applied: int = 0
    """Store revision that the kernel follows: what was written up to it is in force here, but for
    what `problems` tells."""
    endpoints: int
    networks: int
    docker: bool
    repairs: int
    """Kernel objects that were put right since the agent started."""
    problems: tuple[str, ...] = ()
    forgotten: bool = False
    """The server does not know this node any more: its endpoints have no traffic, and it takes no
    others."""


class Agent(Protocol):
    """The verbs."""

    async def attach(self, request: AttachRequest) -> AttachResult:
        """Make the endpoint, complete or not at all (P8); returns when the kernel has it."""

    async def detach(self, endpoint: str) -> bool:
        """Remove the endpoint; False when there was none."""

    async def identify(self, endpoint: str, identity: EndpointIdentity) -> None:
        """Say who an endpoint is; opens its traffic."""

    async def joined(self, endpoint: str, sandbox: str) -> None:
        """The runtime has taken the peer into this namespace."""

    async def publish(
        self, endpoint: str, ports: tuple[PublishedPort, ...]
    ) -> tuple[PublishedPort, ...]:
        """Publish these ports instead of the present ones; host_port 0 is chosen. Takes effect
        at once. PLAIT-AGENT-007 when a host port is taken."""

    async def reserve(self, network: str, family: Literal[4, 6], address: str = "") -> Reservation:
        """Hold an address until an attach uses it or `release` gives it back."""

    async def release(self, network: str, address: str) -> None:
        """Give a held address back; no error if it is not held or an endpoint uses it."""

    async def endpoints(self) -> tuple[LocalEndpoint, ...]:
        """Endpoints of this host."""

    async def status(self) -> AgentStatus:
        """How the agent is."""

    async def peers(self) -> tuple[PeerStatus, ...]:
        """How the other nodes are reached."""

    async def flows(self, query: FlowQuery) -> FlowPage:
        """Records of this host's flow log; waits for a first one as long as the query says."""

    async def counters(self) -> tuple[RuleCount, ...]:
        """How often each rule matched on this host."""

    async def trace(self, query: TraceQuery) -> Trace:
        """What this host's kernel would do with a flow, by its rules as they are now; nothing is
        sent. PLAIT-KERNEL-003 when these cannot be understood."""

    async def pod(self, namespace: str, name: str, uid: str, *, wait: float) -> Pod:
        """The Pod that an orchestrator announced for this node, waiting for it up to `wait`
        seconds. An empty uid takes whatever Pod has the name. PLAIT-AGENT-009 when it does not
        come in time."""

    async def check(self, endpoint: str) -> tuple[str, ...]:
        """What the kernel lacks of the endpoint, a sentence each: link, addresses, routes and
        neighbours in its namespace, rules, published ports, shapers. Empty when all is there.
        PLAIT-AGENT-003 when there is no such endpoint."""

    async def plan(self) -> str:
        """Difference between the desired state and the kernel, as text; empty when equal."""
