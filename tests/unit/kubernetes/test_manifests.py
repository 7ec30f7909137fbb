"""The manifests: complete, as they should be for their purpose, and with no right too many."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from plait.kubernetes import kinds, manifests, nodes
from plait.kubernetes.api import KubernetesApi
from plait.kubernetes.election import LEASES
from plait.kubernetes.manifests import Settings
from plait.model.objects import Node, Service

if TYPE_CHECKING:
    from tests.unit.kubernetes.conftest import Stage

SETTINGS = Settings(
    address="192.0.2.1:6440",
    api_host="192.0.2.2",
    api_port="6443",
    network="plait",
    connector_token="plait1.c",
    agent_token="plait1.j",
    image="plait:1",
)
VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
Right = tuple[str, str, str]
"""API group, resource with subresource, verb."""


def of_kind(listed: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [each for each in listed if each["kind"] == kind]


def granted() -> set[Right]:
    rules = [
        rule
        for kind in ("ClusterRole", "Role")
        for role in of_kind(manifests.load("base"), kind)
        for rule in role["rules"]
    ]
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def used(request: str) -> Right | None:
    """The right that a request needs; None for discovery, which everybody has."""
    method, _, path = request.partition(" ")
    parts = urlsplit(path)
    found = re.fullmatch(
        r"/(?:api|apis/([^/]+))/[^/]+/(?:namespaces/[^/]+/)?(\w+)(?:/([^/]+))?(?:/(status))?",
        parts.path,
    )
    if found is None:
        return None
    group, plural, name, subresource = (each or "" for each in found.groups())
    if method == "GET":
        verb = "get" if name else "watch" if "watch" in parse_qs(parts.query) else "list"
    else:
        verb = VERBS[method]
    return group, "/".join(filter(None, (plural, subresource))), verb


async def test_the_connector_may_do_what_it_does_and_nothing_else(stage: Stage) -> None:
    await stage.agent("n1")
    stage.put(kinds.NODES, "n1", spec={})
    balanced = {"type": "LoadBalancer", "ports": [{"port": 80}]}
    stage.put(kinds.SERVICES, "web", "shop", spec=balanced)
    running = stage.connect()
    await stage.comes(Service, "web", "shop")
    await stage.comes(Node, "n1", "", lambda n: n.metadata.annotations)
    await stage.agent("n1", ready=False)
    needed: set[Right | None] = set()
    async with asyncio.timeout(10):
        while ("", "nodes", "patch") not in needed or (LEASES.group, "leases", "update") not in (
            needed
        ):
            needed |= {used(request) for request in stage.kube.requests}
            await asyncio.sleep(0.01)
    await running.stop()
    needed |= {used(request) for request in stage.kube.requests}
    assert needed - {None} == granted()


def test_every_object_can_be_applied_and_belongs_to_plait() -> None:
    for manifest in (*manifests.filled(SETTINGS), *manifests.load("cleanup")):
        meta = manifest["metadata"]
        resource = manifests.resource_of(manifest)
        assert ("namespace" in meta) is resource.namespaced
        assert meta.get("namespace", manifests.NAMESPACE) == manifests.NAMESPACE
        assert meta["labels"]["app.kubernetes.io/part-of"] == "plait"


def test_settings_and_image_are_filled_in() -> None:
    listed = manifests.filled(SETTINGS)
    (config,) = of_kind(listed, "ConfigMap")
    assert config["data"]["KUBERNETES_SERVICE_HOST"] == "192.0.2.2"
    (deployment,) = of_kind(listed, "Deployment")
    (daemons,) = of_kind(listed, "DaemonSet")
    for workload in (deployment, daemons):
        pod = workload["spec"]["template"]
        assert pod["metadata"]["annotations"][manifests.STAMP]
        assert {c["image"] for c in pod["spec"]["containers"]} == {"plait:1"}
    order = [each["kind"] for each in listed]
    assert order.index("Namespace") == 0
    assert order.index("Secret") < order.index("Deployment")
    text = manifests.to_yaml(listed)
    assert list(yaml.safe_load_all(text)) == listed
    assert ": &" not in text


def test_without_a_token_for_nodes_agents_are_no_pods() -> None:
    alone = Settings(address="h", api_host="k", api_port="6443", network="plait")
    assert not of_kind(manifests.filled(alone), "DaemonSet")
    (deployment,) = of_kind(manifests.filled(alone), "Deployment")
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "busybox:1"


def test_pods_find_what_they_refer_to() -> None:
    listed = manifests.filled(SETTINGS)
    there = {(each["kind"], each["metadata"]["name"]) for each in listed}
    for workload in (*of_kind(listed, "Deployment"), *of_kind(listed, "DaemonSet")):
        pod = workload["spec"]["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert pod["hostNetwork"]
        assert pod["dnsPolicy"] == "Default"
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            for source in container.get("envFrom", ()):
                assert ("ConfigMap", source["configMapRef"]["name"]) in there
            for variable in container.get("env", ()):
                name = variable["valueFrom"]["secretKeyRef"]["name"]
                assert ("Secret", name) in there


def test_agents_run_on_every_node_and_the_connector_leaves_those_that_go() -> None:
    listed = [*manifests.filled(SETTINGS), *manifests.load("cleanup")]
    for daemons in of_kind(listed, "DaemonSet"):
        assert daemons["spec"]["template"]["spec"]["tolerations"] == [{"operator": "Exists"}]
    (deployment,) = of_kind(listed, "Deployment")
    tolerated = {
        each.get("key", "all")
        for each in deployment["spec"]["template"]["spec"]["tolerations"]
        if each["operator"] == "Exists" and "effect" not in each
    }
    # Without the connector no node would get its first pods.
    assert {nodes.TAINT, "node.kubernetes.io/not-ready"} <= tolerated
    going = ("unschedulable", "unreachable", "out-of-service")
    assert tolerated.isdisjoint({"all", *(f"node.kubernetes.io/{word}" for word in going)})


@pytest.mark.parametrize("what", ["Namespace", "ConfigMap"])
async def test_what_is_not_there_is_no_error_to_delete(stage: Stage, what: str) -> None:
    (manifest, *_) = of_kind(manifests.filled(SETTINGS), what)
    api = KubernetesApi(stage.kube.access())
    assert not await manifests.delete(api, manifest)
    assert await manifests.status(api, manifest) is None
    await api.close()
