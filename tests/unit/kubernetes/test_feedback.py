"""What Kubernetes is told: taints and conditions of nodes, addresses of load balancers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.support.waiting import until

from plait.kubernetes import kinds, nodes
from plait.kubernetes.balancers import status, withdrawn
from plait.kubernetes.marks import marked
from plait.kubernetes.objects import Node as FoundNode
from plait.kubernetes.objects import Service as Found
from plait.model.objects import Metadata, Node, NodeStatus, Service
from plait.model.services import ServiceSpec

if TYPE_CHECKING:
    from tests.unit.kubernetes.conftest import Stage

TAINT = {"key": nodes.TAINT, "effect": "NoSchedule"}
OTHER = {"key": "dedicated", "value": "gpu", "effect": "NoExecute", "timeAdded": "2026-01-01"}
BALANCED = {"type": "LoadBalancer", "ports": [{"port": 80}]}
POOLS = ("192.0.2.0/28",)


def taints(stage: Stage, name: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = stage.kubernetes(kinds.NODES, name)["spec"].get("taints") or []
    return found


def conditions(stage: Stage, name: str) -> dict[str, str]:
    listed = stage.kubernetes(kinds.NODES, name).get("status", {}).get("conditions") or ()
    return {each["type"]: each["status"] for each in listed}


def ingress(stage: Stage, name: str) -> list[str]:
    balancer = stage.kubernetes(kinds.SERVICES, name, "shop").get("status", {}).get("loadBalancer")
    return [each["ip"] for each in (balancer or {}).get("ingress") or ()]


async def test_a_node_is_kept_free_of_pods_until_its_agent_is_ready(stage: Stage) -> None:
    stage.put(kinds.NODES, "n1", spec={"taints": [OTHER]})
    stage.connect()
    await until(lambda: taints(stage, "n1") == [OTHER, TAINT])
    assert nodes.CONDITION not in conditions(stage, "n1")
    await stage.agent("n1", ready=False)
    await stage.agent("n1", ready=True)
    await until(lambda: taints(stage, "n1") == [OTHER])
    assert conditions(stage, "n1")[nodes.CONDITION] == "False"
    await stage.agent("n1", ready=False)
    await until(lambda: taints(stage, "n1") == [OTHER, TAINT])
    assert conditions(stage, "n1")[nodes.CONDITION] == "False"


async def test_a_condition_that_somebody_else_set_is_overruled(stage: Stage) -> None:
    await stage.agent("n1")
    other = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
    cloud = {"type": nodes.CONDITION, "status": "True", "reason": "NoRouteCreated"}
    stage.put(kinds.NODES, "n1", spec={}, status={"conditions": [other, cloud]})
    stage.connect()
    await until(lambda: conditions(stage, "n1")[nodes.CONDITION] == "False")
    assert conditions(stage, "n1")["Ready"] == "True"


def test_an_agent_that_is_silent_is_not_ready() -> None:
    node = Node(metadata=Metadata(name="n1"), status=NodeStatus(ready=True))
    silent = msgspec.structs.replace(node, status=NodeStatus(ready=True, silent=True))
    assert nodes.is_ready(node)
    assert not nodes.is_ready(silent)
    assert not nodes.is_ready(None)


async def test_clocks_of_two_hosts_may_differ(stage: Stage) -> None:
    await stage.agent("n1")
    stage.put(kinds.NODES, "n1", spec={"taints": [TAINT]})
    running = stage.connect(wall=lambda: time.time() + 3600)
    await until(lambda: not taints(stage, "n1"))
    await running.settled()
    assert not taints(stage, "n1")


async def test_what_one_node_says_costs_no_look_at_the_others(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        stage.put(kinds.NODES, f"n{number}", spec={"taints": [TAINT]})
    running = stage.connect(clock=lambda: 0.0)
    await running.settled()
    looked: list[str] = []

    def needs(found: FoundNode, ready: bool) -> tuple[bool, bool]:
        del ready
        looked.append(found.metadata.name)
        return False, False

    monkeypatch.setattr(nodes, "needs", needs)
    for number in range(4):
        if number == 1:
            looked.clear()  # What the beginning left to be looked at.
        before = len(looked)
        stage.put(kinds.NODES, "n1", spec={"taints": [TAINT]}, status={"number": number})
        await until(lambda: len(looked) > before)  # noqa: B023 (awaited at once)
    assert set(looked) == {"n1"}


async def test_a_load_balancer_gets_the_address_of_plaits_server(stage: Stage) -> None:
    stage.put(kinds.SERVICES, "web", "shop", spec=BALANCED)
    stage.connect()
    await until(lambda: ingress(stage, "web"))
    held = await stage.comes(Service, "web", "shop")
    assert list(held.spec.load_balancer_addresses) == ingress(stage, "web")
    now = stage.kubernetes(kinds.SERVICES, "web", "shop")
    stage.kube.put(
        kinds.SERVICES.resources[0], {**now, "spec": {**now["spec"], "type": "ClusterIP"}}
    )
    await until(lambda: not ingress(stage, "web"))
    await stage.comes(Service, "web", "shop", lambda s: not s.spec.load_balancer_addresses)


async def test_an_address_that_somebody_else_gave_stays_and_is_served(stage: Stage) -> None:
    given = {"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}, {"hostname": "lb.example"}]}}
    stage.put(kinds.SERVICES, "web", "shop", spec=BALANCED, status=given)
    running = stage.connect()
    held = await stage.comes(Service, "web", "shop")
    assert held.spec.load_balancer_addresses == ("198.51.100.7",)
    await running.settled()
    assert stage.kubernetes(kinds.SERVICES, "web", "shop")["status"] == given


async def test_services_of_others_are_left_to_them(stage: Stage) -> None:
    stage.put(kinds.SERVICES, "cloud", "shop", spec={**BALANCED, "loadBalancerClass": "c.example"})
    label = {"labels": {"service.kubernetes.io/service-proxy-name": "other"}}
    stage.put(kinds.SERVICES, "proxied", "shop", spec={"ports": [{"port": 80}]}, metadata=label)
    running = stage.connect()
    held = await stage.comes(Service, "cloud", "shop")
    assert (held.spec.type, held.spec.load_balancer_addresses) == ("NodePort", ())
    await running.settled()
    assert ingress(stage, "cloud") == []
    assert await stage.find(Service, "proxied", "shop") is None


async def test_refusals_of_kubernetes_are_told_and_tried_again(stage: Stage) -> None:
    stage.put(kinds.NODES, "n1", spec={})
    stage.kube.faults.refuse("read", 403, path="/api/v1/nodes/n1")
    running = stage.connect()
    await until(lambda: any("Node n1" in problem for problem in running.problems))
    await until(lambda: taints(stage, "n1") == [TAINT])
    await until(lambda: not running.problems)


async def test_who_was_not_fast_enough_has_no_problem(stage: Stage) -> None:
    stage.put(kinds.NODES, "n1", spec={})
    stage.kube.faults.refuse("write", 409, path="/nodes/n1")
    running = stage.connect()
    seen: set[str] = set()

    def is_tainted() -> bool:
        seen.update(running.problems)
        return taints(stage, "n1") == [TAINT]

    await until(is_tainted)
    assert not stage.kube.faults.pending
    assert not {problem for problem in seen if "Node n1" in problem}


def found(**spec: Any) -> Found:
    status = spec.pop("status", {})
    return msgspec.convert(
        {"metadata": {"name": "web"}, "spec": {**BALANCED, **spec}, "status": status}, Found
    )


def held(*addresses: str) -> Service:
    spec = ServiceSpec(type="LoadBalancer", load_balancer_addresses=addresses)
    return marked(Service(metadata=Metadata(name="web", namespace="shop"), spec=spec))


def test_what_a_status_should_say() -> None:
    given = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
    other = {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}}
    written = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}
    assert status(found(), held("192.0.2.1"), POOLS) == written
    assert status(found(), held(), POOLS) is None
    assert status(found(), None, POOLS) is None
    assert status(found(status=given), held("192.0.2.1"), POOLS) is None
    assert status(found(status=given), held("192.0.2.2"), POOLS) is not None
    assert status(found(status=other), held("192.0.2.1"), POOLS) is None
    assert status(found(type="ClusterIP", status=given), None, POOLS) is not None
    assert status(found(type="ClusterIP", status=other), None, POOLS) is None
    assert withdrawn(found(status=given), POOLS) is not None
    assert withdrawn(found(status=other), POOLS) is None
