"""What Kubernetes says comes over, changes and goes; what is a user's stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from plait.kubernetes import kinds
from plait.kubernetes.marks import is_ours
from plait.model.objects import (
    EndpointSlice,
    Metadata,
    Namespace,
    Node,
    Pod,
    Policy,
    Service,
)
from plait.model.policies import PolicySpec

if TYPE_CHECKING:
    from tests.unit.kubernetes.conftest import Stage

ZONE = "topology.kubernetes.io/zone"
SLICE = {
    "addressType": "IPv4",
    "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    "endpoints": [{"addresses": ["10.112.0.9"], "nodeName": "n1", "conditions": {"ready": True}}],
}
OF_WEB = {"labels": {"kubernetes.io/service-name": "web"}}
PORTS = [{"name": "http", "port": 80, "targetPort": 8080}]


async def test_a_pod_comes_changes_and_goes(stage: Stage) -> None:
    stage.connect()
    stage.pod("web-0", nodeName="n1", labels={"app": "web"})
    pod = await stage.comes(Pod, "web-0", "shop")
    assert pod.metadata.labels == {"app": "web"}
    assert (pod.spec.uid, pod.spec.node) == ("uid-web-0", "n1")
    assert is_ours(pod)
    stage.pod("web-0", nodeName="n1", labels={"app": "db"}, status={"phase": "Failed"})
    pod = await stage.comes(Pod, "web-0", "shop", lambda p: p.spec.finished)
    assert pod.metadata.labels == {"app": "db"}
    stage.remove(kinds.PODS, "web-0", "shop")
    await stage.goes(Pod, "web-0", "shop")


async def test_a_service_and_its_slices_come_change_and_go(stage: Stage) -> None:
    stage.connect()
    stage.put(kinds.SERVICES, "web", "shop", spec={"ports": PORTS, "selector": {"app": "web"}})
    stage.put(kinds.ENDPOINT_SLICES, "web-x", "shop", metadata=OF_WEB, **SLICE)
    service = await stage.comes(Service, "web", "shop")
    slices = await stage.comes(EndpointSlice, "web-x", "shop")
    assert service.spec.addresses == (
        stage.kubernetes(kinds.SERVICES, "web", "shop")["spec"]["clusterIP"],
    )
    assert service.spec.selector is None
    assert slices.spec.service == "web"
    assert slices.spec.endpoints[0].node == "n1"
    stage.put(kinds.ENDPOINT_SLICES, "web-x", "shop", metadata=OF_WEB, **{**SLICE, "endpoints": []})
    await stage.comes(EndpointSlice, "web-x", "shop", lambda s: not s.spec.endpoints)
    stage.remove(kinds.ENDPOINT_SLICES, "web-x", "shop")
    stage.remove(kinds.SERVICES, "web", "shop")
    await stage.goes(EndpointSlice, "web-x", "shop")
    await stage.goes(Service, "web", "shop")


async def test_a_namespace_comes_with_its_labels_and_goes(stage: Stage) -> None:
    stage.connect()
    stage.put(kinds.NAMESPACES, "shop", metadata={"labels": {"team": "a"}})
    await stage.comes(Namespace, "shop", "", lambda n: n and n.metadata.labels == {"team": "a"})
    stage.put(kinds.NAMESPACES, "shop", metadata={"labels": {"team": "b"}})
    await stage.comes(Namespace, "shop", "", lambda n: n.metadata.labels == {"team": "b"})
    stage.remove(kinds.NAMESPACES, "shop")
    await stage.goes(Namespace, "shop")
    assert await stage.find(Namespace, "default")


async def test_policies_of_both_kinds_come_change_and_go(stage: Stage) -> None:
    stage.connect()
    stage.put(kinds.NETWORK_POLICIES, "deny", "shop", spec={"podSelector": {}})
    rule = {"action": "Deny", "from": [{"namespaces": {}}]}
    base = {"tier": "Baseline", "priority": 3, "subject": {"namespaces": {}}, "ingress": [rule]}
    stage.put(kinds.CLUSTER_NETWORK_POLICIES, "base", spec=base)
    deny = await stage.comes(Policy, "knp.shop.deny")
    assert deny.spec.isolate == ("ingress",)
    assert (await stage.comes(Policy, "kcnp.base")).spec.priority == 3
    types = {"podSelector": {}, "policyTypes": ["Egress"]}
    stage.put(kinds.NETWORK_POLICIES, "deny", "shop", spec=types)
    await stage.comes(Policy, "knp.shop.deny", "", lambda p: p.spec.isolate == ("egress",))
    stage.remove(kinds.NETWORK_POLICIES, "deny", "shop")
    stage.remove(kinds.CLUSTER_NETWORK_POLICIES, "base")
    await stage.goes(Policy, "knp.shop.deny")
    await stage.goes(Policy, "kcnp.base")


async def test_a_node_lends_its_labels_to_the_one_of_its_name_or_address(stage: Stage) -> None:
    await stage.agent("n1", "192.0.2.1/24")
    await stage.agent("host-2", "192.0.2.2/24")
    stage.connect()
    internal = {"addresses": [{"type": "InternalIP", "address": "192.0.2.2"}]}
    stage.put(kinds.NODES, "n1", metadata={"labels": {ZONE: "a"}}, spec={})
    stage.put(kinds.NODES, "n2", metadata={"labels": {ZONE: "b"}}, spec={}, status=internal)
    stage.pod("web-0", nodeName="n2")
    await stage.comes(Node, "n1", "", lambda n: n.metadata.labels == {ZONE: "a"})
    await stage.comes(Node, "host-2", "", lambda n: n.metadata.labels == {ZONE: "b"})
    await stage.comes(Pod, "web-0", "shop", lambda p: p and p.spec.node == "host-2")
    stage.remove(kinds.NODES, "n2")
    node = await stage.comes(Node, "host-2", "", lambda n: not n.metadata.labels)
    assert node.metadata.annotations == {}


async def test_of_labels_come_as_many_as_kubernetes_takes(stage: Stage) -> None:
    many = {f"feature.node.kubernetes.io/cpu-cpuid.{number}": "true" for number in range(500)}
    await stage.agent("n1")
    stage.connect()
    stage.put(kinds.NODES, "n1", metadata={"labels": many}, spec={})
    stage.pod("web-0", nodeName="n1", labels=many)
    await stage.comes(Node, "n1", "", lambda n: n.metadata.labels == many)
    await stage.comes(Pod, "web-0", "shop", lambda p: p and p.metadata.labels == many)
    stage.put(kinds.NODES, "n1", metadata={"labels": {}}, spec={})
    await stage.comes(Node, "n1", "", lambda n: not n.metadata.labels)


async def test_pods_follow_when_their_node_gets_another_name_here(stage: Stage) -> None:
    internal = {"addresses": [{"type": "InternalIP", "address": "192.0.2.2"}]}
    stage.put(kinds.NODES, "n2", spec={}, status=internal)
    stage.pod("web-0", nodeName="n2")
    stage.connect()
    assert (await stage.comes(Pod, "web-0", "shop")).spec.node == "n2"
    await stage.agent("host-2", "192.0.2.2/24")
    await stage.comes(Pod, "web-0", "shop", lambda p: p.spec.node == "host-2")


async def test_labels_that_somebody_else_set_stay_as_they_are(stage: Stage) -> None:
    await stage.agent("n1")
    mine = await stage.find(Node, "n1")
    labelled = msgspec.structs.replace(mine.metadata, labels={ZONE: "mine", "rack": "7"})
    await stage.plait.update(msgspec.structs.replace(mine, metadata=labelled))
    stage.put(kinds.NODES, "n1", metadata={"labels": {ZONE: "a", "disk": "ssd"}}, spec={})
    running = stage.connect()
    node = await stage.comes(Node, "n1", "", lambda n: "disk" in n.metadata.labels)
    assert node.metadata.labels == {ZONE: "mine", "rack": "7", "disk": "ssd"}
    assert any(ZONE in problem for problem in running.problems)
    stage.remove(kinds.NODES, "n1")
    node = await stage.comes(Node, "n1", "", lambda n: "disk" not in n.metadata.labels)
    assert node.metadata.labels == {ZONE: "mine", "rack": "7"}


async def test_what_is_a_users_is_said_and_never_overwritten(stage: Stage) -> None:
    mine = Policy(metadata=Metadata(name="knp.shop.deny"), spec=PolicySpec(description="mine"))
    await stage.plait.create(mine)
    stage.put(kinds.NETWORK_POLICIES, "deny", "shop", spec={"podSelector": {}})
    running = stage.connect()
    await running.settled()
    assert (await stage.find(Policy, "knp.shop.deny")).spec.description == "mine"
    assert any("NetworkPolicy shop/deny" in problem for problem in running.problems)
    await stage.plait.delete(Policy, "knp.shop.deny")
    await stage.comes(Policy, "knp.shop.deny", "", lambda p: p and is_ours(p))
    assert not running.problems


async def test_a_bad_object_blocks_no_other_and_a_bad_policy_closes(stage: Stage) -> None:
    ports = {"ports": [{"port": 80, "endPort": 70}]}
    bad = {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [ports]}
    stage.put(kinds.NETWORK_POLICIES, "bad", "shop", spec=bad)
    stage.pod("bad", labels={f"label-{i}": "x" * 63 for i in range(1000)})
    stage.pod("good")
    running = stage.connect()
    await stage.comes(Pod, "good", "shop")
    policy = await stage.comes(Policy, "knp.shop.bad")
    assert policy.spec.isolate == ("ingress",)
    assert policy.spec.ingress == ()
    assert policy.spec.subject.endpoints.match_labels == {"app": "web"}
    assert {p.partition(":")[0] for p in running.problems} == {
        "NetworkPolicy shop/bad",
        "Pod shop/bad",
    }
    stage.pod("bad")
    await stage.comes(Pod, "bad", "shop")


async def test_changes_while_the_connector_was_away_come_over_at_its_start(stage: Stage) -> None:
    stage.pod("stays")
    stage.pod("goes")
    stage.pod("changes")
    stage.put(kinds.NETWORK_POLICIES, "deny", "shop", spec={"podSelector": {}})
    first = stage.connect()
    await first.settled()
    before = await stage.find(Pod, "stays", "shop")
    await first.stop()
    stage.remove(kinds.PODS, "goes", "shop")
    stage.remove(kinds.NETWORK_POLICIES, "deny", "shop")
    stage.pod("changes", labels={"app": "web"})
    stage.pod("comes")
    mine = Pod(metadata=Metadata(name="mine", namespace="shop"))
    await stage.plait.create(mine)
    second = stage.connect()
    await second.settled()
    pods = {pod.metadata.name: pod for pod in await stage.plait.list(Pod)}
    assert pods.keys() == {"stays", "changes", "comes", "mine"}
    assert pods["stays"] == before
    assert pods["changes"].metadata.labels == {"app": "web"}
    assert await stage.find(Policy, "knp.shop.deny") is None


async def test_heartbeats_write_nothing(stage: Stage) -> None:
    stage.pod("web-0", nodeName="n1", status={"phase": "Running"})
    running = stage.connect()
    await stage.comes(Pod, "web-0", "shop")
    await running.settled()
    written = running.controller.report().written
    for phase in ("Pending", "Running"):
        stage.pod("web-0", nodeName="n1", status={"phase": phase, "startTime": "now"})
    stage.pod("last")
    await stage.comes(Pod, "last", "shop")
    await running.settled()
    assert running.controller.report().written == written + 1


async def test_a_compaction_deletes_and_creates_nothing(stage: Stage) -> None:
    stage.pod("web-0")
    running = stage.connect()
    before = await stage.comes(Pod, "web-0", "shop")
    stage.kube.expire()
    stage.pod("web-1")
    await stage.comes(Pod, "web-1", "shop")
    await running.settled()
    assert await stage.find(Pod, "web-0", "shop") == before


async def test_nothing_goes_before_all_was_heard(stage: Stage) -> None:
    stage.pod("web-0")
    first = stage.connect()
    before = await stage.comes(Pod, "web-0", "shop")
    await first.settled()
    await first.stop()
    stage.kube.withhold(kinds.PODS.resources[0])
    second = stage.connect()
    stage.put(kinds.NAMESPACES, "later")
    await stage.comes(Namespace, "later")
    assert await stage.find(Pod, "web-0", "shop") == before
    assert not second.controller.ready


async def test_pods_wait_for_the_policies(stage: Stage) -> None:
    stage.kube.withhold(kinds.NETWORK_POLICIES.resources[0])
    stage.pod("web-0")
    stage.put(kinds.SERVICES, "web", "shop", spec={"ports": PORTS})
    running = stage.connect()
    await stage.comes(Service, "web", "shop")
    assert await stage.find(Pod, "web-0", "shop") is None
    assert not running.controller.report().synced


async def test_what_a_user_does_to_ours_is_put_right(stage: Stage) -> None:
    stage.pod("web-0", labels={"app": "web"})
    stage.pod("web-1")
    running = stage.connect()
    pod = await stage.comes(Pod, "web-0", "shop")
    await running.settled()
    other = msgspec.structs.replace(pod.metadata, labels={"app": "evil"})
    await stage.plait.update(msgspec.structs.replace(pod, metadata=other))
    await stage.plait.delete(Pod, "web-1", "shop")
    await stage.comes(Pod, "web-0", "shop", lambda p: p.metadata.labels == {"app": "web"})
    await stage.comes(Pod, "web-1", "shop")


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
async def test_slices_of_both_versions_come_over(stage: Stage, version: str) -> None:
    if version == "v1beta1":
        stage.kube.like_1_20()
    stage.put(kinds.SERVICES, "web", "shop", spec={"ports": PORTS})
    found: dict[str, Any] = {**SLICE}
    found["endpoints"] = [{**SLICE["endpoints"][0], "zone": "z1"}]  # type: ignore[index,dict-item]
    stage.put(kinds.ENDPOINT_SLICES, "web-x", "shop", metadata=OF_WEB, **found)
    running = stage.connect()
    slices = await stage.comes(EndpointSlice, "web-x", "shop")
    assert (slices.spec.endpoints[0].node, slices.spec.endpoints[0].site) == ("n1", "z1")
    assert running.controller.reflectors["EndpointSlice"].health.resource.split(".")[1] == version
