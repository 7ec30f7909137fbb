"""Kubernetes' namespaces, pods and nodes as objects of ours."""

from __future__ import annotations

from typing import Any

import pytest

from plait.model.errors import PlaitError
from plait.model.objects import Endpoint, NamedPort, Namespace, Node
from plait.policy.kubernetes import to_object


def manifest(kind: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": "web"}, **fields}


def pod(spec: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    status = {"podIPs": [{"ip": "10.0.0.1"}], **status}
    return manifest("Pod", spec=spec or {}, status=status)


def test_a_namespace_has_its_labels_but_the_implicit_one() -> None:
    labels = {"team": "red", "kubernetes.io/metadata.name": "web"}
    found = to_object(manifest("Namespace", metadata={"name": "web", "labels": labels}))
    assert isinstance(found, Namespace)
    assert (found.metadata.name, found.metadata.labels) == ("web", {"team": "red"})


def test_a_pod_is_an_endpoint() -> None:
    spec = {
        "nodeName": "n1",
        "containers": [
            {"name": "a", "ports": [{"name": "http", "containerPort": 80}, {"containerPort": 81}]},
            {"name": "b", "ports": [{"name": "dns", "protocol": "UDP", "containerPort": 53}]},
            {"name": "c", "ports": [{"name": "http", "containerPort": 8080}]},
        ],
        "initContainers": [
            {"name": "once", "ports": [{"name": "setup", "containerPort": 1}]},
            {
                "name": "beside",
                "restartPolicy": "Always",
                "ports": [{"name": "mesh", "protocol": "TCP", "containerPort": 2}],
            },
        ],
    }
    given = pod(spec, podIPs=[{"ip": "10.0.0.1"}, {"ip": "FD00::1"}], phase="Running")
    given["metadata"] = {"name": "web", "namespace": "shop", "labels": {"app": "web"}}
    found = to_object(given)
    assert isinstance(found, Endpoint)
    assert (found.metadata.namespace, found.metadata.labels) == ("shop", {"app": "web"})
    assert (found.spec.node, found.spec.name) == ("n1", "web")
    assert found.spec.addresses == ("10.0.0.1", "fd00::1")
    assert found.spec.named_ports == (
        NamedPort(name="http", protocol="tcp", port=80),
        NamedPort(name="dns", protocol="udp", port=53),
        NamedPort(name="mesh", protocol="tcp", port=2),
    )
    assert found.status.phase == "ready"


def test_an_older_pod_has_one_address() -> None:
    found = to_object(pod(podIPs=None, podIP="10.0.0.2"))
    assert isinstance(found, Endpoint)
    assert (found.metadata.namespace, found.spec.addresses) == ("default", ("10.0.0.2",))


@pytest.mark.parametrize(
    "given",
    [
        pod({"hostNetwork": True}),
        pod(phase="Succeeded"),
        pod(phase="Failed"),
        pod(podIPs=[]),
        manifest("Pod"),
    ],
)
def test_a_pod_without_an_address_of_its_own_is_none(given: dict[str, Any]) -> None:
    assert to_object(given) is None


def test_a_node_has_its_internal_addresses() -> None:
    addresses = [
        {"type": "Hostname", "address": "web"},
        {"type": "InternalIP", "address": "192.0.2.1"},
        {"type": "ExternalIP", "address": "198.51.100.1"},
        {"type": "InternalIP", "address": "fd00::1"},
    ]
    meta = {"name": "web.example", "labels": {"zone": "b"}}
    found = to_object(manifest("Node", metadata=meta, status={"addresses": addresses}))
    assert isinstance(found, Node)
    assert found.metadata.labels == {"zone": "b"}
    assert found.spec.addresses == ("192.0.2.1/32", "fd00::1/128")


@pytest.mark.parametrize(
    ("given", "where"),
    [
        (manifest("Namespace", metadata={"name": "a.b"}), "metadata.name"),
        (manifest("Namespace", metadata=[]), "metadata"),
        (pod(podIPs=[{"ip": "x"}]), "status.podIPs"),
        (pod(podIPs=[{}]), "status.podIPs[0].ip"),
        (pod({"containers": [{"ports": [{"name": "a", "containerPort": 0}]}]}), "spec.containers"),
        (
            pod({"containers": [{"ports": [{"name": "a", "protocol": "X"}]}]}),
            "spec.containers[0].ports[0].protocol",
        ),
        (
            manifest("Node", status={"addresses": [{"type": "InternalIP"}]}),
            "status.addresses[0].address",
        ),
        (manifest("Service"), "kind"),
    ],
)
def test_a_refusal_names_the_field(given: dict[str, Any], where: str) -> None:
    with pytest.raises(PlaitError) as caught:
        to_object(given)
    assert caught.value.where.startswith(where)
