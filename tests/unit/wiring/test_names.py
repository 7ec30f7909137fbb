"""What the agent hears becomes names: listings, changes, and who answers for a Service."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plait.client.agent import AttachRequest, LocalEndpoint
from plait.client.base import WatchEvent
from plait.dns.zone import Zone
from plait.docker.directory import Directory
from plait.docker.journal import Journal
from plait.model.objects import (
    AnyObject,
    Cluster,
    ClusterSpec,
    Endpoint,
    EndpointSpec,
    EndpointStatus,
    Metadata,
    Network,
    NetworkSpec,
    Pod,
    Service,
)
from plait.model.pods import PodSpec
from plait.model.policies import Origin
from plait.model.selectors import Selector
from plait.model.services import ServicePort, ServiceSpec
from plait.services.engine import Engine
from plait.wiring.names import Names


def endpoint(name: str, address: str, **labels: str) -> Endpoint:
    return Endpoint(
        metadata=Metadata(name=f"id-{name}", namespace="shop", labels=labels),
        spec=EndpointSpec(node="far", network="blue", name=name, addresses=(address,)),
        status=EndpointStatus(phase="ready"),
    )


def service(name: str, *addresses: str, headless: bool = False) -> Service:
    return Service(
        metadata=Metadata(name=name, namespace="shop"),
        spec=ServiceSpec(
            network="blue",
            ports=(ServicePort(port=80),),
            addresses=addresses,
            headless=headless,
            selector=Selector(match_labels={"app": "web"}),
            origin=Origin(kind="Service", name=name, namespace="shop"),
        ),
    )


POD = Pod(metadata=Metadata(name="p", namespace="shop"), spec=PodSpec(addresses=("10.0.0.7",)))
BLUE = Network(metadata=Metadata(name="blue"), spec=NetworkSpec(pools=("10.0.0.0/16",)))


class Agent:
    """An agent's engine and zone, told of the same events in the order in which it tells them."""

    def __init__(self, path: Path) -> None:
        self.zone = Zone(node="here")
        self.engine = Engine("here")
        self.names = Names(self.zone, Directory(Journal(path)), "here")
        self.names.ask(self.engine)

    def hear(self, kind: str, *objects: AnyObject) -> None:
        for obj in objects or (None,):
            if obj is not None:
                (self.engine.put if kind == "put" else self.engine.delete)(obj)
            self.names.observe(WatchEvent(type=kind, object=obj))  # type: ignore[arg-type]

    def addresses(self, name: str) -> list[str]:
        known = self.zone.services.get(b"shop", name.encode())
        if known is None:
            return []
        own = [".".join(map(str, address)) for address in known.addresses]
        return own or sorted(one.address for _, one in self.zone.services.who(known))


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    made = Agent(tmp_path / "docker.json")
    made.hear("begin")
    made.hear("put", BLUE, endpoint("a", "10.0.0.1", app="web"), service("web", "10.96.0.1"), POD)
    made.hear("put", service("hl", headless=True))
    made.hear("synced")
    return made


def test_services_are_named_by_what_is_heard_of_them(agent: Agent) -> None:
    assert agent.addresses("web") == ["10.96.0.1"]
    assert agent.addresses("hl") == ["10.0.0.1"]
    agent.hear("put", endpoint("b", "10.0.0.2", app="web"))
    assert agent.addresses("hl") == ["10.0.0.1", "10.0.0.2"]
    agent.hear("delete", service("web", "10.96.0.1"))
    assert agent.addresses("web") == []


def test_what_a_listing_does_not_name_is_gone(agent: Agent) -> None:
    assert agent.zone.services.pod_at(b"shop", bytes((10, 0, 0, 7)))
    agent.hear("begin")
    agent.hear("put", BLUE, service("hl", headless=True))
    assert agent.addresses("web") == ["10.96.0.1"]
    agent.hear("synced")
    assert agent.addresses("web") == []
    assert agent.addresses("hl") == ["10.0.0.1"]
    assert not agent.zone.services.pod_at(b"shop", bytes((10, 0, 0, 7)))


def test_a_change_of_backends_takes_the_kept_answer_away(agent: Agent) -> None:
    from plait.wire import dns

    scope = agent.zone.host
    scope.keep(b"hl", dns.Answer(dns.NOERROR), [(b"shop", b"hl")])
    scope.keep(b"other", dns.Answer(dns.NOERROR), [(b"shop", b"other")])
    agent.hear("put", endpoint("c", "10.0.0.3", app="web"))
    assert list(scope.answers) == [b"other"]


def test_the_domains_are_the_clusters(agent: Agent) -> None:
    spec = ClusterSpec(domain="example.org", kubernetes_domain="k8s.example")
    agent.hear("put", Cluster(metadata=Metadata(name="plait"), spec=spec))
    assert agent.zone.domain == (b"example", b"org")
    assert agent.zone.kubernetes_domain == (b"k8s", b"example")


def test_the_snapshot_on_disk_names_services_before_the_server_answers(tmp_path: Path) -> None:
    agent = Agent(tmp_path / "docker.json")
    agent.names.begin((BLUE, service("web", "10.96.0.1"), POD))
    assert agent.addresses("web") == ["10.96.0.1"]
    assert agent.zone.services.foreign


async def test_an_endpoint_of_this_host_may_ask_as_soon_as_it_is_attached(agent: Agent) -> None:
    """Changes are gathered for a moment, and it does not wait for that."""
    present: list[LocalEndpoint] = []
    host: Any = SimpleNamespace(service=SimpleNamespace(present=lambda: present))
    following = asyncio.create_task(agent.names.follow(host))
    await asyncio.sleep(0)
    request = AttachRequest(id="e", network="blue", name="e")
    present.append(
        LocalEndpoint(
            request=request, addresses=("10.0.0.9",), mac="", interface="ple", phase="ready"
        )
    )
    agent.names.local_changed()
    assert agent.zone.scope("10.0.0.9") is None
    agent.names.catch_up()
    assert agent.zone.scope("10.0.0.9") is not None
    following.cancel()
