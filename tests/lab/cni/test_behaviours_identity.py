"""Who a container is: its Pod, where an orchestrator says so, or what the runtime says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.lab.census import inside
from tests.lab.cni.conftest import Box, ours, refused
from tests.lab.conftest import eventually
from tests.support.libcni import VERSIONS, Attachment, Network, PluginError

from plait.client.api import ApiClient
from plait.lab import daemons
from plait.model.objects import Metadata, NamedPort, Pod
from plait.model.pods import PodSpec
from plait.wire.cni import errors

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("nothing_stays")]

UID = "0d6f1a2e-pod-uid"
LABELS = {"app": "web"}
HTTP = NamedPort(name="http", protocol="tcp", port=8080)

Announce = Callable[..., None]


@pytest.fixture
def announce(box: Box) -> Iterator[Announce]:
    """Make Pods as the connector does."""
    made: list[tuple[str, str]] = []

    def write(name: str, *, namespace: str = "default", uid: str = UID) -> None:
        pod = Pod(
            metadata=Metadata(name=name, namespace=namespace, labels=LABELS),
            spec=PodSpec(uid=uid, node=box.host, named_ports=(HTTP,)),
        )

        async def put() -> None:
            path = inside(box.lab, box.host, "/run/plait/server.sock")
            async with ApiClient("http://localhost", unix_socket=path) as client:
                await client.create(pod)

        asyncio.run(put())
        made.append((namespace, name))

    yield write

    async def remove() -> None:
        path = inside(box.lab, box.host, "/run/plait/server.sock")
        async with ApiClient("http://localhost", unix_socket=path) as client:
            for namespace, name in made:
                await client.delete(Pod, name, namespace)

    asyncio.run(remove())


def kubernetes(box: Box, deadline: int = 20, **options: str) -> Network:
    return box.network(ours(identity="kubernetes", deadline=deadline), **options)


def args(name: str, *, namespace: str = "default", uid: str = UID) -> str:
    """As containerd passes them."""
    return (
        f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};"
        f"K8S_POD_INFRA_CONTAINER_ID=0123;K8S_POD_UID={uid};SOMETHING_NEW=1"
    )


def told(box: Box, at: Attachment) -> tuple[object, ...]:
    request = box.endpoint(at).request
    return request.namespace, request.name, request.labels, request.named_ports, request.pod


@pytest.mark.parametrize("version", VERSIONS)
def test_a_pod_says_who_it_is(box: Box, announce: Announce, version: str) -> None:
    announce("web-0")
    network, at = kubernetes(box, version=version), box.container()
    network.add(at, args=args("web-0"))
    assert told(box, at) == ("default", "web-0", LABELS, (HTTP,), UID)
    assert box.endpoint(at).phase == "ready"


def test_an_add_waits_for_its_pod(box: Box, announce: Announce) -> None:
    network, at = kubernetes(box), box.container()
    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(network.add, at, args=args("late-0"))
        eventually("the ADD waits", lambda: box.waiting(1))
        assert not adding.done()
        announce("late-0")
        adding.result(10)
    assert told(box, at) == ("default", "late-0", LABELS, (HTTP,), UID)


def test_a_pod_that_does_not_come_is_waited_for_until_the_deadline(
    box: Box, announce: Announce
) -> None:
    announce("other-0", uid="another-pod-uid")
    network, at = kubernetes(box, deadline=1), box.container()
    error = refused(errors.TRY_AGAIN, lambda: network.add(at, args=args("never-0")))
    assert "never-0" in error.msg
    error = refused(errors.TRY_AGAIN, lambda: network.add(at, args=args("other-0")))
    assert "another-pod-uid" in error.details
    assert box.endpoints() == ()
    assert box.links(at) == ["lo"]


def test_a_pod_whose_name_has_dots_has_a_name_in_dns(box: Box, announce: Announce) -> None:
    announce("etcd-node.example")
    network, at = kubernetes(box), box.container()
    network.add(at, args=args("etcd-node.example"))
    request = box.endpoint(at).request
    assert (request.name, request.aliases) == ("etcd-node-example", ("etcd-node.example",))


def test_without_a_pod_s_name_the_runtime_says(box: Box) -> None:
    """Another client of the same configuration: `ctr run --cni`, podman."""
    network, at = kubernetes(box), box.container()
    network.add(at, args="IgnoreUnknown=1;K8S_POD_NAME=My_Container", aliases={"podnet": ["db"]})
    request = box.endpoint(at).request
    assert (request.name, request.aliases) == ("my-container", ("my_container", "db"))


def test_the_runtime_says_labels_and_aliases(box: Box) -> None:
    labels = [{"key": "app", "value": "web"}, {"key": "x.example/tier", "value": ""}]
    network = box.network(ours(args={"cni": {"labels": labels}}, namespace="shop"))
    at = box.container()
    network.add(at, aliases=["db", "db.example"])
    request = box.endpoint(at).request
    assert request.labels == {"app": "web", "x.example/tier": ""}
    assert request.aliases == ("db", "db.example")
    assert request.namespace == "shop"


def test_status_while_the_server_is_away(box: Box) -> None:
    """Who new pods are cannot be known; other containers need no server."""
    daemons.steer(box.lab, box.host, "stop", "server")
    try:
        eventually("the agent misses the server", lambda: unavailable(kubernetes(box)))
        network, at = box.network(), box.container()
        network.status()
        network.add(at)
        new = box.container()
        waits = kubernetes(box, deadline=1)
        refused(errors.TRY_AGAIN, lambda: waits.add(new, args=args("new-0")))
    finally:
        daemons.steer(box.lab, box.host, "start", "server")
    eventually("all is well", lambda: not unavailable(kubernetes(box)))


def unavailable(network: Network) -> bool:
    try:
        network.status()
    except PluginError as error:
        return error.code == errors.NOT_AVAILABLE
    return False
