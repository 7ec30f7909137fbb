"""The connector with the rights that the manifests give it, on a real API server of Kubernetes and
a real server of Plait: on both sides it may do what it must."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.support.kube_apiserver import KubeApiserver
from tests.support.waiting import until

from plait.client.api import ApiClient
from plait.kubernetes import kinds, manifests, nodes
from plait.kubernetes.api import KubernetesApi
from plait.kubernetes.controller import Controller
from plait.kubernetes.kinds import Resource
from plait.kubernetes.kubeconfig import Access
from plait.kubernetes.manifests import Settings
from plait.kubernetes.uninstall import leave_kubernetes, leave_plait, wait_free
from plait.model.errors import PlaitError
from plait.model.objects import (
    Cluster,
    Namespace,
    Node,
    Pod,
    Policy,
    Service,
)

if TYPE_CHECKING:
    from tests.contract.conftest import Rig

POOLS = ("192.0.2.0/28",)
SETTINGS = Settings(
    address="192.0.2.1:6440",
    api_host="192.0.2.2",
    api_port="6443",
    network="plait",
    connector_token="plait1.c",
    agent_token="plait1.j",
)
NODES, PODS = kinds.NODES.resources[0], kinds.PODS.resources[0]
SERVICES, POLICIES = kinds.SERVICES.resources[0], kinds.NETWORK_POLICIES.resources[0]
NAMESPACES = kinds.NAMESPACES.resources[0]
CONTAINER = {"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 80}]}


@pytest.fixture
async def admin(kube: KubeApiserver) -> AsyncIterator[KubernetesApi]:
    api = KubernetesApi(kube.access())
    yield api
    await api.close()


async def account(kube: KubeApiserver, admin: KubernetesApi) -> Access:
    """The access that the connector's pod has."""
    tokens = Resource("", "v1", "serviceaccounts")
    path = "plait-connector/token"
    async with asyncio.timeout(20):
        while True:
            try:
                made = await admin._write(
                    "POST", f"{tokens.path(namespace='plait-system')}/{path}", {"spec": {}}
                )
                break
            except PlaitError:
                await asyncio.sleep(0.05)
    return msgspec.structs.replace(kube.access(), token=made["status"]["token"])


async def found(api: ApiClient, kind: type[Any], name: str, namespace: str = "") -> Any:
    try:
        return await api.get(kind, name, namespace)
    except PlaitError:
        return None


async def comes(
    api: ApiClient,
    kind: type[Any],
    name: str,
    namespace: str = "",
    good: Callable[[Any], object] = bool,
) -> Any:
    deadline = time.monotonic() + 20
    while not good(obj := await found(api, kind, name, namespace)):
        assert time.monotonic() < deadline, obj
        await asyncio.sleep(0.02)
    return obj


@pytest.mark.parametrize("rig", ["sqlite"], indirect=True)
async def test_with_the_rights_of_the_manifests_everything_comes_over_and_goes_again(
    rig: Rig, kube: KubeApiserver, admin: KubernetesApi
) -> None:
    server = await rig.serve()
    plait = rig.admin(server)
    cluster = await plait.get(Cluster, "plait")
    spec = msgspec.structs.replace(cluster.spec, load_balancer_pools=POOLS)
    await plait.update(msgspec.structs.replace(cluster, spec=spec))
    agent = await rig.node(server, "n1")
    mine = await agent.get(Node, "n1")
    ready = msgspec.structs.replace(mine.status, ready=True)
    await agent.update(msgspec.structs.replace(mine, status=ready))
    before = {obj.key for kind in (Namespace, Node, Policy) for obj in await plait.list(kind)}

    wanted = manifests.filled(SETTINGS)
    for manifest in (*wanted, *wanted):  # Twice: it is no error.
        await manifests.apply(admin, manifest)
    token = await rig.token(server, role="connector")
    authority = rig.path / "ca/ca.crt"
    writer = rig.keep(ApiClient(rig.url(server), token=token, ca_file=authority))
    as_pod = KubernetesApi(await account(kube, admin))
    controller = Controller(
        as_pod, writer, identity="c1", lease_namespace="plait-system", renew=0.2
    )
    tasks = [asyncio.create_task(work, name=name) for name, work in controller.tasks()]

    labels = {"disk": "ssd"}
    await admin.create(NODES, {"metadata": {"name": "n1", "labels": labels}})
    await admin.create(NODES, {"metadata": {"name": "n2"}})
    await admin.create(NAMESPACES, {"metadata": {"name": "shop", "labels": {"team": "a"}}})
    pod = {"metadata": {"name": "web-0"}, "spec": {"nodeName": "n1", "containers": [CONTAINER]}}
    await admin.create(PODS, pod, "shop")
    deny = {"metadata": {"name": "deny"}, "spec": {"podSelector": {}}}
    await admin.create(POLICIES, deny, "shop")
    ports = [{"port": 80}]
    web = {"metadata": {"name": "web"}, "spec": {"type": "LoadBalancer", "ports": ports}}
    await admin.create(SERVICES, web, "shop")

    try:
        held = await comes(plait, Pod, "web-0", "shop")
        assert held.spec.named_ports[0].name == "http"
        await comes(plait, Policy, "knp.shop.deny")
        await comes(plait, Namespace, "shop", "", lambda n: n.metadata.labels == {"team": "a"})
        await comes(plait, Node, "n1", "", lambda n: n.metadata.labels == labels)
        service = await comes(
            plait, Service, "web", "shop", lambda s: s and s.spec.load_balancer_addresses
        )
        async with asyncio.timeout(20):
            while True:
                known = await admin.get(SERVICES, dict[str, Any], "web", "shop")
                if ingress := known["status"]["loadBalancer"].get("ingress"):
                    break
                await asyncio.sleep(0.02)
        assert [each["ip"] for each in ingress] == list(service.spec.load_balancer_addresses)
        assert known["spec"]["clusterIP"] == service.spec.addresses[0]
        async with asyncio.timeout(20):
            while True:
                n1 = await admin.get(NODES, dict[str, Any], "n1")
                n2 = await admin.get(NODES, dict[str, Any], "n2")
                if n2["spec"].get("taints") and n1["status"].get("conditions"):
                    break
                await asyncio.sleep(0.02)
        keys = {taint["key"] for taint in n1["spec"].get("taints") or ()}
        assert nodes.TAINT not in keys
        assert nodes.TAINT in {taint["key"] for taint in n2["spec"]["taints"]}
        assert nodes.is_our_condition(n1)
        await until(lambda: controller.report().synced)
        assert controller.report().problems == ()
        await admin.delete(SERVICES, "web", "shop")
        await comes(plait, Service, "web", "shop", lambda s: s is None)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await as_pod.close()

    await wait_free(admin, "plait-system")
    assert [line async for line in leave_kubernetes(admin, POOLS, "plait-system")]
    assert [line async for line in leave_plait(plait)]
    for manifest in reversed(wanted):
        await manifests.delete(admin, manifest)
    n1 = await admin.get(NODES, dict[str, Any], "n1")
    n2 = await admin.get(NODES, dict[str, Any], "n2")
    assert nodes.TAINT not in {taint["key"] for taint in n2["spec"].get("taints") or ()}
    assert not nodes.is_our_condition(n1)
    left = {obj.key for kind in (Namespace, Node, Policy) for obj in await plait.list(kind)}
    assert left == before
    for name in ("n1", "n2"):
        await admin.delete(NODES, name)
