"""What the client of Kubernetes' API does to the fake API server it does to a real one."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest
from tests.contract.kube_clusters import SPECS, Scene

from plait.kubernetes import kinds
from plait.kubernetes.discovery import resolve
from plait.kubernetes.objects import NetworkPolicy, Node, Pod, Service
from plait.kubernetes.refusals import KubernetesError

PODS = kinds.PODS.resources[0]
NODES = kinds.NODES.resources[0]
SERVICES = kinds.SERVICES.resources[0]
POLICIES = kinds.NETWORK_POLICIES.resources[0]


async def refused(asked: Awaitable[object]) -> tuple[int, str, str]:
    """Status, reason and code of a refusal."""
    with pytest.raises(KubernetesError) as error:
        await asked
    return error.value.http_status, error.value.reason, error.value.code


async def test_refusals_are_told_apart(scene: Scene) -> None:
    made = await scene.create(kinds.PODS, "p")
    again = scene.create(kinds.PODS, "p")
    assert await refused(again) == (409, "AlreadyExists", "PLAIT-KUBE-006")
    missing = scene.api.get(PODS, Pod, "q", scene.namespace)
    assert await refused(missing) == (404, "NotFound", "PLAIT-KUBE-005")
    await scene.label(kinds.PODS, "p", a="b")
    stale = scene.api.replace(PODS, made, "p", scene.namespace)
    assert await refused(stale) == (409, "Conflict", "PLAIT-KUBE-006")
    body = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"], "labels": {}}}
    stale = scene.api.patch(PODS, body, "p", scene.namespace)
    assert await refused(stale) == (409, "Conflict", "PLAIT-KUBE-006")
    nameless = scene.api.create(PODS, SPECS["Pod"], scene.namespace)
    assert (await refused(nameless))[0] == 422


async def test_a_selector_that_is_none_is_refused(scene: Scene) -> None:
    for query in ({"fieldSelector": "spec.weather=good"}, {"labelSelector": "a in"}):
        asked = scene.api.read(PODS.path(namespace=scene.namespace), dict[str, Any], query)
        assert (await refused(asked))[0] == 400


async def test_what_changes_nothing_is_no_new_version(scene: Scene) -> None:
    first = await scene.create(kinds.PODS, "p", a="b")
    same = await scene.label(kinds.PODS, "p", a="b")
    assert same["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    other = await scene.label(kinds.PODS, "p", a=None)
    assert other["metadata"]["resourceVersion"] != first["metadata"]["resourceVersion"]
    assert other["metadata"]["uid"] == first["metadata"]["uid"]


async def test_conditions_of_a_node_are_merged_by_type(scene: Scene) -> None:
    name = f"n-{scene.namespace}"
    await scene.api.create(NODES, {"metadata": {"name": name}, "status": {"phase": "x"}})
    for kind, status in (("Ready", "True"), ("NetworkUnavailable", "False"), ("Ready", "False")):
        body = {"status": {"conditions": [{"type": kind, "status": status}]}}
        await scene.api.patch(NODES, body, name, patch="strategic", subresource="status")
    # The object itself has no way to its status.
    await scene.api.patch(NODES, {"status": {"conditions": []}}, name)
    node = await scene.api.get(NODES, Node, name)
    conditions = {each.type: each.status for each in node.status.conditions}
    assert conditions == {"Ready": "False", "NetworkUnavailable": "False"}
    await scene.api.delete(NODES, name)


async def test_taints_are_replaced_as_a_whole_if_nobody_else_changed_them(scene: Scene) -> None:
    name = f"n-{scene.namespace}"
    taints = [{"key": k, "value": "", "effect": "NoSchedule"} for k in ("a/x", "b/y")]
    made = await scene.api.create(NODES, {"metadata": {"name": name}, "spec": {"taints": taints}})
    version = made["metadata"]["resourceVersion"]
    body = {"metadata": {"resourceVersion": version}, "spec": {"taints": taints[1:]}}
    await scene.api.patch(NODES, body, name)
    assert (await refused(scene.api.patch(NODES, body, name)))[:2] == (409, "Conflict")
    node = await scene.api.get(NODES, Node, name)
    assert "a/x" not in {each.key for each in node.spec.taints}
    await scene.api.delete(NODES, name)


async def test_a_load_balancer_is_written_into_the_status(scene: Scene) -> None:
    spec = {"type": "LoadBalancer", "ports": [{"port": 80}]}
    made = await scene.api.create(
        SERVICES,
        {"metadata": {"name": "web"}, "spec": spec, "status": {"loadBalancer": {}}},
        scene.namespace,
    )
    assert made["spec"]["clusterIP"].startswith("10.96.")
    assert made["spec"]["ports"][0]["nodePort"] >= 30000
    ingress = [{"ip": "192.0.2.1"}]
    await scene.api.patch(
        SERVICES,
        {"status": {"loadBalancer": {"ingress": ingress}}},
        "web",
        scene.namespace,
        subresource="status",
    )
    service = await scene.api.get(SERVICES, Service, "web", scene.namespace)
    assert [each.ip for each in service.status.load_balancer.ingress] == ["192.0.2.1"]
    assert service.spec.ports[0].target_port == 80
    assert service.spec.ports[0].protocol == "TCP"


async def test_server_side_apply_makes_and_changes(scene: Scene) -> None:
    body = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "p", "labels": {"a": "b"}},
        "spec": {"podSelector": {}, "egress": [{"ports": [{"port": 53, "protocol": "UDP"}]}]},
    }
    for _ in range(2):
        await scene.api.patch(POLICIES, body, "p", scene.namespace, patch="apply", force=True)
    found = await scene.api.get(POLICIES, NetworkPolicy, "p", scene.namespace)
    assert found.metadata.labels == {"a": "b"}
    assert found.spec["policyTypes"] == ["Ingress", "Egress"]
    assert found.metadata.generation == 1
    await scene.api.patch(POLICIES, {"spec": {"egress": None}}, "p", scene.namespace)
    changed = await scene.api.get(POLICIES, NetworkPolicy, "p", scene.namespace)
    assert changed.metadata.generation == 2
    assert "egress" not in changed.spec


async def test_what_has_a_finalizer_goes_once_it_has_none(scene: Scene) -> None:
    meta = {"name": "p", "finalizers": ["plait.test/hold"]}
    await scene.api.create(POLICIES, {"metadata": meta, **SPECS["NetworkPolicy"]}, scene.namespace)
    await scene.delete(kinds.NETWORK_POLICIES, "p")
    leaving = await scene.api.get(POLICIES, NetworkPolicy, "p", scene.namespace)
    assert leaving.metadata.deletion_timestamp
    await scene.api.patch(POLICIES, {"metadata": {"finalizers": None}}, "p", scene.namespace)
    gone = scene.api.get(POLICIES, NetworkPolicy, "p", scene.namespace)
    assert (await refused(gone))[0] == 404


async def test_what_is_served(scene: Scene) -> None:
    found = await resolve(scene.api, kinds.ENDPOINT_SLICES)
    assert found is not None
    assert found.version == ("v1" if scene.cluster.serves_v1 else "v1beta1")
    assert await resolve(scene.api, kinds.PODS) == PODS
    assert await resolve(scene.api, kinds.CLUSTER_NETWORK_POLICIES) is None
