from __future__ import annotations

from typing import Any

import msgspec
import pytest

from plait.kubernetes import objects
from plait.kubernetes.decoding import Bad, Bookmark, Gone, ObjectDecoder, Put, Quarantine
from plait.kubernetes.refusals import Status

pods = ObjectDecoder(objects.Pod)


def encoded(value: Any) -> bytes:
    return msgspec.json.encode(value)


def event(kind: str, obj: Any) -> bytes:
    return encoded({"type": kind, "object": obj})


def test_a_page() -> None:
    page = pods.page(
        encoded(
            {
                "kind": "PodList",
                "metadata": {"resourceVersion": "7", "continue": "abc", "remainingItemCount": 3},
                "items": [{"metadata": {"name": "a", "namespace": "x", "uid": "u"}}],
            }
        )
    )
    assert (page.version, page.token, page.bad) == ("7", "abc", [])
    assert page.objects[0].metadata.key == ("x", "a")


def test_no_items_are_written_as_null_by_some() -> None:
    page = pods.page(b'{"metadata":{"resourceVersion":"7"},"items":null}')
    assert page == ("7", "", [], [])


def test_an_object_of_another_form_spoils_no_page() -> None:
    page = pods.page(
        encoded(
            {
                "metadata": {"resourceVersion": "7", "continue": "c"},
                "items": [
                    {"metadata": {"name": "a"}},
                    {"metadata": {"name": "b", "namespace": "x"}, "spec": {"hostNetwork": "yes"}},
                    {"metadata": {"name": "c"}},
                ],
            }
        )
    )
    assert [each.metadata.name for each in page.objects] == ["a", "c"]
    assert [each.key for each in page.bad] == [("x", "b")]
    assert "hostNetwork" in page.bad[0].reason
    assert (page.version, page.token) == ("7", "c")


def test_events() -> None:
    meta = {"name": "a", "namespace": "x", "resourceVersion": "9"}
    put = pods.event(event("MODIFIED", {"metadata": meta, "status": {"phase": "Running"}}))
    assert isinstance(put, Put)
    assert (put.version, put.object.status.phase) == ("9", "Running")
    assert pods.event(event("DELETED", {"metadata": meta, "spec": 7})) == Gone("9", ("x", "a"))
    mark = {"kind": "Pod", "metadata": {"resourceVersion": "12", "creationTimestamp": None}}
    assert pods.event(event("BOOKMARK", mark)) == Bookmark("12")
    error = pods.event(event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired"}))
    assert error == Status(code=410, reason="Expired")


def test_an_event_of_another_form_is_told_by_its_key() -> None:
    meta = {"name": "a", "namespace": "x", "resourceVersion": "9"}
    found = pods.event(event("ADDED", {"metadata": meta, "spec": {"nodeName": 5}}))
    assert isinstance(found, Quarantine)
    assert found == Quarantine("9", Bad(("x", "a"), found.bad.reason))


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b'{"type":"ADDED"}', b'{"type":"PUT","object":{}}', b'{"object":{}}'],
)
def test_what_is_no_event(line: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        pods.event(line)


# Objects


def test_a_pod() -> None:
    pod = msgspec.json.decode(
        encoded(
            {
                "metadata": {
                    "name": "a",
                    "annotations": {
                        "kubernetes.io/config.mirror": "static",
                        "long": "x" * 1000,
                    },
                },
                "spec": {"containers": [{"ports": [{"containerPort": 80, "hostPort": 8080}]}]},
                "status": {
                    "phase": "Succeeded",
                    "podIP": "10.0.0.1",
                    "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                    "conditions": [{"type": "Ready", "status": "False"}],
                },
            }
        ),
        type=objects.Pod,
    )
    assert pod.addresses == ("10.0.0.1", "fd00::1")
    assert pod.finished
    assert not pod.ready
    assert pod.metadata.annotations.static_uid == "static"
    port = pod.spec.containers[0].ports[0]
    assert (port.container_port, port.protocol) == (80, "TCP")


def test_an_address_without_the_list_of_addresses() -> None:
    assert objects.Pod(status=objects.PodStatus(pod_ip="10.0.0.1")).addresses == ("10.0.0.1",)
    assert objects.Pod().addresses == ()


def test_what_is_not_said_of_an_endpoint_means_something_else_for_each_condition() -> None:
    slices = msgspec.json.decode(
        encoded(
            {
                "addressType": "IPv4",
                "endpoints": [
                    {"addresses": ["10.0.0.1"], "conditions": {}},
                    {"addresses": ["10.0.0.2"], "conditions": {"ready": False}},
                    {
                        "addresses": ["10.0.0.3"],
                        "conditions": {"ready": False, "serving": True, "terminating": True},
                        "hostname": None,
                        "nodeName": "n",
                        "zone": "z",
                        "hints": {"forZones": [{"name": "z"}], "forNodes": [{"name": "n"}]},
                    },
                ],
                "ports": None,
            }
        ),
        type=objects.EndpointSlice,
    )
    assert slices.endpoints is not None
    said = [(e.ready, e.serving, e.terminating) for e in slices.endpoints]
    assert said == [(True, True, False), (False, False, False), (False, True, True)]
    assert (slices.endpoints[2].node, slices.endpoints[2].zone) == ("n", "z")
    assert slices.ports is None
    assert slices.service == ""


def test_a_policy_is_a_manifest_again() -> None:
    spec = {"podSelector": {"matchLabels": {"a": "b"}}, "policyTypes": ["Ingress"]}
    policy = msgspec.json.decode(
        encoded({"metadata": {"name": "p", "namespace": "x", "uid": "u"}, "spec": spec}),
        type=objects.NetworkPolicy,
    )
    assert policy.manifest() == {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "x", "uid": "u", "labels": {}},
        "spec": spec,
    }


def test_a_static_pod_is_known_to_the_runtime_by_its_file() -> None:
    mirror = {"uid": "api", "annotations": {"kubernetes.io/config.mirror": "file"}}
    meta = pods.page(page_of(mirror)).objects[0].metadata
    assert (meta.uid, meta.annotations.static_uid) == ("api", "file")


def page_of(*metadata: dict[str, Any]) -> bytes:
    return encoded({"metadata": {}, "items": [{"metadata": each} for each in metadata]})
