"""The command line over a server in memory."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from plait.cli import connect
from plait.client.fake_api import FakeApi, FakeServer
from plait.model.flows import FlowPage, FlowQuery, FlowRecord, RuleCount
from plait.model.objects import (
    Cluster,
    ClusterSpec,
    Endpoint,
    EndpointSpec,
    Metadata,
    Network,
    NetworkSpec,
)


class LoggedApi(FakeApi):
    """With a flow log and counts, which a test fills in `SeenServer`."""

    def __init__(self, server: SeenServer) -> None:
        super().__init__(server)
        self._seen = server

    async def flows(self, query: FlowQuery) -> FlowPage:
        """One record a page."""
        items = [r for r in self._seen.records if r.seq > query.after]
        if not items:
            return FlowPage(cursor=query.after)
        return FlowPage(items=(items[0],), cursor=items[0].seq, more=len(items) > 1)

    async def counters(self) -> tuple[RuleCount, ...]:
        """What the test says."""
        return self._seen.counts


class SeenServer(FakeServer):
    """A server in memory, and what its hosts told."""

    def __init__(self) -> None:
        super().__init__()
        self.records: tuple[FlowRecord, ...] = ()
        self.counts: tuple[RuleCount, ...] = ()


POOLS = ("10.112.0.0/16", "fd00::/64")


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> SeenServer:
    """Endpoints front, api, db of namespace shop and admin of ops; the CLI talks to it."""
    server = SeenServer()
    server.put(Cluster(metadata=Metadata(name="plait"), spec=ClusterSpec(pools=POOLS)))
    server.put(Network(metadata=Metadata(name="plait"), spec=NetworkSpec(pools=POOLS)))
    for number, (namespace, name) in enumerate(
        [("shop", "front"), ("shop", "api"), ("shop", "db"), ("ops", "admin")], 1
    ):
        spec = EndpointSpec(
            node="h1",
            network="plait",
            name=name,
            addresses=(f"10.112.0.{number}", f"fd00::{number}"),
        )
        labels = {"app": name}
        server.put(
            Endpoint(
                metadata=Metadata(name=f"e{number}", namespace=namespace, labels=labels), spec=spec
            )
        )

    @contextlib.asynccontextmanager
    async def api() -> AsyncIterator[LoggedApi]:
        yield LoggedApi(server)

    monkeypatch.setattr(connect, "api", api)
    return server
