"""The command line over a server in memory."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from plait.cli import connect
from plait.client.fake_api import FakeApi, FakeServer
from plait.model.objects import (
    Cluster,
    ClusterSpec,
    Endpoint,
    EndpointSpec,
    Metadata,
    Network,
    NetworkSpec,
)

POOLS = ("10.112.0.0/16", "fd00::/64")


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """Endpoints front, api, db of namespace shop and admin of ops; the CLI talks to it."""
    server = FakeServer()
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
    async def api() -> AsyncIterator[FakeApi]:
        yield FakeApi(server)

    monkeypatch.setattr(connect, "api", api)
    return server
