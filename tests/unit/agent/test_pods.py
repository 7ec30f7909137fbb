"""Who attaches waits for its pod, and endpoints follow theirs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.support.waiting import until

from plait.agent import fake
from plait.agent.agent import Agent
from plait.agent.pods import Pods
from plait.client.agent import AttachRequest, EndpointIdentity, LocalEndpoint
from plait.model.errors import PlaitError
from plait.model.objects import Metadata, NamedPort
from plait.model.pods import Pod, PodSpec


def pod(name: str = "web", uid: str = "u1", revision: int = 1, **more: object) -> Pod:
    labels = more.pop("labels", {"app": "web"})
    return Pod(
        metadata=Metadata(name=name, namespace="shop", labels=labels, revision=revision),  # type: ignore[arg-type]
        spec=PodSpec(**{"uid": uid, "node": "h1", **more}),  # type: ignore[arg-type]
    )


SQL = (NamedPort(name="sql", protocol="tcp", port=5432),)


class Stage:
    """Pods beside what it follows and what it tells."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], Pod] = {}
        self.endpoints: dict[str, LocalEndpoint] = {}
        self.told: list[str] = []
        self.refuse: PlaitError | None = None
        self.pods = Pods("h1", lambda: self.known, lambda: self.endpoints.values(), self._identify)

    async def _identify(self, endpoint: str, identity: EndpointIdentity) -> None:
        self.told.append(endpoint)
        if self.refuse is not None:
            raise self.refuse
        known = self.endpoints[endpoint]
        told = msgspec.structs.asdict(identity)
        request = msgspec.structs.replace(known.request, identified=True, **told)
        self.endpoints[endpoint] = msgspec.structs.replace(known, request=request)

    def put(self, obj: Pod) -> None:
        self.known[obj.metadata.namespace, obj.metadata.name] = obj
        self.pods.put(obj)

    def attach(self, ident: str = "e1", name: str = "web", uid: str = "u1") -> LocalEndpoint:
        request = AttachRequest(
            id=ident,
            network="plait",
            namespace="shop",
            name=name,
            labels={"app": "web"},
            pod=uid,
            aliases=("front",),
        )
        made = LocalEndpoint(request=request, addresses=(), mac="", interface="")
        self.endpoints[ident] = made
        self.pods.attached(made)
        return made

    def labels(self, ident: str = "e1") -> dict[str, str]:
        return self.endpoints[ident].request.labels


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def test_a_pod_that_is_known_is_answered_at_once(stage: Stage) -> None:
    stage.put(pod())
    assert await stage.pods.wait("shop", "web", "u1", 0.0) == pod()
    assert await stage.pods.wait("shop", "web", "", 0.0) == pod()


async def test_a_pod_is_waited_for(stage: Stage) -> None:
    waiting = [
        asyncio.create_task(stage.pods.wait("shop", "web", uid, 30.0)) for uid in ("u1", "u1", "")
    ]
    await asyncio.sleep(0)
    stage.put(pod(name="other"))
    stage.put(pod(uid="before"))
    assert not waiting[0].done()
    assert not waiting[1].done()
    stage.put(pod())
    assert [found.spec.uid for found in await asyncio.gather(*waiting)] == ["u1", "u1", "before"]


async def test_one_who_no_longer_waits_is_forgotten(stage: Stage) -> None:
    waiting = [asyncio.create_task(stage.pods.wait("shop", "web", "u1", 30.0)) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    stage.put(pod())
    assert (await waiting[1]).spec.uid == "u1"


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (None, "nothing was heard of it"),
        (pod(finished=True), "has finished"),
        (pod(uid="u2"), "has the uid u2"),
        (pod(node="h2"), "placed on node h2"),
    ],
)
async def test_a_pod_that_does_not_come_is_refused(
    stage: Stage, seen: Pod | None, why: str
) -> None:
    if seen is not None:
        stage.put(seen)
    with pytest.raises(PlaitError) as refusal:
        await stage.pods.wait("shop", "web", "u1", 0.0)
    assert refusal.value.code == "PLAIT-AGENT-009"
    assert why in refusal.value.why


