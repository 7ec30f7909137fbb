"""How this host's agent is: its endpoints, its peers, what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from plait.agent.allocating import Allocating
from plait.agent.loop import Loop
from plait.agent.report import one_line, peer_statuses, words
from plait.agent.state import State
from plait.agent.sync import Sync
from plait.client.agent import AgentStatus, LocalEndpoint, PeerStatus


class Answers:
    """See the module's docstring."""

    def __init__(
        self,
        state: State,
        loop: Loop,
        sync: Sync,
        allocating: Allocating,
        *,
        version: str,
        server: str,
        problems: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """`problems` are those of the agent's other parts, a sentence each."""
        self._state = state
        self._loop = loop
        self._sync = sync
        self._allocating = allocating
        self._version = version
        self._server = server
        self._problems = problems

    def present(self) -> list[LocalEndpoint]:
        """Finished endpoints, with the phase that they are in now."""
        fenced, troubled = self._state.fenced, bool(self._loop.failures)
        ledger = self._state.records.ledger
        result = []
        for ident, endpoint in ledger.endpoints.items():
            if ident in ledger.unfinished:
                continue
            if self._state.forgotten:
                endpoint = _degraded(endpoint, "the server has forgotten this node")
            elif ident in fenced:
                endpoint = _degraded(endpoint, "another node owns its address now")
            elif troubled and (failures := self._loop.failures_of(words(endpoint))):
                why = one_line(f"{failures[0].op}: {failures[0].error}")
                endpoint = _degraded(endpoint, why)
            result.append(endpoint)
        return result

    def status(self) -> AgentStatus:
        """The agent's view of itself."""
        snapshot = self._state.snapshot
        return AgentStatus(
            node=self._state.identity.name,
            version=self._version,
            ready=snapshot.ready and self._loop.observed,
            server=self._server,
            server_connected=self._sync.connected,
            revision=snapshot.revision,
            applied=self._state.applied if self._sync.listing else self._state.in_force,
            endpoints=len(self._state.records.ledger.endpoints),
            networks=len(snapshot.networks),
            docker=self._state.docker,
            repairs=sum(self._loop.repairs.values()),
            problems=self.problems(),
            forgotten=self._state.forgotten,
        )

    def problems(self) -> tuple[str, ...]:
        """What is wrong now, a sentence each."""
        found = [f"{one_line(str(f.op))}: {f.error}" for f in self._loop.failures]
        if self._state.forgotten:
            found.append(
                "the server has forgotten this node, so its endpoints have no traffic:"
                f" `{self._allocating.enrol}` enrols it again, `plait down --purge` leaves for good"
            )
        found += [f"{key}: {why}" for key, why in self._sync.problems.items()]
        found += [
            f"endpoint {ident}: another node owns its address" for ident in self._state.fenced
        ]
        if self._state.records.damaged:
            found.append(f"{self._state.records.damaged} records of the journal were damaged")
        return (*found, *self._problems())

    def peers(self) -> tuple[PeerStatus, ...]:
        """How the other nodes are reached."""
        host = self._state.host()
        if host is None:
            return ()
        return peer_statuses(self._state.view(), host, self._state.snapshot.endpoints.values())


def _degraded(endpoint: LocalEndpoint, message: str) -> LocalEndpoint:
    return msgspec.structs.replace(endpoint, phase="degraded", message=message)
