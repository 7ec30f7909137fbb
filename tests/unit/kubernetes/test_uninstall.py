"""After an uninstall nothing of ours is left, on either side."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.support.waiting import until

from plait.kubernetes import kinds, nodes
from plait.kubernetes.api import KubernetesApi
from plait.kubernetes.election import LEASES, NAME
from plait.kubernetes.uninstall import leave_kubernetes, leave_plait, wait_free
from plait.model.errors import PlaitError
from plait.model.objects import Metadata, Namespace, Node, Pod, Service

if TYPE_CHECKING:
    from tests.unit.kubernetes.conftest import Stage

POOLS = ("192.0.2.0/28",)


async def test_an_uninstall_leaves_nothing_and_no_users_object_is_touched(stage: Stage) -> None:
    await stage.agent("n1")
    await stage.plait.create(Pod(metadata=Metadata(name="mine", namespace="default")))
    await stage.plait.create(Namespace(metadata=Metadata(name="mine", labels={"a": "b"})))
    clean = await stage.everything()
    stage.put(kinds.NODES, "n1", metadata={"labels": {"disk": "ssd"}}, spec={})
    stage.put(kinds.NODES, "n2", spec={})
    stage.put(kinds.NAMESPACES, "mine", metadata={"labels": {"team": "a"}})
    stage.pod("web-0")
    stage.put(kinds.NETWORK_POLICIES, "deny", "shop", spec={"podSelector": {}})
    balanced = {"type": "LoadBalancer", "ports": [{"port": 80}]}
    stage.put(kinds.SERVICES, "web", "shop", spec=balanced)
    running = stage.connect()
    await stage.comes(Service, "web", "shop")
    await running.settled()
    await stage.comes(Node, "n1", "", lambda n: n.metadata.labels)
    await until(lambda: stage.kubernetes(kinds.NODES, "n1").get("status", {}).get("conditions"))
    await until(lambda: stage.kubernetes(kinds.NODES, "n2")["spec"].get("taints"))
    web = partial(stage.kubernetes, kinds.SERVICES, "web", "shop")
    await until(lambda: web()["status"]["loadBalancer"].get("ingress"))
    await running.stop()
    api = KubernetesApi(stage.kube.access())
    await wait_free(api, "kube-system")
    assert [line async for line in leave_kubernetes(api, POOLS, "kube-system", dry_run=True)]
    told = [line async for line in leave_kubernetes(api, POOLS, "kube-system")]
    assert any("n2" in line for line in told)
    assert [line async for line in leave_plait(stage.plait, dry_run=True)]
    assert await stage.find(Pod, "web-0", "shop")
    assert [line async for line in leave_plait(stage.plait)]
    after = await stage.everything()
    assert {k: _bare(v) for k, v in after.items()} == {k: _bare(v) for k, v in clean.items()}
    for name in ("n1", "n2"):
        node = stage.kubernetes(kinds.NODES, name)
        assert not node["spec"].get("taints")
        listed = node.get("status", {}).get("conditions") or ()
        assert all(each["type"] != nodes.CONDITION for each in listed)
    service = stage.kubernetes(kinds.SERVICES, "web", "shop")
    assert not service["status"]["loadBalancer"].get("ingress")
    assert stage.kube.get(LEASES, NAME, "kube-system") is None
    assert not [line async for line in leave_kubernetes(api, POOLS, "kube-system")]
    assert not [line async for line in leave_plait(stage.plait)]
    await api.close()


def _bare(obj: object) -> object:
    meta = msgspec.structs.replace(obj.metadata, revision=0)  # type: ignore[attr-defined]
    status = {"status": None} if hasattr(obj, "status") else {}
    return msgspec.structs.replace(obj, metadata=meta, **status)  # type: ignore[type-var]


async def test_nothing_is_taken_away_below_a_connector_that_runs(stage: Stage) -> None:
    stage.connect("h1")
    await stage.comes(Namespace, "shop")
    api = KubernetesApi(stage.kube.access())
    with pytest.raises(PlaitError) as caught:
        await wait_free(api, "kube-system", sleep=lambda _seconds: asyncio.sleep(0.01))
    assert caught.value.code == "PLAIT-HOST-004"
    await api.close()


async def test_nodes_that_others_write_or_delete_meanwhile_are_no_obstacle(stage: Stage) -> None:
    taint = {"key": nodes.TAINT, "effect": "NoSchedule"}
    condition = {"type": nodes.CONDITION, "status": "False", "reason": nodes.REASON}
    for name in ("n1", "n2"):
        fields = {"spec": {"taints": [taint]}, "status": {"conditions": [condition]}}
        stage.put(kinds.NODES, name, **fields)
    stage.kube.faults.refuse("write", 409, path="/nodes/n1")
    api = KubernetesApi(stage.kube.access())
    told = leave_kubernetes(api, POOLS, "kube-system")
    assert await anext(told) == f"taint {nodes.TAINT} of node n1"
    stage.remove(kinds.NODES, "n2")
    assert [line async for line in told]
    left = stage.kubernetes(kinds.NODES, "n1")
    assert not left["spec"].get("taints")
    assert not left["status"].get("conditions")
    await api.close()


async def test_what_cannot_go_yet_is_told_each_time_until_it_can(stage: Stage) -> None:
    stage.put(kinds.NAMESPACES, "shop")
    stage.put(kinds.NAMESPACES, "empty")
    running = stage.connect()
    await stage.comes(Namespace, "empty")
    await stage.comes(Namespace, "shop")
    await running.settled()
    await running.stop()
    await stage.plait.create(Pod(metadata=Metadata(name="mine", namespace="shop")))
    told = [line async for line in leave_plait(stage.plait)]
    assert told[-1].startswith("left: namespaces/shop: ")
    assert not await stage.find(Namespace, "empty")
    assert [line async for line in leave_plait(stage.plait)] == told[-1:]
    await stage.plait.delete(Pod, "mine", "shop")
    assert [line async for line in leave_plait(stage.plait)] == ["namespaces in Plait: 1"]
    assert not await stage.find(Namespace, "shop")