async def test_a_pod_that_is_not_placed_yet_may_be_attached(stage: Stage) -> None:
    # The runtime knows where it is sooner than we may hear of it.
    stage.put(pod(node=""))
    assert await stage.pods.wait("shop", "web", "u1", 0.0)


async def test_endpoints_follow_their_pod(stage: Stage) -> None:
    stage.put(pod())
    stage.attach()
    stage.attach("e2", uid="u0")
    await stage.pods.settle()
    assert stage.told == []
    stage.put(pod(labels={"app": "db"}, named_ports=SQL))
    await stage.pods.settle()
    assert stage.told == ["e1"]
    request = stage.endpoints["e1"].request
    assert request.labels == {"app": "db"}
    assert request.named_ports == SQL
    assert (request.name, request.aliases) == ("web", ("front",))
    # Its end, and the beginning of another of its name, are not its runtime's business.
    stage.put(pod(finished=True, labels={"app": "db"}, named_ports=request.named_ports))
    stage.pods.delete(pod())
    stage.put(pod(uid="u2", labels={"app": "other"}))
    await stage.pods.settle()
    assert stage.labels() == {"app": "db"}


async def test_a_name_with_dots_is_another_in_dns(stage: Stage) -> None:
    stage.attach(name="etcd-node-example")
    stage.put(pod(name="etcd-node.example", labels={"app": "etcd"}))
    await stage.pods.settle()
    assert stage.labels() == {"app": "etcd"}
    assert stage.endpoints["e1"].request.name == "etcd-node-example"


async def test_an_endpoint_follows_whatever_it_is_called(stage: Stage) -> None:
    """A static pod's name is no label: etcd-node.example."""
    stage.attach(name="etcd-node-example")
    stage.put(pod(name="etcd-node.example", labels={"app": "etcd"}))
    await stage.pods.settle()
    assert stage.labels() == {"app": "etcd"}


async def test_no_pod_of_another_namespace_is_followed(stage: Stage) -> None:
    """Whoever may create pods can write any uid into the annotation of a mirror."""
    stage.put(pod())
    stage.attach()
    forged = pod(labels={"app": "admin"})
    stage.put(
        msgspec.structs.replace(
            forged, metadata=msgspec.structs.replace(forged.metadata, namespace="foe")
        )
    )
    assert await stage.pods.settle() == set()
    assert stage.labels() == {"app": "web"}


async def test_a_change_during_the_attach_is_not_missed(stage: Stage) -> None:
    stage.put(pod(labels={"app": "new"}))
    await stage.pods.settle()
    stage.attach()
    await stage.pods.settle()
    assert stage.labels() == {"app": "new"}


async def test_what_was_refused_is_still_due(stage: Stage) -> None:
    stage.put(pod(labels={"app": "new"}))
    stage.attach()
    stage.refuse = PlaitError("PLAIT-KERNEL-001", "no")
    assert await stage.pods.settle() == {"u1"}
    stage.attach("e2")
    stage.refuse = PlaitError("PLAIT-AGENT-003", "it was detached")
    assert await stage.pods.settle() == set()


@contextlib.asynccontextmanager
async def running(host: fake.FakeHost) -> AsyncIterator[Agent]:
    agent = host.agent()
    await agent.start()
    try:
        yield agent
    finally:
        await agent.stop()


async def test_an_agent_follows_the_pods_of_its_snapshot(tmp_path: Path) -> None:
    host = fake.FakeHost(fake.server(), tmp_path)
    async with running(host) as agent:
        await until(lambda: "plait" in agent.state.snapshot.networks)
        waiting = asyncio.create_task(agent.service.pod("shop", "web", "u1", wait=5.0))
        await asyncio.sleep(0)
        agent.state.snapshot.put(pod())
        found = await waiting
        await agent.service.attach(
            AttachRequest(
                id="e1",
                network="plait",
                namespace="shop",
                name="web",
                labels=found.metadata.labels,
                pod=found.spec.uid,
            )
        )
        agent.state.snapshot.put(pod(revision=2, labels={"app": "db"}))
        await until(lambda: agent.service.present()[0].request.labels == {"app": "db"})
