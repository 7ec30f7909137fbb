"""What the agent knows, in one place: snapshot, journal, addresses, this host.

`compute` turns it into the desired state. Whoever changes something says so by `mark`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from plait.agent.addresses import AddressBook
from plait.agent.desired import ALL, Attachment, Desired, Host, Input, Underlay, View
from plait.agent.ledger import gone
from plait.agent.records import Records
from plait.agent.snapshot import Follower, Snapshot
from plait.client.agent import Bandwidth, LocalEndpoint
from plait.model.hoststate import HostState, Shaper
from plait.model.objects import LEAVING_LABEL, Condition
from plait.policy.engine import Engine
from plait.selection.parties import LocalParty
from plait.services.engine import Engine as Balancer


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who this node is; made when it is enrolled, kept for ever."""

    name: str
    uid: str


class State:
    """See the module's docstring."""

    def __init__(
        self,
        identity: Identity,
        journal: Path,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        cool_down: float,
        followers: tuple[Follower, ...] = (),
    ) -> None:
        """`followers` hear what the snapshot learns before anything else does."""
        self.identity = identity
        self.engine = Engine(identity.name)
        """What policies mean for this host; it follows the snapshot."""
        self.balancer = Balancer(identity.name)
        """What services mean for this host; it follows the snapshot."""
        self.snapshot = Snapshot(*followers, self.engine, self.balancer, node=identity.name)
        self.records = Records(journal)
        self.book = AddressBook(
            identity.name,
            self.snapshot,
            self.records.ledger,
            clock=clock,
            wall=wall,
            cool_down=cool_down,
        )
        self.wall = wall
        self.underlay: Underlay | None = None
        self.accept_ra = False
        self.docker = False
        self.fenced: frozenset[str] = frozenset()
        """Endpoints whose address another node owns by now: no traffic (P2)."""
        self.forgotten = False
        """The server does not know this node any more: all of its addresses may be others'."""
        self.dns = True
        self.purging = False
        """Nothing is wanted any more: every object of ours goes."""
        self._attachments: dict[str, Attachment] = {}
        self._parties: dict[str, LocalParty | None] = {}
        """Endpoints as policies see them; None while it is not known who one is."""
        self._conditions: dict[str, Condition] = {}
        """Of the same endpoints, for Services."""
        self._desired = Desired()
        self._changed: set[Input] = set(ALL)
        self._touched: set[str] = set()
        """Ids of the attachments that are other than at the last computation."""
        self._due = True
        """Something changed since the kernel was last brought up to date."""
        self._clock = clock
        self._due_since: float | None = None
        """Monotonic time since when it is due; None: it is not, or never was up to date."""
        self.applied = 0
        """Store revision that the kernel was last brought up to."""
        self._last: HostState | None = None

    def open(self, boot: str) -> tuple[str, ...]:
        """Read the journal; returns the endpoints that did not survive.

        Those are all of them after a reboot, and after a crash those whose attach had not ended:
        nobody waits for their answer, so they must leave no trace (P8).
        """
        self.records.open()
        ledger = self.records.ledger
        rebooted = ledger.boot not in ("", boot)
        dead = tuple(ledger.endpoints) if rebooted else tuple(ledger.unfinished)
        now = self.wall()
        self.records.write({"t": "boot", "id": boot}, *(gone(ident, now) for ident in dead))
        for endpoint in ledger.endpoints.values():
            self.put(endpoint)
        return dead

    def mark(self, inputs: Iterable[Input]) -> None:
        """These inputs of the desired state changed."""
        self._changed.update(inputs)
        if not self._due:
            self._due, self._due_since = True, self._clock()

    def put(self, endpoint: LocalEndpoint) -> None:
        """The kernel should have this endpoint, as it is now."""
        ident = endpoint.request.id
        self._attachments[ident] = attachment(endpoint)
        self._parties[ident] = party(endpoint)
        self._conditions[ident] = endpoint.request.condition
        self._touched.add(ident)
        self._rule(ident)
        self.mark(("attachments",))

    def remove(self, ident: str) -> None:
        """The kernel should not have this endpoint."""
        if self._attachments.pop(ident, None) is not None:
            self._parties.pop(ident)
            self._conditions.pop(ident)
            # The id may come back, with another address.
            self.fenced -= {ident}
            self._touched.add(ident)
            self._rule(ident)
            self.mark(("attachments",))

    def fence(self, fenced: frozenset[str]) -> None:
        """Another node owns the addresses of these endpoints, and of no other: its endpoints are
        who policies mean by them."""
        moved, self.fenced = self.fenced ^ fenced, fenced
        for ident in moved:
            self._rule(ident)
        self.mark(("host",))

    def _rule(self, ident: str) -> None:
        known = self._parties.get(ident)
        told = None if ident in self.fenced else known
        self.engine.set_local(ident, told)
        self.balancer.set_local(ident, told, self._conditions.get(ident, ""))

    def host(self) -> Host | None:
        """This host; None while the underlay is unknown."""
        if self.underlay is None:
            return None
        return Host(
            node=self.identity.name,
            uid=self.identity.uid,
            underlay=self.underlay,
            attachments=self._attachments,
            fenced=frozenset(self._attachments) if self.forgotten else self.fenced,
            forward_accept=self.docker,
            dns=self.dns,
            accept_ra=self.accept_ra,
        )

    def view(self) -> View:
        """What the kernel's state depends on of the snapshot."""
        snapshot = self.snapshot
        return View(
            cluster=snapshot.cluster,
            nodes=snapshot.nodes,
            networks=snapshot.networks,
            blocks=snapshot.blocks,
            policy=self.engine.ruleset(),
            services=self.balancer.table(),
        )

    def bring(self) -> None:
        """The kernel is being brought up to date, in a turn of which nobody sees the middle."""
        if self.snapshot.ready:
            self.applied, self._due, self._due_since = self.snapshot.revision, False, None

    @property
    def behind(self) -> float | None:
        """Seconds for which the kernel has been out of date; None: it never was up to date."""
        if self._due and self._due_since is None:
            return None
        return 0.0 if self._due_since is None else self._clock() - self._due_since

    @property
    def eligible(self) -> bool:
        """Balancers outside may lead new flows to this host: it is not about to go."""
        node = self.snapshot.nodes.get(self.identity.name)
        leaving = node is not None and LEAVING_LABEL in node.metadata.labels
        return not (self.forgotten or leaving)

    @property
    def in_force(self) -> int:
        """Store revision up to which the kernel follows: a later event may concern it not."""
        return self.applied if self._due else self.snapshot.revision

    def compute(self) -> HostState | None:
        """The desired state; None before the first full snapshot: then nothing is touched."""
        host = self.host()
        if self.purging:
            return HostState()
        if host is None or not self.snapshot.ready:
            return None
        view = self.view()
        if self._last is not None:
            if self._last.policy is not view.policy:
                self._changed.add("policy")
            if self._last.services is not view.services:
                self._changed.add("services")
        if self._changed or self._last is None:
            self._last = self._desired.compute(view, host, self._changed, self._touched)
            self._changed.clear()
            self._touched.clear()
        return self._last


def attachment(endpoint: LocalEndpoint) -> Attachment:
    """A local endpoint, reduced to what the kernel needs to know."""
    request = endpoint.request
    return Attachment(
        id=request.id,
        interface=endpoint.interface,
        network=request.network,
        addresses=endpoint.addresses,
        mac=endpoint.mac,
        netns=request.netns,
        netns_inode=endpoint.netns_inode,
        ifname=request.ifname,
        ports=request.ports,
        identified=request.identified,
        to_host=bool(request.workload.pod),
        default_route=request.default_route,
        shaper=_shaper(request.bandwidth),
    )


def _shaper(asked: Bandwidth | None) -> Shaper | None:
    if asked is None or not (asked.ingress_rate or asked.egress_rate):
        return None
    return Shaper(
        to_rate=asked.ingress_rate,
        to_burst=asked.ingress_burst,
        from_rate=asked.egress_rate,
        from_burst=asked.egress_burst,
    )


def party(endpoint: LocalEndpoint) -> LocalParty | None:
    """A local endpoint as policies see it; None until it is said who it is."""
    request = endpoint.request
    if not request.identified:
        return None
    return LocalParty(
        namespace=request.namespace,
        names=tuple(name for name in (request.name, *request.aliases) if name),
        labels=request.labels,
        network=request.network,
        addresses=endpoint.addresses,
        named_ports=request.named_ports,
        pod=request.workload.pod,
    )
